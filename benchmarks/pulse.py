"""Measures for how long work keeps the event loop to itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


async def longest_stall(work: Callable[[], Awaitable[Any]], clock: Callable[[], float]) -> float:
    """Run the work; return the most seconds by the clock in which no other task could run."""
    longest, running = 0.0, True

    async def pulse() -> None:
        nonlocal longest
        before = clock()
        while running:
            await asyncio.sleep(0)
            now = clock()
            longest, before = max(longest, now - before), now

    pulsing = asyncio.ensure_future(pulse())
    await asyncio.sleep(0)
    result = await work()
    running = False
    await pulsing
    del result  # the program frees it, which takes its time
    return longest
