"""``_validation``: the collection's own validator is that of the fields. A law on the real server: what the ORM writes
passes, and a document that breaks a declared rule is refused."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import enum
import itertools
import logging
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from bson import Decimal128, ObjectId
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo.errors import WriteError

import earnorm
from earnorm import (
    UUID,
    App,
    BaseModel,
    Binary,
    Boolean,
    Color,
    Date,
    DateTime,
    Decimal,
    Dict,
    Duration,
    Email,
    Embedded,
    EmbeddedModel,
    Enum,
    Field,
    Float,
    Geometry,
    Inc,
    Int,
    IPAddress,
    Json,
    List,
    Many2one,
    Money,
    ObjectIdField,
    Phone,
    Point,
    Selection,
    Set,
    Slug,
    String,
    Time,
    ValidationError,
    Vector,
)
from earnorm.backends.base import BulkUpdate
from earnorm.backends.refusals import violations
from earnorm.exceptions import BatchRefused
from earnorm.features.indexes.document_rules import document_rules
from earnorm.mixins import SoftDelete, Timestamps

from .conftest import Commands, default_app, drop


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Place(EmbeddedModel):
    city = String(required=True, max_length=10)
    zip = String()


class Guarded(BaseModel):
    _name = "core.guarded"
    _validation = "strict"

    name = String(required=True, min_length=2, max_length=5)
    age = Int(min_value=0, max_value=150, db_name="years")
    kind = Selection(["a", "b"], default="a")
    place = Embedded(Place)
    places = List(Embedded(Place), max_length=2)
    scores = Dict(Int(min_value=1))


class Watched(BaseModel):
    _name = "core.watched"
    _validation = "warn"

    name = String(required=True)


def raw(app: App, name: str) -> Any:
    return app.dangerous_raw("another program")[name]


# -- kept in step ---------------------------------------------------------------------------------


async def test_a_foreign_write_that_breaks_a_rule_is_refused_by_the_server(server_app: App) -> None:
    one = await Guarded.create({"name": "Ann", "age": 3})
    collection = raw(server_app, "core_guarded")
    for update in (
        {"$set": {"years": -1}},
        {"$set": {"years": "3"}},
        {"$set": {"name": "far too long"}},
        {"$set": {"name": None}},
        {"$unset": {"name": 1}},
        {"$set": {"kind": "c"}},
        {"$set": {"place": {}}},
        {"$set": {"places": [{"city": "x"}] * 3}},
        {"$set": {"scores": {"a": 0}}},
    ):
        with pytest.raises(WriteError) as caught:
            await collection.update_one({"_id": one.pk}, update)
        assert caught.value.code == 121
    await collection.update_one({"_id": one.pk}, {"$set": {"undeclared": 1, "years": None}})
    assert (await Guarded.get(one.id)).age is None


class Stay(EmbeddedModel):
    nights = Int(required=True, default=1)


class Later(SoftDelete, Timestamps, BaseModel):
    _name = "core.validated.later"
    _validation = "strict"

    name = String(required=True)
    kind = String(required=True, default="x")
    stay = Embedded(Stay)


async def test_a_document_that_is_older_than_a_default_stays_writable(server_app: App) -> None:
    collection = raw(server_app, "core_validated_later")
    await collection.insert_one({"name": "a", "stay": {}})
    old = (await Later.search()).ensure_one()
    assert (old.active, old.kind, old.stay and old.stay.nights) == (True, "x", 1)
    await old.write({"name": "b"})
    await old.archive()
    assert await Later.with_archived().update({"name": "c"}) == 1
    # What has no default is still asked for, and a default is no leave to store null.
    for wrong in ({"$unset": {"name": 1}}, {"$set": {"kind": None}}):
        with pytest.raises(WriteError):
            await collection.update_one({}, wrong)


async def test_a_validator_that_warns_lets_the_document_pass(server_app: App) -> None:
    one = await Watched.create({"name": "Ann"})
    await raw(server_app, "core_watched").update_one({"_id": one.pk}, {"$set": {"name": 3}})
    found = await server_app.bind(Watched)._collection.describe()
    assert found is not None and found["options"]["validationAction"] == "warn"


async def test_the_validator_is_set_once_and_changed_only_where_it_differs(
    commands: Commands,
) -> None:
    await Guarded.create({"name": "Ann"})
    await Guarded.create({"name": "Bob"})
    assert len(commands.named("create")) == 1 and not commands.named("collMod")
    app = earnorm.current_app()
    where = {"database": app.settings.database, "driver": app._backend.name, "plugins": []}
    commands.clear()
    async with App(os.environ["EARNORM_TEST_MONGO_URI"], **where) as again:
        await again.bind(Guarded).prepare()
        bound = again.bind(Guarded)
        assert await bound._collection.set_validator(document_rules(Guarded), "error") is False
        assert await bound._collection.set_validator(document_rules(Guarded), "warn") is True
        assert await bound._collection.set_validator(document_rules(Guarded), "warn") is False
    async with App(os.environ["EARNORM_TEST_MONGO_URI"], **where) as again:
        await again.bind(Guarded).prepare()
        found = await again.bind(Guarded)._collection.describe()
        assert found is not None and found["options"]["validationAction"] == "error"


async def test_a_collection_that_exists_gets_the_validator_and_keeps_its_documents(
    server_app: App,
) -> None:
    collection = raw(server_app, "core_guarded")
    await collection.insert_one({"name": 3})
    one = await Guarded.create({"name": "Ann"})
    assert await Guarded.count() == 2
    with pytest.raises(WriteError):
        await collection.update_one({"_id": one.pk}, {"$set": {"name": 3}})


async def test_many_apps_that_start_together_agree(server_app: App) -> None:
    where: dict[str, Any] = {
        "database": server_app.settings.database,
        "driver": server_app._backend.name,
        "plugins": [],
    }

    async def start(number: int) -> None:
        async with App(os.environ["EARNORM_TEST_MONGO_URI"], **where):
            await Guarded.create({"name": f"n{number}"})

    await asyncio.gather(*(start(number) for number in range(6)))
    assert await Guarded.count() == 6


async def test_a_program_that_manages_no_schema_sets_no_validator(database: str) -> None:
    async with default_app("pymongo", database, create_indexes=False) as app:
        await Guarded.create({"name": "Ann"})
        found = await app.bind(Guarded)._collection.describe()
        assert found is not None and not found["options"]


async def test_in_memory_the_program_alone_validates_and_says_so(
    memory_app: App, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "earnorm.validation"):
        await Guarded.create({"name": "Ann"})
        await Guarded.create({"name": "Bob"})
    said = [r.getMessage() for r in caplog.records if r.name == "earnorm.validation"]
    assert len(said) == 1 and "Guarded" in said[0] and "mongodb://" in said[0]


def test_another_word_than_strict_or_warn_is_an_error() -> None:
    with pytest.raises(TypeError, match='"strict", "warn" or None'):
        type("CoreOdd", (BaseModel,), {"_name": "core.odd", "_validation": "error"})


# -- what the server refuses, told -----------------------------------------------------------------


class Loose(BaseModel):
    """The same collection, seen by a program whose fields have no rules."""

    _name = "core.loose"
    _collection = "core_guarded"

    name = Json()
    age = Json(db_name="years")
    place = Json()
    places = Json()


SECRET = "s3cr3t-value"


async def test_a_refusal_names_the_fields_and_never_the_values(server_app: App) -> None:
    await Guarded.create({"name": "Ann"})
    with pytest.raises(ValidationError) as caught:
        await Loose.create({"name": SECRET, "age": SECRET, "place": {"city": 3}})
    assert {d["loc"]: d["msg"] for d in caught.value.errors()} == {
        ("name",): "the collection demands that it has at most 5 characters",
        ("age",): "the collection demands that it is stored as int or long or null",
        ("place", "city"): "the collection demands that it is stored as string",
    }
    assert {d["type"] for d in caught.value.errors()} == {"document_validation"}
    assert SECRET not in repr(caught.value) and caught.value.__cause__ is None


async def test_a_refused_batch_names_the_positions(server_app: App) -> None:
    await Guarded.create({"name": "Ann"})
    with pytest.raises(ValidationError) as caught:
        await Loose.create([{"name": "ok"}, {"name": SECRET, "age": -1}, {"name": "ok"}])
    assert [d["loc"] for d in caught.value.errors()] == [(1, "name"), (1, "age")]
    both = await Loose.search()
    both[0].name, both[-1].name = "fine", None
    with pytest.raises(ValidationError) as caught:
        await both.save()
    assert [d["loc"] for d in caught.value.errors()] == [(1, "name")]
    with pytest.raises(ValidationError) as caught:
        await Loose.search().update({"places": [{"city": "x"}, {"zip": "1"}]})
    assert [d["loc"] for d in caught.value.errors()] == [("places", 1, "city")]


async def test_a_refusal_in_a_transaction_is_the_same_error(server_app: App) -> None:
    one = await Guarded.create({"name": "Ann"})
    with pytest.raises(ValidationError, match="at most 5 characters"):
        async with earnorm.transaction():
            await (await Loose.get(one.id)).write({"name": SECRET})


def test_a_refusal_that_the_server_does_not_explain_is_told_as_such() -> None:
    for info in (None, {}, {"details": {"operatorName": "$expr", "reason": SECRET}}):
        (detail,) = violations(info)
        assert detail["loc"] == () and "validation rules" in detail["msg"]


# -- the law --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of field with its options, values for it, and stored values that break a rule of it."""

    make: Callable[[bool], Field[Any, Any]]
    values: st.SearchStrategy[Any]
    wrong: tuple[Any, ...]


