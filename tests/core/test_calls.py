"""No trip may call more Python functions than it did when its figure was written."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest

from earnorm import App, DomainError

from .calls import Counted, Order, count_calls, trips
from .conftest import default_app

# At most so many calls of the package's code, and at most so many of its functions (see Calls), with Python 3.11 and
# PyMongo. Later versions of Python need fewer calls for the same functions. Lower a figure when a trip gets shorter.
MOST: dict[str, tuple[int, int]] = {
    "create": (53, 38),
    "save one changed field": (52, 42),
    "write one field": (67, 53),
    "search": (49, 44),
    "search across a relation, prefetch two levels": (193, 152),
    # Version 0.1 needed 130 and 90 for the first, 146 and 103 for the second.
    "create, computed and constrained": (80, 62),
    "create, computed, constrained and linked": (93, 75),
}


@pytest.fixture
async def pymongo_app(database: str) -> AsyncIterator[App]:
    """Start an App on PyMongo: Motor works in threads, which the profiler of this one does not see."""
    async with default_app("pymongo", database) as started:
        yield started


@pytest.mark.parametrize("title", MOST)
async def test_a_trip_calls_no_more_functions_than_before(pymongo_app: App, title: str) -> None:
    counted = await count_calls((await trips())[title])
    calls, functions = MOST[title]
    assert 0 < counted.functions <= counted.ours < counted.everything
    assert counted.ours <= calls and counted.functions <= functions, counted


async def test_every_trip_has_its_figures(pymongo_app: App) -> None:
    assert list(await trips()) == list(MOST)


async def test_the_same_trip_gives_the_same_figures(pymongo_app: App) -> None:
    trip = (await trips())["search"]
    assert await count_calls(trip) == await count_calls(trip)


async def test_counting_hides_neither_an_error_nor_a_cancellation(pymongo_app: App) -> None:
    async def wrong() -> None:
        await Order.search([("nothing", "=", 1)])

    async def endless() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # a coroutine may still have something to do
            raise

    before = sys.getprofile()
    with pytest.raises(DomainError):
        await Counted(wrong())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await Counted(endless())
    assert sys.getprofile() is before
