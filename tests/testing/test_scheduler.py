"""`Interrupted` and `Scheduler`: who goes on at each await is decided, and so the same in each run."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from earnorm import Int, models
from earnorm.testing import Interrupted, Scheduler, app_with


class Counter(models.BaseModel):
    _name = "testing.scheduler.counter"
    value = Int(required=True)


async def steps(name: str, log: list[str], count: int = 2) -> str:
    for step in range(count):
        log.append(f"{name}{step}")
        await asyncio.sleep(0)
    return name


async def orders(choose: Callable[[int], int]) -> list[str]:
    log: list[str] = []
    assert await Scheduler(choose).run([steps("a", log), steps("b", log)]) == ["a", "b"]
    return log


async def test_the_chosen_one_goes_on() -> None:
    assert await orders(lambda _: 0) == ["a0", "a1", "b0", "b1"]
    turns = itertools.cycle([0, 1])
    assert await orders(lambda _: next(turns)) == ["a0", "b0", "a1", "b1"]
    assert await orders(random.Random(3).randrange) == await orders(random.Random(3).randrange)


async def test_one_that_waits_for_another_does_not_stop_them() -> None:
    ready = asyncio.Event()

    async def waits() -> str:
        await ready.wait()
        return "waited"

    async def sets() -> None:
        ready.set()
        raise LookupError("an exception is a result")

    first, second = await Scheduler(lambda _: 0, patience=0.01).run([waits(), sets()])
    assert first == "waited" and isinstance(second, LookupError)


async def test_one_may_cancel_the_task_of_another_wherever_that_one_waits() -> None:
    log: list[str] = []
    tasks: list[asyncio.Task[Any]] = []

    async def waits() -> str:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        try:
            await asyncio.sleep(0)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("cancelled")
            raise
        return "never"

    async def cancels() -> str:
        tasks[0].cancel()
        return "cancels"

    for first in (0, 1, 2):  # before it waits for its turn, and inside its own waits
        turns = iter([0] * (first + 1))
        tasks.clear()
        cancelled, other = await Scheduler(lambda _, t=turns: next(t, 1), patience=0.01).run(
            [waits(), cancels()]
        )
        assert isinstance(cancelled, asyncio.CancelledError) and other == "cancels"
    assert log == ["cancelled"] * 3


async def test_a_race_of_two_saves_is_found_and_repeated() -> None:
    async def increase(pk: Any) -> None:
        counter = await Counter.get(pk)
        await asyncio.sleep(0)  # a database in memory does not wait by itself
        counter.value += 1
        await counter.save()

    async def result(choose: Callable[[int], int]) -> int:
        async with app_with():
            counter = await Counter.create({"value": 0})
            await Scheduler(choose).run([increase(counter.id), increase(counter.id)])
            await counter.refresh()
            return counter.value

    turns = itertools.cycle([0, 1])
    assert await result(lambda _: 0) == 2
    assert await result(lambda _: next(turns)) == 1  # the lost update


async def test_a_function_is_called_at_each_wait() -> None:
    log: list[str] = []
    work = Interrupted(steps("a", log), lambda wait: log.append(f"between {wait}"))
    assert await work == "a"
    assert log == ["a0", "between 0", "a1", "between 1"] and work.waits == 2


async def test_a_cancellation_reaches_the_coroutine() -> None:
    async def sleeps() -> str:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            return "cancelled"
        return "slept"

    task = asyncio.ensure_future(_awaited(Interrupted(sleeps(), lambda _: None)))
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "cancelled"


async def _awaited(work: Interrupted[str]) -> str:
    return await work


async def cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def lets_a_cancellation_escape() -> None:
    worker = asyncio.create_task(asyncio.sleep(60))
    worker.cancel()
    await worker


@pytest.mark.parametrize("coroutine", [cancels_itself, lets_a_cancellation_escape])
async def test_a_cancellation_is_returned_as_well(coroutine: Callable[[], Any]) -> None:
    cancelled, name = await Scheduler(lambda _: 0).run([coroutine(), steps("b", [])])
    assert isinstance(cancelled, asyncio.CancelledError)
    assert name == "b"


async def cleans_up(log: list[str]) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0)  # what it does at its end may wait, too
        await asyncio.sleep(0)
        log.append("clean")


def choosing(turns: int) -> Callable[[int], int]:
    """Return a choice that gives so many turns, and raises then."""
    left = itertools.count(turns - 1, -1)
    return lambda waiting: 0 if next(left) >= 0 else 1 // 0


@pytest.mark.parametrize("turns", [0, 1, 2])
@pytest.mark.filterwarnings("error")
async def test_a_choice_that_raises_leaves_no_task(turns: int) -> None:
    log: list[str] = []
    coroutines = [cleans_up(log), cleans_up(log)]
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(Scheduler(choosing(turns), 0.001).run(coroutines), 5)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert [inspect.getcoroutinestate(each) for each in coroutines] == [inspect.CORO_CLOSED] * 2
    assert len(log) == turns  # the first one waits for its sleep, so the second one goes on, too


async def test_a_run_that_is_cancelled_leaves_no_task() -> None:
    log: list[str] = []
    coroutines = [cleans_up(log), cleans_up(log)]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Scheduler(lambda _: 0, 0.001).run(coroutines), 0.05)
    assert log == ["clean"] * 2
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_interruption_that_raises_ends_the_coroutine() -> None:
    log: list[str] = []

    def between(wait: int) -> None:
        raise ZeroDivisionError

    coroutine = cleans_up(log)
    with pytest.raises(ZeroDivisionError):
        await Interrupted(coroutine, between)
    assert log == ["clean"]
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
