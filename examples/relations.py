"""Relations: load what belongs together with one query per relation, and never by accident."""

from __future__ import annotations

import asyncio
import os

import earnorm
from earnorm import FieldNotLoaded, Many2one, One2many, String, models

URI = os.environ.get("EARNORM_TEST_MONGO_URI", "mongodb://localhost:27017")


class Team(models.BaseModel):
    """A team; its players point at it."""

    _name = "team"
    name = String(required=True)
    player_ids = One2many("player", "team_id")


class Player(models.BaseModel):
    """A player of one team."""

    _name = "player"
    name = String(required=True)
    team_id = Many2one(Team, required=True)


async def main() -> None:
    """Read two teams and their players in every way there is."""
    async with earnorm.App(URI, database="earnorm_example_relations"):
        await Player.search().delete()
        await Team.search().delete()
        reds, blues = await Team.create([{"name": "Reds"}, {"name": "Blues"}])
        names = {"Ada": reds, "Bob": blues, "Cid": reds, "Dee": blues}
        await Player.create([{"name": name, "team_id": team} for name, team in names.items()])

        # Not loaded is not None: reading a field of it says how to load it.
        players = await Player.search(order="name")
        try:
            print(players[0].team_id.name)
        except FieldNotLoaded as error:
            print("not yet:", error)

        # One await loads the teams of all players that were fetched together.
        await players[0].team_id
        print({player.name: player.team_id.name for player in players})

        # Or together with the search, in either direction and over several levels.
        for team in await Team.search(order="name").prefetch("player_ids"):
            print(team.name, sorted(team.player_ids.mapped("name")))

        # Records are shared inside one fetch, and a path through a relation gives a RecordSet.
        print("same object:", players[0].team_id is players[2].team_id)
        print("teams in play:", sorted(players.mapped("team_id").mapped("name")))


if __name__ == "__main__":
    asyncio.run(main())
