"""Laws about the queue of transactions: who holds a key is alone, and who leaves leaves nothing behind."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from earnorm import BaseModel, Int, Many2one, One2many, String, depends
from earnorm.kernel.transactions.queue import Contention, Key, Queue
from earnorm.testing import Interrupted, Scheduler

from .laws import World, law, world

pytestmark = pytest.mark.fuzz

KEYS: list[Key] = [("a", 1), ("a", 2), ("b", 1)]


@law(100)
@hypothesis.given(
    wanted=st.lists(st.sets(st.sampled_from(KEYS)), min_size=1, max_size=6),
    cancelled=st.lists(st.integers(0, 5), max_size=8),
    choices=st.lists(st.integers(0, 9), max_size=60),
)
def test_tasks_hold_a_key_one_after_the_other_in_the_order_in_which_they_came(
    wanted: list[set[Key]], cancelled: list[int], choices: list[int]
) -> None:
    async def example() -> None:
        queue = Queue(Contention())
        tasks: dict[int, asyncio.Task[Any]] = {}
        came: list[int] = []
        victims = list(cancelled)
        holders: dict[Key, list[int]] = defaultdict(list)
        held: dict[Key, list[int]] = defaultdict(list)

        async def work(number: int) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks[number] = task
            keys = wanted[number]
            try:
                came.append(number)
                place = await queue.take(keys, 2)
                assert (place is None) == (not keys)
                try:
                    for key in keys:
                        holders[key].append(number)
                        held[key].append(number)
                    for _ in range(3):
                        assert all(holders[key] == [number] for key in keys)
                        if victims and (victim := victims.pop()) in tasks:
                            tasks[victim].cancel()  # it waits, or holds a key itself, or is done
                        await asyncio.sleep(0)
                finally:
                    for key in keys:
                        holders[key].remove(number)
                    if place is not None:
                        place.leave()
                        place.leave()  # a second call does nothing
            except asyncio.CancelledError:
                pass

        turns = itertools.chain(choices, itertools.count())
        scheduler = Scheduler(lambda _: next(turns), patience=0.001)
        results = await scheduler.run([*map(work, range(len(wanted)))])
        assert results == [None] * len(wanted)
        assert len(queue) == 0
        for numbers in held.values():
            assert numbers == [number for number in came if number in numbers]

    asyncio.run(example())


class Shelf(BaseModel):
    _name = "queue.shelf"
    book_ids = One2many("queue.book", "shelf_id")
    books = Int(compute="_count", store=True, required=True)

    @depends("book_ids")
    def _count(self) -> int:
        return len(self.book_ids)


class Book(BaseModel):
    _name = "queue.book"
    shelf_id = Many2one(Shelf, required=True)
    title = String()


@pytest.fixture(scope="module")
def app_world() -> Iterator[World]:
    with world() as started:
        yield started


@law(20)
@hypothesis.given(
    works=st.lists(
        st.tuples(
            st.sampled_from(["create", "move", "unlink"]), st.integers(0, 3) | st.integers(0, 40)
        ),
        min_size=2,
        max_size=6,
    )
)
def test_random_cancellation_leaves_no_key_held_and_no_count_wrong(
    app_world: World, works: list[tuple[str, int]]
) -> None:
    async def example() -> None:
        shelves = list(await Shelf.create([{}, {}]))
        books = list(await Book.create([{"shelf_id": shelves[0]} for _ in works]))

        async def operation(number: int, work: str) -> None:
            if work == "create":
                await Book.create({"shelf_id": shelves[number % 2]})
            elif work == "move":
                await books[number].write({"shelf_id": shelves[1]})
            else:
                await books[number].unlink()

        async def cancelled(number: int, work: str, at: int) -> None:
            task = asyncio.current_task()
            assert task is not None

            def cancel(wait: int) -> None:
                if wait == at:
                    task.cancel()

            try:
                await Interrupted(operation(number, work), cancel)
            except asyncio.CancelledError:
                task.uncancel()

        async with asyncio.timeout(30):
            await asyncio.gather(*(cancelled(n, *work) for n, work in enumerate(works)))
        assert len(app_world.app.queue) == 0
        for shelf in shelves:
            await shelf.refresh()
            assert shelf.books == await Book.count([("shelf_id", "=", shelf.id)])

    app_world.run(example)
