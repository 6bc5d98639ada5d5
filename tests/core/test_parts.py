"""Lists of ids that are longer than a filter: the same answers, from several filters."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bson import ObjectId

import earnorm
from earnorm import App, Domain, Int, Many2one, RecordSet, String, models
from earnorm.domain import long_lists
from earnorm.exceptions import LongList
from tests.core.conftest import Commands


class Leaf(models.BaseModel):
    _name, _collection = "parts.leaf", "parts_leaf"
    name = String(required=True)
    size = Int(default=0)


class Mite(models.BaseModel):
    _name, _collection = "parts.mite", "parts_mite"
    leaf = Many2one(Leaf, on_delete="set_null")


@pytest.fixture(autouse=True)
def small_filters(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A filter takes some 20 ids, and a part has 10."""
    monkeypatch.setattr(long_lists, "_SHORT", 5)
    monkeypatch.setattr(long_lists, "LARGEST", 300)
    monkeypatch.setattr(long_lists, "_PART_BYTES", 210)
    yield


async def leaves(number: int) -> RecordSet[Leaf]:
    return await Leaf.create([{"name": f"L{n}", "size": n % 3} for n in range(number)])


def among(found: RecordSet[Leaf]) -> list[object]:
    """Every id, twice, and as many that do not exist."""
    return [("id", "in", [*found.pks, *(ObjectId() for _ in found), *found.pks])]


async def test_search_stream_and_count_find_each_record_once(app: App) -> None:
    found = await leaves(25)
    assert await Leaf.search(among(found)) == found
    assert sorted([r.name async for r in Leaf.search(among(found))]) == sorted(
        r.name for r in found
    )
    assert await Leaf.search(among(found)).count() == 25


async def test_the_rest_of_the_domain_holds_in_every_part(app: App) -> None:
    found = await leaves(25)
    domain = [*among(found), ("size", "=", 1)]
    assert {r.name for r in await Leaf.search(domain)} == {r.name for r in found if r.size == 1}
    few = found.pks[3:5]
    assert (await Leaf.search([*among(found), ("id", "in", few)])).pks == few
    assert await Leaf.search([*among(found), ("id", "in", [ObjectId()])]).count() == 0


async def test_a_limit_holds_over_all_parts(app: App) -> None:
    found = await leaves(25)
    query = Leaf.search(among(found))
    for limit in (1, 10, 15, 25, 40):
        assert len(await query.limit(limit)) == min(limit, 25)
        assert len([r async for r in query.limit(limit)]) == min(limit, 25)
        assert await query.limit(limit).count() == min(limit, 25)
    assert await query.exists()


async def test_update_and_delete_reach_every_part(app: App) -> None:
    found = await leaves(25)
    other = await leaves(3)
    assert await Leaf.search(among(found)).update({"name": "new"}) == 25
    assert await Leaf.search([("name", "=", "new")]).count() == 25
    assert await found.write({"size": 7}) == 25
    assert await Leaf.search(among(found)).delete() == 25
    assert await Leaf.search() == other


async def test_what_points_at_deleted_records_is_emptied_in_every_part(server_app: App) -> None:
    found = await leaves(25)
    await Mite.create([{"leaf": leaf} for leaf in found])
    assert await Leaf.search(among(found)).delete() == 25
    assert await Mite.search([("leaf", "=", None)]).count() == 25


async def test_there_are_as_many_queries_as_parts(commands: Commands) -> None:
    found = await leaves(25)
    commands.clear()
    await Leaf.search([("id", "in", found.pks)])
    assert commands.of("parts_leaf") == ["find"] * 3
    commands.clear()
    await Leaf.search([("id", "in", found.pks)]).limit(3)
    assert commands.of("parts_leaf") == ["find"]


async def test_what_cannot_be_done_in_parts_says_so(app: App) -> None:
    found = await leaves(25)
    query = Leaf.search([("id", "in", found.pks)])
    names = [f"L{n}" for n in range(60)]
    with pytest.raises(LongList, match=r"25 values.*without order and offset"):
        await query.order("name")
    with pytest.raises(LongList):
        _ = [r async for r in query.order("name")]
    with pytest.raises(LongList):
        await query.offset(1).count()
    for domain in (
        [("id", "not in", found.pks)],
        ["|", ("id", "in", found.pks), ("size", "=", 1)],
        [("name", "in", names)],
        [("id", "in", found.pks), ("name", "in", names)],
    ):
        with pytest.raises(LongList):
            await Leaf.search(domain)
    with pytest.raises(LongList):
        await query.group("size", number=earnorm.Count())


async def test_the_ids_of_a_part_are_those_of_the_list(app: App) -> None:
    found = await leaves(25)
    domain = Domain([("id", "in", [str(pk) for pk in found.pks])])  # texts, as JSON brings them
    assert await Leaf.search(domain) == found


class Named(models.BaseModel):
    """Its ids may be long texts, of which a filter holds fewer."""

    _name, _collection = "parts.named", "parts_named"
    _id = String(required=True)
    note = String()


async def test_records_with_long_ids_are_asked_for_in_parts_that_fit(commands: Commands) -> None:
    found = await Named.create([{"_id": f"{n:03}" * 10, "note": "x"} for n in range(6)])
    commands.clear()

    assert await found.still_exists() == found
    assert await found.refresh() is found
    assert [row["note"] for row in await found.read(["note"])] == ["x"] * 6

    asked = [len(find["filter"]["_id"].get("$in", [0])) for find in commands.named("find")]
    assert sum(asked) == 3 * 6 and max(asked) == 1  # by bytes, not by number
