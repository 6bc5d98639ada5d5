"""The law of the cache: no read returns less than what was acknowledged, or seen, before it began.

Readers, writers and transactions are coroutines that stop at every point where a real one would
wait for the server; hypothesis decides which goes on next. There is no server, and the event loop goes round for nobody:
the database is a dict of versions that only grow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Literal, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from earnorm import Int, Operation, PerRecord, Update, models
from earnorm.domain import Condition, Domain
from earnorm.kernel.environment import Env
from earnorm.kernel.operations import ONE
from earnorm.kernel.transactions.blocks import Transaction
from earnorm.plugin import from_bson
from earnorm_cache import CachePlugin, CacheSettings

IDS = (1, 2, 3)


class Cell(models.BaseModel):
    _name = "cache_cell"

    _id = Int()
    version = Int()


class Wait:
    """Where a coroutine waits for the server, until the schedule picks it again."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class Lost(Exception):
    """The server did it or didn't, and the answer never came."""


class Primary:
    """An App whose searches ask the primary."""

    @staticmethod
    def reads_from(model: object) -> str:
        return "primary"


class World:
    """One cache over a database of versions, and what has been promised about each."""

    def __init__(self, max_entries: int) -> None:
        self.plugin = CachePlugin(CacheSettings(max_entries=max_entries, outside_writes=False))
        self.env = Env(cast("Any", self))
        self.stored = dict.fromkeys(IDS, 0)
        self.promised = dict.fromkeys(IDS, 0)
        self.clock = 0
        search, write = (
            next(iter(self.plugin.wrap_operation(cast("Any", Primary), Cell, name)))[1]
            for name in ("search", "write")
        )
        self.search_layer, self.write_layer = search, write

    async def execute_beneath(self, op: Operation, layer: int) -> list[dict[str, Any]]:
        """Answer, as an App, which records a write by a condition will change: all."""
        await Wait()
        return [{"_id": pk} for pk in IDS]

    async def read(self, ids: tuple[int, ...]) -> None:
        one = len(ids) == 1
        domain = Condition("_id", "=", ids[0]) if one else Condition("_id", "in", list(ids))
        least = {pk: self.promised[pk] for pk in ids}
        op = Operation("search", Cell, self.env, domain)
        found = await self.search_layer(op.replace(options=ONE) if one else op, self._load)
        assert [document["_id"] for document in found] == list(ids)
        for document in found:
            pk, version = document["_id"], document["version"]
            assert version >= least[pk], f"{pk}: read {version} after {least[pk]}"
            self.promised[pk] = max(self.promised[pk], version)

    async def _load(self, op: Operation) -> list[dict[str, Any]]:
        await Wait()
        (condition,) = op.domain.conditions()
        ids = condition.value if isinstance(condition.value, tuple) else (condition.value,)
        documents = [{"_id": pk, "version": self.stored[cast("int", pk)]} for pk in ids]
        await Wait()
        return documents

    def _operation(self, ids: tuple[int, ...], how: str, env: Env) -> Operation:
        update = Update({"$inc": {"version": 1}})
        known = Condition("_id", "in", list(ids))
        return {
            "by id": Operation("write", Cell, env, known, update),
            "narrowed": Operation("write", Cell, env, known & [("version", ">=", 0)], update),
            "by domain": Operation("write", Cell, env, Condition("version", ">=", 0), update),
            "per record": Operation(
                "write", Cell, env, Domain.TRUE, PerRecord(dict.fromkeys(ids, update))
            ),
        }[how]

    def _apply(self, ids: tuple[int, ...]) -> dict[int, int]:
        self.clock += 1
        written = dict.fromkeys(ids, self.clock)
        self.stored.update(written)
        return written

    def _promise(self, written: dict[int, int]) -> None:
        for pk, version in written.items():
            self.promised[pk] = max(self.promised[pk], version)

    async def write(self, ids: tuple[int, ...], how: str, end: str) -> None:
        ids = IDS if how == "by domain" else ids
        written: dict[int, int] = {}

        async def core(op: Operation) -> int:
            await Wait()
            if end != "refused":
                written.update(self._apply(ids))
            await Wait()
            if end != "done":
                raise Lost
            return len(ids)

        try:
            await self.write_layer(self._operation(ids, how, self.env), core)
        except Lost:
            return
        self._promise(written)

    async def transact(self, steps: list[tuple[tuple[int, ...], str]], end: str) -> None:
        running = Transaction(cast("Any", None))
        env = self.env.replace(transaction=running)
        ids: set[int] = set()

        async def core(op: Operation) -> int:
            running.operations.append(op)
            await Wait()
            return 1

        for each, how in steps:
            ids.update(IDS if how == "by domain" else each)
            await self.write_layer(self._operation(each, how, env), core)
        if end == "refused":
            await Wait()
            await running.notify("after_rollback")
            return
        await Wait()
        written = self._apply(tuple(ids))
        await Wait()
        if end == "lost":
            await running.notify("after_rollback")
            return
        await running.notify("after_commit")
        self._promise(written)


End = Literal["done", "lost", "refused"]
some_ids = st.lists(st.sampled_from(IDS), min_size=1, max_size=3, unique=True).map(tuple)
hows = st.sampled_from(["by id", "narrowed", "by domain", "per record"])
ends = st.sampled_from(["done", "done", "lost", "refused"])
reads = st.tuples(st.just("read"), some_ids)
actors = st.lists(
    st.one_of(
        reads,
        reads,
        st.tuples(st.just("write"), some_ids, hows, ends),
        st.tuples(
            st.just("transact"), st.lists(st.tuples(some_ids, hows), min_size=1, max_size=2), ends
        ),
    ),
    min_size=2,
    max_size=10,
)


@given(actors=actors, max_entries=st.sampled_from([2, 100]), data=st.data())
@settings(max_examples=500, deadline=None)
def test_no_read_returns_less_than_was_acknowledged_before_it_began(
    actors: list[tuple[Any, ...]], max_entries: int, data: st.DataObject
) -> None:
    with asyncio.Runner() as runner:
        runner.run(follow(actors, max_entries, data))


async def follow(actors: list[tuple[Any, ...]], max_entries: int, data: st.DataObject) -> None:
    """The one task of a loop, to which the whole schedule belongs; nothing here waits for the loop."""
    world = World(max_entries)
    waiting: list[Coroutine[Any, Any, None]] = [
        getattr(world, kind)(*arguments) for kind, *arguments in actors
    ]
    try:
        while waiting:
            # The first few only: an actor that has not begun yet begins late.
            chosen = data.draw(st.integers(0, min(3, len(waiting) - 1)))
            try:
                waiting[chosen].send(None)
            except StopIteration:
                del waiting[chosen]
    finally:
        for coroutine in waiting:
            coroutine.close()
    shelves = world.plugin._levels.shelves
    memory, (shelf,) = shelves.memory, shelves._shelves.values()
    assert not shelf.leases, "a lease outlived its load"
    assert not shelf.closed, "an id stayed closed"
    assert not shelf.closed_whole
    assert shelf.keys == set(memory._entries)
    assert len(shelf.keys) <= max_entries
    for key in list(memory._entries):
        kept = memory.get(key)
        assert kept is not None
        assert from_bson(kept)["version"] == world.stored[cast("int", key[1])]


def test_the_schedules_do_lead_to_hits() -> None:
    """The law would hold of a cache that keeps nothing."""
    world = World(100)
    for _ in range(2):
        _run(world.read((1, 2)))
    assert world.plugin.cache.statistics().hits == 2


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    try:
        while True:
            coroutine.send(None)
    except StopIteration:
        pass
