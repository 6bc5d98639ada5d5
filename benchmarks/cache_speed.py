"""What a read costs from each level, against find_one of the same driver: ``python -m benchmarks.cache_speed``.

The ways are measured in turns, and each line is the lowest of all rounds: the time, and how often it goes into the time of a
find_one of 10 flat fields by its id on the same connection pool. On a busy machine only the ratios mean something.
It needs EARNORM_TEST_MONGO_URI and EARNORM_TEST_REDIS_URL, fills a database of its own and drops it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import uuid
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any

from pymongo import AsyncMongoClient

from benchmarks.in_turns import lowest, run
from earnorm import App, Int, String, models
from earnorm_cache import Cache, CachePlugin, CacheSettings

TASKS = 50
TIMES = 50
"""How often each work runs in a round, one after the other, in an App that was activated once, as that of a request is."""
ROUNDS = 30


class Good(models.BaseModel):
    """A record of nine flat fields."""

    _name = "speed.good"

    title = String()
    n1 = Int()
    n2 = Int()
    n3 = Int()
    n4 = Int()
    s1 = String()
    s2 = String()
    s3 = String()
    s4 = String()


class GoodInRedis(Good):
    """One that is kept in Redis alone."""

    _name = "speed.good_in_redis"
    _collection = "speed_good_in_redis"
    _cache = Cache(level="redis")


class GoodCold(Good):
    """One of which each record is read once."""

    _name = "speed.good_cold"
    _collection = "speed_good_cold"
    _cache = Cache(level="redis")


class GoodNowhere(Good):
    """One that is not cached."""

    _name = "speed.good_nowhere"
    _collection = "speed_good_nowhere"
    _cache = False


def values(number: int) -> dict[str, Any]:
    """Return the values of one record."""
    numbers = {f"n{i}": number + i for i in range(1, 5)}
    return {"title": f"good {number}", **numbers, **{f"s{i}": "some text" for i in range(1, 5)}}


def inside(
    app: App | None, work: Callable[[], Awaitable[Any]], times: int = TIMES
) -> Callable[[], Awaitable[Any]]:
    """Return work that runs some times in an App; in none for what the driver does."""

    async def run_inside() -> Any:
        with nullcontext() if app is None else app.activate():
            for _ in range(times):
                await work()

    return run_inside


async def main(uri: str) -> None:
    """Measure each level."""
    redis = os.environ.get("EARNORM_TEST_REDIS_URL")
    if not redis:
        sys.exit("EARNORM_TEST_REDIS_URL is not set: python -m tests.servers -- python -m …")
    database = f"cache_speed_{uuid.uuid4().hex[:8]}"
    here = CachePlugin(CacheSettings(outside_writes=False))
    there = CachePlugin(
        CacheSettings.model_validate(
            {"redis_url": redis, "redis_timeout": 5.0, "outside_writes": False}
        )
    )
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(uri)
    async with (
        App(uri, database=database, plugins=[], name="plain") as plain,
        App(uri, database=database, plugins=[here], name="memory") as memory,
        App(uri, database=database, plugins=[there], name="redis") as shared,
    ):
        with plain.activate():
            for model in (Good, GoodInRedis, GoodNowhere):
                await model.create([values(n) for n in range(500)])
            cold = await GoodCold.create([values(n) for n in range(20 * (ROUNDS + 1))])
            ids = {m: [r.pk for r in await m.search()] for m in (Good, GoodInRedis, GoodNowhere)}
        raw = client[database]["speed_good"]
        goods, in_redis, nowhere = ids[Good], ids[GoodInRedis], ids[GoodNowhere]
        one, one_in_redis, one_nowhere = goods[0], in_redis[0], nowhere[0]
        fresh, known = iter([r.pk for r in cold]), itertools.cycle([r.pk for r in cold])

        async def find_one() -> None:
            await raw.find_one({"_id": one})

        async def find_50() -> None:
            await asyncio.gather(*(raw.find_one({"_id": pk}) for pk in goods[:TASKS]))

        async def get_50() -> None:
            await asyncio.gather(*(GoodInRedis.get(pk) for pk in in_redis[:TASKS]))

        async def get_50_here() -> None:
            await asyncio.gather(*(Good.get(pk) for pk in goods[:TASKS]))

        key = ("speed.good", one)
        look = memory_of(here).get

        async def look_up() -> None:
            for _ in range(100):
                look(key)

        with memory.activate():
            await asyncio.gather(*(Good.get(pk) for pk in goods[:TASKS]))
        with shared.activate():
            await asyncio.gather(*(GoodInRedis.get(pk) for pk in in_redis))

        taken = await lowest(
            {
                "find_one of the driver": inside(None, find_one),
                "Model.get, without the plugin": inside(plain, lambda: Good.get(one)),
                "Model.get of a model that isn't cached": inside(
                    memory, lambda: GoodNowhere.get(one_nowhere)
                ),
                "Model.get of that, without the plugin": inside(
                    plain, lambda: GoodNowhere.get(one_nowhere)
                ),
                "Model.get from the memory": inside(memory, lambda: Good.get(one)),
                "the look into the memory": inside(None, look_up),
                "Model.get from Redis": inside(shared, lambda: GoodInRedis.get(one_in_redis)),
            },
            1,
            ROUNDS,
        )
        base = taken["find_one of the driver"].clock / TIMES
        for way, seconds in taken.items():
            each = seconds.clock / TIMES / (100 if way.startswith("the look") else 1)
            print(f"{way:<42} {each * 1e6:9.2f} µs   {base / each:8.2f} ×")

        batches = await lowest(
            {
                "50 find_one": inside(None, find_50, 2),
                "50 from Redis": inside(shared, get_50, 2),
                "50 from the memory": inside(memory, get_50_here, 2),
            },
            1,
            ROUNDS,
        )
        for way, seconds in batches.items():
            each = seconds.clock / TASKS / 2
            print(f"{way + ' at once, each':<42} {each * 1e6:9.2f} µs   {base / each:8.2f} ×")

        cost = await lowest(
            {
                "loads": inside(plain, lambda: GoodCold.get(next(known)), 20),
                "misses": inside(shared, lambda: GoodCold.get(next(fresh)), 20),
            },
            1,
            ROUNDS,
        )
        without, using = cost["loads"].clock / 20, cost["misses"].clock / 20
        print(
            f"{'a miss with Redis':<42} {using * 1e6:9.2f} µs, {using / without:.2f} of one without"
        )
    await client.drop_database(database)
    await client.close()


def memory_of(plugin: CachePlugin) -> Any:
    """Return the kept entries of a plugin."""
    return plugin._levels.shelves.memory


if __name__ == "__main__":
    run(main, "cache_speed")
