"""The time zone of the current context; days, weeks and months begin in it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from earnorm.exceptions import ValidationError

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

Context = Mapping[str, object]


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


def time_zone(context: Context) -> ZoneInfo:
    """Return the time zone that a context names (``tz``), or UTC.

    Raises:
        ValidationError: The ``tz`` is not a time zone.
    """
    # Imported on the first use, because the import searches for the system's zones.
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    name = context.get("tz") or "UTC"
    if isinstance(name, ZoneInfo) and name.key:
        return name
    try:
        return ZoneInfo(name)  # type: ignore[arg-type] # anything but a text is refused below
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        message = f"{str(name)[:60]!r} is no time zone; give a name such as 'Asia/Ho_Chi_Minh'"
        raise ValidationError(
            "context", [{"loc": ("tz",), "msg": message, "type": "time_zone"}]
        ) from None
