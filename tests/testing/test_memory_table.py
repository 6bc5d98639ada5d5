"""The table of docs/testing.md: what runs on mongomock://, and what says NotSupported. Each row is tried."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import earnorm
from earnorm import (
    App,
    Count,
    DateTime,
    DuplicateKey,
    File,
    Inc,
    Index,
    Int,
    List,
    Many2one,
    Mul,
    NotSupported,
    Point,
    Push,
    String,
    Sum,
    models,
)
from earnorm.testing import app_with

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
ROW = re.compile(r"^\| (?P<what>[^|]+) \| (?P<answer>yes|`NotSupported`) \|", re.MULTILINE)


class City(models.BaseModel):
    _name = "testing.table.city"
    name = String(unique=True)


class Shop(models.BaseModel):
    _name = "testing.table.shop"
    _indexes = [Index("name", partial=[("stars", ">", 0)], unique=True)]
    name = String()
    stars = Int(default=0)
    tags = List(String())
    opened = DateTime()
    place = Point()
    city_id = Many2one(City)
    photo = File()


async def filters(app: App) -> None:
    query = Shop.search([("tags", "=", "a"), "|", ("stars", ">", 3), ("name", "ilike", "lo")])
    assert await query.order("-stars").limit(1).count() == 1


async def changes(app: App) -> None:
    shop = await Shop.search().first()
    assert shop is not None
    await shop.write({"stars": Inc(1), "tags": Push("z")})
    await Shop.search().update({"stars": Mul(2)})
    _, is_new = await City.upsert({"name": "Hanoi"}, on="name")
    assert is_new


async def unique_indexes(app: App) -> None:
    await Shop.create([{"name": "Lotus"}, {"name": "Lotus"}])  # the index is about others
    with pytest.raises(DuplicateKey):
        await Shop.create({"name": "Lotus", "stars": 1})


async def groups(app: App) -> None:
    rows = await Shop.search().group("opened:month", "city_id.name", n=Count(), stars=Sum("stars"))
    assert rows[0]["city_id.name"] == "Huế"


async def pipelines(app: App) -> None:
    assert await Shop.search().aggregate([{"$match": {"stars": 5}}, {"$count": "n"}]) == [{"n": 1}]


async def paths(app: App) -> None:
    assert await Shop.count([("city_id.name", "=", "Huế")]) == 1
    assert (await Shop.search().prefetch("city_id"))[0].city_id.name == "Huế"
    assert len(await Shop.search(order="city_id.name")) == 1


async def near(app: App) -> None:
    assert await Shop.count([("place", "near", [105.85, 21.03, 1000])]) == 1


async def files(app: App) -> None:
    shop = await Shop.create({"name": "File"})
    await shop.photo.write(b"picture")
    assert await (await Shop.get(shop.id)).photo.read() == b"picture"


async def transactions(app: App) -> None:
    async with earnorm.transaction():
        await Shop.count()


async def watching(app: App) -> None:
    async with Shop.watch() as changes:
        del changes


async def texts(app: App) -> None:
    await Shop.search([("*", "text", "coffee")])


async def within(app: App) -> None:
    await Shop.search([("place", "within", [[100, 10], [110, 10], [110, 30]])])


async def plans(app: App) -> None:
    await Shop.search().explain()


async def vectors(app: App) -> None:
    await app._backend.collection("shops").list_search_indexes()


async def rolled_back(app: App) -> None:
    from earnorm.testing import rolled_back

    async with rolled_back():
        await Shop.count()


TRIED: dict[str, Callable[[App], Awaitable[Any]]] = {
    "conditions, orders, limits": filters,
    "changes: `Inc`, `Mul`, `Push`, `UpdateItems`, `update()`, `upsert()`": changes,
    "unique indexes, also partial ones and those of lists": unique_indexes,
    "`group()`, also by time and by values of other records": groups,
    "`aggregate()`, with the stages and operators that it knows": pipelines,
    "conditions, orders and prefetches across relations": paths,
    "`near`": near,
    "files": files,
    "transactions, sessions, `lock()`, what follows a commit": transactions,
    "`earnorm_rollback`, `rolled_back()`": rolled_back,
    "`watch()`": watching,
    "`text`": texts,
    "`within`": within,
    "`explain()`": plans,
    "vector search": vectors,
}
ROWS = {row["what"]: row["answer"] for row in ROW.finditer(PAGE.read_text())}


@pytest.fixture
async def app() -> AsyncIterator[App]:
    async with app_with(uri="mongomock://") as started:
        city = await City.create({"name": "Huế"})
        point = {"type": "Point", "coordinates": [105.85, 21.03]}
        await Shop.create(
            {
                "name": "Lotus",
                "stars": 5,
                "tags": ["a"],
                "opened": "2024-05-01",
                "place": point,
                "city_id": city,
            }
        )
        yield started


def test_every_row_is_tried() -> None:
    assert ROWS.keys() == TRIED.keys()


@pytest.mark.parametrize("what", TRIED)
async def test_memory_answers_as_the_row_says(app: App, what: str) -> None:
    if ROWS[what] == "yes":
        await TRIED[what](app)
        return
    with pytest.raises(NotSupported):
        await TRIED[what](app)
