"""The way-in law: a value is stored as the same bytes, or refused by the same error, on every way in.

For every kind of field, at every place of a document, by every way that takes a value.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import bson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import earnorm
from earnorm import (
    BaseModel,
    Command,
    Dict,
    Embedded,
    EmbeddedModel,
    Field,
    File,
    Int,
    List,
    Many2many,
    Many2one,
    One2many,
    Reference,
    Sequence,
    String,
    ValidationError,
)
from earnorm.backends.bson_form import CODEC

from .kinds import KINDS, Kind, Kinds
from .laws import World, law, world

# -- kinds ----------------------------------------------------------------------------------------


class Target(BaseModel):
    _name = "wayin.target"

    _id = String()


class Other(BaseModel):
    _name = "wayin.other"


IDS = ("65a000000000000000000001", "x")
links = st.sampled_from(IDS)
RELATIONS: Mapping[str, tuple[Callable[[], Field[Any, Any]], Kind]] = {
    "many2one": (lambda: Many2one(Target), Kind(links, (3, Other(), [IDS[0]]))),
    "many2many": (
        lambda: Many2many(Target),
        Kind(st.lists(links, max_size=2), (3, "x", [3], [Other()])),
    ),
    "reference": (
        lambda: Reference(Target),
        Kind(
            st.tuples(st.just("wayin.target"), links)
            | links.map(lambda pk: {"model": "wayin.target", "id": pk}),
            (3, "wayin.other,x", ("wayin.target", 3), {"model": "wayin.target"}),
        ),
    ),
}
CONTENTS = (None, "text", b"bytes", {"_id": IDS[0], "length": 1, "sha256": ""}, [], 3)
FILLED: Mapping[str, tuple[Callable[[], Field[Any, Any]], Kind]] = {
    "sequence": (Sequence, Kind(st.text("ab", min_size=1, max_size=3), (3, ["x"]))),
    # A content comes by the file's own write() only; see test_files.py.
    "file": (File, Kind(st.nothing(), CONTENTS)),
}
"""The kinds that a model fills in. A sequence without a number has none in common on two ways."""
MADE = {**RELATIONS, **FILLED}
ALL: Mapping[str, Kind] = {**KINDS, **{name: kind for name, (_, kind) in MADE.items()}}
junk = st.sampled_from(
    [None, 0, 1.5, True, "", "x", b"x", [], {}, [None], {"value": 1}, {"$inc": 1}, float("nan")]
)


def field_of(kind: str) -> Any:
    """Make a field of a kind."""
    if kind in MADE:
        return MADE[kind][0]()
    made = copy.copy(Kinds._fields[kind])
    made.name = made.db_name = made.string = ""
    return made


def test_every_kind_that_earnorm_exports_takes_part() -> None:
    exported = {
        value
        for value in vars(earnorm).values()
        if isinstance(value, type) and issubclass(value, Field) and value is not Field
    }
    named = {type(field_of(kind)) for kind in ALL}
    named.add(One2many)  # other documents store it: test_way_in_links.py
    missing = {cls.__name__ for cls in exported - named}
    bases = {cls.__name__ for cls in exported if any(cls in k.__mro__[1:] for k in named)}
    assert not missing - bases


# -- places ---------------------------------------------------------------------------------------


def _inner(kind: str) -> type[EmbeddedModel]:
    body = {"__module__": __name__, "value": field_of(kind)}
    return type(f"Inner_{kind}", (EmbeddedModel,), body)


def _nested(kind: str) -> Field[Any, Any]:
    inner = _inner(kind)
    body: dict[str, Any] = {"__module__": __name__, "inner": List(Embedded(inner), db_name="i")}
    return Embedded(type(f"Outer_{kind}", (EmbeddedModel,), body))


PLACES: Mapping[str, tuple[Callable[[str], Any], Callable[[Any], Any]]] = {
    "top": (field_of, lambda value: value),
    "embedded": (lambda kind: Embedded(_inner(kind)), lambda value: {"value": value}),
    "item": (lambda kind: List(field_of(kind)), lambda value: [value]),
    "dict value": (lambda kind: Dict(field_of(kind)), lambda value: {"k": value}),
    "in a list": (lambda kind: List(Embedded(_inner(kind))), lambda value: [{"value": value}]),
    "nested": (_nested, lambda value: {"inner": [{"value": value}]}),
}
DEFAULT: list[Any] = [None]


def places_of(kind: str) -> list[str]:
    """Return the places at which a kind of field can stand."""
    return ["top"] if kind == "many2many" or kind in FILLED else list(PLACES)


PARENTS: dict[Any, Any] = {}
"""For each case's model, a model whose commands write its records."""


