"""Ready mixins: archived records stay out of searches, and authors are who acted, on every write path."""

from __future__ import annotations

import os
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earnorm import (
    App,
    BaseModel,
    ConfigurationError,
    Count,
    Index,
    Int,
    Many2one,
    One2many,
    String,
    ValidationError,
    act_as,
    mixins,
    system,
)
from earnorm.features.archive.plugin import NOT_ARCHIVED

from .conftest import Commands, default_app

EXAMPLES = int(os.environ.get("EARNORM_FUZZ_EXAMPLES", "60"))


class Paper(mixins.SoftDelete, mixins.Timestamps, mixins.Authors, BaseModel):
    _name = "mix.paper"
    title = String(required=True)
    stars = Int(default=0)
    parent_id = Many2one["Paper", Literal[False]]("mix.paper")
    child_ids = One2many["Paper"]("mix.paper", "parent_id")


class Coded(mixins.SoftDelete, BaseModel):
    _name = "mix.coded"
    _indexes = [Index("code", unique=True, partial=[("active", "=", True)])]
    code = String(required=True)


class Plain(BaseModel):
    _name = "mix.plain"
    title = String()


async def three() -> tuple[Paper, Paper, Paper]:
    a, b, c = await Paper.create([{"title": t} for t in "abc"])
    await b.archive()
    return a, b, c


def titles(found: Any) -> list[str]:
    return sorted(record.title for record in found)


async def test_every_query_leaves_archived_records_out(app: App) -> None:
    _, b, _ = await three()
    assert titles(await Paper.search()) == ["a", "c"]
    assert titles([record async for record in Paper.search()]) == ["a", "c"]
    assert await Paper.count() == await Paper.search().count() == 2
    assert not await Paper.find_one([("title", "=", "b")])
    assert await Paper.search().group(number=Count()) == [{"number": 2}]
    assert [row["title"] for row in await Paper.search().order("title").aggregate([])] == ["a", "c"]
    assert len((await Paper.search().paginate(5)).records) == 2
    assert await Paper.search().update({"stars": 1}) == 2
    assert (await b.refresh()).stars == 0
    assert await Paper.search().delete() == 2
    assert titles(await Paper.with_archived()) == ["b"]


async def test_archived_records_are_found_by_asking_for_them(app: App) -> None:
    _, b, _ = await three()
    assert titles(await Paper.with_archived()) == titles(await Paper.search().with_archived())
    assert titles(await Paper.with_archived().where([("title", ">", "a")])) == ["b", "c"]
    assert titles(await Paper.search([("active", "=", False)])) == ["b"]
    assert titles(await Paper.search(Paper.active.in_([True, False]))) == ["a", "b", "c"]
    assert titles(await Paper.search(["|", ("active", "=", False), ("title", "=", "a")])) == [
        "a",
        "b",
    ]
    assert (await Paper.get(b.id)).title == "b"
    assert await Paper.search([("active", "=", False)]).update({"stars": 5}) == 1


async def test_records_and_recordsets_are_archived_and_come_back(app: App) -> None:
    await three()
    papers = await Paper.search()
    assert await papers.archive() == 2
    assert not papers[0].active and not await Paper.search()
    assert await (await Paper.with_archived()).unarchive() == 3
    assert titles(await Paper.search()) == ["a", "b", "c"]
    await Plain.create({"title": "x"})
    with pytest.raises(ConfigurationError, match=r"mix.plain cannot archive"):
        await (await Plain.search()).archive()
    assert await Plain.search().with_archived().count() == 1


async def test_a_relation_leads_to_archived_records_and_their_unlink_deletes(app: App) -> None:
    parent = await Paper.create({"title": "parent"})
    child = await Paper.create({"title": "child", "parent_id": parent})
    await parent.archive()
    found = await Paper.get(child.id)
    assert found.parent_id is not None
    assert (await found.parent_id).title == "parent"
    await child.archive()
    assert [c.title for c in await (await Paper.get(parent.id)).child_ids] == ["child"]
    assert await child.unlink() == 1
    assert await Paper.with_archived().count() == 1


async def test_a_document_from_before_is_not_archived(app: App) -> None:
    await app._backend.collection("mix_paper").insert([{"_id": 1, "title": "old"}])
    assert titles(await Paper.search()) == ["old"]


