"""The first program of docs/index.md, which tests/docs holds equal to it."""

import asyncio

import earnorm
from earnorm import Email, Int, Many2one, One2many, String, ValidationError, models


class Team(models.BaseModel):
    name = String(required=True, unique=True)
    member_ids = One2many("member", "team_id")


class Member(models.BaseModel):
    name = String(required=True)
    email = Email(required=True, unique=True)
    age = Int(min_value=0, max_value=150)
    team_id = Many2one(Team)


async def main() -> None:
    async with earnorm.App("mongomock://", database="start"):
        # Create: one or many. Validated as a whole before anything is sent.
        team = await Team.create({"name": "Rowers"})
        await Member.create(
            [
                {"name": "Ann", "email": "ann@example.com", "age": 31, "team_id": team},
                {"name": "Bao", "email": "bao@example.com", "age": 19, "team_id": team},
            ]
        )
        try:
            await Member.create({"name": "Cid", "email": "not an address"})
        except ValidationError as error:
            assert error.errors()[0]["loc"] == ("email",)

        # Read: a domain is a list, or an expression.
        grown = await Member.search([("age", ">", 20)])
        assert grown.mapped("name") == ["Ann"]
        same = await Member.search(
            (Member.age > 20) & Member.name.ilike("an"), order="-age", limit=10
        )
        assert same == grown
        assert await Member.count() == 2

        # One record: get() raises NotFound, find_one() gives a RecordSet of none or one.
        ann = (await Member.find_one([("email", "=", "ann@example.com")])).ensure_one()
        assert (await Member.get(ann.id)) == ann

        # Change: only what changed is written.
        ann.age = 32
        await ann.save()
        await (await Member.search()).write({"age": 33})
        await Member.search([("name", "=", "Bao")]).update({"age": 20})

        # Relations: two queries, whatever the number of teams.
        for each in await Team.search().prefetch("member_ids"):
            assert sorted(each.member_ids.mapped("name")) == ["Ann", "Bao"]

        # Delete.
        await ann.unlink()
        assert await Member.search([("name", "=", "Ann")]).exists() is False


asyncio.run(main())
