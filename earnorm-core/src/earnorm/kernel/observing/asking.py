"""Finds the line of a program that asks EarnORM for something, for observers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from contextvars import ContextVar
from types import FrameType
from typing import Any, Final, NamedTuple, TypeVar

T = TypeVar("T")


class CodeLine(NamedTuple):
    """A line of code."""

    file: str
    line: int


OBSERVED: Final[set[object]] = set()
"""The Apps that somebody observes."""

_asking: ContextVar[CodeLine | None] = ContextVar("earnorm_asking", default=None)

_OWN: Final = frozenset(
    {"earnorm", "earnorm_audit", "earnorm_cache", "earnorm_pool", "earnorm_security"}
)
_BETWEEN: Final = frozenset({"asyncio", "concurrent", "contextlib", "functools"})
"""Packages through which a program calls EarnORM."""
_LOOP: Final = frozenset({"asyncio.base_events", "asyncio.events", "asyncio.runners", "uvloop"})
"""Modules whose frames are the end of a task: the frames beyond belong to whoever runs the loop."""


def caller_line() -> CodeLine | None:
    """Return the nearest line outside of EarnORM that this call comes from, if there is one."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module in _LOOP:
            break
        package = module.partition(".")[0]
        if package not in _OWN and package not in _BETWEEN:
            return CodeLine(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return _asking.get()


def start_task(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task for the line that asks for it, which an observer is told of."""
    if not OBSERVED:
        return asyncio.ensure_future(work)
    token = _asking.set(caller_line())
    try:
        return asyncio.ensure_future(work)
    finally:
        _asking.reset(token)
