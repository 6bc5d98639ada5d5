"""Ends the tasks that work in the background."""

from __future__ import annotations

import asyncio
from typing import Any, Final

PATIENCE: Final = 1.0
"""The seconds that a cancelled task has for its end, before it is cancelled once more."""


async def end(task: asyncio.Task[Any], patience: float = PATIENCE) -> None:
    """Cancel a task until it ends, and wait for that.

    A client of Redis takes a cancellation for a timeout if both come at once, and its caller goes on. So a loop must look
    whether it is to go on, and what ends it must ask again.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=patience)
