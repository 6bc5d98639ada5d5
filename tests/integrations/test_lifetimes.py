"""An App that lives with a server: who hears a signal, and what is as before when it is over."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

import earnorm
from earnorm.integrations.lifetimes import lifetime_of, living


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """Hear SIGTERM as a server does."""
    told: list[int] = []
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    yield told
    signal.signal(signal.SIGTERM, before)


def memory(database: str) -> dict[str, Any]:
    return {"mongo_uri": "mongomock://", "database": database, "plugins": []}


async def test_each_lifetime_and_the_server_hear_of_a_signal(
    database: str, heard: list[int]
) -> None:
    servers = signal.getsignal(signal.SIGTERM)
    async with living(memory(database)) as one, living(memory(f"{database}_2")) as two:
        assert lifetime_of(one.app) is one
        assert earnorm.current_app() is two.app
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(one.ending.wait(), two.ending.wait()), 5)
        assert heard == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is servers
    assert lifetime_of(one.app) is None and not one.app.is_started


async def test_lifetimes_end_in_any_order(database: str, heard: list[int]) -> None:
    servers = signal.getsignal(signal.SIGTERM)
    first, second = AsyncExitStack(), AsyncExitStack()

    async def live(stack: AsyncExitStack, name: str) -> Any:
        return await stack.enter_async_context(living(memory(name)))

    one = await asyncio.create_task(live(first, database))
    two = await live(second, f"{database}_2")
    await first.aclose()  # in another context than it began in, as the fixture of a test does
    assert not one.app.is_started and two.app.is_started
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(two.ending.wait(), 5)
    await second.aclose()
    assert heard == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) is servers


async def test_somebody_between_who_hands_a_signal_back_makes_no_circle(
    database: str, heard: list[int]
) -> None:
    async with living(memory(database)) as one:
        ours: Any = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda number, frame: ours(number, frame))
        async with living(memory(f"{database}_2")) as two:
            signal.raise_signal(signal.SIGTERM)
            await asyncio.wait_for(asyncio.gather(one.ending.wait(), two.ending.wait()), 5)


async def test_a_process_that_ends_at_once_is_left_alone(database: str) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        async with living(memory(database)):
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_a_server_without_a_signal_says_that_it_ends(database: str) -> None:
    async with living(memory(database)) as lifetime:
        assert "ending" not in repr(lifetime)
        await asyncio.to_thread(lifetime.end)
        await asyncio.wait_for(lifetime.ending.wait(), 5)
        assert "ending" in repr(lifetime)
    lifetime.end()  # harmless when it is over
