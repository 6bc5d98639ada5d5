"""``after_commit`` hears of a write once, and of nothing that is not in the database."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

import earnorm
from earnorm import App, BaseModel, Int, Many2one, Operation, String
from earnorm.concerns import Concerns
from earnorm.features.revisions.declaring import REVISION
from earnorm.plugin import Layer, Options, Update, current_env, hookimpl, use_env, use_origin

from .conftest import default_app


class Parcel(BaseModel):
    _name = "told.parcel"
    _versioned = True
    code = String(required=True, unique=True)
    weight = Int()


class Label(BaseModel):
    _name = "told.label"
    parcel_id = Many2one(Parcel, on_delete="restrict")


class Hearing:
    """Notes the operations that ``after_commit`` is told of."""

    api = 1
    name = "hearing"

    def __init__(self) -> None:
        self.told: list[str] = []
        self.codes: list[str] = []

    @hookimpl
    def after_commit(self, operations: Sequence[Operation]) -> None:
        self.told += [op.name for op in operations]
        for op in operations:
            documents = op.documents if op.name == "create" else []
            changes = [u.operators["$set"] for u in op.updates] if op.name == "write" else []
            self.codes += [given.get("code", "") for given in (*documents, *changes)]


Way = Callable[[App, BaseModel, BaseModel], Awaitable[Any]]


async def one_create(app: App, first: Any, other: Any) -> None:
    await Parcel.create({"code": "a"})


async def one_save(app: App, first: Any, other: Any) -> None:
    await Parcel(code="a").save()


async def all_of_a_create(app: App, first: Any, other: Any) -> None:
    await Parcel.create([{"code": "a"}, {"code": "b"}])


async def the_first_of_a_create(app: App, first: Any, other: Any) -> None:
    await Parcel.create([{"code": "a"}, {"code": "new"}])


async def all_of_many(app: App, first: Any, other: Any) -> None:
    done = await Parcel.create_many([{"code": "a"}, {"code": "b"}], ordered=False)
    raise earnorm.BatchRefused("told.parcel", done.errors, written=())


async def a_write(app: App, first: Any, other: Any) -> None:
    await first.write({"code": "b"})


async def a_save(app: App, first: Any, other: Any) -> None:
    first.code = "b"
    await first.save()


async def an_update(app: App, first: Any, other: Any) -> None:
    await Parcel.search([("code", "=", "a")]).update({"code": "b"})


async def a_write_of_each(app: App, first: Any, other: Any) -> None:
    await Parcel.write_many({first: {"code": "b"}})


async def a_lost_update(app: App, first: Any, other: Any) -> None:
    await app.dangerous_raw("another program")["told_parcel"].update_one(
        {"code": "a"}, {"$inc": {REVISION: 1}}
    )
    first.weight = 3
    await first.save()


async def a_write_of_a_gone_record(app: App, first: Any, other: Any) -> None:
    await app.dangerous_raw("another program")["told_parcel"].delete_one({"code": "a"})
    await first.write({"weight": 3})


async def a_restricted_deletion(app: App, first: Any, other: Any) -> None:
    await app.dangerous_raw("a label")["told_label"].insert_one({"parcel_id": first._id})
    await first.unlink()


async def a_bulk(app: App, first: Any, other: Any) -> None:
    async with Parcel.bulk() as bulk:
        bulk.create({"code": "a"})


async def a_bulk_of_two(app: App, first: Any, other: Any) -> None:
    async with Parcel.bulk() as bulk:
        bulk.create({"code": "a"})
        bulk.write(first, {"code": "b"})


async def what_cannot_be_sent(app: App, first: Any, other: Any) -> None:
    await app.execute(Operation("create", Parcel, app.env, values=[{"_id": 1, "code": object()}]))


async def a_domain_that_cannot_be(app: App, first: Any, other: Any) -> None:
    domain = earnorm.Domain([("nothing", "=", 1)])
    await app.execute(Operation("unlink", Parcel, app.env, domain))


REFUSED: list[Way] = [
    *(one_create, one_save, all_of_a_create, the_first_of_a_create, all_of_many, a_write, a_save),
    *(an_update, a_write_of_each, a_lost_update, a_write_of_a_gone_record, a_restricted_deletion),
    *(a_bulk, a_bulk_of_two, what_cannot_be_sent, a_domain_that_cannot_be),
]


@contextlib.asynccontextmanager
async def heard(kind: str, database: str) -> AsyncIterator[tuple[App, Hearing, Any, Any]]:
    hearing = Hearing()
    async with default_app(kind, database, [hearing]) as app:
        first, other = await Parcel.create([{"code": "a"}, {"code": "b"}])
        assert hearing.told == ["create"]
        yield app, hearing, first, other


@pytest.mark.parametrize("kind", ["pymongo", "memory"])
@pytest.mark.parametrize("way", REFUSED)
async def test_nobody_hears_of_what_was_refused_as_a_whole(
    kind: str, way: Way, database: str
) -> None:
    async with heard(kind, database) as (app, hearing, first, other):
        with pytest.raises(earnorm.EarnORMError):
            await way(app, first, other)
        assert hearing.told == ["create"]


async def many_in_disorder(app: App, first: Any, other: Any) -> None:
    await Parcel.create_many([{"code": c} for c in ("x", "a", "y", "b", "z")], ordered=False)


async def many_in_order(app: App, first: Any, other: Any) -> None:
    await Parcel.create_many([{"code": c} for c in ("x", "y", "a", "z")])


async def one_create_of_several(app: App, first: Any, other: Any) -> None:
    await Parcel.create([{"code": c} for c in ("x", "y", "a", "z")])


async def a_write_of_each_of_several(app: App, first: Any, other: Any) -> None:
    await Parcel.write_many({first: {"code": "x"}, other: {"code": "y"}})


async def a_write_of_each_refused_in_part(app: App, first: Any, other: Any) -> None:
    await Parcel.write_many({first: {"code": "x"}, other: {"code": "x"}})


async def a_bulk_of_several(app: App, first: Any, other: Any) -> None:
    async with Parcel.bulk() as bulk:
        for code in ("x", "a", "y"):
            bulk.create({"code": code})
        bulk.write(other, {"code": "z"})


async def a_caught_error_in_a_transaction(app: App, first: Any, other: Any) -> None:
    async with earnorm.transaction():
        await Parcel.create({"code": "x"})
        domain = earnorm.Domain([("_id", "=", first._id)])
        update = Update({"$set": {"code": "y"}, "$nothing": {"weight": 1}})
        with contextlib.suppress(earnorm.EarnORMError):
            await app.execute(Operation("write", Parcel, current_env(), domain, update))


async def a_caught_error_before_it_is_sent(app: App, first: Any, other: Any) -> None:
    async with earnorm.transaction():
        await Parcel.create({"code": "x"})
        with contextlib.suppress(earnorm.EarnORMError):
            await Parcel.search([("_id", "=", "nobody")]).update({"code": "y"})
        options = Options(concerns=Concerns(write_concern=(("w", 1),)))
        domain = earnorm.Domain([("_id", "=", first._id)])
        update = Update({"$set": {"code": "y"}})
        with contextlib.suppress(earnorm.EarnORMError):
            await app.execute(Operation("write", Parcel, current_env(), domain, update, options))


IN_PART: list[Way] = [
    *(many_in_disorder, many_in_order, one_create_of_several, a_write_of_each_of_several),
    *(a_write_of_each_refused_in_part, a_bulk_of_several),
]


IN_TRANSACTIONS: list[Way] = [a_caught_error_in_a_transaction, a_caught_error_before_it_is_sent]


@pytest.mark.parametrize(
    ("kind", "way"),
    [(kind, way) for kind in ("pymongo", "memory") for way in IN_PART]
    + [("pymongo", way) for way in IN_TRANSACTIONS],
)
async def test_what_is_told_is_what_is_stored(kind: str, way: Way, database: str) -> None:
    async with heard(kind, database) as (app, hearing, first, other):
        hearing.codes.clear()
        with contextlib.suppress(earnorm.EarnORMError):
            await way(app, first, other)
        stored = {parcel.code for parcel in await Parcel.search()}
        assert sorted(hearing.codes) == sorted(stored - {"a", "b"})


class Logging:
    """Stores an entry for each parcel, once it is durable."""

    api = 1
    name = "logging"

    def __init__(self) -> None:
        self.errors: list[str] = []

    @hookimpl
    def wrap_operation(self, model: type[BaseModel], operation: str) -> Any:
        return [(Layer.DEFAULT, self.layer)] if (model, operation) == (Parcel, "create") else []

    async def layer(self, op: Operation, call_next: Any) -> Any:
        op.after_durable(self.store)
        op.after_durable(lambda: self.store(op))
        return await call_next(op)

    async def store(self, op: Operation | None = None) -> None:
        if op is None:
            with earnorm.system(reason="logging: an entry"), use_origin("logging"):
                await Label.create({})
            return
        try:
            with use_env(op.env):
                await Label.create({})
        except earnorm.TransactionError as error:
            self.errors.append(str(error))


async def test_a_call_after_the_commit_stores_in_the_current_env(database: str) -> None:
    plugin = Logging()
    async with default_app("pymongo", database, [plugin]):
        async with earnorm.transaction():
            await Parcel.create({"code": "a"})
        assert await Label.count() == 1
    (error,) = plugin.errors
    assert "acts in the current Env, not in that of an operation of the transaction" in error
