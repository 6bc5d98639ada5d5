"""Two conversions for drivers: of a result that may have to be awaited, and of a time limit."""

from __future__ import annotations

from inspect import isawaitable
from typing import Any


async def settled(value: Any) -> Any:
    """Await a value if it is awaitable; some drivers return an awaitable, others the result."""
    return await value if isawaitable(value) else value


def milliseconds(seconds: float) -> int:
    """Convert a time limit for the drivers; it is never 0, which would mean no limit."""
    return max(1, round(seconds * 1000))