OTHERS: dict[str, Any] = {
    "string": "text",
    "number": 5,
    "decimal": Decimal128("5"),
    "bool": True,
    "list": [1],
    "dict": {"a": 1},
    "date": datetime.datetime(2024, 1, 1),
    "id": ObjectId(),
}


def other_than(*names: str) -> tuple[Any, ...]:
    return tuple(value for name, value in OTHERS.items() if name not in names)


@st.composite
def bounded(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> tuple[Any, Any]:
    low, high = sorted(draw(st.tuples(values, values)))
    return (low if draw(st.booleans()) else None, high if draw(st.booleans()) else None)


def beyond(low: Any, high: Any, step: Any) -> tuple[Any, ...]:
    wrong = [] if low is None else [low - step]
    return (*wrong, *([] if high is None else [high + step]))


@st.composite
def strings(draw: st.DrawFn) -> Kind:
    low, high = draw(bounded(st.integers(0, 6)))
    wrong = [*([] if not low else ["é" * (low - 1)]), *([] if high is None else ["é" * (high + 1)])]
    return Kind(
        lambda required: String(required=required, min_length=low, max_length=high),  # type: ignore[arg-type] # any bool
        st.text(min_size=low or 0, max_size=8 if high is None else high),
        (*other_than("string"), *wrong),
    )


@st.composite
def ints(draw: st.DrawFn) -> Kind:
    low, high = draw(bounded(st.integers(-(2**62), 2**62)))
    return Kind(
        lambda required: Int(required=required, min_value=low, max_value=high),  # type: ignore[arg-type] # any bool
        st.integers(-(2**63) if low is None else low, 2**63 - 1 if high is None else high),
        (*other_than("number"), *beyond(low, high, 1)),
    )


@st.composite
def floats(draw: st.DrawFn) -> Kind:
    low, high = draw(bounded(st.floats(-1e6, 1e6)))
    return Kind(
        lambda required: Float(required=required, min_value=low, max_value=high),  # type: ignore[arg-type] # any bool
        st.floats(min_value=low, max_value=high) | st.sampled_from([float("nan"), 0, 1]),
        (*other_than("number"), *beyond(low, high, 1.0)),
    )


@st.composite
def decimals(draw: st.DrawFn) -> Kind:
    numbers = st.decimals(-1000, 1000, places=3)
    low, high = draw(bounded(numbers))
    wrong = [Decimal128(each) for each in beyond(low, high, decimal.Decimal(1))]
    return Kind(
        lambda required: Decimal(required=required, min_value=low, max_value=high),  # type: ignore[arg-type] # any bool
        st.decimals(low, high, allow_nan=False, allow_infinity=False, places=3) | st.just("1E+3"),
        (*other_than("decimal"), *wrong),
    )


@st.composite
def choices(draw: st.DrawFn) -> Kind:
    texts = draw(st.lists(st.text(max_size=3), min_size=1, max_size=3))
    return Kind(
        lambda required: Selection(texts, required=required),  # type: ignore[arg-type] # any bool
        st.sampled_from(texts),
        (*other_than("string"), "not one of them"),
    )


def simple(kind: Any, values: st.SearchStrategy[Any], *stored_as: str) -> st.SearchStrategy[Kind]:
    return st.just(Kind(lambda required: kind(required=required), values, other_than(*stored_as)))


def places(stored: bool = False) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"city": st.text(max_size=10)}, optional={"zip": st.none() | st.text(max_size=3)}
    )