@functools.cache
def models_of(kind: str, place: str) -> tuple[Any, Any]:
    """Make a model with one field of a kind at a place, and one with the value as a default."""
    make, number = PLACES[place][0], next(_numbers)
    body = {
        "__module__": __name__,
        "_name": f"wayin.case{number}",
        "_collection": "wayin_case",
        "key": Int(),
        "parent_id": Many2one(f"wayin.parent{number}"),
        "f": make(kind),
    }
    model = type(f"Case{number}", (BaseModel,), body)
    parent = {
        "__module__": __name__,
        "_name": f"wayin.parent{number}",
        "_collection": "wayin_parent",
        "child_ids": One2many(model, "parent_id"),
    }
    PARENTS[model] = type(f"Parent{number}", (BaseModel,), parent)
    fresh = make(kind)
    fresh.default = lambda: copied(DEFAULT[0])
    body = {"__module__": __name__, "_name": f"wayin.default{number}", "f": fresh, "key": Int()}
    return model, type(f"Default{number}", (BaseModel,), {**body, "_collection": "wayin_case"})


def copied(value: Any) -> Any:
    """Copy the containers in a value."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(map(copied, value))
    return value


_numbers: Iterator[int] = itertools.count()

# -- ways -----------------------------------------------------------------------------------------

Way = Callable[[Any, Any], Awaitable[Any]]


async def constructor(model: Any, value: Any) -> Any:
    return await model(f=value).save()


async def assigned_new(model: Any, value: Any) -> Any:
    record = model()
    record.f = value
    return await record.save()


async def create(model: Any, value: Any) -> Any:
    return await model.create({"f": value})


async def create_several(model: Any, value: Any) -> Any:
    return (await model.create([{"key": 1}, {"f": value}]))[1]


async def create_many(model: Any, value: Any) -> Any:
    await model.create_many([{"f": value, "key": 7}])
    return (await model.search([("key", "=", 7)], order="-_id", limit=1))[0]


async def assigned(model: Any, value: Any) -> Any:
    record = await model.create({})
    record.f = value
    return await record.save()


async def assigned_twice(model: Any, value: Any) -> Any:
    record = await model.create({})
    record.f = value
    record.f = record.f
    record.key = 5
    return await record.save()


async def write(model: Any, value: Any) -> Any:
    return await (await model.create({})).write({"f": value})


async def save_with(model: Any, value: Any) -> Any:
    return await (await model.create({})).save({"f": value})


async def save_new_with(model: Any, value: Any) -> Any:
    return await model(key=3).save({"f": value})


async def write_set(model: Any, value: Any) -> Any:
    records = await model.create([{}, {}])
    await records.write({"f": value})
    return records[1]


async def save_set(model: Any, value: Any) -> Any:
    records = await model.create([{}, {}])
    for record in records:
        record.f = value
    await records.save()
    return records[1]


async def write_many(model: Any, value: Any) -> Any:
    record = await model.create({})
    await model.write_many({record.id: {"f": value}})
    return await record.refresh()


async def update(model: Any, value: Any) -> Any:
    record = await model.create({})
    await model.search([("id", "=", record.id)]).update({"f": value})
    return await record.refresh()


async def upsert_new(model: Any, value: Any) -> Any:
    pk = bson.ObjectId()
    record, made = await model.upsert({"id": pk, "f": value}, on="id")
    assert made
    return record


async def upsert_old(model: Any, value: Any) -> Any:
    record = await model.create({})
    return (await model.upsert({"id": record.id, "f": value}, on="id"))[0]


async def bulk_create(model: Any, value: Any) -> Any:
    async with model.bulk() as bulk:
        return bulk.create({"f": value})


async def bulk_write(model: Any, value: Any) -> Any:
    record = await model.create({})
    async with model.bulk() as bulk:
        bulk.write(record, {"f": value})
    return await record.refresh()


async def commanded(model: Any, value: Any) -> Any:
    parent = await PARENTS[model].create({"child_ids": [Command.create({"f": value})]})
    return (await model.search([("parent_id", "=", parent)]))[0]


async def command_update(model: Any, value: Any) -> Any:
    child = await model.create({})
    parent = await PARENTS[model].create({"child_ids": [Command.link(child)]})
    await parent.write({"child_ids": [Command.update(child, {"f": value})]})
    return await child.refresh()


WAYS: tuple[Way, ...] = (
    constructor,
    assigned_new,
    create,
    create_several,
    create_many,
    assigned,
    assigned_twice,
    write,
    save_with,
    save_new_with,
    write_set,
    save_set,
    write_many,
    update,
    upsert_new,
    upsert_old,
    bulk_create,
    bulk_write,
    commanded,
    command_update,
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, str, Any, str | None]:
    """Draw a kind of field, a place, a value, and whether it is "stored" or "refused"; None if open."""
    kind = draw(st.sampled_from(list(ALL)))
    place = draw(st.sampled_from(places_of(kind)))
    source = draw(st.sampled_from(["stored", "refused", None] if kind != "file" else ["refused"]))
    values = {
        "stored": ALL[kind].given,
        "refused": st.sampled_from(ALL[kind].refused),
        None: junk.filter(lambda value: kind != "sequence" or value is not None),
    }
    return kind, place, PLACES[place][1](draw(values[source])), source


async def outcome(way: Way, model: Any, collection: Any, value: Any) -> tuple[str, Any, Any]:
    """Return what a way stores and shows, or the error by which it refuses the value."""
    try:
        record = await way(model, copied(value))
    except ValidationError:  # any other error is a failure of the law
        return "refused", None, None
    document = await collection.find_one({"_id": record.pk})
    held = {"f": document["f"]} if document.get("f") is not None else {}
    stored = bson.encode(held, codec_options=CODEC)
    return "stored", stored, record.to_json(include=["f"]).partition(',"f":')[2]


def differences(outcomes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outcomes that are not that of most ways."""
    first = next(iter(outcomes.values()))
    return {} if all(other == first for other in outcomes.values()) else dict(outcomes)


