"""Waiting for a task although the one that waits is cancelled."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


async def outlasting(task: asyncio.Future[T]) -> T:
    """Wait for a task that goes on if this one is cancelled; return its result.

    The future that wakes this task has no result, unlike that of ``asyncio.shield()``: the event loop
    keeps it until this task waits again, and would keep all documents of a search with it.
    """
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    task.add_done_callback(partial(ring, done))
    await done
    return task.result()


def ring(waiting: asyncio.Future[None], _: object) -> None:
    """Wake the task that waits for a future, if it still does."""
    if not waiting.done():
        waiting.set_result(None)


async def uncancelled(
    task: asyncio.Future[Any],
    *,
    seconds: float | None = None,
    unless: asyncio.Future[None] | None = None,
) -> asyncio.CancelledError | None:
    """Wait until a task is done, and do not cancel it if this one is cancelled.

    Args:
        task: The task. Its result or error is not taken.
        seconds: The time to go on waiting after the first cancellation; None means until it is done.
        unless: Ends the waiting when it is done.

    Returns:
        The first cancellation, to be raised by the caller; None if there was none.
    """
    cancellation: asyncio.CancelledError | None = None
    until: float | None = None
    awaited = {task} if unless is None else {task, unless}
    while not (task.done() or (unless is not None and unless.done())):
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            break
        try:
            await asyncio.wait(awaited, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError as error:
            if cancellation is None:
                cancellation = error
                until = None if seconds is None else time.monotonic() + seconds
    return cancellation


async def completed(task: asyncio.Future[Any]) -> None:
    """Wait until a task is done, although this one is cancelled, and raise what has happened.

    Raises:
        CancelledError: This task was cancelled meanwhile.
        BaseException: The task's own error; that it was cancelled is none.
    """
    cancellation = await uncancelled(task)
    if cancellation is not None:
        raise cancellation
    if not task.cancelled():
        task.result()
