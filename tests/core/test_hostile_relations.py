"""Values are data also where a condition is about other records: in any, elem, trees and dotted paths."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import bson
import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from earnorm import (
    App,
    BaseModel,
    DomainError,
    Embedded,
    EmbeddedModel,
    Index,
    Json,
    List,
    Many2many,
    Many2one,
    One2many,
    Point,
    String,
)
from earnorm.domain import OPERATORS, Domain
from earnorm.domain.bson_order import key
from tests.domain.hostile import anything, check_filter, hostile, places, searches, shapes

from .conftest import Commands, Watching
from .laws import law, world
from .test_relational_agreement import WAYS, take

EXAMPLES = int(os.environ.get("EARNORM_FUZZ_EXAMPLES", "150"))


class Anything(Json):
    """A careless field: whatever comes is compared as it is."""

    def operand(self, value: Any) -> Any:
        return value


class Line(EmbeddedModel):
    data = Anything()
    owner_id = Many2one("hostile.owner")


class Owner(BaseModel):
    _name = "hostile.owner"

    _indexes = [Index({"name": "text"})]

    name = String()
    data = Anything()
    json = Json()
    place = Point()
    lines = List(Embedded(Line))
    parent_id = Many2one("hostile.owner")
    thing_ids = One2many("hostile.thing", "owner_id")


class Thing(BaseModel):
    _name = "hostile.thing"

    name = String()
    data = Anything()
    owner_id = Many2one(Owner)
    owner_ids = Many2many(Owner)


Place = Callable[[Any], tuple[type[BaseModel], list[Any]]]
"""Puts a condition ``(operator, value)`` on ``data`` somewhere into a domain."""

# Owner n, thing n, and the line of owner n hold the same; thing n belongs to owner n, who is their own
# parent. So each of these is about what number n holds.
NESTED: dict[str, Place] = {
    "any": lambda c: (Thing, [("owner_id", "any", [("data", *c)])]),
    "a dotted path": lambda c: (Thing, [("owner_id.data", *c)]),
    "of several": lambda c: (Thing, [("owner_ids.data", *c)]),
    "any of several": lambda c: (Thing, [("owner_ids", "any", ["!", "!", ("data", *c)])]),
    "what points here": lambda c: (Owner, [("thing_ids.data", *c)]),
    "any that points here": lambda c: (Owner, [("thing_ids", "any", [("data", *c)])]),
    "elem": lambda c: (Owner, [("lines", "elem", [("data", *c)])]),
    "elem in any": lambda c: (
        Thing,
        [("owner_id", "any", [("lines", "elem", [("data", *c)])])],
    ),
    "back and forth": lambda c: (Thing, [("owner_id.thing_ids.owner_id.data", *c)]),
    "the parent": lambda c: (Thing, [("owner_id.parent_id.parent_id.data", *c)]),
    "any in any": lambda c: (
        Owner,
        [("parent_id", "any", [("thing_ids", "any", [("data", *c)])])],
    ),
}


def check_command(command: dict[str, Any]) -> None:
    """The filters of a command, as the server reads them, have operators of ours only."""
    if "find" in command:
        check_filter(command["filter"])
    elif "aggregate" in command:
        check_pipeline(command["pipeline"])


def check_pipeline(pipeline: list[dict[str, Any]]) -> None:
    for stage in pipeline:
        ((name, value),) = stage.items()
        if name == "$match":
            check_filter(value)
        elif name == "$lookup":
            check_pipeline(value["pipeline"])
            assert value.keys() == {"from", "localField", "foreignField", "pipeline", "as"}
        else:
            assert name in {"$project", "$limit", "$unset", "$sort", "$group"}, stage
            assert "canary" not in repr(value)


def plain(value: Any) -> Any:
    """As BSON holds it; a Domain that stands as a value is its list notation, which is data."""
    if isinstance(value, Domain):
        value = value.to_list()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value


def holds(stored: Any, operator: str, value: Any) -> bool:
    """The literal comparison: some item of a list, or the whole value, is the one that is asked for."""
    if operator in ("!=", "not in"):
        return not holds(stored, {"!=": "=", "not in": "in"}[operator], value)
    wanted = [value]
    if operator == "in":
        wanted = value if isinstance(value, list) else [value]
        # `in` of nothing is false, and None alone is one value.
    elif value == []:
        wanted = [None, []]
    found = [*stored, stored] if isinstance(stored, list) else [stored]
    return any(key(each) == key(one) for each in found for one in wanted)


def storable(value: Any) -> bool:
    try:
        bson.encode({"": value})
        key(value)
    except (bson.errors.BSONError, OverflowError, TypeError, ValueError):
        return False
    return True


async def fill(app: App, database: Any, contents: list[Any]) -> None:
    """Owner n, thing n and a line of owner n hold the n-th value; one more thing is nobody's."""
    ids = [ObjectId(f"{n:024x}") for n in range(len(contents))]
    owners = [
        {"_id": pk, "name": f"{n}", "data": each, "lines": [{"data": each}], "parent_id": pk}
        for n, (pk, each) in enumerate(zip(ids, contents, strict=True))
    ]
    things = [
        {"_id": pk, "name": f"{n}", "data": each, "owner_id": pk, "owner_ids": [pk]}
        for n, (pk, each) in enumerate(zip(ids, contents, strict=True))
    ]
    for model, docs in [(Owner, owners), (Thing, [*things, {"name": "nobody's"}])]:
        collection = database[app.bind(model)._collection.name]
        await collection.delete_many({})
        await collection.insert_many(docs)


