"""The concurrent machine: 16 tasks in two Apps, while rules, roles and links change.

Each fact that a rule looks at (the owner of a room, the room of a card, a role …) has a history of values, each with
the moments between which it may have been true. Whoever reads or writes a record must have been allowed to at one
moment between begin and answer. And what is stored obeys its rules at each moment: a task looks at snapshots of the
database all the time.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

import pytest
from bson import ObjectId

from earnorm import (
    AccessDenied,
    App,
    ConcurrencyError,
    Inc,
    Int,
    Many2one,
    NotFound,
    Principal,
    String,
    TransactionError,
    ValidationError,
    act_as,
    depends,
    models,
    system,
    transaction,
)
from earnorm_cache import CachePlugin
from earnorm_security import Access, Rule, strict, user
from earnorm_security.enforcement import Changing, Reading

ROUNDS: Final = min(int(os.environ.get("EARNORM_FUZZ_EXAMPLES", "15")), 600)
USERS: Final = ("ann", "bob", "eve")
ROOMS: Final = [ObjectId(f"65f0000000000000000000{n:02x}") for n in range(4)]
CARDS: Final = [ObjectId(f"65f1000000000000000000{n:02x}") for n in range(8)]
MOST: Final = 10
LEVEL: Final = [3]
"""What the function of a rule allows; a task changes it."""


class Room(models.BaseModel):
    _name = "machine.room"
    _rules = [Rule("own", [("owner", "=", user.id)])]
    owner = String()
    state = String(default="open")
    sealed = String(default="")


class Card(models.BaseModel):
    _name = "machine.card"
    _access = [
        Access("*", read=True),
        Access("member", read=True, write=True, create=True, unlink=True),
    ]
    _rules = [
        Rule("own room", [("room_id.owner", "=", user.id)], operations=["read"]),
        Rule("level", lambda env: [("level", "<=", LEVEL[0])], operations=["read"]),
        Rule(
            "open room",
            [("room_id.state", "=", "open")],
            operations=["write", "create", "unlink"],
            strict=True,
        ),
        Rule("not too much", [("total", "<=", MOST)], operations=["write", "create"]),
    ]
    level = Int(default=0)
    a = Int(default=0)
    b = Int(default=0)
    mark = Int(default=0)
    room_id = Many2one(Room)
    total = Int(compute="_total", store=True, recompute="now")

    @depends("a", "b")
    def _total(self) -> int:
        return (self.a or 0) + (self.b or 0)


class History:
    """The values of a fact, each with the moments of its begin and of its acknowledgement."""

    def __init__(self, value: Any) -> None:
        self.values: list[tuple[float, float, Any]] = [(0, 0, value)]
        self.lock = asyncio.Lock()

    def possible(self, begin: float, end: float) -> set[Any]:
        """Return the values that the fact may have had between two moments."""
        found = set()
        for number, (begun, _, value) in enumerate(self.values):
            after = self.values[number + 1 : number + 2]
            if begun <= end and (not after or after[0][1] >= begin):
                found.add(value)
        return found


class Storm:
    """The tasks, what they have done, and what was wrong."""

    def __init__(self, apps: list[App], seed: int) -> None:
        self.apps, self.random = apps, random.Random(seed)
        self.clock = itertools.count(1)
        self.marks = itertools.count(1)
        self.owner = {pk: History(USERS[n % 3]) for n, pk in enumerate(ROOMS)}
        self.state = {pk: History("open") for pk in ROOMS}
        self.room: dict[Any, History] = {
            pk: History(ROOMS[n % len(ROOMS)]) for n, pk in enumerate(CARDS)
        }
        self.level = {pk: History(n % 5) for n, pk in enumerate(CARDS)}
        self.most = History(LEVEL[0])
        self.member = {name: History(True) for name in USERS}
        self.turns = defaultdict[Any, asyncio.Lock](asyncio.Lock)
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.left = 0

    async def fill(self) -> None:
        with system(reason="the storm begins"):
            await Room.create(
                [{"_id": pk, "owner": h.values[0][2]} for pk, h in self.owner.items()]
            )
            await Card.create(
                [
                    {"_id": pk, "room_id": h.values[0][2], "level": self.level[pk].values[0][2]}
                    for pk, h in self.room.items()
                ]
            )

    async def changed(self, history: History, value: Any, work: Callable[[], Any]) -> bool:
        """Change a fact; a refused change leaves it as it is."""
        begin = next(self.clock)
        try:
            await work()
        except (AccessDenied, NotFound, ValidationError, ConcurrencyError, TransactionError):
            return False
        history.values.append((begin, next(self.clock), value))
        self.seen["fact changed"] += 1
        return True

    def may_see(self, name: str, card: Any, begin: float, end: float) -> bool:
        """Return whether somebody may have been allowed to read a card at one moment."""
        if card not in self.room:
            return False  # one that a task has created, with a level that nobody reads
        rooms = self.room[card].possible(begin, end)
        is_owner = any(name in self.owner[pk].possible(begin, end) for pk in rooms if pk)
        least = min(self.level[card].possible(begin, end))
        return is_owner and least <= max(self.most.possible(begin, end))

    def chosen(self, name: str) -> Any:
        """Return a card: mostly one that somebody may change now."""
        now = next(self.clock)
        seen = [pk for pk in CARDS if self.may_see(name, pk, now, now)]
        right = [
            pk
            for pk in seen
            if "open" in self.state[self.room[pk].values[-1][2]].possible(now, now)
        ]
        return self.random.choice(right if right and self.random.random() < 0.8 else CARDS)

    # -- tasks -------------------------------------------------------------------------------------

    async def changer(self) -> None:
        """Give rooms away, close them, move cards and change levels, roles and the rule."""
        while self.left > 0:
            await asyncio.sleep(0.01)
            with self.random.choice(self.apps).activate(), system(reason="the storm"):
                await getattr(self, f"change_{self.random.choice(CHANGES)}")()

    async def change_owner(self) -> None:
        pk, name = self.random.choice(ROOMS), self.random.choice(USERS)
        async with self.owner[pk].lock:
            room = Room.browse([pk])[0]
            await self.changed(self.owner[pk], name, lambda: room.write({"owner": name}))

    async def change_state(self) -> None:
        closed = [pk for pk in ROOMS if self.state[pk].values[-1][2] == "closed"]
        pk = self.random.choice(closed if closed and self.random.random() < 0.7 else ROOMS)
        history = self.state[pk]
        async with history.lock:
            if history.values[-1][2] == "open":
                await self.changed(history, "closed", lambda: close(pk))
                await self.look()
            else:
                work = Room.browse([pk])[0].write
                await self.changed(history, "open", lambda: work({"state": "open", "sealed": ""}))

    async def change_level(self) -> None:
        pk, level = self.random.choice(CARDS), self.random.choice([0, 0, 1, 2, 3, 4, 5])
        async with self.level[pk].lock:
            card = Card.browse([pk])[0]
            await self.changed(self.level[pk], level, lambda: card.write({"level": level}))

    async def change_role(self) -> None:
        history = self.member[self.random.choice(USERS)]
        moment = next(self.clock)
        history.values.append((moment, moment, self.random.random() < 0.8))

    async def change_rule(self) -> None:
        LEVEL[0], moment = self.random.randrange(5), next(self.clock)
        self.most.values.append((moment, moment, LEVEL[0]))

    async def user(self) -> None:
        """Read and write as somebody."""
        while self.left > 0:
            self.left -= 1
            name = self.random.choice(USERS)
            roles = ["member"] if self.member[name].values[-1][2] else []
            kind = self.random.choice(USES)
            with ExitStack() as stack:
                stack.enter_context(self.random.choice(self.apps).activate())
                stack.enter_context(act_as(Principal(name, roles)))
                try:
                    await getattr(self, f"use_{kind}")(name, bool(roles))
                    self.seen[f"{kind} done"] += 1
                except (AccessDenied, NotFound, ValidationError) as error:
                    self.seen[f"{kind} {type(error).__name__}"] += 1
                except (ConcurrencyError, TransactionError) as error:
                    self.seen[f"{kind} {type(error).__name__}"] += 1

    async def _read(self, name: str, work: Callable[[], Any]) -> None:
        begin = next(self.clock)
        cards = await work()
        end = next(self.clock)
        for card in cards:
            self.seen["read"] += 1
            if not self.may_see(name, card.pk, begin, end):
                self.wrong.append(f"{name} read {card.pk} between {begin} and {end}")

    async def use_search(self, name: str, is_member: bool) -> None:
        await self._read(name, lambda: Card.search())

    async def use_stream(self, name: str, is_member: bool) -> None:
        async def streamed() -> list[Card]:
            return [card async for card in Card.search([("level", ">=", 0)])]

        await self._read(name, streamed)

    async def use_get(self, name: str, is_member: bool) -> None:
        async def found() -> list[Card]:
            return [await Card.get(self.random.choice(CARDS))]

        await self._read(name, found)

    async def use_follow(self, name: str, is_member: bool) -> None:
        begin = next(self.clock)
        cards = await Card.search().prefetch("room_id")
        end = next(self.clock)
        for card in cards:
            room = card.room_id
            is_shown = room is not None and room.exists()
            if is_shown and name not in self.owner[room.pk].possible(begin, end):
                self.wrong.append(f"{name} read the room {room.pk}")

    async def _changed(
        self, name: str, is_member: bool, card: Any, work: Callable[[], Any]
    ) -> None:
        begin = next(self.clock)
        await work()
        end = next(self.clock)
        self.seen["changed"] += 1
        if not is_member:
            self.wrong.append(f"{name} changed {card} without the role")
        if card in self.room and not self.may_see(name, card, begin, end):
            self.wrong.append(f"{name} changed {card} unseen between {begin} and {end}")

    async def use_write(self, name: str, is_member: bool) -> None:
        pk = self.chosen(name)
        amount = self.random.choice([Inc(3), self.random.randrange(12), 1, 2])
        given = {self.random.choice("ab"): amount, "mark": next(self.marks)}
        await self._changed(name, is_member, pk, lambda: Card.browse([pk])[0].write(given))

    async def use_update(self, name: str, is_member: bool) -> None:
        given = {self.random.choice("ab"): Inc(self.random.randrange(-2, 3))}
        await Card.search([("a", "<", 5)]).update({**given, "mark": next(self.marks)})

    async def use_move(self, name: str, is_member: bool) -> None:
        pk, room = self.chosen(name), self.random.choice(ROOMS)
        begin = next(self.clock)

        async def moved() -> None:
            given = {"room_id": room, "mark": next(self.marks)}
            await self._changed(name, is_member, pk, lambda: Card.browse([pk])[0].write(given))

        async with self.room[pk].lock:
            if await self.changed(self.room[pk], room, moved):
                self._linked(name, room, begin)

    async def use_create(self, name: str, is_member: bool) -> None:
        room, begin = self.random.choice(ROOMS), next(self.clock)
        new = {"room_id": room, "a": self.random.randrange(14), "mark": next(self.marks)}
        await self._changed(name, is_member, None, lambda: Card.create({**new, "level": 9}))
        self._linked(name, room, begin)

    def _linked(self, name: str, room: Any, begin: float) -> None:
        if name not in self.owner[room].possible(begin, next(self.clock)):
            self.wrong.append(f"{name} linked the hidden room {room}")

    async def watcher(self) -> None:
        """Look at the database as it is at one moment, again and again."""
        while self.left > 0:
            await asyncio.sleep(0.005)
            await self.look()

    async def look(self) -> None:
        with self.apps[0].activate(), system(reason="look"):
            try:
                async with transaction():
                    rooms, cards = await Room.search(), await Card.search(order="id")
            except TransactionError:
                return
        self.seen["looked"] += 1
        self.seen["closed"] += any(room.state == "closed" for room in rooms)
        self.wrong += [
            f"{card.pk} has {card.a} + {card.b} = {card.total}"
            for card in cards
            if card.total > MOST or card.total != (card.a or 0) + (card.b or 0)
        ]
        for room in rooms:
            if room.state == "closed" and room.sealed != sealed(room.pk, cards):
                self.wrong.append(f"{room.pk} is closed, and its cards changed")

    async def run(self, rounds: int) -> None:
        self.left = rounds * 16
        tasks = [self.changer, self.changer, self.changer, self.watcher, *[self.user] * 12]
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(task())
        await self.look()


CHANGES: Final = ("owner", "owner", "state", "state", "level", "role", "rule")
USES: Final = (
    *("search", "stream", "get", "get", "follow"),
    *("write", "write", "write", "write", "update", "move", "move", "create"),
)


def sealed(room: Any, cards: Any) -> str:
    """Return the cards of a room with the marks of their last changes."""
    of_room = (card for card in cards if card.room_id is not None and card.room_id.pk == room)
    return " ".join(sorted(f"{card.pk}:{card.mark}" for card in of_room))


async def close(pk: Any) -> None:
    """Close a room, and write down which cards it has then."""
    async with transaction():
        room = await Room.get(pk)
        await room.write({"state": "closed"})
        cards = await Card.search([("room_id", "=", pk)])
        await asyncio.sleep(0.005)  # so that others meet it
        await room.write({"sealed": sealed(pk, cards)})


async def storm(opened: Any, seed: int, rounds: int) -> Storm:
    LEVEL[0] = 3
    async with opened(plugins=(CachePlugin(),)) as one:
        settings = {
            "mongo_uri": os.environ["EARNORM_TEST_MONGO_URI"],
            "database": one.settings.database,
        }
        plugins = ["security", "cache"]
        async with App(plugins=plugins, **settings) as two:
            weather = Storm([one, two], seed)
            with one.activate():
                await weather.fill()
            await weather.run(rounds)
            return weather


@pytest.mark.fuzz
async def test_nothing_is_stored_against_a_rule_or_read_while_it_is_hidden(opened: Any) -> None:
    weather = await storm(
        opened, seed=1 if ROUNDS == 15 else random.randrange(1 << 30), rounds=ROUNDS
    )
    assert not weather.wrong, weather.wrong[:5]
    done = {kind for kind, number in weather.seen.items() if number}
    assert {
        "read",
        "changed",
        "looked",
        "closed",
        "write AccessDenied",
        "get NotFound",
        "move done",
    } <= done


@pytest.mark.parametrize("guard", ["reading", "writing", "strict"])
async def test_the_machine_sees_what_a_missing_guard_lets_through(
    opened: Any, monkeypatch: pytest.MonkeyPatch, guard: str
) -> None:
    if guard in ("reading", "writing"):
        layer = Reading if guard == "reading" else Changing
        monkeypatch.setattr(layer, "__call__", lambda self, op, call_next: call_next(op))
    else:

        async def hold_nothing(*given: Any) -> None: ...

        monkeypatch.setattr(strict, "_hold", hold_nothing)
    wrong: list[str] = []
    for seed in range(12):
        wrong += (await storm(opened, seed, 8)).wrong
        if wrong:
            break
    assert wrong
