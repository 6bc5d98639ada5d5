"""Whatever way writes several records: the error names those that were not written, by their ids."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from earnorm import App, BaseModel, ConcurrencyError, Date, Inc, Int, NotFound, RecordSet


class Day(BaseModel):
    _name = "partly.day"

    _id = Date()
    number = Int(default=0)


class Page(Day):
    _name = "partly.page"
    _versioned = True


Way = Callable[[RecordSet[Any]], Awaitable[object]]


async def save(days: RecordSet[Any]) -> None:
    for day in days:
        day.number = 5
    await days.save()


async def write(days: RecordSet[Any]) -> None:
    await days.write({"number": 5})


async def increase(days: RecordSet[Any]) -> None:
    await days.write({"number": Inc(5)})


async def write_many(days: RecordSet[Any]) -> None:
    await type(days[0]).write_many({day: {"number": 5} for day in days})


async def write_many_ids(days: RecordSet[Any]) -> None:
    await type(days[0]).write_many({day.id: {"number": 5} for day in days})


async def bulk(days: RecordSet[Any]) -> None:
    async with type(days[0]).bulk() as calls:
        for day in days:
            calls.write(day, {"number": 5})


async def unlink(days: RecordSet[Any]) -> None:
    await days.unlink()


async def bulk_unlink(days: RecordSet[Any]) -> None:
    async with type(days[0]).bulk() as calls:
        calls.unlink(days)


WRITES: list[Way] = [save, write, increase, write_many, bulk]


async def made(model: type[BaseModel]) -> RecordSet[Any]:
    await model.create([{"_id": datetime.date(2020, 1, n + 1)} for n in range(4)])
    return await model.search(order="_id")


@pytest.mark.parametrize("way", [*WRITES, write_many_ids])
async def test_records_that_are_gone_are_named(app: App, way: Way) -> None:
    days = await made(Day)
    await Day.search([("id", "in", [days[1], days[3]])]).delete()
    with pytest.raises(NotFound) as caught:
        await way(days)
    assert caught.value.ids == ("2020-01-02", "2020-01-04") == (days[1].id, days[3].id)
    assert (await Day.search(order="_id")).mapped("number") == [5, 5]
    if way is not write_many_ids:
        assert [days[0].number, days[2].number] == [5, 5]


@pytest.mark.parametrize("way", WRITES)
async def test_records_that_were_changed_are_named(app: App, way: Way) -> None:
    pages = await made(Page)
    await Page.search([("id", "=", pages[2])]).update({"number": 1})
    with pytest.raises(ConcurrencyError) as caught:
        await way(pages)
    assert caught.value.ids == (pages[2].id,)
    assert (await Page.search(order="_id")).mapped("number") == [5, 5, 1, 5]
    assert [pages[0].number, pages[1].number, pages[3].number] == [5, 5, 5]
    assert not pages[0].is_changed


@pytest.mark.parametrize("way", [unlink, bulk_unlink])
async def test_records_that_a_deletion_leaves_are_named(app: App, way: Way) -> None:
    pages = await made(Page)
    await Page.search([("id", "=", pages[2])]).update({"number": 1})
    await Page.search([("id", "=", pages[0])]).delete()
    with pytest.raises(ConcurrencyError) as caught:
        await way(pages)
    assert caught.value.ids == ("2020-01-03",)
    assert (await Page.search()).ids == ["2020-01-03"]
