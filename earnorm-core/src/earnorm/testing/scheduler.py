"""Decides which coroutine goes on at each await, so that a test of a race is the same in each run.

The coroutines run on a real event loop and await real answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Interrupted(Generic[T]):
    """Runs a coroutine, and calls a function each time that it waits::

        await Interrupted(record.save(), lambda wait: setattr(record, "name", "changed meanwhile"))

    Attributes:
        waits: The number of times that it has waited so far.

    Args:
        coroutine: The coroutine.
        between: A function that gets the number of the wait, from 0, while the coroutine waits. If
            it raises, the coroutine is cancelled, and the error is raised when that has ended.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], between: Callable[[int], object]) -> None:
        self.waits = 0
        self._coroutine = coroutine
        self._between = between

    def __await__(self) -> Generator[Any, Any, T]:
        step: Callable[..., Any] = self._coroutine.send
        given: Any = None
        while True:
            try:
                waits_for = step(given)
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                self._between(self.waits)
            except BaseException:
                yield from self._end()
                raise
            self.waits += 1
            try:
                given = yield waits_for
                step = self._coroutine.send
            except BaseException as error:  # the coroutine decides what a cancellation means to it
                given, step = error, self._coroutine.throw

    def _end(self) -> Generator[Any, Any, None]:
        """Cancel the coroutine, which nobody else can end, and await what it does at its end."""
        step: Callable[..., Any] = self._coroutine.throw
        given: Any = asyncio.CancelledError()
        while True:
            try:
                waits_for = step(given)
            except (Exception, asyncio.CancelledError):
                return
            try:
                given = yield waits_for
                step = self._coroutine.send
            except BaseException as error:
                given, step = error, self._coroutine.throw


class Scheduler:
    """Runs several coroutines, each in a task of its own, of which one at a time goes on::

        await Scheduler(random.Random(7).randrange).run([first.save(), second.save()])

    Args:
        choose: A function that gets the number of tasks that are not done, and returns the position
            of the one that goes on to its next wait.
        patience: The seconds to wait for the answer that the chosen task waits for. After them
            another one goes on, because the chosen one may wait for it.
    """

    def __init__(self, choose: Callable[[int], int], patience: float = 0.03) -> None:
        self._choose = choose
        self._patience = patience

    async def run(self, coroutines: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
        """Run all of them.

        Args:
            coroutines: The coroutines; ``choose`` counts them in this order.

        Returns:
            The result of each, or the exception that it raised, in the same order; a
            ``CancelledError``, too.

        Raises:
            BaseException: ``choose`` raised it, or this task was cancelled; the coroutines that are
                not done are cancelled first, and waited for.
        """
        turns = [_Turns(coroutine) for coroutine in coroutines]
        tasks = [asyncio.ensure_future(_result(each)) for each in turns]
        try:
            await self._take_turns(turns, tasks)
        except BaseException:
            await _ended(turns, tasks)
            raise
        return [_outcome(task) for task in tasks]

    async def _take_turns(
        self, turns: Sequence[_Turns], tasks: Sequence[asyncio.Future[Any]]
    ) -> None:
        while waiting := [t for t, task in zip(turns, tasks, strict=True) if not task.done()]:
            chosen = waiting[self._choose(len(waiting)) % len(waiting)]
            order = [chosen, *(each for each in waiting if each is not chosen)]
            for each in order:
                each.begin.set()
                if await each.has_gone_on(self._patience):
                    break


async def _ended(turns: Sequence[_Turns], tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel what is not done, and wait until it has cleaned up, in no order."""
    for each, task in zip(turns, tasks, strict=True):
        each.is_free = True
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for each in turns:
        each.close()  # a task that was cancelled before its first step has not begun it


def _outcome(task: asyncio.Future[Any]) -> Any:
    try:
        return task.result()
    except asyncio.CancelledError as error:  # it ended while a cancellation of it was under way
        return error


async def _result(turns: Awaitable[Any]) -> Any:
    try:
        return await turns
    except (Exception, asyncio.CancelledError) as error:
        return error


class _Turns:
    """A coroutine that goes on only when it is its turn, or at any time once it is free."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.begin = asyncio.Event()
        self.is_free = False
        self._ended = asyncio.Event()
        self._coroutine = coroutine

    async def has_gone_on(self, patience: float) -> bool:
        """Wait until it has come to its next wait or its end; return False if it takes too long."""
        try:
            await asyncio.wait_for(self._ended.wait(), patience)
        except TimeoutError:
            return False
        self._ended.clear()
        return True

    def close(self) -> None:
        """Close the coroutine, if it is not over."""
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[..., Any] = self._coroutine.send
        given: Any = None
        while True:
            try:
                if not self.is_free:
                    yield from self.begin.wait().__await__()
            except BaseException as error:  # a cancellation comes whoever's turn it is
                given, step = error, self._coroutine.throw
            self.begin.clear()
            try:
                waits_for = step(given)
            except StopIteration as end:
                self._ended.set()
                return end.value
            except BaseException:
                self._ended.set()
                raise
            self._ended.set()
            try:
                given = yield waits_for
                step = self._coroutine.send
            except BaseException as error:
                given, step = error, self._coroutine.throw
