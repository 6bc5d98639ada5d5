"""The clock of fields, steps and plugins."""

from __future__ import annotations

import datetime


def clock() -> datetime.datetime:
    """Return the current time, in UTC."""
    return datetime.datetime.now(datetime.UTC)
