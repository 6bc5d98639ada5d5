"""The time zone of the current context; days, weeks and months begin in it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Final

from earnorm.exceptions import ValidationError

Context = Mapping[str, object]
UTC_NAME: Final = "UTC"


def _no_context() -> Context | None:
    return None


_find_context: Callable[[], Context | None] = _no_context


def read_context_from(find: Callable[[], Context | None]) -> None:
    """Set the function that finds this task's context; the kernel calls this, as Env holds it."""
    global _find_context
    _find_context = find


def current_time_zone() -> datetime.tzinfo:
    """Return the time zone of this task's context, or UTC if no App has been started.

    Raises:
        ValidationError: The context's ``tz`` is not a time zone.
    """
    context = _find_context()
    return datetime.UTC if context is None else time_zone(context)


def time_zone(context: Context) -> datetime.tzinfo:
    """Return the time zone that a context names (``tz``), or UTC.

    UTC needs no time zone database, which slim images and Windows do not have.

    Raises:
        ValidationError: The ``tz`` is not a time zone, or the machine has no database of them.
    """
    name = context.get("tz") or UTC_NAME
    if name == UTC_NAME:
        return datetime.UTC
    # Imported on the first use, because the import searches for the system's zones.
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

    if isinstance(name, ZoneInfo) and name.key:
        return name
    try:
        return ZoneInfo(name)  # type: ignore[arg-type] # anything but a text is refused below
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        message = (
            f"{str(name)[:60]!r} is no time zone; give a name such as 'Asia/Ho_Chi_Minh'"
            if available_timezones()
            else f"{str(name)[:60]!r}: this machine has no time zone database; pip install tzdata"
        )
        raise ValidationError(
            "context", [{"loc": ("tz",), "msg": message, "type": "time_zone"}]
        ) from None


def name_of_zone(zone: datetime.tzinfo) -> str:
    """Return the name by which a database knows a time zone of :func:`time_zone`."""
    return UTC_NAME if zone is datetime.UTC else str(zone)
