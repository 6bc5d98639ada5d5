"""Measures several ways to do the same in turns, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, NamedTuple

Work = Callable[[], Awaitable[Any]]


class Lowest(NamedTuple):
    """The lowest seconds of one run of some work.

    Attributes:
        clock: By the clock.
        busy: Of the processor.
    """

    clock: float
    busy: float


async def lowest(ways: Mapping[str, Work], times: int, rounds: int) -> dict[str, Lowest]:
    """Measure each of the ways once in every round, after a first one that does not count.

    Args:
        ways: The works by name.
        times: How often a work runs in a round.
        rounds: The rounds.
    """
    taken: dict[str, list[Lowest]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, work in ways.items():
            gc.collect()
            begin, begin_cpu = time.perf_counter(), time.process_time()
            for _ in range(times):
                await work()
            clock, busy = time.perf_counter() - begin, time.process_time() - begin_cpu
            if number:
                taken[way].append(Lowest(clock / times, busy / times))
    return {
        way: Lowest(min(one.clock for one in all_of), min(one.busy for one in all_of))
        for way, all_of in taken.items()
    }


def run(main: Callable[[str], Coroutine[Any, Any, None]], module: str) -> None:
    """Run a benchmark with the address of the server that the environment names."""
    uri = os.environ.get("EARNORM_TEST_MONGO_URI")
    if not uri:
        sys.exit(
            f"EARNORM_TEST_MONGO_URI is not set: python -m tests.servers -- python -m benchmarks.{module}"
        )
    asyncio.run(main(uri))
