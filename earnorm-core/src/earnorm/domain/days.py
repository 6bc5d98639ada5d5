"""A day as the operand of a condition on points in time.

A day is no point: ``= day`` is any time of it, ``> day`` is from the next day on, ``<= day`` is until
its end. Where it begins says the time zone of whoever asks.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

__all__ = ["Day"]

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Day:
    """From ``start`` until before ``end``, in stored form: UTC without a time zone."""

    start: dt.datetime
    end: dt.datetime

    @classmethod
    def of(cls, day: dt.date, zone: dt.tzinfo) -> Day:
        """The day in a time zone; where clocks are set, it has 23 or 25 hours."""
        if day == dt.date.max:
            return cls(_utc(day, zone), dt.datetime.max)
        return cls(_utc(day, zone), _utc(day + _DAY, zone))

    def equals(self) -> dict[str, Any]:
        """The operators for any time of the day."""
        return {"$gte": self.start, "$lt": self.end}

    def limit(self, sign: str) -> tuple[str, dt.datetime]:
        """An order with the day as one with a point in time."""
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
    except OverflowError:  # the first and the last day that there are
        return midnight
