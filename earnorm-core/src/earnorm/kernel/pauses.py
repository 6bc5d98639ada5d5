"""Pauses in the work on many records, in which the other tasks of the event loop run.

No other task runs while one works. Whatever is awaited and works on many records therefore works on
parts of ``EVERY`` of them, looks at the clock after each part, and pauses when nobody has for ``TURN``
seconds. All loops have one form, in which few records cost nothing, and many no more than a slice::

    for part in parts(records):
        for record in part:
            ...
        if part is not records:
            await pause()

A pause is a place where other tasks read and change the same records. So it stands only between two
records, never inside the work on one, and after the database's answer it is one of ``Finishing``.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, overload

T = TypeVar("T")

EVERY = 50
"""The number of records between two looks at the clock: at 100 µs each, which is much, 5 ms."""

TURN = 0.01
"""The seconds of work between two pauses, as nearly as ``EVERY`` allows."""

clock = time.monotonic


class _Thread(threading.local):
    """The time of the last pause of a task in this thread."""

    paused_at = 0.0


_thread = _Thread()


async def pause() -> None:
    """Run the other tasks of the loop, unless somebody has paused in the last ``TURN`` seconds."""
    if clock() - _thread.paused_at >= TURN:
        await asyncio.sleep(0)
        _thread.paused_at = clock()


@overload
def parts(items: list[T]) -> Iterable[list[T]]: ...
@overload
def parts(items: Sequence[T]) -> Iterable[Sequence[T]]: ...
def parts(items: Sequence[T]) -> Iterable[Sequence[T]]:
    """Return parts of at most ``EVERY`` items; a sequence that is no longer is its only part."""
    if len(items) <= EVERY:
        return (items,)
    return _slices(items, EVERY)


def _slices(items: Sequence[T], every: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), every):
        yield items[start : start + every]


def spans(number: int) -> Iterator[slice]:
    """Yield the slices of a sequence of so many items, each of at most ``EVERY``."""
    for start in range(0, number, EVERY):
        yield slice(start, start + EVERY)


async def each_part(work: Callable[[Sequence[T]], object], items: Sequence[T]) -> None:
    """Call a function with each part of the items, and pause after it."""
    for part in parts(items):
        work(part)
        if part is not items:
            await pause()


def free_later(items: list[Any]) -> None:
    """Free the items of a list, of which its owner lets go, in parts between the steps of tasks.

    Many objects that hold others take as long to free as to make: 6 µs for the snapshot of a list
    of five embedded objects.
    """
    if len(items) > EVERY:
        asyncio.get_running_loop().call_soon(_free, items)


def _free(items: list[Any]) -> None:
    del items[-EVERY:]
    if items:
        asyncio.get_running_loop().call_soon(_free, items)


class Finishing:
    """Pauses in work that a cancellation does not break off, because the database has done its part.

    Attributes:
        cancelled: The first cancellation that came in a pause; ``end()`` raises it.
    """

    # An attribute of the class, since an __init__ would be one more call of each write.
    cancelled: asyncio.CancelledError | None = None

    async def pause(self) -> None:
        """Pause, and keep a cancellation for the end."""
        try:
            await pause()
        except asyncio.CancelledError as error:
            self.cancelled = self.cancelled or error

    async def wait_for(self, work: Awaitable[object]) -> None:
        """Await a part of the work that keeps a cancellation for its own end."""
        try:
            await work
        except asyncio.CancelledError as error:
            self.cancelled = self.cancelled or error

    def end(self) -> None:
        """Raise the cancellation, if there was one.

        Raises:
            asyncio.CancelledError: The task was cancelled meanwhile.
        """
        if self.cancelled is not None:
            raise self.cancelled
