"""What a write by a condition costs the cache: ``python -m benchmarks.cache_mixed``.

A mixed load reads 200 records by their ids, and now and then changes those of one of 100 shelves by a condition. Once
the writes drop what they change, and once, as before, the whole collection: the share of hits, and the time of a write. It
needs EARNORM_TEST_MONGO_URI, fills a database of its own and drops it.
"""

from __future__ import annotations

import random
import time
import uuid

from pymongo import AsyncMongoClient

from benchmarks.in_turns import run
from earnorm import App, Int, models
from earnorm_cache import CachePlugin, CacheSettings, writing

READS = 4_000
ROUNDS = 3


class Item(models.BaseModel):
    """A record that lies on a shelf."""

    _name = "mixed.item"
    _indexes = [{"shelf": 1}]

    shelf = Int()
    pieces = Int(default=0)


async def main(uri: str) -> None:
    """Print the share of hits and the time of a write in both ways."""
    database = f"cache_mixed_{uuid.uuid4().hex[:8]}"
    plugin = CachePlugin(CacheSettings(outside_writes=False))
    async with App(uri, database=database, plugins=[plugin]) as app:
        with app.activate():
            await Item.create([{"shelf": n % 100} for n in range(200)])
            ids = [item.pk for item in await Item.search()]
            print("reads for a write   what a write drops     hits   a write")
            for reads in (4, 20, 100):
                for name, narrows in (("the collection", False), ("what it changes", True)):
                    hits, seconds = await measure(plugin, ids, reads, narrows=narrows)
                    print(f"{reads:>17}   {name:<18} {hits:8.1%} {seconds * 1e6:6.0f} µs")
    client: AsyncMongoClient[dict[str, object]] = AsyncMongoClient(uri)
    await client.drop_database(database)
    await client.close()


async def measure(
    plugin: CachePlugin, ids: list[object], reads: int, *, narrows: bool
) -> tuple[float, float]:
    """Return the share of hits, and the lowest median time of a write."""
    kept = writing.is_by_domain
    if not narrows:  # the way of before
        writing.is_by_domain = lambda op: False
    rnd, medians, hits, asked = random.Random(1), list[float](), 0, 0
    try:
        for _ in range(ROUNDS):
            plugin.cache.clear()
            before, times = plugin.cache.statistics(), list[float]()
            for number in range(READS):
                await Item.get(rnd.choice(ids))
                if not number % reads:
                    begun = time.perf_counter()
                    await Item.search([("shelf", "=", rnd.randrange(100))]).update(
                        {"pieces": number}
                    )
                    times.append(time.perf_counter() - begun)
            after = plugin.cache.statistics()
            hits += after.hits - before.hits
            asked += after.hits - before.hits + after.misses - before.misses
            medians.append(sorted(times)[len(times) // 2])
    finally:
        writing.is_by_domain = kept
    return hits / asked, min(medians)


if __name__ == "__main__":
    run(main, "cache_mixed")