WRONG_PLACES: tuple[Any, ...] = ({}, {"city": 3}, {"city": "x" * 11}, {"city": "x", "zip": 3})


@st.composite
def lists(draw: st.DrawFn, inner: st.SearchStrategy[Kind]) -> Kind:
    item, (low, high) = draw(inner), draw(bounded(st.integers(0, 3)))
    good = draw(item.values)
    lengths = [*([] if not low else [[]]), *([] if high is None else [[None] * (high + 1)])]
    del good
    return Kind(
        lambda required: List(item.make(True), required=required, min_length=low, max_length=high),  # type: ignore[arg-type] # any bool
        st.lists(item.values, min_size=low or 0, max_size=4 if high is None else high),
        (*other_than("list"), *([wrong] for wrong in item.wrong), *lengths),
    )


@st.composite
def dicts(draw: st.DrawFn, inner: st.SearchStrategy[Kind]) -> Kind:
    item = draw(inner)
    keys = st.text("abc", min_size=1, max_size=3)
    return Kind(
        lambda required: Dict(item.make(True), required=required),  # type: ignore[arg-type] # any bool
        st.dictionaries(keys, item.values, max_size=3),
        (*other_than("dict"), *({"k": wrong} for wrong in item.wrong)),
    )


SCALARS = (
    strings()
    | ints()
    | floats()
    | decimals()
    | choices()
    | simple(Boolean, st.booleans(), "bool")
    | simple(Email, st.sampled_from(["a@b.cd"]), "string")
    | simple(DateTime, st.datetimes(timezones=st.just(datetime.UTC) | st.none()), "date")
    | simple(Date, st.dates(), "date")
    | simple(UUID, st.uuids())
    | simple(Binary, st.binary(max_size=20))
    | simple(lambda required: Enum(Level, required=required), st.sampled_from(Level), "number")
    | simple(Time, st.times(), "string")
    | simple(Duration, st.timedeltas(), "number")
    | simple(IPAddress, st.ip_addresses())
    | simple(Color, st.sampled_from(["#ff0000", "#0A0"]), "string")
    | simple(Slug, st.sampled_from(["a-b", "x"]), "string")
    | simple(Phone, st.sampled_from(["+84 24 1234 5678"]), "string")
    | simple(lambda required: Set(Int(), required=required), st.sets(st.integers(-9, 9)), "list")
    | simple(
        lambda required: Money(currency="EUR", required=required),
        st.integers(0, 10**6) | st.just({"amount": "1.50", "currency": "EUR"}),
    )
    | simple(
        Point,
        st.tuples(st.floats(-180, 180), st.floats(-90, 90)).map(lambda at: Geometry.point(*at)),
    )
    | simple(
        lambda required: Vector(3, required=required),
        st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3),
    )
    | simple(ObjectIdField, st.builds(ObjectId), "id")
    | simple(lambda required: Many2one(Guarded, required=required), st.builds(ObjectId), "id")
    | st.just(
        Kind(
            lambda required: Embedded(Place, required=required),  # type: ignore[arg-type] # any bool
            places(),
            (*other_than("dict"), *WRONG_PLACES),
        )
    )
)
# One level of nesting: an item of a Many2one is no item.
ITEMS = strings() | ints() | floats() | decimals() | choices()
KINDS = SCALARS | lists(ITEMS) | dicts(ITEMS) | lists(dicts(ITEMS))

