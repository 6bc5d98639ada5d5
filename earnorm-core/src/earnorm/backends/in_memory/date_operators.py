"""Operators of expressions on points in time, in UTC or in a time zone."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from bson import Int64, ObjectId

from earnorm.backends.in_memory.expressions import Make, Variables, is_null, named
from earnorm.backends.in_memory.values import Evaluate, lacking, refused, type_name
from earnorm.domain.values import is_dict

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_OFFSET: Final = re.compile(r"([+-])(\d\d):?(\d\d)?")
_ORIGIN: Final = datetime.datetime(2000, 1, 1)
"""The point from which a server counts bins; for weeks, the first day of the week in its place."""
_FIXED: Final[Mapping[str, datetime.timedelta]] = {
    "week": datetime.timedelta(weeks=1),
    "day": datetime.timedelta(days=1),
    "hour": datetime.timedelta(hours=1),
    "minute": datetime.timedelta(minutes=1),
    "second": datetime.timedelta(seconds=1),
    "millisecond": datetime.timedelta(milliseconds=1),
}
_MONTHS: Final[Mapping[str, int]] = {"month": 1, "quarter": 3, "year": 12}


def _zone(name: Any) -> datetime.tzinfo:
    if name in ("UTC", "GMT", "Z"):
        return datetime.UTC
    if not isinstance(name, str):
        raise refused(40517, "timezone must evaluate to a string")
    offset = _OFFSET.fullmatch(name)
    if offset is not None:
        sign, hours, minutes = offset.groups()
        size = datetime.timedelta(hours=int(hours), minutes=int(minutes or 0))
        return datetime.timezone(-size if sign == "-" else size)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise refused(40485, "unrecognized time zone identifier") from None


def _date(value: Any, code: int = 16006) -> datetime.datetime:
    if isinstance(value, datetime.datetime):
        return value
    if isinstance(value, ObjectId):
        return value.generation_time.replace(tzinfo=None)
    raise refused(code, f"can't convert from BSON type {type_name(value)} to Date")


def _local(value: datetime.datetime, zone: datetime.tzinfo) -> datetime.datetime:
    """Return what a clock on the wall shows, without a zone."""
    try:
        return value.replace(tzinfo=datetime.UTC).astimezone(zone).replace(tzinfo=None)
    except OverflowError:
        raise lacking("date beyond the year 9999") from None


def _in_utc(local: datetime.datetime, zone: datetime.tzinfo) -> datetime.datetime:
    try:
        return local.replace(tzinfo=zone).astimezone(datetime.UTC).replace(tzinfo=None)
    except OverflowError:
        raise lacking("date beyond the year 9999") from None


# -- parts ----------------------------------------------------------------------------------------


def _week(day: datetime.datetime) -> int:
    return int(day.strftime("%U"))  # weeks begin on Sunday; the days before the first are week 0


_PARTS: Final[Mapping[str, Callable[[datetime.datetime], int]]] = {
    "$year": lambda at: at.year,
    "$month": lambda at: at.month,
    "$dayOfMonth": lambda at: at.day,
    "$dayOfWeek": lambda at: at.isoweekday() % 7 + 1,
    "$dayOfYear": lambda at: at.timetuple().tm_yday,
    "$hour": lambda at: at.hour,
    "$minute": lambda at: at.minute,
    "$second": lambda at: at.second,
    "$millisecond": lambda at: at.microsecond // 1000,
    "$week": _week,
    "$isoWeek": lambda at: at.isocalendar().week,
    "$isoDayOfWeek": lambda at: at.isoweekday(),
    "$isoWeekYear": lambda at: Int64(at.isocalendar().year),
}


def _part(name: str) -> Make:
    def make(spec: Any) -> Evaluate:
        if isinstance(spec, list) and len(spec) == 1:
            spec = spec[0]
        given = spec if is_dict(spec) and "date" in spec else {"date": spec}
        parts = named(given, ("date",), ("timezone",))

        def evaluate(known: Variables) -> Any:
            value = parts["date"](known)
            zone = parts["timezone"](known) if "timezone" in parts else "UTC"
            if is_null(value) or is_null(zone):
                return None
            return _PARTS[name](_local(_date(value), _zone(zone)))

        return evaluate

    return make


# -- bins -----------------------------------------------------------------------------------------


def _truncated(spec: Any) -> Evaluate:
    parts = named(spec, ("date", "unit"), ("binSize", "timezone", "startOfWeek"))
    if "binSize" in parts and spec["binSize"] != 1:
        raise lacking("$dateTrunc with a binSize")

    def evaluate(known: Variables) -> Any:
        value, unit = parts["date"](known), parts["unit"](known)
        zone = parts["timezone"](known) if "timezone" in parts else "UTC"
        first = parts["startOfWeek"](known) if "startOfWeek" in parts else "sunday"
        if any(map(is_null, (value, unit, zone))) or (unit == "week" and is_null(first)):
            return None
        return _floor(_date(value, 5439012), _unit(unit), _zone(zone), first)

    return evaluate


def _unit(unit: Any) -> str:
    if unit not in _FIXED and unit not in _MONTHS:
        raise refused(9, "unknown time unit value")
    return str(unit)


def _floor(value: datetime.datetime, unit: str, zone: datetime.tzinfo, first: Any) -> Any:
    if unit in ("hour", "minute", "second", "millisecond"):
        # These are counted from the origin in the zone, over changes of its clocks.
        start = _in_utc(_ORIGIN, zone)
        size = _FIXED[unit]
        return start + (value - start) // size * size
    local = _local(value, zone)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    if unit == "week":
        begins = _day_of_week(first)
        midnight -= datetime.timedelta(days=(midnight.weekday() - begins) % 7)
    elif unit != "day":
        months = _MONTHS[unit]
        midnight = midnight.replace(day=1, month=(midnight.month - 1) // months * months + 1)
    return _in_utc(midnight, zone)


def _day_of_week(name: Any) -> int:
    if isinstance(name, str):
        short = name.lower()[:3]
        if short in _DAYS and (len(name) == 3 or name.lower().endswith("day")):
            return _DAYS.index(short)
    raise refused(9, "unknown day of week value")


def _difference(spec: Any) -> Evaluate:
    parts = named(spec, ("startDate", "endDate", "unit"), ("timezone", "startOfWeek"))

    def evaluate(known: Variables) -> Any:
        start, end = parts["startDate"](known), parts["endDate"](known)
        unit = parts["unit"](known)
        zone = parts["timezone"](known) if "timezone" in parts else "UTC"
        first = parts["startOfWeek"](known) if "startOfWeek" in parts else "sunday"
        if any(map(is_null, (start, end, unit, zone))) or (unit == "week" and is_null(first)):
            return None
        return Int64(_boundaries(_date(start), _date(end), _unit(unit), _zone(zone), first))

    return evaluate


def _boundaries(
    start: datetime.datetime, end: datetime.datetime, unit: str, zone: datetime.tzinfo, first: Any
) -> int:
    """Return how many beginnings of units lie between two points."""
    if unit in ("hour", "minute", "second", "millisecond"):
        if zone is not datetime.UTC and unit == "hour":
            raise lacking("$dateDiff of hours in a time zone")
        size = _FIXED[unit]
        return (end - _ORIGIN) // size - (start - _ORIGIN) // size
    one, other = _local(start, zone), _local(end, zone)
    if unit in _MONTHS:
        months = _MONTHS[unit]
        return (other.year * 12 + other.month - 1) // months - (
            one.year * 12 + one.month - 1
        ) // months
    days = (one.toordinal(), other.toordinal())
    if unit == "week":
        begins = _day_of_week(first)
        days = ((days[0] - 1 - begins) // 7, (days[1] - 1 - begins) // 7)
    return days[1] - days[0]


def _shifted(name: str, sign: int) -> Make:
    def make(spec: Any) -> Evaluate:
        parts = named(spec, ("startDate", "unit", "amount"), ("timezone",))
        if "timezone" in parts:
            raise lacking(f"{name} in a time zone")

        def evaluate(known: Variables) -> Any:
            start, unit = parts["startDate"](known), parts["unit"](known)
            amount = parts["amount"](known)
            if any(map(is_null, (start, unit, amount))):
                return None
            if isinstance(amount, bool) or not isinstance(amount, int | float) or amount % 1:
                raise refused(5166405, f"{name} expects an integer amount")
            try:
                return _moved(_date(start), _unit(unit), sign * int(amount))
            except (OverflowError, ValueError):
                raise lacking("date beyond the year 9999") from None

        return evaluate

    return make


def _moved(start: datetime.datetime, unit: str, amount: int) -> datetime.datetime:
    if unit in _FIXED:
        return start + _FIXED[unit] * amount
    months = start.year * 12 + start.month - 1 + _MONTHS[unit] * amount
    year, month = divmod(months, 12)
    following = datetime.datetime(year + month // 11, (month + 1) % 12 + 1, 1)
    last = (following - datetime.timedelta(days=1)).day
    return start.replace(year=year, month=month + 1, day=min(start.day, last))


# -- texts ----------------------------------------------------------------------------------------

_FORMATS: Final[Mapping[str, Callable[[datetime.datetime], str]]] = {
    "Y": lambda at: f"{at.year:04d}",
    "m": lambda at: f"{at.month:02d}",
    "d": lambda at: f"{at.day:02d}",
    "H": lambda at: f"{at.hour:02d}",
    "M": lambda at: f"{at.minute:02d}",
    "S": lambda at: f"{at.second:02d}",
    "L": lambda at: f"{at.microsecond // 1000:03d}",
    "j": lambda at: f"{at.timetuple().tm_yday:03d}",
    "u": lambda at: str(at.isoweekday()),
    "w": lambda at: str(at.isoweekday() % 7 + 1),
    "U": lambda at: f"{_week(at):02d}",
    "V": lambda at: f"{at.isocalendar().week:02d}",
    "G": lambda at: f"{at.isocalendar().year:04d}",
    "%": lambda at: "%",
}
_FORMAT: Final = re.compile(r"%(.)", re.S)


def _to_text(spec: Any) -> Evaluate:
    parts = named(spec, ("date",), ("format", "timezone", "onNull"))

    def evaluate(known: Variables) -> Any:
        value = parts["date"](known)
        if is_null(value):
            return parts["onNull"](known) if "onNull" in parts else None
        zone = parts["timezone"](known) if "timezone" in parts else "UTC"
        if is_null(zone):
            return None
        if "format" not in parts:
            raise lacking("$dateToString without a format")
        pattern = parts["format"](known)
        if is_null(pattern):
            return None
        if not isinstance(pattern, str):
            raise refused(18533, "$dateToString requires that 'format' be a string")
        at = _local(_date(value), _zone(zone))
        if unknown := {one for one in _FORMAT.findall(pattern) if one not in _FORMATS}:
            raise lacking(f"%{min(unknown)} in $dateToString")
        return _FORMAT.sub(lambda match: _FORMATS[match[1]](at), pattern)

    return evaluate


OPERATORS: Final[Mapping[str, Make]] = {
    **{name: _part(name) for name in _PARTS},
    "$dateTrunc": _truncated,
    "$dateDiff": _difference,
    "$dateAdd": _shifted("$dateAdd", 1),
    "$dateSubtract": _shifted("$dateSubtract", -1),
    "$dateToString": _to_text,
}
