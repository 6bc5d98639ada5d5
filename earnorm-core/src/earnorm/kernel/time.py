"""The clock that fields, steps and plugins ask."""

from __future__ import annotations

import datetime


def clock() -> datetime.datetime:
    """The current time, in UTC."""
    return datetime.datetime.now(datetime.UTC)