_numbers = itertools.count()
EXAMPLES = int(os.environ.get("EARNORM_FUZZ_EXAMPLES", "25"))


@pytest.mark.fuzz
@pytest.mark.parametrize("driver", ["pymongo", "motor"])
def test_what_the_orm_writes_passes_and_what_breaks_a_rule_is_refused(driver: str) -> None:
    loop = asyncio.new_event_loop()
    app = App(
        os.environ["EARNORM_TEST_MONGO_URI"],
        database=f"core_{uuid.uuid4().hex[:12]}",
        driver=driver,
        plugins=[],
    )
    checked = {"written": 0, "refused": 0}

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def law(data: st.DataObject) -> None:
        kinds = data.draw(st.lists(st.tuples(KINDS, st.booleans()), min_size=1, max_size=5))
        number = next(_numbers)
        # One collection for all: each model changes its validator.
        members: dict[str, Any] = {
            "_name": "core.law",
            "_validation": "strict",
        }
        for place, (kind, required) in enumerate(kinds):
            members[f"f{place}"] = kind.make(required)
        model: Any = type(f"CoreLaw{number}", (BaseModel,), members)
        try:
            documents = [
                {
                    f"f{place}": data.draw(kind.values if required else kind.values | st.none())
                    for place, (kind, required) in enumerate(kinds)
                    if required or data.draw(st.booleans())
                }
                for _ in range(4)
            ]
            loop.run_until_complete(hold(app, model, kinds, documents, checked))
        finally:
            earnorm.forget(model)  # the next one has its name

    async def start() -> None:
        await app.start()

    async def stop() -> None:
        await drop(app)
        await app.stop()

    try:
        loop.run_until_complete(start())
        law()
        assert checked["written"] > EXAMPLES and checked["refused"] > EXAMPLES
    finally:
        loop.run_until_complete(stop())
        loop.close()


