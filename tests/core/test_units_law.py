"""The law of units without a transaction: one at a time at each record, whoever is cancelled."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import hypothesis
import hypothesis.strategies as st
import pytest

from earnorm.plugin import alone_at
from earnorm.testing import Scheduler

from .laws import World, law, world
from .shop import Person

pytestmark = pytest.mark.fuzz


@pytest.fixture(scope="module")
def app_world() -> Iterator[World]:
    with world("memory") as started:
        yield started


PKS = st.sets(st.integers(1, 3), max_size=3)


@law(60)
@hypothesis.given(
    wanted=st.lists(st.tuples(PKS, PKS), min_size=1, max_size=5),
    cancelled=st.lists(st.integers(0, 4), max_size=6),
    choices=st.lists(st.integers(0, 9), max_size=60),
)
def test_no_two_are_at_one_record_and_a_cancellation_leaves_none_held(
    app_world: World,
    wanted: list[tuple[set[int], set[int]]],
    cancelled: list[int],
    choices: list[int],
) -> None:
    async def example() -> None:
        at: dict[int, int] = {}
        victims = list(cancelled)
        tasks: dict[int, asyncio.Task[object]] = {}

        async def enter(number: int, pks: set[int], then: set[int] | None) -> None:
            # Those of the outer block are shared with the inner one. An inner block may ask for more
            # only in the order of all, or it would wait for its two seconds.
            async with alone_at([(Person._name, pk) for pk in pks]) as is_alone:
                assert is_alone
                own = {pk for pk in pks if at.get(pk) != number}
                assert not own & at.keys()
                at.update(dict.fromkeys(own, number))
                try:
                    if victims and (victim := victims.pop()) in tasks:
                        tasks[victim].cancel()
                    await asyncio.sleep(0)
                    if then is not None:
                        highest = max(pks, default=0)
                        await enter(number, {pk for pk in then if pk > highest or pk in pks}, None)
                finally:
                    for pk in own:
                        del at[pk]

        async def work(number: int) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks[number] = task
            try:
                await enter(number, *wanted[number])
            except asyncio.CancelledError:
                task.uncancel()

        turns = itertools.chain(choices, itertools.count())
        scheduler = Scheduler(lambda _: next(turns), patience=0.001)
        assert await scheduler.run([*map(work, range(len(wanted)))]) == [None] * len(wanted)
        assert not at and len(app_world.app.queue) == 0

    app_world.run(example)
