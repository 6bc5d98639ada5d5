"""A walk over every public method: none reaches the database past the gate of security.

The models are closed, the principal has no rights. The commands of the driver tell what reached the server.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pymongo.monitoring import CommandListener, CommandStartedEvent

import earnorm
from earnorm import (
    AccessDenied,
    App,
    Field,
    Principal,
    Query,
    RecordSet,
    act_as,
    current_app,
    hookimpl,
    system,
)
from earnorm.features.bulk.bulk import Bulk
from earnorm.features.files.stored import StoredFile
from earnorm.features.indexes.catalog import IndexCatalog
from earnorm.features.sequences.counters import NumberSequence
from earnorm.features.watching.watching import Watch
from tests.plugins.security.gate_rows import (
    GATED,
    LOCAL,
    MAINTENANCE,
    OUTSIDE,
    Binder,
    Call,
    Shelf,
    World,
)

CLASSES: Mapping[str, type] = {
    "Model": Shelf,
    "RecordSet": RecordSet,
    "Query": Query,
    "App": App,
    "Bulk": Bulk,
    "StoredFile": StoredFile,
    "NumberSequence": NumberSequence,
    "IndexCatalog": IndexCatalog,
    "Watch": Watch,
}
PROTOCOLS = ("__await__", "__aiter__", "__aenter__", "__aexit__", "__anext__")
"""The methods behind ``await``, ``async for`` and ``async with``."""
NOBODY = Principal("eve")
COLLECTION = "gate_shelf"


class Sent(CommandListener):
    """Every command that goes to the server, except those that end what an earlier call has begun."""

    def __init__(self) -> None:
        self.all: list[str] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name not in ("endSessions", "killCursors", "abortTransaction"):
            self.all.append(f"{event.command_name} {event.command}")

    def succeeded(self, event: object) -> None: ...

    def failed(self, event: object) -> None: ...


class Listening:
    """Hands the listener to the driver."""

    api = 1
    name = "listening"

    def __init__(self, sent: Sent) -> None:
        self.sent = sent

    @hookimpl
    def register_listeners(self) -> list[object]:
        return [self.sent]


class Walk:
    """Calls methods as somebody without rights, and notes what is wrong."""

    def __init__(self, app: App, sent: Sent) -> None:
        self._app, self._sent = app, sent

    async def _world(self) -> World:
        with system(reason="set-up"):
            await Shelf.search().with_archived().delete()
            record, _ = await Shelf.create([{"title": "a"}, {"title": "b"}])
            child = await Shelf.create({"title": "child", "parent_id": record})
            records = await Shelf.search(order="title")
            binder = await Binder.create({})
            await binder.content.write(b"old")
        self._sent.all.clear()
        return World(self._app, record, child, records, binder)

    async def gated(self, call: Call) -> str | None:
        """Return what is wrong with a method that reaches the database; None if it is refused."""
        world = await self._world()
        with act_as(NOBODY):
            refused = await self._refused(call, world)
        problem = refused or self._reached()
        if problem is None:
            with system(reason="show that the call would reach the server"):
                await _done(call(world))
            if self._reached() is None:
                problem = "sends no command for the system either: it belongs to LOCAL"
        return problem

    async def local(self, call: Call) -> str | None:
        """Return what is wrong with a method that needs no database."""
        world = await self._world()
        with act_as(NOBODY):
            result = call(world)
            if inspect.iscoroutine(result):
                await result
            if self._sent.all:
                return f"sends {self._sent.all[0]}"
        return await self.gated(lambda _: result) if isinstance(result, Query) else None

    async def maintenance(self, call: Call) -> str | None:
        """Return what is wrong with a method that is about the server, and no record."""
        world = await self._world()
        with act_as(NOBODY):
            await _done(call(world))
        return self._reached()

    async def _refused(self, call: Call, world: World) -> str | None:
        try:
            await _done(call(world))
        except AccessDenied:
            return None
        except Exception as error:
            return f"fails with {error!r}"
        return "is not refused"

    def _reached(self) -> str | None:
        reached = [text for text in self._sent.all if COLLECTION in text]
        return f"sends {reached[0]}" if reached else None


async def _done(result: Any) -> None:
    if inspect.isawaitable(result):
        await result


@asynccontextmanager
async def walking(opened: Any) -> AsyncIterator[Walk]:
    sent = Sent()
    async with opened(plugins=(Listening(sent),), default="closed") as app:
        yield Walk(app, sent)


def public_methods(name: str, cls: type) -> Iterator[str]:
    for attribute in dir(cls):
        if attribute.startswith("_") and attribute not in PROTOCOLS:
            continue
        value = inspect.getattr_static(cls, attribute)
        if isinstance(value, Field):
            continue
        if isinstance(value, property | classmethod | staticmethod) or callable(value):
            yield f"{name}.{attribute}"


def test_every_public_method_has_one_row():
    rows = [*GATED, *LOCAL, *MAINTENANCE, *OUTSIDE]
    methods = [name for kind, cls in CLASSES.items() for name in public_methods(kind, cls)]
    methods += [
        f"earnorm.{name}"
        for name in earnorm.__all__
        if inspect.iscoroutinefunction(getattr(earnorm, name))
    ]
    missing = sorted(set(methods) - set(rows))
    assert not missing, (
        f"give each a row in gate_rows.py, GATED if it reaches the database: {missing}"
    )
    assert sorted(rows) == sorted(methods)


async def test_no_method_reaches_the_database_past_the_gate(opened):
    async with walking(opened) as walk:
        problems = {name: await walk.gated(call) for name, call in GATED.items()}
    assert {name: text for name, text in problems.items() if text} == {}


async def test_what_needs_no_database_sends_no_command_and_no_maintenance_one_about_records(opened):
    async with walking(opened) as walk:
        problems = {name: await walk.local(call) for name, call in LOCAL.items()}
        problems |= {name: await walk.maintenance(call) for name, call in MAINTENANCE.items()}
    assert {name: text for name, text in problems.items() if text} == {}


async def test_the_walk_finds_a_method_that_goes_past_the_gate(opened, monkeypatch):
    async def planted(self: Query[Any]) -> int:
        collection = current_app().dangerous_raw("a planted fault")[COLLECTION]
        return await collection.count_documents({})

    async def late(self: Query[Any]) -> int:
        await planted(self)
        return await self.count()

    monkeypatch.setattr(Query, "planted", planted, raising=False)
    with pytest.raises(AssertionError, match=r"Query\.planted"):
        test_every_public_method_has_one_row()
    async with walking(opened) as walk:
        assert await walk.gated(lambda w: planted(w.query)) == "is not refused"
        problem = await walk.gated(lambda w: late(w.query))
        assert problem is not None and problem.startswith("sends aggregate")
        problem = await walk.local(lambda w: planted(w.query))
        assert problem is not None and problem.startswith("sends aggregate")
