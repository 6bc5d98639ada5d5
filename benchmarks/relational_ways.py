"""The ways to answer a condition across a relation: ``python -m benchmarks.relational_ways``.

Prints, for T authors that fulfil the condition and O posts that the rest of the domain leaves, the
milliseconds of each way and of the one that EarnORM chooses; the figures stand in docs/performance.md.
It needs EARNORM_TEST_MONGO_URI, fills a database of its own and drops it.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from bson import ObjectId

import earnorm
from earnorm import App, Int, Many2one, models
from earnorm.model.reading import resolution

RECORDS = 200_000
_BATCH = 20_000
_SLOW = 1.0
"""Seconds after which a way is not asked again."""
TARGETS = (100, 1_000, 2_000, 10_000, 100_000, 200_000)
HERE = (10, 1_000, 5_000, 10_000, 100_000)
TOO_LONG = 100_000
"""Posts that are looked up for one number of targets only: it takes 10 s and more."""
_MANY = 10**9


class Author(models.BaseModel):
    """One of many."""

    _name = "benchmark.author"

    n = Int(index=True)


class Post(models.BaseModel):
    """By one of them."""

    _name = "benchmark.post"

    n = Int(index=True)
    author_id = Many2one(Author, index=True)


async def _none(self: object, link: object) -> None:
    """No filter can hold the ids."""


WAYS: dict[str, dict[str, Any]] = {
    "ids": {"FEW_HERE": 0},
    "here first": {"FEW": 0, "FEW_HERE": _MANY},
    "$lookup": {"_Resolver._keys": _none},
    "chosen": {},
}


@contextmanager
def _forced(settings: dict[str, Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for name, value in settings.items():
            stack.enter_context(patch(f"{resolution.__name__}.{name}", value))
        yield


def _id(number: int) -> ObjectId:
    return ObjectId(f"{number:024x}")


async def _fill(app: App) -> None:
    await Author.search().count()
    await Post.search().count()
    database = app.dangerous_raw("a benchmark's records, quickly")
    make: dict[type[models.BaseModel], Callable[[int], dict[str, Any]]] = {
        Author: lambda n: {"_id": _id(n), "n": n},
        Post: lambda n: {"_id": _id(n), "n": n, "author_id": _id(n * 7919 % RECORDS)},
    }
    for model, made in make.items():
        collection = database[app.bind(model)._collection.name]
        for start in range(0, RECORDS, _BATCH):
            docs = [made(n) for n in range(start, start + _BATCH)]
            await collection.insert_many(docs, ordered=False)


async def _best(domain: list[Any], settings: dict[str, Any]) -> tuple[float, int]:
    best = float("inf")
    found = 0
    with _forced(settings):
        for _ in range(3):
            began = time.perf_counter()
            found = await Post.count(domain)
            best = min(best, time.perf_counter() - began)
            if best > _SLOW:
                break
    return best * 1000, found


async def main() -> None:
    """Fill, measure, drop."""
    uri = os.environ["EARNORM_TEST_MONGO_URI"]
    async with earnorm.App(uri, database=f"bench_{uuid.uuid4().hex[:8]}", plugins=[]) as app:
        try:
            await _fill(app)
            print(f"| T | O | {' | '.join(WAYS)} |\n|{'---|' * (2 + len(WAYS))}")
            for targets in TARGETS:
                for here in HERE:
                    domain = [("n", "<", here), ("author_id.n", "<", targets)]
                    took = {
                        way: await _best(domain, forced)
                        for way, forced in WAYS.items()
                        if way != "$lookup" or here < TOO_LONG or targets == TOO_LONG
                    }
                    if len({found for _, found in took.values()}) > 1:
                        raise SystemExit(f"the ways disagree about {domain}: {took}")
                    cells = " | ".join(f"{took[w][0]:,.1f}" if w in took else "" for w in WAYS)
                    print(f"| {targets:,} | {here:,} | {cells} |", flush=True)
        finally:
            raw = app.dangerous_raw("the benchmark is over")
            await raw.client.drop_database(app.settings.database)


if __name__ == "__main__":
    asyncio.run(main())
