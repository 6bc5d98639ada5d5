"""How to call each public method of Model, record, RecordSet, Query and App, for the walk in test_gate.py.

``GATED`` reach the database: a principal without rights is refused before any command. ``LOCAL`` need no database:
no command is sent. A Query that one of these returns is awaited, too, and then it is refused.
``MAINTENANCE`` ask or prepare the server and touch no record of a model that is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from bson import ObjectId

import earnorm
from earnorm import (
    App,
    BaseModel,
    Count,
    File,
    Int,
    Many2one,
    One2many,
    Operation,
    Query,
    RecordSet,
    String,
    Update,
    current_env,
    depends,
    mixins,
    rebuild_parent_paths,
    sequence,
    transaction,
)
from earnorm.domain import Domain


class Shelf(mixins.SoftDelete, BaseModel):
    """The closed model; its defaults and computed values are what maintenance writes."""

    _name = "gate.shelf"
    _parent_store = True
    title = String(unique=True)
    size = Int(default=1)
    is_wide = Int(default=0)
    parent_id = Many2one("gate.shelf", on_delete="cascade")
    child_ids = One2many("gate.shelf", "parent_id")
    twice = Int(compute="_twice", store=True)

    @depends("size")
    def _twice(self) -> int:
        return 2 * (self.size or 0)


class Binder(BaseModel):
    """A closed model with a file."""

    _name = "gate.shelf.binder"
    content = File()


@dataclass(frozen=True, slots=True)
class World:
    """What the calls are about: records that ``system`` has loaded, of a principal who may read none."""

    app: App
    record: Shelf
    child: Shelf
    records: RecordSet[Shelf]
    binder: Binder

    @property
    def query(self) -> Query[Shelf]:
        return Shelf.search([("title", "like", "%")])


Call: TypeAlias = Callable[[World], Any]


async def _watched() -> None:
    async with Shelf.watch():
        pass


async def _in_bulk() -> None:
    async with Shelf.bulk() as bulk:
        bulk.create({"title": "bulk"})


async def _bulk_write(world: World) -> None:
    async with Shelf.bulk() as bulk:
        bulk.write(world.record, {"size": 2})


async def _bulk_unlink(world: World) -> None:
    async with Shelf.bulk() as bulk:
        bulk.unlink(world.child)


async def _after_commit() -> None:
    """Count in a callback; its error is logged, and raised here."""
    errors: list[Exception] = []

    async def count() -> None:
        try:
            await Shelf.count()
        except Exception as error:
            errors.append(error)

    async with transaction():
        await earnorm.after_commit(count)
    for error in errors:
        raise error


async def _advised(world: World) -> None:
    catalog = world.app.indexes
    await catalog.advise([catalog.shape(Shelf, [("size", ">", 1)])], verify=True)


async def _next_event() -> None:
    """Begin a watch by its first event; there is none."""
    watch = Shelf.watch()
    try:
        await asyncio.wait_for(anext(watch), 1)
    except TimeoutError:
        pass
    finally:
        await watch.close()


async def _pipeline(query: Query[Shelf]) -> None:
    await query.aggregate([{"$match": {"size": 1}}])


async def _streamed(records: Any) -> None:
    async for _ in records:
        pass


async def _saved(record: Shelf) -> None:
    record.size = 9
    await record.save()


async def _set_saved(records: RecordSet[Shelf]) -> None:
    for record in records:
        record.size = 9
    await records.save()


async def _locked(query: Query[Shelf]) -> None:
    async with transaction():
        await query.lock()


async def _held(world: World) -> None:
    async with transaction():
        await world.app.hold(Shelf, [("parent_id.size", "=", 1)], [world.child.pk])


def _executed(name: Any, domain: bool = True, **options: Any) -> Callable[[World], Awaitable[Any]]:
    def call(world: World) -> Awaitable[Any]:
        op = Operation(name, Shelf, current_env(), **options)
        return world.app.execute(op.replace(domain=Domain([("size", "=", 1)])) if domain else op)

    return call


async def _executed_all(world: World) -> None:
    """Send each operation; the first one that is not refused shows itself by its command."""
    refusals = []
    for call in (
        _executed("search"),
        _executed("count"),
        _executed("create", domain=False, values=[{"_id": ObjectId(), "title": "x"}]),
        _executed("write", values=Update({"$set": {"size": 2}})),
        _executed("unlink"),
    ):
        try:
            await call(world)
        except Exception as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


GATED: Final[Mapping[str, Call]] = {
    "Model.archive": lambda w: w.record.archive(),
    "Model.backfill": lambda w: Shelf.backfill("is_wide"),
    "Model.bulk": lambda w: _in_bulk(),
    "Model.copy": lambda w: w.record.copy({"title": "copy"}),
    "Model.count": lambda w: Shelf.count(),
    "Model.create": lambda w: Shelf.create({"title": "created"}),
    "Model.create_many": lambda w: Shelf.create_many([{"title": "many"}]),
    "Model.find_one": lambda w: Shelf.find_one([("size", "=", 1)]),
    "Model.get": lambda w: Shelf.get(w.record.id),
    "Model.load": lambda w: w.record.load("child_ids"),
    "Model.read": lambda w: w.record.read(["title"]),
    "Model.refresh": lambda w: w.record.refresh(),
    "Model.save": lambda w: _saved(w.record),
    "Model.search": lambda w: Shelf.search(),
    "Model.toggle": lambda w: w.record.toggle("active"),
    "Model.unarchive": lambda w: w.record.unarchive(),
    "Model.unlink": lambda w: w.record.unlink(),
    "Model.upsert": lambda w: Shelf.upsert({"title": "upsert"}, on="title"),
    "Model.upsert_many": lambda w: Shelf.upsert_many([{"title": "upsert"}], on="title"),
    "Model.watch": lambda w: _watched(),
    "Model.write": lambda w: w.record.write({"size": 2}),
    "Model.write_many": lambda w: Shelf.write_many({w.record.pk: {"size": 2}}),
    "Model.__await__": lambda w: Shelf.browse([w.record.id])[0],
    "RecordSet.archive": lambda w: w.records.archive(),
    "RecordSet.copy": lambda w: w.records[:1].copy({"title": "copies"}),
    "RecordSet.load": lambda w: w.records.load("child_ids"),
    "RecordSet.read": lambda w: w.records.read(["title"]),
    "RecordSet.refresh": lambda w: w.records.refresh(),
    "RecordSet.save": lambda w: _set_saved(w.records),
    "RecordSet.still_exists": lambda w: w.records.still_exists(),
    "RecordSet.toggle": lambda w: w.records.toggle("active"),
    "RecordSet.unarchive": lambda w: w.records.unarchive(),
    "RecordSet.unlink": lambda w: w.records.unlink(),
    "RecordSet.write": lambda w: w.records.write({"size": 2}),
    "RecordSet.__await__": lambda w: w.record.child_ids,
    "Query.aggregate": lambda w: _pipeline(w.query),
    "Query.count": lambda w: w.query.count(),
    "Query.delete": lambda w: w.query.delete(),
    "Query.exists": lambda w: w.query.exists(),
    "Query.explain": lambda w: w.query.explain(),
    "Query.first": lambda w: w.query.first(),
    "Query.group": lambda w: w.query.group("size", n=Count()),
    "Query.lock": lambda w: _locked(w.query),
    "Query.page": lambda w: w.query.page(),
    "Query.paginate": lambda w: w.query.order("size").paginate(),
    "Query.stream": lambda w: _streamed(w.query.stream()),
    "Query.to_arrow": lambda w: w.query.to_arrow(),
    "Query.to_dict": lambda w: w.query.to_dict(),
    "Query.to_json": lambda w: w.query.to_json(),
    "Query.to_pandas": lambda w: w.query.to_pandas(),
    "Query.to_polars": lambda w: w.query.to_polars(),
    "Query.update": lambda w: w.query.update({"size": 2}),
    "Query.why": lambda w: Shelf.search([("id", "=", w.record.id)]).why("write"),
    "Query.__aiter__": lambda w: _streamed(w.query),
    "Query.__await__": lambda w: w.query,
    "Bulk.__aexit__": lambda w: _in_bulk(),
    "Bulk.write": _bulk_write,
    "Bulk.unlink": _bulk_unlink,
    "StoredFile.chunks": lambda w: _streamed(w.binder.content.chunks()),
    "StoredFile.open": lambda w: w.binder.content.open().read(),
    "StoredFile.read": lambda w: w.binder.content.read(),
    "StoredFile.write": lambda w: w.binder.content.write(b"new"),
    "StoredFile.delete": lambda w: w.binder.content.delete(),
    "StoredFile.__aiter__": lambda w: _streamed(w.binder.content),
    "Watch.__aenter__": lambda w: _watched(),
    "Watch.__anext__": lambda w: _next_event(),
    "IndexCatalog.advise": _advised,
    "IndexCatalog.drop_unused": lambda w: w.app.indexes.drop_unused([Shelf]),
    "IndexCatalog.sync": lambda w: w.app.indexes.sync([Shelf]),
    "earnorm.after_commit": lambda w: _after_commit(),
    "earnorm.rebuild_parent_paths": lambda w: rebuild_parent_paths(Shelf),
    "App.execute": _executed_all,
    "App.hold": _held,
    "App.recompute": lambda w: w.app.recompute(Shelf),
    "App.resolve": lambda w: w.app.resolve(Shelf, [("parent_id.size", "=", 1)]),
}

LOCAL: Final[Mapping[str, Call]] = {
    "Model.browse": lambda w: Shelf.browse([w.record.id]),
    "Model.ensure_one": lambda w: w.record.ensure_one(),
    "Model.exists": lambda w: w.record.exists(),
    "Model.id": lambda w: w.record.id,
    "Model.is_changed": lambda w: w.record.is_changed,
    "Model.is_stale": lambda w: w.record.is_stale,
    "Model.is_stored": lambda w: w.record.is_stored,
    "Model.json_schema": lambda w: Shelf.json_schema(),
    "Model.of": lambda w: Shelf.of(w.record),
    "Model.pk": lambda w: w.record.pk,
    "Model.pydantic_model": lambda w: Shelf.pydantic_model(),
    "Model.to_dict": lambda w: w.record.to_dict(),
    "Model.to_json": lambda w: w.record.to_json(),
    "Model.with_archived": lambda w: Shelf.with_archived(),
    "RecordSet.ensure_one": lambda w: w.records[:1].ensure_one(),
    "RecordSet.exists": lambda w: w.records.exists(),
    "RecordSet.filtered": lambda w: w.records.filtered("size"),
    "RecordSet.filtered_domain": lambda w: w.records.filtered_domain([("size", "=", 1)]),
    "RecordSet.grouped": lambda w: w.records.grouped("size"),
    "RecordSet.ids": lambda w: w.records.ids,
    "RecordSet.is_partial": lambda w: w.records.is_partial,
    "RecordSet.is_stale": lambda w: w.records.is_stale,
    "RecordSet.mapped": lambda w: w.records.mapped("size"),
    "RecordSet.pks": lambda w: w.records.pks,
    "RecordSet.sorted": lambda w: w.records.sorted("size"),
    "RecordSet.to_arrow": lambda w: w.records.to_arrow(),
    "RecordSet.to_dict": lambda w: w.records.to_dict(),
    "RecordSet.to_json": lambda w: w.records.to_json(),
    "RecordSet.to_pandas": lambda w: w.records.to_pandas(),
    "RecordSet.to_polars": lambda w: w.records.to_polars(),
    "Query.cached": lambda w: w.query.cached(5),
    "Query.uncached": lambda w: w.query.uncached(),
    "Query.limit": lambda w: w.query.limit(1),
    "Query.offset": lambda w: w.query.offset(1),
    "Query.only": lambda w: w.query.only("title"),
    "Query.order": lambda w: w.query.order("size"),
    "Query.prefetch": lambda w: w.query.prefetch("parent_id"),
    "Query.read_concern": lambda w: w.query.read_concern("majority"),
    "Query.read_preference": lambda w: w.query.read_preference("primary"),
    "Query.timeout": lambda w: w.query.timeout(5),
    "Query.where": lambda w: w.query.where([("size", ">", 0)]),
    "Query.with_archived": lambda w: w.query.with_archived(),
    "Query.write_concern": lambda w: w.query.write_concern({"w": 1}) and None,
    "Bulk.create": lambda w: Shelf.bulk().create({"title": "x"}) and None,
    "Bulk.__aenter__": lambda w: Shelf.bulk().__aenter__(),
    "StoredFile.content_type": lambda w: w.binder.content.content_type,
    "StoredFile.filename": lambda w: w.binder.content.filename,
    "StoredFile.length": lambda w: w.binder.content.length,
    "StoredFile.sha256": lambda w: w.binder.content.sha256,
    "StoredFile.to_dict": lambda w: w.binder.content.to_dict(),
    "StoredFile.uploaded_at": lambda w: w.binder.content.uploaded_at,
    "Watch.token": lambda w: Shelf.watch().token,
    "Watch.__aiter__": lambda w: Shelf.watch().__aiter__() and None,
    "IndexCatalog.shape": lambda w: w.app.indexes.shape(Shelf, [("size", ">", 1)]),
    "App.activate": lambda w: w.app.activate().__enter__() and None,
    "App.admit": lambda w: w.app.admit(),
    "App.asks_itself": lambda w: w.app.asks_itself(Shelf, [("id", "child_of", w.record.pk)]),
    "App.asks_others": lambda w: w.app.asks_others(Shelf, [("parent_id.size", "=", 1)]),
    "App.bind": lambda w: w.app.bind(Shelf),
    "App.capabilities": lambda w: w.app.capabilities,
    "App.check": lambda w: w.app.check(Shelf, [("parent_id.size", "=", 1)]),
    "App.committed": lambda w: w.app.committed([]),
    "App.dangerous_raw": lambda w: w.app.dangerous_raw("the one door, which says its name") is None,
    "App.described": lambda w: w.app.described(),
    "App.reads_from": lambda w: w.app.reads_from(Shelf),
    "App.extended": lambda w: w.app.extended(Shelf),
    "App.follows_from": lambda w: w.app.follows_from("gate.shelf", ["size"]),
    "App.indexes": lambda w: w.app.indexes,
    "App.is_started": lambda w: w.app.is_started,
    "App.known_models": lambda w: w.app.known_models(),
    "App.view": lambda w: w.app.view("gate.shelf"),
    "App.matcher": lambda w: w.app.matcher(Shelf, [("size", "=", 1)])({"size": 1}),
    "App.may_lag": lambda w: w.app.may_lag("gate.shelf", "twice"),
    "App.model": lambda w: w.app.model("gate.shelf"),
    "App.observing": lambda w: w.app.observing,
    "App.origins": lambda w: w.app.origins,
    "App.parts": lambda w: w.app.parts("gate.shelf"),
    "App.plugins": lambda w: w.app.plugins,
    "App.recompose": lambda w: w.app.recompose(),
    "App.relied_on": lambda w: list(w.app.relied_on(["gate.shelf"])),
    "App.rely_on": lambda w: w.app.rely_on("gate.shelf", "title", "the walk reads it"),
    "App.reset_contention": lambda w: w.app.reset_contention(),
    "App.retrace": lambda w: w.app.retrace(),
    "App.rolled_back": lambda w: w.app.rolled_back([]),
    "App.settings": lambda w: w.app.settings,
    "App.traffic": lambda w: w.app.traffic,
    "App.unheard_listeners": lambda w: w.app.unheard_listeners,
    "App.unknown": lambda w: w.app.unknown([], None),  # type: ignore[arg-type]
    "App.usable_models": lambda w: list(w.app.usable_models()),
}

MAINTENANCE: Final[Mapping[str, Call]] = {
    "NumberSequence.last": lambda w: sequence("gate").last(),
    "NumberSequence.next": lambda w: sequence("gate").next(),
    "NumberSequence.take": lambda w: sequence("gate").take(2),
    "App.health": lambda w: w.app.health(),
    "App.metrics": lambda w: w.app.metrics(),
    "App.prepare_models": lambda w: w.app.prepare_models(),
    "App.settled": lambda w: w.app.settled(),
}

OUTSIDE: Final[Mapping[str, str]] = {
    "earnorm.after_rollback": "as earnorm.after_commit: the callback is a row there",
    "App.execute_beneath": "for a layer, about the operation in its hands, whose rights were checked further out",
    "IndexCatalog.diff": "tells indexes and options of collections, and asks for no record",
    "IndexCatalog.declared": "reads declarations alone",
    "Watch.close": "closes the cursor of who began it",
    "Watch.cut_off": "the App's own, at its stop",
    "Watch.__aexit__": "close()",
    "earnorm.init": "start()",
    "earnorm.close": "stop()",
    "App.start": "the walk's App is started before anybody acts",
    "App.stop": "and is stopped when nobody does",
    "App.__aenter__": "start()",
    "App.__aexit__": "stop()",
}
"""What the walk does not call, with the reason."""
