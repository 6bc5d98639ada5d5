"""A day as the operand of a condition on points in time.

``= day`` means any time of the day, ``> day`` means from the next day on, and ``<= day`` means
until the end of the day. The caller's time zone decides when the day begins.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

__all__ = ["Day"]

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Day:
    """The time from ``start`` until before ``end``, in stored form: UTC without a time zone."""

    start: dt.datetime
    end: dt.datetime

    @classmethod
    def of(cls, day: dt.date, zone: dt.tzinfo) -> Day:
        """Make the day in a time zone; it has 23 or 25 hours if the clocks change on it."""
        if day == dt.date.max:
            return cls(_utc(day, zone), dt.datetime.max)
        return cls(_utc(day, zone), _utc(day + _DAY, zone))

    def equals(self) -> dict[str, Any]:
        """Return the operators that find any time of the day."""
        return {"$gte": self.start, "$lt": self.end}

    def limit(self, sign: str) -> tuple[str, dt.datetime]:
        """Turn a comparison with the day into a comparison with a point in time."""
        return {
            "$gt": ("$gte", self.end),
            "$gte": ("$gte", self.start),
            "$lt": ("$lt", self.start),
            "$lte": ("$lt", self.end),
        }[sign]


def _utc(day: dt.date, zone: dt.tzinfo) -> dt.datetime:
    midnight = dt.datetime(day.year, day.month, day.day)
    try:
        return midnight.replace(tzinfo=zone).astimezone(dt.UTC).replace(tzinfo=None)
    except OverflowError:  # it is the first or the last day that a datetime can hold
        return midnight
