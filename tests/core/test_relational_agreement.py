"""The law of conditions across relations: the server, by each way that there is, and memory agree."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import earnorm
from earnorm import BaseModel, Int, Many2many, Many2one, One2many, String
from earnorm.domain import OPERATORS
from earnorm.model.reading import resolution

from .conftest import drop

# A case is one domain about one set of records.
CASES = int(os.environ.get("EARNORM_FUZZ_EXAMPLES", "500"))
DOMAINS = 5


class Zone(BaseModel):
    _name = "agree.zone"

    name = String()
    size = Int(db_name="s")
    parent_id = Many2one("agree.zone", db_name="up")


class Writer(BaseModel):
    _name = "agree.writer"

    name = String()
    age = Int()
    zone_id = Many2one(Zone, db_name="z")
    text_ids = One2many("agree.text", "writer_id")
    liked_ids = Many2many("agree.text", inverse="fan_ids")


class Text(BaseModel):
    _name = "agree.text"

    name = String()
    stars = Int()
    writer_id = Many2one(Writer, db_name="w")
    fan_ids = Many2many(Writer)


MODELS: dict[str, type[BaseModel]] = {"zone": Zone, "writer": Writer, "text": Text}
PREFETCH = {
    "zone": ["parent_id" + ".parent_id" * 5],
    "writer": ["zone_id" + ".parent_id" * 6, "text_ids.fan_ids", "liked_ids.writer_id"],
    "text": [
        "writer_id.zone_id" + ".parent_id" * 6,
        "writer_id.text_ids",
        "writer_id.liked_ids",
        "fan_ids.zone_id" + ".parent_id" * 6,
    ],
}
SIZES = {"zone": 4, "writer": 4, "text": 5}


@dataclass(frozen=True)
class Of:
    """A place for the record of that model and number."""

    model: str
    number: int


numbers = st.none() | st.integers(0, 2)
names = st.sampled_from([None, "a", "b", "ab"])


def one(model: str) -> st.SearchStrategy[Any]:
    return st.builds(Of, st.just(model), st.integers(0, SIZES[model] - 1))


def some(model: str) -> st.SearchStrategy[Any]:
    return st.lists(one(model), max_size=3)


worlds = st.fixed_dictionaries(
    {
        "zone": st.lists(
            st.tuples(names, numbers, st.none() | st.integers(0, 3)), min_size=4, max_size=4
        ),
        "writer": st.lists(
            st.tuples(names, numbers, st.none() | st.integers(0, 3)), min_size=4, max_size=4
        ),
        "text": st.lists(
            st.tuples(
                names,
                numbers,
                st.none() | st.integers(0, 3),
                st.lists(st.integers(0, 3), max_size=3, unique=True),
            ),
            min_size=5,
            max_size=5,
        ),
    }
)


def plain(name: str, number: str) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.tuples(st.just(name), st.sampled_from(["=", "!=", "=?"]), names),
        st.tuples(st.just(name), st.sampled_from(["in", "not in"]), st.lists(names, max_size=2)),
        st.tuples(
            st.just(name),
            st.sampled_from(["like", "not like", "ilike", "=like"]),
            st.sampled_from(["a", "%b", "B", ""]),
        ),
        st.tuples(st.just(number), st.sampled_from(["<", "<=", ">", ">="]), st.integers(0, 2)),
        st.tuples(st.just(number), st.sampled_from(["=", "!="]), numbers),
    )


def linked(model: str, ids: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What a condition compares a relation with: records, ids, lists, nothing."""
    return st.one_of(
        st.tuples(st.sampled_from(["=", "!="]), st.none() | one(model) | st.just([])),
        st.tuples(st.sampled_from(["in", "not in"]), ids | one(model)),
    )


