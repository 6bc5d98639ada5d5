"""Blocks that say who acts, in generators: what they set holds for their own lines, on every Python."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import earnorm
from earnorm import App, current_env


def who() -> str:
    return "system" if current_env().system else str(current_env().principal)


def lines() -> Iterator[str]:
    with earnorm.system(reason="read"):
        yield who()
        for _ in range(2):
            try:
                yield who()
            finally:
                pass


async def awaited_lines() -> AsyncIterator[str]:
    with earnorm.system(reason="read"):
        yield who()
        await asyncio.sleep(0)
        try:
            yield who()
        finally:
            await asyncio.sleep(0)


async def gathered() -> AsyncIterator[list[str]]:
    """Begin tasks inside the block and wait for them, which is no yield."""

    async def task() -> str:
        await asyncio.sleep(0)
        return who()

    with earnorm.act_as("ann"):
        await asyncio.sleep(0)
        yield await asyncio.gather(task(), task())


def nested() -> Iterator[str]:
    with earnorm.act_as("ann"):
        yield from lines()
        yield who()


async def test_the_consumer_of_a_generator_is_outside_of_its_block(memory_app: App) -> None:
    with earnorm.act_as("eve"):
        seen = [(inside, who()) for inside in lines()]
        assert seen == [("system", "eve")] * 3
        assert [(inside, who()) async for inside in awaited_lines()] == [("system", "eve")] * 2
        assert [(inside, who()) async for inside in gathered()] == [(["ann", "ann"], "eve")]
        assert [(inside, who()) for inside in nested()] == [
            *[("system", "eve")] * 3,
            ("ann", "eve"),
        ]
        assert who() == "eve"


async def test_between_two_values_the_consumer_may_enter_blocks_of_its_own(
    memory_app: App,
) -> None:
    with earnorm.act_as("eve"):
        seen = []
        for inside in lines():
            with earnorm.act_as("bob"):
                seen.append((inside, who()))
            seen.append(("", who()))
        assert seen == [("system", "bob"), ("", "eve")] * 3
