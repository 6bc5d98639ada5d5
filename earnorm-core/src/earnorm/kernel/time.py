"""The clock of fields, steps and plugins, which a test may replace for what it runs."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Clock = Callable[[], datetime.datetime]
"""A function that returns the current time, in UTC."""

_replaced: ContextVar[Clock | None] = ContextVar("earnorm_clock", default=None)


def clock() -> datetime.datetime:
    """Return the current time, in UTC."""
    replaced = _replaced.get()
    return datetime.datetime.now(datetime.UTC) if replaced is None else replaced()


def now() -> datetime.datetime:
    """Return the current time in UTC and, as the database stores it, in milliseconds."""
    moment = clock()
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


@contextmanager
def use_clock(replacement: Clock) -> Iterator[None]:
    """Make another clock the current one inside the block, and in the tasks that it starts."""
    token = _replaced.set(replacement)
    try:
        yield
    finally:
        _replaced.reset(token)
