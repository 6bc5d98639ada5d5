"""Whatever way writes several records: the error names those that were not written, by their ids."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    ConcurrencyError,
    Date,
    DuplicateKey,
    Inc,
    Int,
    NotFound,
    RecordSet,
    String,
)


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


class Coupon(BaseModel):
    _name = "partly.coupon"

    code = String(unique=True)
    number = Int(default=0)


class Ticket(Coupon):
    _name = "partly.ticket"
    _versioned = True


async def save_code(records: RecordSet[Any]) -> None:
    for record in records:
        record.code = "x"
    await records.save()


async def write_code(records: RecordSet[Any]) -> None:
    await records.write({"code": "x", "number": Inc(1)})


async def write_many_codes(records: RecordSet[Any]) -> None:
    await type(records[0]).write_many({record: {"code": "x"} for record in records})


async def bulk_codes(records: RecordSet[Any]) -> None:
    async with type(records[0]).bulk() as calls:
        for record in records:
            calls.write(record, {"code": "x"})


@pytest.mark.parametrize("model", [Coupon, Ticket])
@pytest.mark.parametrize("way", [save_code, write_code, write_many_codes, bulk_codes])
async def test_who_was_written_before_a_duplicate_knows_it(
    app: App, way: Way, model: type[BaseModel]
) -> None:
    await model.create([{"code": code} for code in "abc"])
    records = await model.search(order="code")
    with pytest.raises(DuplicateKey):
        await way(records)
    for record in records:
        found = await model.get(record.id)
        if record.is_changed:  # a save that was refused keeps the change
            assert found.code != "x"
            await record.refresh()
        assert (record.code, record.number) == (found.code, found.number)
    assert (await model.search()).mapped("code").count("x") == 1
    await records.write({"number": Inc(10)})
    assert {n % 10 for n in records.mapped("number")} <= {0, 1}