comparisons = st.tuples(st.sampled_from(["=", "!=", "in", "not in"]), anything)


@pytest.mark.fuzz
def test_a_hostile_value_next_to_other_records_is_refused_or_literal() -> None:
    listener = Commands()
    seen: set[str] = set()
    with world(plugins=(Watching(listener),)) as inside:
        database = inside.app.dangerous_raw("a test stores what no field takes")

        @law(EXAMPLES)
        @given(st.sampled_from(sorted(NESTED)), comparisons, st.booleans(), st.sampled_from(WAYS))
        def check(where: str, comparison: Any, negate: bool, way: str) -> None:
            inside.run(lambda: example(where, comparison, negate, way))

        async def example(where: str, comparison: Any, negate: bool, way: str) -> None:
            operator, value = comparison
            try:
                model, source = NESTED[where](comparison)
                domain = Domain([*["!"] * negate, *source])
                inside.app.check(model, domain)
            except DomainError:
                seen.add("refused")
                return
            value = plain(value)
            assert storable(value), "accepted, and no data"
            contents = [value, [value], {"x": value}, 5, "x", None, []]
            await fill(inside.app, database, contents)
            expected = {
                str(n)
                for n, each in enumerate(contents)
                if holds(each, operator, value) is not negate
            }
            if negate and model is Thing:
                expected.add("nobody's")
            listener.clear()
            with pytest.MonkeyPatch.context() as patch:
                take(way if "elem" not in where else WAYS[0], patch)
                found = await model.search(domain)
            assert {record.name for record in found} == expected, domain
            for _, command in listener.all:
                check_command(command)
            seen.add("compared")

        check()
    assert seen == {"refused", "compared"}


def lists(value: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return value | st.lists(value, max_size=3)


known = st.integers(0, 8).map(lambda n: ObjectId(f"{n:024x}"))
ids = lists(anything | known | known.map(str))
plain_operators = st.sampled_from([name for name, op in OPERATORS.items() if not op.relational])
conditions = st.tuples(
    st.sampled_from(["data", "json", "name", "place"]), plain_operators, anything
)
geographic = st.tuples(st.just("place"), st.sampled_from(["near", "within"]), places | shapes)
searching = st.tuples(st.just("*"), st.just("text"), searches | hostile)
inner = conditions | geographic | searching | st.tuples(anything, anything, anything)
POSITIONS: list[tuple[type[BaseModel], st.SearchStrategy[Any]]] = [
    *(
        (model, st.tuples(st.just(path), st.sampled_from(["any", "not any"]), nested))
        for model, path in [(Thing, "owner_id"), (Thing, "owner_ids"), (Owner, "parent_id")]
        for nested in (anything, lists(inner), st.lists(anything, max_size=3))
    ),
    *(
        (model, inner.map(lambda c, path=path: (f"{path}.{c[0]}", *c[1:])))
        for model, path in [
            (Thing, "owner_id"),
            (Thing, "owner_ids"),
            (Thing, "owner_id.parent_id"),
            (Owner, "lines"),
        ]
    ),
    (Owner, st.tuples(st.just("lines"), st.just("elem"), anything | lists(inner))),
    *(
        (model, st.tuples(st.just(path), st.sampled_from(["child_of", "parent_of"]), ids))
        for model, path in [
            (Thing, "owner_id"),
            (Thing, "owner_ids"),
            (Owner, "id"),
            (Owner, "parent_id"),
            (Thing, "owner_id.id"),
            (Owner, "lines.owner_id"),
        ]
    ),
    *(
        (
            model,
            st.tuples(
                st.just(path), st.sampled_from(["=", "!=", "in", "not in", "=?", "all"]), ids
            ),
        )
        for model, path in [
            (Thing, "owner_id"),
            (Thing, "owner_ids"),
            (Owner, "thing_ids"),
            (Thing, "owner_id.id"),
            (Thing, "owner_ids.id"),
            (Owner, "lines.owner_id"),
        ]
    ),
]


@pytest.mark.fuzz
def test_a_hostile_value_in_every_position_is_refused_or_data() -> None:
    listener = Commands()
    seen: set[str] = set()
    with world(plugins=(Watching(listener),)) as inside:
        database = inside.app.dangerous_raw("a test stores what no field takes")

        async def begin() -> None:
            await Owner.create({"name": "indexed", "place": (1, 2)})
            await fill(inside.app, database, [1, "x", {"x": 1}])

        inside.run(begin)

        @law(EXAMPLES)
        @given(
            st.integers(0, len(POSITIONS) - 1).flatmap(
                lambda n: st.tuples(st.just(POSITIONS[n][0]), POSITIONS[n][1])
            ),
            st.booleans(),
        )
        def check(asked: Any, negate: bool) -> None:
            inside.run(lambda: example(*asked, negate))

        async def example(model: type[BaseModel], condition: Any, negate: bool) -> None:
            listener.clear()
            try:
                domain = Domain([*["!"] * negate, condition])
                found = await model.search(domain)
            except DomainError:
                seen.add("refused")
            else:
                seen.add("found" if found else "none")
            for _, command in listener.all:
                check_command(command)

        check()
    assert seen == {"refused", "found", "none"}