async def check(world_of: World, kind: str, place: str, value: Any, expected: str | None) -> None:
    """Hold one value to the law."""
    model, with_default = models_of(kind, place)
    raw = world_of.app.dangerous_raw("the stored form is compared")["wayin_case"]
    outcomes: dict[str, Any] = {}
    # All at once: each has records of its own, and most of their time is the server's.
    tasks = [outcome(way, model, raw, value) for way in WAYS]
    for way, result in zip(WAYS, await asyncio.gather(*tasks), strict=True):
        outcomes[way.__name__] = result
    assert not differences(outcomes), differences(outcomes)
    assert expected in (None, outcomes["create"][0]), outcomes["create"]
    if value is None or kind == "file":  # a file has no default
        return
    DEFAULT[0] = value
    by_default = await outcome(lambda m, _: m.create({}), with_default, raw, None)
    kinds = (outcomes["create"][0], by_default[0])
    assert by_default == outcomes["create"], (outcomes["create"], by_default, kinds)
    old = await raw.insert_one({"key": 1})
    record = await with_default.get(old.inserted_id)
    try:
        shown = record.to_json(include=["f"]).partition(',"f":')[2]
    except ValidationError:
        assert by_default[0] == "refused"
    else:
        assert shown == by_default[2]


@pytest.mark.fuzz
def test_every_way_in_means_the_same_by_a_value() -> None:
    with world() as here:

        @law(300)
        @given(cases())
        @example(("upper", "top", b"x", None))  # pydantic takes it for a text
        def holds(case: tuple[str, str, Any]) -> None:
            here.run(lambda: check(here, *case))

        holds()