def domain(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.recursive(
        leaf.map(lambda condition: [condition]),
        lambda below: st.one_of(
            below.map(lambda d: ["!", *d]),
            st.tuples(st.sampled_from("&|"), below, below).map(lambda t: [t[0], *t[1], *t[2]]),
        ),
        max_leaves=4,
    )


def across(path: str, below: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """``any`` and ``not any`` of a domain, and a dotted path to each of its conditions."""
    nested = domain(below) | st.sampled_from([[], False])
    dotted = below.map(lambda c: (f"{path}.{c[0]}", *c[1:]))
    return dotted | st.tuples(st.just(path), st.sampled_from(["any", "not any"]), nested)


def relation(path: str, model: str, below: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    ids = st.lists(one(model) | st.none(), max_size=3)
    own = linked(model, ids).map(lambda c: (path, *c))
    return own | across(path, below)


def tree(path: str) -> st.SearchStrategy[Any]:
    return st.tuples(
        st.just(path), st.sampled_from(["child_of", "parent_of"]), one("zone") | some("zone")
    )


text_leaf, writer_leaf = plain("name", "stars"), plain("name", "age")
zone_leaf = plain("name", "size") | tree("id") | tree("parent_id")
zones = zone_leaf | across("parent_id", zone_leaf)
flat_text = text_leaf | st.tuples(st.just("id"), st.sampled_from(["=", "in", "!="]), one("text"))
flat_writer = writer_leaf | tree("zone_id") | relation("zone_id", "zone", zones)
writers = (
    flat_writer | relation("text_ids", "text", flat_text) | relation("liked_ids", "text", flat_text)
)
texts = (
    text_leaf
    | relation("writer_id", "writer", writers)
    | relation("fan_ids", "writer", flat_writer)
)
asked = st.lists(
    st.one_of(
        st.tuples(st.just("text"), domain(texts)),
        st.tuples(st.just("writer"), domain(writers)),
        st.tuples(st.just("zone"), domain(zones)),
    ),
    min_size=DOMAINS,
    max_size=DOMAINS,
)
WAYS = ("few ids", "the records here first", "every id", "a lookup")


def test_every_relational_operator_is_generated() -> None:
    assert {"any", "not any", "child_of", "parent_of"} == {
        name for name, operator in OPERATORS.items() if operator.relational
    }


def filled(value: Any, records: dict[str, Any]) -> Any:
    if isinstance(value, Of):
        return records[value.model][value.number]
    if isinstance(value, list | tuple):
        return type(value)(filled(each, records) for each in value)
    return value


async def made(world: dict[str, Any]) -> None:
    for model in MODELS.values():
        await model.search().delete()
    zones = await Zone.create([{"name": n, "size": s} for n, s, _ in world["zone"]])
    for zone, (_, _, parent) in zip(zones, world["zone"], strict=True):
        zone.parent_id = None if parent is None else zones[parent]  # cycles included
    await zones.save()
    writers = await Writer.create(
        [
            {"name": n, "age": a, "zone_id": None if z is None else zones[z]}
            for n, a, z in world["writer"]
        ]
    )
    await Text.create(
        [
            {
                "name": n,
                "stars": s,
                "writer_id": None if w is None else writers[w],
                "fan_ids": [writers[f] for f in fans],
            }
            for n, s, w, fans in world["text"]
        ]
    )


def take(way: str, patch: pytest.MonkeyPatch) -> None:
    if way != "few ids":
        patch.setattr(resolution, "FEW", 0)
    if way == "every id":
        patch.setattr(resolution, "FEW_HERE", 0)
    if way == "a lookup":

        async def too_many(self: object, link: object) -> None:
            return None

        patch.setattr(resolution._Resolver, "_keys", too_many)


@pytest.mark.fuzz
def test_the_server_and_memory_agree_across_relations(mongo_uri: str, database: str) -> None:
    async def law(world: dict[str, Any], several: list[Any], way: str) -> None:
        with started.activate(), pytest.MonkeyPatch.context() as patch:
            await made(world)
            take(way, patch)
            loaded: dict[str, Any] = {}
            for name in MODELS:
                query = MODELS[name].search(order="id").prefetch(*PREFETCH[name])
                loaded[name] = await query
            for name, source in several:
                condition = filled(source, loaded)
                query = MODELS[name].search(condition, order="id")
                found = await query
                assert loaded[name].filtered_domain(condition).ids == found.ids, condition
                assert await query.count() == len(found)
                plain = await started.resolve(MODELS[name], condition) if way != WAYS[3] else None
                if plain is not None:
                    assert (await MODELS[name].search(plain, order="id")).ids == found.ids
                event("none" if not found else "all" if found == loaded[name] else "some")

    async def app() -> earnorm.App:
        return await earnorm.App(mongo_uri, database=database, plugins=[]).start()

    with asyncio.Runner() as runner:
        started = runner.run(app())

        @settings(
            max_examples=CASES // DOMAINS, deadline=None, suppress_health_check=list(HealthCheck)
        )
        @given(worlds, asked, st.sampled_from(WAYS))
        def check(world: dict[str, Any], several: list[Any], way: str) -> None:
            runner.run(law(world, several, way))

        try:
            check()
        finally:
            runner.run(drop(started))
            runner.run(started.stop())
