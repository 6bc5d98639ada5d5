"""Reads and closes that are cancelled before their answer has come, and the cursors behind them.

The server opens a cursor with the first batch, and only the answer tells its number. A driver that is
cancelled meanwhile throws the answer away, so that nobody can close the cursor, and the server keeps
it for ten minutes. So the reads of cursors are tasks of their own. For one that nobody waits for any
longer:

| the read | then |
|---|---|
| waits for a connection of PyMongo's pool | it is cancelled at once: nothing was sent |
| was sent | it has ``LEFT_SECONDS`` to come back, and then its cursor is closed; if it takes longer, it is cancelled, and the server ends the search because its connection is gone |
| is in a thread of Motor | it is waited for until it comes back, because the thread goes on with what is cancelled |

A close is such a task, too: whoever waits for it can be cancelled, and the Backend does not disconnect
before it is done.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from pymongo.errors import PyMongoError

from earnorm.backends.conversions import settled
from earnorm.backends.shielding import outlasting
from earnorm.exceptions import EarnORMError

T = TypeVar("T")

Leftovers = set[asyncio.Task[None]]
"""The tasks that end what was left under way: the Backend waits for them when it closes."""

_TAKES_CONNECTION: Final = "_get_conn"
"""The coroutine in which PyMongo waits for a connection, or opens one."""

LEFT_SECONDS: Final = 1.0
"""The time for which a read that nobody waits for any longer may go on."""


class LeftReads:
    """The reads and closes of one Backend that nobody waits for any longer.

    Args:
        leftovers: Takes the tasks that end them; the Backend waits for these before it disconnects.
        ends_cancelled: A read that is cancelled ends; Motor's goes on in its thread.
    """

    def __init__(self, leftovers: Leftovers, *, ends_cancelled: bool) -> None:
        self._leftovers = leftovers
        self.ends_cancelled = ends_cancelled

    async def read(
        self,
        work: Awaitable[T],
        close: Callable[[T | None], Awaitable[object]],
        also: float = 0.0,
    ) -> T:
        """Wait for a read; if this task is cancelled, close later what the read opens.

        Args:
            work: The read.
            close: Closes the cursor; it takes the result, or None without one.
            also: The seconds for which it may go on beyond ``LEFT_SECONDS``.
        """
        reading = asyncio.ensure_future(work)
        try:
            return await outlasting(reading)
        except asyncio.CancelledError:
            self.leave(reading, close, also)
            raise

    def leave(
        self,
        reading: asyncio.Future[T],
        close: Callable[[T | None], Awaitable[object]],
        also: float = 0.0,
    ) -> None:
        """Close the cursor of a read when it has come back; nobody waits for it any longer."""
        seconds = LEFT_SECONDS + also if self.ends_cancelled else None
        self.begin(_close_later(reading, close, seconds))

    async def close(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for the close of a cursor, which goes on if this task is cancelled."""
        await asyncio.shield(self.begin(work))

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin the close of a cursor; nobody has to wait for it."""
        task = asyncio.ensure_future(work)
        self._leftovers.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[None]) -> None:
        self._leftovers.discard(task)
        if not task.cancelled():
            task.exception()  # asyncio would log an error that nobody has retrieved


async def _close_later(
    reading: asyncio.Future[Any], close: Callable[[Any], Awaitable[object]], seconds: float | None
) -> None:
    result: Any = None
    if seconds is not None and isinstance(reading, asyncio.Task) and waits_for_connection(reading):
        seconds = 0.0
    try:
        await asyncio.wait({reading}, timeout=seconds)
    finally:  # the Backend waits no longer either
        if not reading.done():
            reading.cancel()
    await asyncio.wait({reading})
    if not reading.cancelled() and reading.exception() is None:
        result = reading.result()
    with contextlib.suppress(PyMongoError, EarnORMError):
        await settled(close(result))


def waits_for_connection(reading: asyncio.Task[Any]) -> bool:
    """Return whether a read waits until a connection of PyMongo's pool is free.

    No event that costs nothing tells it, so the coroutines that the task awaits are looked at. If a
    release of the driver names them otherwise, the answer is False, and the read has its time.
    """
    names: list[str] = []
    coroutine: Any = reading.get_coro()
    while coroutine is not None and hasattr(coroutine, "cr_await"):
        names.append(coroutine.cr_code.co_name)
        coroutine = coroutine.cr_await
    # The last one is asyncio.Condition's. A connection that is being opened is left to be opened.
    return _TAKES_CONNECTION in names and "connect" not in names and names[-1] == "wait"
