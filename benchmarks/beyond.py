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
from dataclasses import dataclass
from typing import Any

from bson import ObjectId
from pymongo import AsyncMongoClient, MongoClient
from pymongo.asynchronous.database import AsyncDatabase

import earnorm
from benchmarks.data import PEOPLE, SIZES, Sizes, fill, oid, person
from benchmarks.report import interval_of_median
from benchmarks.runner import how_often, in_turn
from benchmarks.systems.earnorm import Inserted, Person, Post, Streamed

Way = Callable[[], Awaitable[Any]]
PATIENCE = 4.0


@dataclass(frozen=True, slots=True)
class Pair:
    """One thing, done by a loop on the driver and by EarnORM."""

    title: str
    how: str
    by_hand: Way
    ours: Way


def pairs(db: AsyncDatabase[dict[str, Any]], sizes: Sizes) -> list[Pair]:
    """What is compared; the bodies are what a reader would write."""
    ids = [oid(PEOPLE, number % sizes.people) for number in range(sizes.calls * 2)]
    shares = [ids[task :: sizes.tasks] for task in range(sizes.tasks)]
    turns = iter(range(10**9))

    async def get_by_hand() -> Any:
        async def task(mine: list[ObjectId]) -> list[Any]:
            return [(await db["people"].find_one({"_id": pk}) or {})["name"] for pk in mine]

        return await asyncio.gather(*map(task, shares))

    async def get() -> Any:
        async def task(mine: list[ObjectId]) -> list[Any]:
            return [(await Person.get(pk)).name for pk in mine]

        with earnorm.coalescing():
            return await asyncio.gather(*map(task, shares))

    async def authors_by_hand() -> Any:
        names = []
        for post in await db["posts"].find({}).to_list(None):
            names.append((await db["authors"].find_one({"_id": post["author"]}) or {})["name"])
        return names

    async def authors() -> Any:
        return [(await post.author).name for post in await Post.search()]

    async def two_by_hand() -> Any:
        return [(d["name"], d["age"]) for d in await db["people"].find({}).to_list(None)]

    async def two() -> Any:
        return [(r.name, r.age) for r in await Person.search(only=["name", "age"])]

    async def stream_by_hand() -> Any:
        total = 0
        async for document in db["stream"].find({}):
            total += document["age"] + len(document["name"])
        return total

    async def stream() -> Any:
        total = 0
        async for record in Streamed.search():
            total += record.age + len(record.name)
        return total

    async def save_by_hand() -> Any:
        turn = next(turns)
        posts = await db["posts"].find({}).to_list(None)
        for number, post in enumerate(posts):
            title = {"title": f"Post {number} of {turn}"}
            await db["posts"].update_one({"_id": post["_id"]}, {"$set": title})
        return len(posts)

    async def save() -> Any:
        turn = next(turns)
        posts = await Post.search()
        for number, post in enumerate(posts):
            post.title = f"Post {number} of {turn}"
        return await posts.save()

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

    many, half = f"{sizes.people:,}", f"{sizes.posts // 2:,}"
    return [
        Pair(f"{sizes.tasks} tasks, {len(ids):,} gets", "`coalescing()`", get_by_hand, get),
        Pair(f"{sizes.posts:,} posts' authors", "`await post.author`", authors_by_hand, authors),
        Pair(f"two of ten fields of {many}", '`only=["name", "age"]`', two_by_hand, two),
        Pair(f"{sizes.stream:,}, one by one", "`async for`", stream_by_hand, stream),
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
    with MongoClient[dict[str, Any]](uri) as filling:
        fill(filling[database], sizes, dbref=False)
        try:
            async with (
                AsyncMongoClient[dict[str, Any]](uri) as client,
                earnorm.App(uri, database=database, plugins=[]),
            ):
                print("| what | EarnORM's way | time ÷ the loop's | 95 % interval | rounds |")
                print("|---|---|---|---|---|")
                for pair in pairs(client[database], sizes):
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
