"""Tells a cancellation of the current task from one that a plugin's code lets escape.

``task.cancel(); await task`` raises the CancelledError of another task. Nobody asked for the end of
the caller, so it is a failure of the code that did not catch it.
"""

from __future__ import annotations

import asyncio

ESCAPED = "CancelledError: a task that it awaited was cancelled; it has to catch that error"
"""The words for such a failure."""


def delivered() -> int:
    """Return how many cancellations of the current task it has heard of, or did not hear at all."""
    task = asyncio.current_task()
    if task is None:
        return 0
    # A request that waits for the task's next step will be heard by whatever awaits then.
    return task.cancelling() - bool(getattr(task, "_must_cancel", False))


def is_escaped(error: BaseException, before: int) -> bool:
    """Return whether an exception is a CancelledError that does not come from a request.

    Args:
        error: What the code raised.
        before: The number that ``delivered()`` gave before the code ran.
    """
    if not isinstance(error, asyncio.CancelledError):
        return False
    task = asyncio.current_task()
    return task is None or task.cancelling() <= before