async def hold(
    app: App,
    model: Any,
    kinds: list[tuple[Kind, bool]],
    documents: list[dict[str, Any]],
    checked: dict[str, int],
) -> None:
    with app.activate():
        stored = []
        for values in documents:
            try:
                stored.append(await model.create(values))
            except ValidationError as error:
                # The program may refuse a value (NaN has no place between bounds); the server may not.
                assert not [d for d in error.errors() if d["type"] == "document_validation"], error
        checked["written"] += len(stored)
        if not stored:
            return
        record = stored[0]
        await record.write(dict(documents[0]) if record is stored[0] and len(stored) == 4 else {})
        collection = app.bind(model)._collection
        for place, (kind, required) in enumerate(kinds):
            key = f"f{place}"
            updates: list[dict[str, Any]] = [{"$set": {key: wrong}} for wrong in kind.wrong]
            if required:
                updates += [{"$unset": {key: ""}}, {"$set": {key: None}}]
            with pytest.raises(BatchRefused) as caught:
                await collection.bulk_update([BulkUpdate({"_id": record.pk}, u) for u in updates])
            assert caught.value.positions == tuple(range(len(updates)))
            for detail in caught.value.errors():
                assert detail["loc"][1] == key and detail["type"] == "document_validation"
            checked["refused"] += len(updates)
        if not required:
            await collection.update({"_id": record.pk}, {"$set": {key: None}})
            await collection.update({"_id": record.pk}, {"$unset": {key: ""}})


async def test_changes_that_the_server_makes_pass_as_well(server_app: App) -> None:
    one = await Guarded.create({"name": "Ann", "age": 2**31 - 1 - 2**31 + 5})
    await one.write({"age": Inc(100)})
    await one.write({"place": {"city": "Huế"}})
    await one.write({"place.zip": "1"})
    assert (await Guarded.get(one.id)).age == one.age
