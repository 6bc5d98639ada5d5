"""The law of kept results: an answer through the cache is the database's, whatever was written by whichever way.

Two Apps write and ask in turns, with a real server and a real Redis. Each writes in all the ways there are; each answer
of a query that may be kept is compared with the answer of the database at that moment.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo import MongoClient

import earnorm
from earnorm import (
    App,
    Count,
    Inc,
    Int,
    Many2one,
    One2many,
    Query,
    String,
    Sum,
    depends,
    mixins,
    models,
)
from earnorm_cache import CachePlugin, CacheSettings
from tests.plugins.cache.probes import Probe

EXAMPLES = int(os.environ.get("EARNORM_CACHE_EXAMPLES", "40"))
COLOURS = ("red", "Red", "blue", "")


class Maker(models.BaseModel):
    _name = "cache_law_maker"

    name = String()
    thing_ids = One2many("cache_law_thing", "maker_id")


class Thing(mixins.SoftDelete, models.BaseModel):
    _name = "cache_law_thing"
    _discriminator = "kind"
    _kind = "thing"

    code = Int(unique=True)
    colour = String()
    size = Int(default=0)
    note = String()
    maker_id = Many2one(Maker)
    maker_name = String(related="maker_id.name", store=True)
    label = String(compute="_label", store=True)

    @depends("colour", "size")
    def _label(self) -> str:
        return f"{self.colour} {self.size}"


class Tool(Thing):
    _name = "cache_law_tool"
    _kind = "tool"

    weight = Int(default=1)


DOMAINS: tuple[list[Any], ...] = (
    [],
    [("colour", "=", "red")],
    [("colour", "!=", "red")],
    [("colour", "in", ["red", "blue"]), ("size", ">", 1)],
    ["|", ("size", "<=", 1), ("colour", "=", "blue")],
    ["!", ("size", ">=", 2)],
    [("colour", "ilike", "re")],
    [("label", "like", "red%")],
    [("maker_name", "=", "ann")],
    [("maker_id", "!=", None)],
    [("note", "exists", True)],
    [("active", "in", [True, False]), ("size", "<", 3)],
    [("code", "<", 4)],
)
ORDERS = ("id", "-size,id", "colour,-id", "code", "label,id", "-maker_name,id")
ONLY = (("colour",), ("size", "label"), ("note",), ("maker_name", "active"))


class Process:
    """One App, with what it has written since its memory was emptied."""

    def __init__(self, app: App, plugin: CachePlugin, probe: Probe) -> None:
        self.app, self.plugin, self.probe = app, plugin, probe

    @property
    def hits(self) -> int:
        return self.plugin.cache.statistics().query_hits


LIKE = (6, 7)
"""The domains that memory does not judge."""


def _query(choice: tuple[Any, ...]) -> tuple[Query[Any], str]:
    shape, model, domain, order, window, only = choice
    if shape == "whole by the server":
        domain = LIKE[domain % 2]
    of: type[Thing] = (Thing, Thing, Tool)[model % 3]
    query = of.search(DOMAINS[domain]).order(ORDERS[order])
    if shape in ("whole", "whole by the server", "parts", "count"):
        query = query.limit((0, 0, 2, 1)[window]).offset((0, 0, 1, 0)[window])
    if shape == "parts":
        query = query.only(*ONLY[only])
    return query, "records" if shape in ("whole", "whole by the server", "parts") else shape


async def _answer(query: Query[Any], kind: str) -> Any:
    if kind == "records":
        found = await query
        return [(type(each)._name, await _values(each)) for each in found]
    if kind == "count":
        return await query.count()
    if kind == "exists":
        return await query.exists()
    if kind == "first":
        first = await query.first()
        return first and await _values(first)
    return await query.group("colour", number=Count(), total=Sum("size"))


async def _values(record: Any) -> dict[str, Any]:
    state: dict[str, Any] = {"id": record.pk}
    for name in ("kind", "code", "colour", "size", "note", "maker_name", "label", "weight"):
        with suppress(earnorm.FieldNotLoaded, AttributeError):
            state[name] = getattr(record, name)
    return state


class World:
    """Two processes, and the writes that they make."""

    def __init__(self, processes: list[Process]) -> None:
        self.processes = processes
        self.asked = 0

    async def ask(self, process: Process, choice: tuple[Any, ...]) -> None:
        with process.app.activate():
            query, kind = _query(choice)
            kept = await _answer(query, kind)
            stored = await _answer(query.uncached(), kind)
            assert kept == stored, f"{kind} of {query!r}"
            self.asked += 1

    async def relations(self, process: Process) -> None:
        with process.app.activate():
            wanted = ("thing_ids", "thing_ids.maker_id")
            kept = await Maker.search().order("id").prefetch(*wanted)
            things = Thing.search([("maker_id", "!=", None)]).with_archived().uncached()
            stored = {thing.pk: thing.maker_id.pk for thing in await things}
            found = {thing.pk: maker.pk for maker in kept for thing in maker.thing_ids}
            assert found == stored

    async def write(self, process: Process, way: str, a: int, b: int, colour: str) -> None:
        # A refused write leaves what was there.
        refused = suppress(earnorm.DuplicateKey, earnorm.BatchRefused, ZeroDivisionError)
        with process.app.activate(), refused:
            await self._write(way, a, b, colour)
        for other in self.processes:
            if other is not process:
                other.plugin.cache.clear()  # its memory may be some milliseconds old

    async def _write(self, way: str, a: int, b: int, colour: str) -> None:
        values: dict[str, Any] = {"code": a, "colour": colour, "size": b}
        match way:
            case "create":
                makers = await Maker.search().uncached()
                maker = makers[b % len(makers)] if makers else None
                await (Thing, Tool)[b % 2].create({**values, "maker_id": maker})
            case "create_many":
                rows = [{**values, "code": a + n} for n in range(3)]
                await Thing.create_many(rows, ordered=bool(b % 2))
            case "save" | "write" | "archive" | "unlink":
                found = await Thing.search([("active", "in", [True, False])]).order("code")
                if not found:
                    return
                record: Any = found[a % len(found)]
                if way == "save":
                    record.size, record.note = b, colour
                    await record.save()
                elif way == "write":
                    await found[: 1 + a].write({"colour": colour})
                elif way == "archive":
                    await (record.archive() if record.active else record.unarchive())
                else:
                    await record.unlink()
            case "update":
                await Thing.search([("size", "<=", b)]).update({"colour": colour})
            case "inc":
                await Thing.search([("colour", "=", colour)]).update({"size": Inc(1)})
            case "note":
                await Tool.search().update({"note": colour or None})
            case "delete":
                await Thing.search([("code", "=", a)]).delete()
            case "upsert":
                await Thing.upsert(values, on="code")
            case "upsert_many":
                await Thing.upsert_many([values, {**values, "code": a + 1}], on="code")
            case "bulk":
                found = await Thing.search().order("code")
                async with Thing.bulk() as bulk:
                    bulk.create({**values, "code": 20 + a})
                    if found:
                        bulk.write(found[a % len(found)], {"size": b})
                    if len(found) > 1:
                        bulk.unlink(found[(a + 1) % len(found)])
            case "maker":
                makers = await Maker.search().order("id")
                if len(makers) < 2:
                    await Maker.create({"name": colour})
                else:
                    await makers[a % 2].write({"name": ("ann", "bob")[b % 2]})
            case "move":
                makers = await Maker.search().order("id")
                maker = makers[b % len(makers)] if makers else None
                await Thing.search([("code", "<=", a)]).update({"maker_id": maker})
            case "commit" | "rollback":
                async with earnorm.transaction():
                    for inner in ("update", "create", "write")[: 1 + a % 3]:
                        await self._write(inner, b + 30, a, colour)
                    assert await Thing.search().count() == await Thing.search().uncached().count()
                    if way == "rollback":
                        raise ZeroDivisionError
            case _:
                raise AssertionError(way)


WAYS = (
    *("create", "create", "create_many", "save", "write", "archive", "unlink", "update", "inc"),
    *("note", "delete", "upsert", "upsert_many", "bulk", "maker", "move", "commit", "rollback"),
)
small = st.integers(0, 5)
SHAPES = ("whole", "whole by the server", "parts", "count", "group", "exists", "first")
choices = st.tuples(
    st.sampled_from(SHAPES),
    small,
    st.integers(0, len(DOMAINS) - 1),
    st.integers(0, len(ORDERS) - 1),
    st.integers(0, 3),
    st.integers(0, len(ONLY) - 1),
)
asks = st.tuples(st.just("ask"), st.integers(0, 1), st.integers(0, 2))
writes = st.tuples(
    st.just("write"),
    st.integers(0, 1),
    st.sampled_from(WAYS),
    small,
    small,
    st.sampled_from(COLOURS),
)
relations = st.tuples(st.just("relations"), st.integers(0, 1))
steps = st.lists(st.one_of(asks, asks, asks, writes, writes, relations), min_size=8, max_size=40)


async def follow(world: World, asked: list[tuple[Any, ...]], script: list[Any]) -> None:
    one = world.processes[0]
    with one.app.activate():
        await Thing.search().with_archived().delete()
        await Maker.search().delete()
        makers = await Maker.create([{"name": "ann"}, {"name": "bob"}])
        rows = [
            {"code": n, "colour": COLOURS[n % 4], "size": n, "maker_id": makers[n % 2]}
            for n in range(4)
        ]
        await Thing.create(rows[:2])
        await Tool.create(rows[2:])
    world.processes[1].plugin.cache.clear()
    for kind, which, *rest in script:
        process = world.processes[which]
        match kind:
            case "ask":
                await world.ask(process, asked[rest[0] % len(asked)])
            case "relations":
                await world.relations(process)
            case _:
                await world.write(process, *rest)


@contextmanager
def two_processes(mongo_uri: str) -> Iterator[tuple[asyncio.Runner, World]]:
    database = f"cache_{uuid.uuid4().hex[:12]}"
    processes: list[Process] = []
    with asyncio.Runner() as runner:

        async def start() -> None:
            for _ in range(2):
                url = os.environ["EARNORM_TEST_REDIS_URL"]
                plugin = CachePlugin(
                    CacheSettings(
                        redis_url=url, redis_timeout=5.0, queries=True, outside_writes=False
                    )
                )  # type: ignore[arg-type] # pydantic makes a secret of it
                probe = Probe()
                app = App(mongo_uri, database=database, plugins=[plugin, probe])
                await app.start()
                processes.append(Process(app, plugin, probe))

        async def stop() -> None:
            for process in processes:
                await process.app.stop()

        runner.run(start())
        try:
            yield runner, World(processes)
        finally:
            runner.run(stop())
            with MongoClient[dict[str, Any]](mongo_uri) as client:
                client.drop_database(database)


def test_every_answer_is_the_databases(mongo_uri: str) -> None:
    with two_processes(mongo_uri) as (runner, world):

        @given(asked=st.lists(choices, min_size=1, max_size=3), script=steps)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        def law(asked: list[tuple[Any, ...]], script: list[Any]) -> None:
            runner.run(follow(world, asked, script))

        law()
        shared = sum(
            process.plugin._levels.shared.figures.query_hits for process in world.processes
        )  # type: ignore[union-attr] # Redis is used
        hits = sum(process.hits for process in world.processes)
        assert shared > 50, "results hardly came from Redis"
        assert hits > 100, "results were hardly kept"
