"""Where EarnORM is faster than the loop that a program writes by hand: ``python -m benchmarks.beyond``.

Both on PyMongo, in one process, in turn; what each of them saw is compared. Prints, for each way, the
median of the rounds' ratios with its 95 % interval; the figures stand in docs/performance.md. A program
can do the same by hand with more code: of that the other benchmark tells. ``--quick`` takes small sizes.
It needs EARNORM_TEST_MONGO_URI, fills a database of its own and drops it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from pymongo import MongoClient

import earnorm
from benchmarks.data import SIZES, Sizes, fill, person
from benchmarks.report import interval_of_median
from benchmarks.runner import how_often, in_turn
from benchmarks.systems.earnorm import EarnORM, Inserted, Person
from benchmarks.systems.raw import PyMongo

Way = Callable[[], Awaitable[Any]]
PATIENCE = 4.0


@dataclass(frozen=True, slots=True)
class Pair:
    """One thing, done by a loop on the driver and by EarnORM."""

    title: str
    how: str
    by_hand: Way
    ours: Way


def pairs(raw: PyMongo, ours: EarnORM) -> list[Pair]:
    """What is compared; the bodies, and the workloads of the other benchmark, are what a reader would write."""
    db, sizes = raw.db, raw.sizes
    turns = iter(range(10**9))

    async def get() -> Any:
        with earnorm.coalescing():
            return await ours.get_tasks()

    async def two() -> Any:
        return [(r.name, r.age) for r in await Person.search(only=["name", "age"])]

    async def save_by_hand() -> Any:
        turn = next(turns)
        posts = await db["posts"].find({}).to_list(None)
        for number, post in enumerate(posts):
            title = {"title": f"Post {number} of {turn}"}
            await db["posts"].update_one({"_id": post["_id"]}, {"$set": title})
        return len(posts)

    async def save() -> Any:
        ours.turn = next(turns)
        return await ours.save_many()

    values = [person(number) for number in range(sizes.posts // 2)]

    async def mixed_by_hand() -> Any:
        inserted = db["inserted"]
        for each in values:
            done = await inserted.insert_one(dict(each))
            await inserted.update_one({"_id": done.inserted_id}, {"$set": {"visits": 1}})
        for document in await inserted.find({}).to_list(None):
            await inserted.delete_one({"_id": document["_id"]})
        return await inserted.count_documents({})

    async def mixed() -> Any:
        async with Inserted.bulk() as bulk:
            new = [bulk.create(each) for each in values]
        async with Inserted.bulk() as bulk:
            for each in new:
                bulk.write(each, {"visits": 1})
        async with Inserted.bulk() as bulk:
            for each in await Inserted.search():
                bulk.unlink(each)
        return await Inserted.count()

    asked = sum(map(len, raw.seen_by_tasks()))
    many, half = f"{sizes.people:,}", f"{sizes.posts // 2:,}"
    return [
        Pair(f"{sizes.tasks} tasks, {asked:,} gets", "`coalescing()`", raw.get_tasks, get),
        Pair(
            f"{sizes.posts:,} posts' authors",
            "`await post.author`",
            raw.posts_lazy,
            ours.posts_lazy,
        ),
        Pair(f"two of ten fields of {many}", '`only=["name", "age"]`', raw.find_two, two),
        Pair(f"{sizes.stream:,}, one by one", "`async for`", raw.stream, ours.stream),
        Pair(f"{sizes.posts:,} changed", "`posts.save()`", save_by_hand, save),
        Pair(f"{half} created, changed, deleted", "`bulk()`", mixed_by_hand, mixed),
    ]


async def _measure(pair: Pair, patience: float) -> list[float]:
    ways, seen, took = {"by hand": pair.by_hand, "ours": pair.ours}, {}, {}
    ratios: list[float] = []
    rounds, turn = 3, -1  # the first round warms up
    while turn < rounds:
        for name in in_turn(ways, turn):
            gc.collect()
            began = time.perf_counter()
            seen[name] = await ways[name]()
            took[name] = time.perf_counter() - began
        if seen["by hand"] != seen["ours"]:
            raise AssertionError(f"{pair.title}: the loop and EarnORM saw different things")
        if turn < 0:
            rounds = how_often(took["by hand"], 9, patience)
        else:
            ratios.append(took["ours"] / took["by hand"])
        turn += 1
    return ratios


async def main(sizes: Sizes, patience: float = PATIENCE) -> None:
    """Measure each pair, and print a table.

    Args:
        sizes: How much there is.
        patience: Seconds that a short pair is repeated for.
    """
    uri, database = os.environ["EARNORM_TEST_MONGO_URI"], f"beyond_{uuid.uuid4().hex[:8]}"
    raw, ours = PyMongo(uri, database, sizes), EarnORM(uri, database, sizes)
    with MongoClient[dict[str, Any]](uri) as filling:
        fill(filling[database], sizes, dbref=False)
        try:
            async with AsyncExitStack() as opened:
                for system in (raw, ours):
                    await system.open()
                    opened.push_async_callback(system.close)
                print("| what | EarnORM's way | time ÷ the loop's | 95 % interval | rounds |")
                print("|---|---|---|---|---|")
                for pair in pairs(raw, ours):
                    ratios = await _measure(pair, patience)
                    low, high = interval_of_median(ratios)
                    middle = statistics.median(ratios)
                    print(
                        f"| {pair.title} | {pair.how} | **{middle:.2f}** | {low:.2f} to {high:.2f} "
                        f"| {len(ratios)} |",
                        flush=True,
                    )
        finally:
            filling.drop_database(database)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.beyond", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    asyncio.run(main(SIZES["quick" if parser.parse_args().quick else "full"]))