async def test_an_archived_record_gives_its_unique_value_free_where_the_index_says_so(
    server_app: App,
) -> None:
    a = await Coded.create({"code": "1"})
    await a.archive()
    await Coded.create({"code": "1"})
    with pytest.raises(ValidationError, match="code"):
        await a.unarchive()


async def test_models_without_the_mixin_pay_nothing(commands: Commands) -> None:
    await Plain.search([("title", "=", "x")])
    assert commands.named("find")[0]["filter"] == {"title": "x"}


CONDITIONS = st.sampled_from(
    [("title", "=", "a"), ("stars", ">", 1), ("stars", "=", None), ("title", "!=", "b")]
)


@pytest.mark.fuzz
@settings(max_examples=EXAMPLES, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.booleans()), max_size=6),
    domain=st.lists(CONDITIONS, max_size=2),
)
def test_a_search_is_the_search_of_all_that_is_not_archived(
    rows: list[tuple[str, int, bool]], domain: list[Any]
) -> None:
    import asyncio

    async def run() -> None:
        async with App("mongomock://", database="law", plugins=[]):
            await Paper.create([{"title": t, "stars": s, "active": a} for t, s, a in rows])
            default = set(await Paper.search(domain))
            everything = await Paper.search(domain).with_archived()
            assert default == set(everything.filtered_domain(NOT_ARCHIVED))
            assert default == {record for record in everything if record.active}

    asyncio.run(run())


# -- authors --------------------------------------------------------------------------------------


async def stored(app: App) -> dict[str, tuple[Any, Any]]:
    found = await app._backend.collection("mix_paper").find({})
    return {each["title"]: (each.get("created_by"), each.get("updated_by")) for each in found}


async def test_authors_are_set_on_every_write_path(app: App) -> None:
    with act_as("ann"):
        one = await Paper.create({"title": "one"})
        await Paper(title="two").save()
        async with Paper.bulk() as bulk:
            bulk.create({"title": "three"})
        await Paper.create_many([{"title": "four"}])
    assert (one.created_by, one.updated_by) == ("ann", "ann")
    assert set((await stored(app)).values()) == {("ann", "ann")}
    with act_as("bob"):
        await one.write({"stars": 1})
        two, three, four = await Paper.search([("title", "!=", "one")], order="title").order(
            "-title"
        )
        two.stars = 1
        await two.save()
        assert await Paper.search([("title", "=", three.title)]).update({"stars": 2}) == 1
        await Paper.write_many({four: {"stars": 3}})
        assert {r.updated_by for r in (one, two, four)} == {"bob"}
    assert set((await stored(app)).values()) == {("ann", "bob")}
    await one.write({"stars": 2})
    assert (await stored(app))["one"] == ("ann", None) == (one.created_by, one.updated_by)


async def test_nobody_signs_for_another(app: App) -> None:
    with act_as("ann"):
        for values in ({"created_by": "bob"}, {"updated_by": "bob"}):
            with pytest.raises(ValidationError, match="says who acted"):
                await Paper.create({"title": "x", **values})
        paper = await Paper.create({"title": "x", "created_by": "ann"})
        for write in (
            paper.write({"updated_by": "bob"}),
            Paper.search().update({"updated_by": "bob"}),
        ):
            with pytest.raises(ValidationError, match="says who acted"):
                await write
        with pytest.raises(ValidationError, match="only on a new record"):
            await paper.write({"created_by": "ann"})
        with system(reason="import"):
            old = await Paper.create({"title": "old", "created_by": "eve"})
        assert (old.created_by, old.updated_by) == ("eve", "ann")
        copied = await old.copy()
        assert (copied.created_by, copied.active) == ("ann", True)
    assert paper.created_at <= paper.updated_at


async def test_the_mixins_work_in_a_started_app_of_each_kind(database: str) -> None:
    async with default_app("memory", database):
        assert [f for f in Paper._fields if f != "_id"] == [
            "created_by",
            "updated_by",
            "created_at",
            "updated_at",
            "active",
            "title",
            "stars",
            "parent_id",
            "child_ids",
        ]
