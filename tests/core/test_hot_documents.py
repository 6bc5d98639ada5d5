"""A transaction comes to its end however many plain operations wait for what it has written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pymongo import MongoClient

import earnorm
from earnorm import App, Inc, Int, String, models

from .conftest import DRIVERS, default_app


class HotRow(models.BaseModel):
    _name = "core.hot_row"
    name = String()
    number = Int(default=0)


@pytest.fixture(params=[1, 2])
def size(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=DRIVERS)
async def app(request: pytest.FixtureRequest, database: str, size: int) -> AsyncIterator[App]:
    async with default_app(request.param, database, max_pool_size=size) as started:
        await HotRow.create({"name": "cold"})
        yield started


async def add(app: App, row: HotRow) -> None:
    """Write a record outside of every transaction, whatever this task was begun in."""
    with app.activate():
        await HotRow.search([("id", "=", row.id)]).update({"number": Inc(1)})


async def waiting(app: App, number: int) -> None:
    for _ in range(6000):
        if app.traffic.waiting >= number:
            return
        await asyncio.sleep(0.005)
    pytest.fail(f"{app.traffic}")


async def test_the_block_commits_and_gets_what_it_asks_for_outside_of_its_transaction(
    app: App, size: int
) -> None:
    row = await HotRow.create({"name": "hot"})
    async with asyncio.timeout(30):
        async with earnorm.transaction():
            await row.write({"name": "hotter"})
            writers = [asyncio.create_task(add(app, row)) for _ in range(size + 3)]
            await waiting(app, 4)
            assert app.traffic.under_way == size - 1
            # Numbers with gaps are given outside of the transaction, and the block waits for them.
            assert await earnorm.sequence("row").next() == 1
            assert await asyncio.gather(*(earnorm.sequence("row").next() for _ in range(3)))
            assert await HotRow.search([("name", "=", "cold")]).count() == 1
        await asyncio.gather(*writers)
    assert (await row.refresh()).number == size + 3
    told = (await app.health())["operations"]
    assert (told["status"], told["at_once"], told["waiting"]) == ("ok", size, 0)
    assert told["waits"] == app.traffic.waits >= 4


async def test_transactions_and_plain_operations_under_load_all_come_to_their_end(
    app: App, size: int
) -> None:
    row = await HotRow.create({"name": "hot"})

    async def transact() -> None:
        async with earnorm.transaction():
            found = await HotRow.get(str(row.id))
            await found.write({"name": "changed"})

    @earnorm.transactional()
    async def tried() -> None:
        await transact()

    async def read() -> None:
        assert await HotRow.search([("id", "=", row.id)]).count() == 1

    async with asyncio.timeout(60):
        await asyncio.gather(
            *(tried() for _ in range(6)),
            *(add(app, row) for _ in range(12)),
            *(read() for _ in range(12)),
        )
    assert (await row.refresh()).number == 12
    told = app.traffic
    assert (told.under_way, told.waiting, told.transactions, told.passed) == (0, 0, 0, 0)


async def test_an_app_that_stops_cuts_off_what_waits(
    app: App, size: int, mongo_uri: str, database: str
) -> None:
    row = await HotRow.create({"name": "hot"})

    async def hold(written: asyncio.Event) -> None:
        async with earnorm.transaction():
            await row.write({"name": "hotter"})
            written.set()
            await asyncio.Event().wait()

    written = asyncio.Event()
    holder = asyncio.create_task(hold(written))
    await written.wait()
    writers = [asyncio.create_task(add(app, row)) for _ in range(size + 3)]
    await waiting(app, 4)
    async with asyncio.timeout(30):
        cut = await app.stop(grace=0)
        holder.cancel()
        results = await asyncio.gather(holder, *writers, return_exceptions=True)
    assert cut.transactions == 1 and cut.operations == size + 3
    assert all(isinstance(result, earnorm.AppStopping) for result in results[1:])
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        client.drop_database(database)
