"""A clock that stands still, for the code of a block."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager

from earnorm.kernel.time import use_clock


class FrozenTime:
    """The time that EarnORM sees inside a block of :func:`frozen_time`.

    Attributes:
        now: That time, in UTC.
    """

    def __init__(self, at: datetime.datetime | str) -> None:
        self.now = _in_utc(at)

    def move(self, by: datetime.timedelta) -> None:
        """Move the clock forward; a negative time moves it back."""
        self.now += by

    def move_to(self, at: datetime.datetime | str) -> None:
        """Go to a time, as :func:`frozen_time` takes it."""
        self.now = _in_utc(at)

    def __repr__(self) -> str:
        return f"<FrozenTime {self.now.isoformat()}>"


@contextmanager
def frozen_time(at: datetime.datetime | str) -> Iterator[FrozenTime]:
    """Stop the clock of EarnORM inside the block, and in the tasks that it starts.

    Everything that asks ``earnorm.plugin.clock`` sees this time: ``auto_now`` and ``auto_now_add``,
    ``batch.now`` of steps, stored files, the audit trail, and code of your own. Not frozen are ``datetime.now()`` itself, the event loop, new ids, and what the
    server decides: ``CurrentDate`` in a change, ``$$NOW`` and TTL indexes.

    Args:
        at: A time, or one in ISO 8601. It is UTC unless it says otherwise.

    Yields:
        The clock, with ``move(timedelta)`` and ``move_to(at)``. A block inside another one has a
        clock of its own.
    """
    time = FrozenTime(at)
    with use_clock(lambda: time.now):
        yield time


def _in_utc(at: datetime.datetime | str) -> datetime.datetime:
    time = datetime.datetime.fromisoformat(at) if isinstance(at, str) else at
    if not isinstance(time, datetime.datetime):
        raise TypeError(f"frozen_time() takes a datetime or a text in ISO 8601, not {at!r}")
    return (
        time.replace(tzinfo=datetime.UTC) if time.tzinfo is None else time.astimezone(datetime.UTC)
    )
