"""Fields of time: Date, DateTime, Time (of day), Duration."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, Unpack

import pydantic
from bson import Int64
from pydantic_core import PydanticCustomError

from earnorm.domain.days import Day
from earnorm.fields.base import ConvertingField, FieldOptions, N, Validator, is_refused
from earnorm.fields.refused import REFUSED
from earnorm.fields.zones import current_time_zone

D = TypeVar("D", bound=datetime.date)

_UTC = datetime.UTC
_combined = datetime.datetime.combine
"""Puts a time zone in, or leaves it out, in a fifth of the time of ``replace(tzinfo=…)``."""
_read = ConvertingField.__get__
_MIDNIGHT = datetime.time()


def _in_utc(value: datetime.datetime) -> datetime.datetime:
    try:
        return value.astimezone(_UTC)
    except OverflowError:  # within hours of the first or the last day that a datetime can hold
        raise PydanticCustomError(
            "datetime_range", "in UTC the time lies outside of the years 1 to 9999"
        ) from None


def _to_stored_precision(value: datetime.datetime) -> datetime.datetime:
    """Convert to UTC and milliseconds, as BSON does; so a saved value equals the one read back."""
    if value.tzinfo is None:
        value = _combined(value.date(), value.time(), _UTC)
    elif value.tzinfo is not _UTC:
        value = _in_utc(value)
    extra = value.microsecond % 1000
    return value - datetime.timedelta(microseconds=extra) if extra else value


class Moment(ConvertingField[D, N]):
    """The base of Date and DateTime: the clock can give their value when a record is stored."""

    auto_now: bool
    auto_now_add: bool

    def __init__(
        self,
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: D | Callable[[], D] | None = None,
        choices: Sequence[D] | None = None,
        validators: Iterable[Validator[D]] = (),
        auto_now: bool = False,
        auto_now_add: bool = False,
        **options: Unpack[FieldOptions],
    ) -> None:
        if (auto_now or auto_now_add) and default is not None:
            raise TypeError("the clock gives the value of auto_now and auto_now_add; no default")
        if (auto_now or auto_now_add) and "copy" not in options:
            options["copy"] = False
        self._bind(required, default, choices, validators, options)
        self.auto_now = auto_now
        self.auto_now_add = auto_now_add
        if auto_now or auto_now_add:
            self.generated = self.of_records = True

    def at(self, now: datetime.datetime) -> D:
        """Return the field's value at a point in time."""
        raise NotImplementedError


class DateTime(Moment[datetime.datetime, N]):
    """A point in time, always with the UTC time zone, in milliseconds.

    A value without a time zone is read as UTC; another zone is converted.

    Args:
        auto_now: Every write of the record sets the field to the current time, unless the write
            names the field itself.
        auto_now_add: Like ``auto_now``, but only when the record is created.
    """

    python_type: ClassVar[Any] = datetime.datetime

    def at(self, now: datetime.datetime) -> datetime.datetime:
        return _to_stored_precision(now)

    def annotation(self) -> Any:
        return Annotated[datetime.datetime, pydantic.AfterValidator(_to_stored_precision)]

    def bson_schema(self) -> Mapping[str, Any]:
        return {"bsonType": "date"}

    if not TYPE_CHECKING:

        def __get__(self, record, owner=None):
            # Each read of a stored moment converts it, or finds it converted: without a call for that
            # it takes half of the time.
            if record is None:
                return self._on_class()
            value = record.__dict__.get(self.name)
            if type(value) is not datetime.datetime or (REFUSED and is_refused(record, self.name)):
                return _read(self, record, owner)
            if value.tzinfo is None:
                value = _combined(value.date(), value.time(), _UTC)
                if self.name != "_id":
                    record.__dict__[self.name] = value
            return value

    def is_decoded(self, value: Any) -> bool:
        return getattr(value, "tzinfo", self) is not None

    def encode(self, value: Any) -> Any:
        if not isinstance(value, datetime.datetime):
            return value
        zone = value.tzinfo
        if zone is not None:
            value = value if zone is _UTC else value.astimezone(_UTC)
            value = _combined(value.date(), value.time())
        extra = value.microsecond % 1000
        return value.replace(microsecond=value.microsecond - extra) if extra else value

    def decode(self, value: Any) -> Any:
        if isinstance(value, datetime.datetime) and value.tzinfo is None:
            return _combined(value.date(), value.time(), _UTC)
        return value

    def operand(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, str):
            value = _from_iso(self.name, value)
        if isinstance(value, datetime.datetime):
            return self.encode(_to_stored_precision(value))
        if isinstance(value, datetime.date):
            return Day.of(value, current_time_zone())
        raise ValueError(
            f"{self.name} is compared with a datetime, a date or ISO 8601 text, "
            f"not {type(value).__name__}"
        )


class Date(Moment[datetime.date, N]):
    """A calendar day, stored as midnight UTC.

    Args:
        auto_now: Every write of the record sets the field to the current day (in UTC), unless the
            write names the field itself.
        auto_now_add: Like ``auto_now``, but only when the record is created.
    """

    python_type: ClassVar[Any] = datetime.date
    lossy = True

    def bson_schema(self) -> Mapping[str, Any]:
        return {"bsonType": "date"}

    def at(self, now: datetime.datetime) -> datetime.date:
        return now.astimezone(_UTC).date()

    def is_decoded(self, value: Any) -> bool:
        return type(value) is datetime.date

    def encode(self, value: Any) -> Any:
        if type(value) is datetime.date:
            return datetime.datetime(value.year, value.month, value.day)
        return value

    def decode(self, value: Any) -> Any:
        return value.date() if isinstance(value, datetime.datetime) else value

    def is_exact(self, stored: Any, value: Any) -> bool:
        # A time of day is of another program, or of a field that was a DateTime.
        return not isinstance(stored, datetime.datetime) or stored.time() == _MIDNIGHT

    def operand(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, str):
            value = _from_iso(self.name, value)
        if isinstance(value, datetime.datetime):
            value = _in_utc(value) if value.tzinfo else value
            return value.replace(tzinfo=None)
        if isinstance(value, datetime.date):
            return self.encode(value)
        raise ValueError(
            f"{self.name} is compared with a date or ISO 8601 text, not {type(value).__name__}"
        )


