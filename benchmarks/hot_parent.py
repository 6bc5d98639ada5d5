"""Many tasks at one record: ``python -m benchmarks.hot_parent [tasks] [rounds]``.

Each task adds one child to the same parent, whose number of children is stored, or increases a
number in one audited record. Prints the milliseconds for all tasks (50 unless said otherwise),
median of the rounds, and EarnORM's throughput as a ratio to the raw driver's, which does the same
reads and writes in ``with_transaction``: as it is, and with a lock around it, so that its
transactions wait for each other. It needs EARNORM_TEST_MONGO_URI, fills a database of its own and
drops it.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import statistics
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from pymongo.asynchronous.client_session import AsyncClientSession

import earnorm
from earnorm import App, Inc, Int, Many2one, One2many, String, depends, models

TASKS = 50
ROUNDS = 7


class Thread(models.BaseModel):
    """The parent of all."""

    _name = "benchmark.thread"

    title = String()
    post_ids: One2many[Post] = One2many("benchmark.hot_post", "thread_id")
    posts = Int(compute="_count", store=True)

    @depends("post_ids")
    def _count(self) -> int:
        return len(self.post_ids)


class Post(models.BaseModel):
    """A child."""

    _name = "benchmark.hot_post"

    thread_id = Many2one(Thread, index=True)
    text = String()


class Counter(models.BaseModel):
    """The record that everybody changes."""

    _name = "benchmark.hot_counter"

    n = Int(default=0)


class Raw:
    """The same with the driver alone."""

    def __init__(self, database: Any) -> None:
        self.client = database.client
        self.threads = database["benchmark_thread"]
        self.posts = database["benchmark_hot_post"]
        self.counters = database["benchmark_hot_counter"]
        self.entries = database["audit_entries"]

    async def add(self, thread: Any, session: AsyncClientSession) -> None:
        """Add a child, and count the children of its parent."""
        await self.posts.insert_one({"thread_id": thread, "text": "x"}, session=session)
        query = {"_id": {"$in": [thread]}}
        parent = await self.threads.find(query, {"posts": 1}, session=session).to_list(None)
        children = self.posts.find({"thread_id": {"$in": [thread]}}, session=session)
        number = len(await children.to_list(None))
        if parent[0].get("posts") != number:
            change = {"$set": {"posts": number}}
            await self.threads.update_one({"_id": thread}, change, session=session)

    async def increase(self, counter: Any, session: AsyncClientSession) -> None:
        """Increase the number, and store an entry of it."""
        query = {"_id": counter}
        before = await self.counters.find(query, session=session).to_list(None)
        await self.counters.update_one(query, {"$inc": {"n": 1}}, session=session)
        after = await self.counters.find(query, session=session).to_list(None)
        entry = {
            "model": "benchmark.hot_counter",
            "record_id": str(counter),
            "operation": "write",
            "at": datetime.datetime.now(datetime.UTC),
            "principal": None,
            "system": False,
            "reason": None,
            "transaction": uuid.uuid4().hex,
            "changes": {"n": {"old": before[0]["n"], "new": after[0]["n"]}},
        }
        await self.entries.insert_one(entry, session=session)

    async def transact(self, work: Callable[[AsyncClientSession], Awaitable[None]]) -> None:
        """Run the work in the driver's convenient transaction."""
        async with self.client.start_session() as session:
            await session.with_transaction(work)


async def _timed(tasks: int, work: Callable[[], Awaitable[object]]) -> float:
    """Return the milliseconds for all tasks at once."""
    begin = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(tasks)))
    return (time.perf_counter() - begin) * 1000


async def _children(app: App, raw: Raw, tasks: int, way: str) -> float:
    thread = await Thread.create({"title": "t"})
    lock = asyncio.Lock() if way == "queued" else contextlib.nullcontext()

    async def work() -> None:
        if way == "earnorm":
            await Post.create({"thread_id": thread, "text": "x"})
            return
        async with lock:
            await raw.transact(lambda session: raw.add(thread.pk, session))

    took = await _timed(tasks, work)
    stored = await raw.threads.find_one({"_id": thread.pk})
    assert stored["posts"] == tasks, stored
    return took


async def _audited(app: App, raw: Raw, tasks: int, way: str) -> float:
    counter = await Counter.create({})
    lock = asyncio.Lock() if way == "queued" else contextlib.nullcontext()

    async def work() -> None:
        if way == "earnorm":
            await next(copies).write({"n": Inc(1)})
            return
        async with lock:
            await raw.transact(lambda session: raw.increase(counter.pk, session))

    # Copies of the record, since writes of one object take turns in any case.
    copies = iter([await Counter.get(counter.id) for _ in range(tasks)])
    took = await _timed(tasks, work)
    stored = await raw.counters.find_one({"_id": counter.pk})
    assert stored["n"] == tasks, stored
    return took


CASES: dict[str, tuple[Callable[[App, Raw, int, str], Awaitable[float]], list[str]]] = {
    "children of one parent": (_children, []),
    "writes of one audited record": (_audited, ["audit"]),
}
WAYS = {"earnorm": "EarnORM", "queued": "raw, with a lock", "alone": "raw, without one"}


async def main(tasks: int, rounds: int) -> None:
    """Run all cases, and print their figures."""
    for title, (case, plugins) in CASES.items():
        database = f"benchmark_{uuid.uuid4().hex[:12]}"
        uri = os.environ["EARNORM_TEST_MONGO_URI"]
        async with earnorm.App(uri, database=database, plugins=plugins) as app:
            native = app.dangerous_raw("the raw driver's part of the benchmark")
            raw = Raw(native)
            times: dict[str, list[float]] = {way: [] for way in WAYS}
            for number in range(rounds + 1):
                for way in WAYS:  # in turns, so that a busy machine is as bad for each
                    took = await case(app, raw, tasks, way)
                    if number:  # the first round fills caches and opens connections
                        times[way].append(took)
            middle = {way: statistics.median(measured) for way, measured in times.items()}
            print(f"{title}, {tasks} tasks")
            for way, name in WAYS.items():
                ratio = middle[way] / middle["earnorm"]
                print(f"  {name:18} {middle[way]:8.0f} ms   EarnORM's throughput {ratio:5.2f} x")
            print(f"  {app.contention}")
            await native.client.drop_database(database)


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    asyncio.run(main(*(arguments + [TASKS, ROUNDS][len(arguments) :])))
