"""The time zone of whoever asks: where days, weeks and months begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from earnorm.exceptions import ValidationError

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from earnorm.kernel.environment import Env


def time_zone(env: Env) -> ZoneInfo:
    """The time zone of the Env's context (``tz``), or UTC.

    Raises:
        ValidationError: The context names no time zone.
    """
    # Not at import: it looks for the zones of the system.
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    name = env.context.get("tz") or "UTC"
    if isinstance(name, ZoneInfo) and name.key:
        return name
    try:
        return ZoneInfo(name)  # type: ignore[arg-type] # anything else than a text is refused below
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        message = f"{str(name)[:60]!r} is no time zone; give a name such as 'Asia/Ho_Chi_Minh'"
        raise ValidationError(
            "context", [{"loc": ("tz",), "msg": message, "type": "time_zone"}]
        ) from None
