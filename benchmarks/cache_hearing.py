"""The time for which the memory of another process is old: ``python -m benchmarks.cache_hearing [writes]``.

One process writes records, each once, and notes when each write was acknowledged; three others, which keep these
records in memory, note when they heard of it. A message is sent before the acknowledgement, so it may be heard
before it: then the memory was never old.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import sys
import time
import uuid
from typing import Any

from pydantic import SecretStr
from pymongo import MongoClient

from earnorm import App, Int, models
from earnorm_cache import CachePlugin, CacheSettings

WRITES = 2_000
LISTENERS = 3
PAUSE = 0.005
"""The seconds between two writes."""


class Heard(models.BaseModel):
    """What is written."""

    _name = "benchmark.heard"

    _id = Int()
    number = Int(default=0)


def _app(database: str) -> App:
    url = SecretStr(os.environ["EARNORM_TEST_REDIS_URL"])
    settings = CacheSettings(redis_url=url, redis_timeout=5.0, outside_writes=False)
    uri, plugin = os.environ["EARNORM_TEST_MONGO_URI"], CachePlugin(settings)
    return App(uri, database=database, plugins=[plugin])


async def _listen(database: str, times: Any, begin: int, ready: Any, over: Any) -> None:
    async with _app(database) as app:

        def heard(ids: Any) -> None:
            for pk in ids or ():
                times[begin + pk] = time.time()

        app.services["cache"].on_change(Heard, heard)  # type: ignore[attr-defined] # it is the service
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.5)
        await loop.run_in_executor(None, ready.wait, 60)
        await loop.run_in_executor(None, over.wait, 600)


def _process(database: str, times: Any, begin: int, ready: Any, over: Any) -> None:
    asyncio.run(_listen(database, times, begin, ready, over))


async def _write(database: str, acknowledged: list[float], ready: Any) -> None:
    async with _app(database):
        await asyncio.get_running_loop().run_in_executor(None, ready.wait, 60)
        for pk in range(len(acknowledged)):
            await Heard.search([("_id", "=", pk)]).update({"number": 1})
            acknowledged[pk] = time.time()
            await asyncio.sleep(PAUSE)
        await asyncio.sleep(1.0)


async def _make(database: str, number: int) -> None:
    async with App(os.environ["EARNORM_TEST_MONGO_URI"], database=database, plugins=[]):
        await Heard.create([{"_id": pk} for pk in range(number)])


def delays(writes: int) -> list[float]:
    """Return, for each write and listener, the seconds for which its memory was old, in order.

    Raises:
        RuntimeError: A listener has not heard of a write.
    """
    spawn = multiprocessing.get_context("spawn")
    database = f"cache_hearing_{uuid.uuid4().hex[:8]}"
    asyncio.run(_make(database, writes))
    times = spawn.Array(ctypes.c_double, writes * LISTENERS, lock=False)
    ready, over = spawn.Barrier(LISTENERS + 1), spawn.Event()
    processes = [
        spawn.Process(target=_process, args=(database, times, n * writes, ready, over))
        for n in range(LISTENERS)
    ]
    try:
        for process in processes:
            process.start()
        acknowledged = [0.0] * writes
        asyncio.run(_write(database, acknowledged, ready))
        over.set()
        for process in processes:
            process.join()
    finally:
        with MongoClient[dict[str, Any]](os.environ["EARNORM_TEST_MONGO_URI"]) as client:
            client.drop_database(database)
    heard: list[float] = times[:]
    if not all(heard):
        raise RuntimeError(f"{heard.count(0.0)} writes were not heard of")
    late = (moment - acknowledged[n % writes] for n, moment in enumerate(heard))
    return sorted(max(0.0, seconds) for seconds in late)


def main() -> None:
    """Print the figures."""
    found = delays(int(sys.argv[1]) if len(sys.argv) > 1 else WRITES)
    print("| heard | never old | p50 ms | p99 ms | max ms |\n|---|---|---|---|---|")
    shares = (found[len(found) // 2], found[int(len(found) * 0.99)], found[-1])
    figures = " | ".join(f"{seconds * 1000:.1f}" for seconds in shares)
    print(f"| {len(found):,} | {found.count(0.0) / len(found):.0%} | {figures} |")


if __name__ == "__main__":
    main()
