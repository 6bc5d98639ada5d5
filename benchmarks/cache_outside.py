"""Writes from outside, and the time until a reader sees them: ``python -m benchmarks.cache_outside [writes]``.

One process follows the database for all and another one reads. A program without EarnORM writes a record, and notes
when the write was acknowledged; the time is the one until the other process reads the new value for the first time,
from its memory or from Redis. A second table says what the own writes cost that come back on the stream: the share of
reads that hit under a mixed load, with the stream and without.

It needs EARNORM_TEST_MONGO_URI and EARNORM_TEST_REDIS_URL, fills a database of its own and drops it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pydantic import SecretStr
from pymongo import AsyncMongoClient, MongoClient

from earnorm import App, Int, models
from earnorm_cache import CachePlugin, CacheSettings

WRITES = 1_000
SECONDS = 4.0
KEYS = 50


class Outside(models.BaseModel):
    """What is written from outside."""

    _name = "benchmark.outside"

    _id = Int()
    version = Int(default=0)


@asynccontextmanager
async def process(database: str, **settings: Any) -> AsyncIterator[tuple[App, CachePlugin]]:
    """Give an App as a process of its own has one."""
    url = SecretStr(os.environ["EARNORM_TEST_REDIS_URL"])
    plugin = CachePlugin(CacheSettings(redis_url=url, redis_timeout=2.0, **settings))
    uri = os.environ["EARNORM_TEST_MONGO_URI"]
    async with App(uri, database=database, plugins=[plugin]) as app:
        yield app, plugin


async def _follows(plugin: CachePlugin) -> bool:
    outside = plugin._levels.outside
    for _ in range(1_000):
        if outside is not None and outside.is_following:
            return True
        await asyncio.sleep(0.01)
    return False


async def measure(database: str, writes: int) -> list[float]:
    """Return the seconds until each write was seen, in order."""
    uri = os.environ["EARNORM_TEST_MONGO_URI"]
    taken: list[float] = []
    async with process(database) as (one, follower), process(database) as (two, _):
        with one.activate():
            await Outside.create([{"_id": 0}])
            await Outside.get(0)
        await _follows(follower)
        with two.activate():
            await Outside.get(0)
            await asyncio.sleep(0.5)
            async with AsyncMongoClient[dict[str, Any]](uri) as client:
                collection = client[database]["benchmark_outside"]
                for version in range(1, writes + 1):
                    await collection.update_one({"_id": 0}, {"$set": {"version": version}})
                    acknowledged = time.perf_counter()
                    while True:
                        if (await Outside.get(0)).version >= version:
                            break
                    taken.append(time.perf_counter() - acknowledged)
    return sorted(taken)


async def hit_ratio(database: str, pause: float, *, outside_writes: bool) -> tuple[float, float]:
    """Return the share of reads that hit, and the writes per second, of one writer and four readers."""
    async with process(database, outside_writes=outside_writes) as (app, plugin):
        with app.activate():
            await Outside.search().delete()
            await Outside.create([{"_id": key} for key in range(KEYS)])
            await Outside.get(0)
            if outside_writes:
                await _follows(plugin)
            until, writes, reads = time.monotonic() + SECONDS, 0, 0

            async def read() -> None:
                nonlocal reads
                while time.monotonic() < until:
                    await Outside.get(random.randrange(KEYS))
                    reads += 1
                    await asyncio.sleep(0.001)

            async def write() -> None:
                nonlocal writes
                while time.monotonic() < until:
                    key = random.randrange(KEYS)
                    await Outside.search([("_id", "=", key)]).update({"version": writes})
                    writes += 1
                    await asyncio.sleep(pause)

            figures = plugin.cache.shared
            assert figures is not None
            before = figures.loads
            await asyncio.gather(write(), *(read() for _ in range(4)))
            return 1 - (figures.loads - before) / reads, writes / SECONDS


def main() -> None:
    """Print the tables, or the figures of the first as JSON."""
    arguments = [each for each in sys.argv[1:] if each != "--json"]
    writes = int(arguments[0]) if arguments else WRITES
    database = f"cache_outside_{uuid.uuid4().hex[:8]}"
    try:
        taken = asyncio.run(measure(database, writes))
        figures = {
            "writes": len(taken),
            **{f"p{n}": taken[min(len(taken) - 1, len(taken) * n // 100)] for n in (50, 95, 99)},
            "most": taken[-1],
        }
        if "--json" in sys.argv:
            print(json.dumps(figures))
            return
        print("| writes from outside | p50 ms | p95 ms | p99 ms | most ms |\n|---|---|---|---|---|")
        times = " | ".join(f"{figures[name] * 1000:.1f}" for name in ("p50", "p95", "p99", "most"))
        print(f"| {writes:,} | {times} |\n")
        print("| own writes a second | hits without the stream | hits with it |\n|---|---|---|")
        for pause in (0.2, 0.05, 0.01, 0.002):
            without, _ = asyncio.run(hit_ratio(database, pause, outside_writes=False))
            with_it, rate = asyncio.run(hit_ratio(database, pause, outside_writes=True))
            print(f"| {rate:.0f} | {without:.1%} | {with_it:.1%} |", flush=True)
    finally:
        with MongoClient[dict[str, Any]](os.environ["EARNORM_TEST_MONGO_URI"]) as client:
            client.drop_database(database)


if __name__ == "__main__":
    main()
