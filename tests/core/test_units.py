"""Units without a transaction: they end as a whole, and one at a time at each record."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from earnorm import App, AppStopping, PluginError
from earnorm.kernel.life import in_flight
from earnorm.kernel.life.in_flight import Stopped
from earnorm.plugin import alone_at, unbroken
from earnorm.testing import Interrupted

from .shop import Person


class Gate:
    """A place in a piece of work where it waits."""

    def __init__(self) -> None:
        self.entered, self.opened = asyncio.Event(), asyncio.Event()
        self.done = False

    async def work(self) -> int:
        self.entered.set()
        await self.opened.wait()
        number = await Person.count()
        self.done = True
        return number


async def begun(gate: Gate, work: Callable[[], Awaitable[int]] | None = None) -> asyncio.Task[int]:
    async def unit() -> int:
        return await unbroken(work or gate.work)

    task = asyncio.ensure_future(unit())
    await gate.entered.wait()
    return task


# -- it ends as a whole ---------------------------------------------------------------------------


async def test_work_ends_before_the_cancellation_is_raised(memory_app: App) -> None:
    gate = Gate()
    task = await begun(gate)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gate.done


async def test_work_gives_its_result_and_raises_its_error(memory_app: App) -> None:
    gate = Gate()
    gate.opened.set()
    assert await unbroken(gate.work) == 0

    async def failing() -> None:
        raise LookupError("its own")

    with pytest.raises(LookupError, match="its own"):
        await unbroken(failing)


async def test_a_cancellation_comes_before_an_error_that_nobody_waits_for(
    memory_app: App, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()

    async def failing() -> int:
        await gate.work()
        raise LookupError("its own")

    task = await begun(gate, failing)
    task.cancel()
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "never retrieved" not in caplog.text


async def test_work_that_does_not_end_is_cut_off_and_that_is_logged(
    memory_app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(in_flight, "UNBROKEN_SECONDS", 0.01)
    gate = Gate()
    task = await begun(gate)
    task.cancel()
    with (
        caplog.at_level(logging.WARNING, "earnorm"),
        pytest.raises(asyncio.CancelledError),
    ):
        await task
    assert "work that belongs together is cut off" in caplog.text
    await asyncio.sleep(0)
    assert not gate.done and not memory_app.in_flight._unbroken


async def test_a_stop_that_cuts_off_lets_it_end(memory_app: App) -> None:
    gate = Gate()

    async def cut_off() -> int:
        with memory_app.in_flight.whole():
            return await unbroken(gate.work)

    task = asyncio.ensure_future(cut_off())
    await gate.entered.wait()
    stopping = asyncio.ensure_future(memory_app.stop(grace=0))
    await asyncio.sleep(0.01)
    assert not stopping.done()
    gate.opened.set()  # it asks the database only now
    assert await stopping == Stopped(operations=1)
    with pytest.raises(AppStopping):
        await task
    assert gate.done


# -- alone at its records -------------------------------------------------------------------------


async def test_many_records_are_held_and_a_task_that_outlives_the_block_holds_none(
    memory_app: App,
) -> None:
    everything = [("core.person", pk) for pk in range(200)]
    go_on = asyncio.Event()

    async def later() -> bool:
        await go_on.wait()
        async with alone_at(everything[:1]) as is_alone:
            return is_alone

    async with alone_at(everything) as is_alone:
        assert is_alone and len(memory_app.queue) == 200
        task = asyncio.ensure_future(later())
    assert len(memory_app.queue) == 0
    async with alone_at(everything[:1]):
        go_on.set()
        await asyncio.sleep(0.01)
        assert not task.done()
    assert await task


async def test_two_blocks_that_wait_for_each_other_go_on_after_a_while(
    memory_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    from earnorm.kernel.transactions import units

    monkeypatch.setattr(units, "LONGEST_WAIT", 0.02)
    both = asyncio.Barrier(2)

    async def work(first: int, second: int) -> bool:
        async with alone_at([("core.person", first)]) as is_alone:
            assert is_alone
            await both.wait()
            async with alone_at([("core.person", second)]) as is_alone:
                return is_alone

    assert False in await asyncio.gather(work(1, 2), work(2, 1))
    assert memory_app.contention.queue_passed and len(memory_app.queue) == 0


async def test_what_is_no_record_is_refused(memory_app: App) -> None:
    with pytest.raises(PluginError, match="pairs"):
        async with alone_at([("core.person", {})]):
            pytest.fail("it was entered")
    async with alone_at([]) as is_alone:
        assert is_alone


async def test_a_work_is_cancelled_at_each_of_its_waits(memory_app: App) -> None:
    for at in range(1, 12):
        done: list[int] = []

        async def unit(done: list[int] = done) -> None:
            await Person.create({"name": "Ann"})
            await asyncio.sleep(0)
            done.append(await Person.count())

        task = asyncio.current_task()
        assert task is not None

        def cancel(wait: int, at: int = at, task: asyncio.Task[object] = task) -> None:
            if wait == at:
                task.cancel()

        before = await Person.count()
        try:
            await Interrupted(unbroken(unit), cancel)
        except asyncio.CancelledError:
            task.uncancel()
        assert len(done) == await Person.count() - before == 1
