"""The table of docs/relations.md: queries per relation, whatever the number of records, on both drivers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest
from bson import ObjectId

from earnorm import (
    BaseModel,
    Embedded,
    EmbeddedModel,
    List,
    Many2many,
    Many2one,
    One2many,
    Reference,
    String,
    current_app,
)
from earnorm.domain.long_lists import chunks
from earnorm.model.relations import ghosts, prefetch

from .conftest import Commands

MANY = 100_000 if "EARNORM_FUZZ_EXAMPLES" in os.environ else 20_000


class Owner(BaseModel):
    _name = "count.owner"

    name = String()
    thing_ids = One2many["Thing"]("count.thing", "owner_id")
    listed_ids = Many2many["Thing"]("count.thing", inverse="owner_ids")


class Other(BaseModel):
    _name = "count.other"

    name = String()


class Entry(EmbeddedModel):
    owner_id = Many2one(Owner)


class Thing(BaseModel):
    _name = "count.thing"

    owner_id = Many2one(Owner, index=True)
    owner_ids = Many2many(Owner, index=True)
    about = Reference(Owner, Other)
    entries = List(Embedded(Entry), default=list)
    linked_ids = Many2many(Owner, through="count.link")


class Link(BaseModel):
    _name = "count.link"

    thing_id = Many2one(Thing, index=True)
    owner_id = Many2one(Owner, index=True)


async def build(number: int) -> None:
    """As many of each, past the models: 100,000 records are quick that way."""
    raw = current_app().dangerous_raw("build the records to count with")
    owners, others, things = ([ObjectId() for _ in range(number)] for _ in range(3))
    await Thing.count(), await Owner.count(), await Link.count()  # the indexes, first
    await raw["count_owner"].insert_many([{"_id": pk, "name": "o"} for pk in owners])
    if number < MANY:
        await raw["count_other"].insert_many([{"_id": pk, "name": "x"} for pk in others])
    await raw["count_thing"].insert_many(
        [
            {
                "_id": pk,
                "owner_id": owner,
                "owner_ids": [owner],
                "about": {"model": "count.owner", "id": owner}
                if n % 2
                else {"model": "count.other", "id": other},
                "entries": [{"owner_id": owner}],
            }
            for n, (pk, owner, other) in enumerate(zip(things, owners, others, strict=True))
        ]
    )
    if number < MANY:
        await raw["count_link"].insert_many(
            [{"thing_id": a, "owner_id": b} for a, b in zip(things, owners, strict=True)]
        )


def finds(commands: Commands) -> int:
    return len(commands.named("find"))


TABLE: list[tuple[type[BaseModel], str, int]] = [
    (Thing, "owner_id", 1),
    (Owner, "thing_ids", 1),
    (Thing, "owner_ids", 1),
    (Owner, "listed_ids", 1),
    (Thing, "linked_ids", 2),
    (Thing, "about", 2),
    (Thing, "entries.owner_id", 1),
]


@pytest.mark.parametrize(
    "number",
    [1, 10, 1_000, pytest.param(MANY, marks=pytest.mark.fuzz, id="many")],
)
async def test_the_number_of_queries_does_not_grow(commands: Commands, number: int) -> None:
    await build(number)
    # So many records take their time to be read, so one relation stands for all of them there.
    table = TABLE if number < MANY else TABLE[:1]
    for model, path, queries in table:
        commands.clear()
        found = await model.search().prefetch(path)
        assert len(found) == number
        most = queries if number > 1 or path != "about" else 1  # one record points at one model
        assert finds(commands) == 1 + most, path
        commands.clear()
        for record in (found[0], found[-1]):
            value: Any = record
            for name in path.split("."):
                value = getattr(value, name)
                value = value[0] if hasattr(value, "__len__") else value
            assert value.is_stored and not value._fetch.is_ghost
        assert commands.all == []
    if number < MANY:  # the other way: awaiting one loads all
        things = await Thing.search()
        commands.clear()
        await things[0].owner_id
        await things[-1].owner_ids
        assert [t.owner_id.name for t in things] == ["o"] * number  # type: ignore[union-attr] # set
        assert finds(commands) == 2


async def test_a_prefetch_reads_the_links_of_each_record_once(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    await build(60)
    read: list[int] = []
    make_ghosts = ghosts.make_ghosts

    async def noted(structures: Sequence[Any], field: Any) -> list[Any]:
        read.append(len(structures))
        return await make_ghosts(structures, field)

    monkeypatch.setattr(ghosts, "make_ghosts", noted)
    monkeypatch.setattr(prefetch, "make_ghosts", noted)
    things = await Thing.search().prefetch("owner_id")
    assert read == [60]
    # Only a load that no prefetch has prepared reads the links of the siblings.
    fresh = await Thing.search()
    await fresh[0].owner_id
    assert read == [60, 60]
    assert len(things) == len(fresh)


def test_a_part_of_ids_fits_into_a_filter() -> None:
    import bson

    def ids(pks: list[Any]) -> None:
        parts = list(chunks(pks))
        assert [pk for part in parts for pk in part] == pks
        assert all(len(bson.encode({"": list(part)})) < 6_000_000 for part in parts)

    ids([ObjectId() for _ in range(240_000)])
    ids([f"{n:0500}" for n in range(20_000)])
    ids(list(range(200_000)))
    assert list(chunks([])) == []
    assert len(list(chunks([ObjectId()] * 100_000))) == 1
