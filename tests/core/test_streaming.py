"""async for: the next batch comes along, memory stays, and every record is given once."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from contextlib import aclosing
from typing import Any

import pytest

from earnorm import App, BaseModel, Int, String, transaction

from .conftest import Commands


class Row(BaseModel):
    _name = "stream.row"

    name = String(required=True)
    number = Int()


async def fill(number: int) -> None:
    for start in range(0, number, 5000):
        rows = range(start, min(start + 5000, number))
        await Row.create([{"name": f"{n:08}", "number": n} for n in rows])


async def peak_of_reading(limit: int) -> int:
    """The most bytes that Python held at once while so many records were streamed."""
    tracemalloc.start()
    try:
        seen = 0
        async for _ in Row.search(limit=limit):
            seen += 1
        assert seen == limit
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


async def test_memory_does_not_grow_with_the_number_of_records(server_app: App) -> None:
    await fill(50_000)
    await peak_of_reading(4_000)  # what is imported and cached on the way
    one, whole = await peak_of_reading(2_000), await peak_of_reading(50_000)
    # How far two batches overlap is a matter of timing; a third one never does.
    assert whole < one * 2.25
    tracemalloc.start()
    assert len(await Row.search(limit=50_000)) == 50_000
    at_once = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert at_once > whole * 4  # the measure does see records that stay


async def test_the_next_batch_is_fetched_while_this_one_is_consumed(commands: Commands) -> None:
    await fill(6_000)
    commands.clear()
    asked: list[int] = []
    position = 0
    async for _ in Row.search():
        position += 1
        if position in (1_999, 2_001):
            # Nothing is awaited: the request was sent before the batch was given.
            time.sleep(0.1)  # noqa: ASYNC251 - a consumer that lets nothing else run
            asked.append(len(commands.named("getMore")))
    assert position == 6_000
    assert asked == [0, 2]  # one gave the second batch, one is on its way


async def test_nothing_is_fetched_for_a_consumer_that_leaves_inside_the_first_batch(
    commands: Commands,
) -> None:
    await fill(6_000)
    commands.clear()
    async with aclosing(aiter(Row.search())) as rows:
        async for row in rows:
            assert row.number == 0
            await asyncio.sleep(0.05)
            break
    assert commands.named("getMore") == []


async def test_a_stream_in_a_transaction_fetches_nothing_on_the_side(server_app: App) -> None:
    await fill(5_000)
    seen = 0
    async with transaction():
        async for row in Row.search(order="number"):
            seen += 1
            if seen % 1_500 == 0:
                await row.write({"number": -1})
    assert seen == 5_000
    assert await Row.search([("number", "=", -1)]).count() == 3


@pytest.mark.parametrize("left_at", [1, 1_500, 2_001])
async def test_a_stream_that_is_left_ends_what_it_began(commands: Commands, left_at: int) -> None:
    await fill(9_000)
    before = asyncio.all_tasks()
    stream: Any = Row.search().__aiter__()
    for _ in range(left_at):
        await anext(stream)
    await stream.aclose()
    assert len(commands.named("killCursors")) == 1
    assert asyncio.all_tasks() == before


async def test_a_cancelled_stream_leaves_nothing_behind(server_app: App) -> None:
    await fill(9_000)
    before = asyncio.all_tasks()
    begun = asyncio.Event()

    async def read() -> None:
        async for row in Row.search():
            if row.number == 1_200:
                begun.set()
                await asyncio.sleep(60)

    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(20):
        await asyncio.sleep(0.05)
        if asyncio.all_tasks() == before:
            break
    assert asyncio.all_tasks() == before
    assert await Row.search().count() == 9_000