def _from_iso(name: str, text: str) -> datetime.date:
    """Read a point in time, or a day if the text has no time of day."""
    try:
        if len(text) <= len("2024-W01-1"):
            return datetime.date.fromisoformat(text)
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{name} is compared with a date; {text[:40]!r} is no ISO 8601 date"
        ) from None


def _wall_clock(value: datetime.time) -> datetime.time:
    if value.tzinfo is not None:
        raise PydanticCustomError("time_zone", "a time of day has no time zone")
    return value.replace(fold=0) if value.fold else value


class Time(ConvertingField[datetime.time, N]):
    """A time of day without a date or a time zone, such as an opening hour.

    It is stored as ISO 8601 text (``08:30:00``, with six digits after the seconds if they have a
    fraction): BSON has no such type, and this text sorts like the times and people can read it.
    """

    python_type: ClassVar[Any] = datetime.time
    lossy = True

    def annotation(self) -> Any:
        return Annotated[datetime.time, pydantic.AfterValidator(_wall_clock)]

    def bson_schema(self) -> Mapping[str, Any]:
        return {"bsonType": "string"}

    def is_decoded(self, value: Any) -> bool:
        return type(value) is datetime.time

    def encode(self, value: Any) -> Any:
        return value.isoformat() if isinstance(value, datetime.time) else value

    def decode(self, value: Any) -> Any:
        if type(value) is not str:
            return value
        try:
            return datetime.time.fromisoformat(value)
        except ValueError:  # stored by another program
            return value

    def operand(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, str):
            try:
                value = datetime.time.fromisoformat(value)
            except ValueError:
                raise ValueError(
                    f"{self.name} is compared with a time; {value[:40]!r} is no ISO 8601 time"
                ) from None
        if not isinstance(value, datetime.time):
            raise ValueError(
                f"{self.name} is compared with a time or ISO 8601 text, not {type(value).__name__}"
            )
        if value.tzinfo is not None:
            raise ValueError(f"{self.name}: a time of day has no time zone")
        return self.encode(value)


_MILLISECOND = datetime.timedelta(milliseconds=1)


@functools.cache
def _durations() -> pydantic.TypeAdapter[datetime.timedelta]:
    # Made on the first use, because the first adapter loads most of pydantic.
    return pydantic.TypeAdapter(datetime.timedelta)


def _whole_milliseconds(value: datetime.timedelta) -> datetime.timedelta:
    return value // _MILLISECOND * _MILLISECOND if value.microseconds % 1000 else value


class Duration(ConvertingField[datetime.timedelta, N]):
    """A length of time, stored as a whole number of milliseconds (64 bits).

    The unit is that of BSON's dates, so that the database can add a duration to a date. Smaller
    parts are cut off, as with DateTime.

    Args:
        min_value: The shortest duration allowed.
        max_value: The longest duration allowed.
    """

    python_type: ClassVar[Any] = datetime.timedelta
    lossy = True
    identifies = False
    min_value: datetime.timedelta | None
    max_value: datetime.timedelta | None

    def __init__(
        self,
        *,
        required: N = False,  # type: ignore[assignment] # see Field.__init__
        default: datetime.timedelta | Callable[[], datetime.timedelta] | None = None,
        choices: Sequence[datetime.timedelta] | None = None,
        validators: Iterable[Validator[datetime.timedelta]] = (),
        min_value: datetime.timedelta | None = None,
        max_value: datetime.timedelta | None = None,
        **options: Unpack[FieldOptions],
    ) -> None:
        self._bind(required, default, choices, validators, options)
        self.min_value = min_value
        self.max_value = max_value

    def annotation(self) -> Any:
        return Annotated[
            datetime.timedelta,
            pydantic.Field(ge=self.min_value, le=self.max_value),
            pydantic.AfterValidator(_whole_milliseconds),
        ]

    def bson_schema(self) -> Mapping[str, Any]:
        return {"bsonType": ["int", "long"]}

    def is_decoded(self, value: Any) -> bool:
        return type(value) is datetime.timedelta

    def encode(self, value: Any) -> Any:
        return Int64(value // _MILLISECOND) if isinstance(value, datetime.timedelta) else value

    def decode(self, value: Any) -> Any:
        if isinstance(value, int | float) and type(value) is not bool:
            try:
                return datetime.timedelta(milliseconds=value)
            except (ValueError, OverflowError):  # NaN, or longer than a timedelta can be
                return value
        return value

    def operand(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, str):
            try:
                value = _durations().validate_python(value)
            except pydantic.ValidationError:
                raise ValueError(
                    f"{self.name} is compared with a timedelta; {value[:40]!r} is no ISO 8601 duration"
                ) from None
        if not isinstance(value, datetime.timedelta):
            raise ValueError(
                f"{self.name} is compared with a timedelta or ISO 8601 text, "
                f"not {type(value).__name__}"
            )
        return self.encode(value)
