"""Decides who goes on at every await: one coroutine with calls in between, or several that take turns.

The coroutines run on a real event loop and await real answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Interrupted(Generic[T]):
    """Runs a coroutine, and calls a function each time when it begins to wait.

    Attributes:
        waits: The number of times that it has waited so far.

    Args:
        coroutine: The coroutine.
        between: It gets the number of the wait, from 0, while the coroutine waits.
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
            self._between(self.waits)
            self.waits += 1
            try:
                given = yield waits_for
                step = self._coroutine.send
            except BaseException as error:  # the coroutine decides what a cancellation means to it
                given, step = error, self._coroutine.throw


class Scheduler:
    """Runs several coroutines, each in a task of its own, of which one at a time goes on.

    Args:
        choose: It gets the number of tasks that are not done, and returns the position of the one
            that goes on to its next wait.
        patience: The seconds to wait for the answer that the chosen task waits for. After them
            another one goes on, because the chosen one may wait for it.
    """

    def __init__(self, choose: Callable[[int], int], patience: float = 0.03) -> None:
        self._choose = choose
        self._patience = patience

    async def run(self, coroutines: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
        """Run all, and return their results, or the exceptions that they raised."""
        turns = [_Turns(coroutine) for coroutine in coroutines]
        tasks = [asyncio.ensure_future(_result(each)) for each in turns]
        while waiting := [t for t, task in zip(turns, tasks, strict=True) if not task.done()]:
            chosen = waiting[self._choose(len(waiting)) % len(waiting)]
            order = [chosen, *(each for each in waiting if each is not chosen)]
            for each in order:
                each.begin.set()
                if await each.has_gone_on(self._patience):
                    break
        return [task.result() for task in tasks]


async def _result(turns: Awaitable[Any]) -> Any:
    try:
        return await turns
    except Exception as error:
        return error


class _Turns:
    """A coroutine that goes on only when it is its turn."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.begin = asyncio.Event()
        self._ended = asyncio.Event()
        self._coroutine = coroutine

    async def has_gone_on(self, patience: float) -> bool:
        try:
            await asyncio.wait_for(self._ended.wait(), patience)
        except TimeoutError:
            return False
        self._ended.clear()
        return True

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[..., Any] = self._coroutine.send
        given: Any = None
        while True:
            yield from self.begin.wait().__await__()
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
