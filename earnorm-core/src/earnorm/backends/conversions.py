"""Two conversions between us and a driver: a result that may have to be awaited, and a time limit."""

from __future__ import annotations

from inspect import isawaitable
from typing import Any


async def settled(value: Any) -> Any:
    """Await what one driver returns as an awaitable and another returns at once."""
    return await value if isawaitable(value) else value


def milliseconds(seconds: float) -> int:
    """A time limit as the drivers take it; never 0, which would mean none."""
    return max(1, round(seconds * 1000))
