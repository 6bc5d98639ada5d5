"""Points in time: Date and DateTime."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import pydantic

from earnorm.fields.base import ConvertingField, N

_UTC = datetime.UTC


def _to_stored_precision(value: datetime.datetime) -> datetime.datetime:
    """UTC, and milliseconds: what BSON keeps, so that a saved value equals the one read back."""
    if value.tzinfo is None:
        value = value.replace(tzinfo=_UTC)
    elif value.tzinfo is not _UTC:
        value = value.astimezone(_UTC)
    extra = value.microsecond % 1000
    return value - datetime.timedelta(microseconds=extra) if extra else value


class DateTime(ConvertingField[datetime.datetime, N]):
    """A point in time, always with the UTC time zone, in milliseconds.

    A value without a time zone is taken as UTC; another zone is converted.
    """

    python_type: ClassVar[Any] = datetime.datetime
    index_floor: ClassVar[Any] = datetime.datetime(1, 1, 1)

    def annotation(self) -> Any:
        return Annotated[datetime.datetime, pydantic.AfterValidator(_to_stored_precision)]

    def bson_schema(self) -> Mapping[str, Any]:
        return {"bsonType": "date"}

    def is_decoded(self, value: Any) -> bool:
        return getattr(value, "tzinfo", self) is not None

    def encode(self, value: Any) -> Any:
        if isinstance(value, datetime.datetime) and value.tzinfo is not None:
            return value.astimezone(_UTC).replace(tzinfo=None)
        return value

    def decode(self, value: Any) -> Any:
        if isinstance(value, datetime.datetime) and value.tzinfo is None:
            return value.replace(tzinfo=_UTC)
        return value

    def operand(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, str):
            value = _from_iso(self.name, value)
        if isinstance(value, datetime.datetime):
            return self.encode(_to_stored_precision(value))
        if isinstance(value, datetime.date):
            return datetime.datetime(value.year, value.month, value.day)
        raise ValueError(
            f"{self.name} is compared with a datetime, a date or ISO 8601 text, "
            f"not {type(value).__name__}"
        )


class Date(ConvertingField[datetime.date, N]):
    """A calendar day, stored as midnight UTC."""

    python_type: ClassVar[Any] = datetime.date
    index_floor: ClassVar[Any] = datetime.datetime(1, 1, 1)

    def bson_schema(self) -> Mapping[str, Any]:
        return {"bsonType": "date"}

    def is_decoded(self, value: Any) -> bool:
        return type(value) is datetime.date

    def encode(self, value: Any) -> Any:
        if type(value) is datetime.date:
            return datetime.datetime(value.year, value.month, value.day)
        return value

    def decode(self, value: Any) -> Any:
        return value.date() if isinstance(value, datetime.datetime) else value

    def operand(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, str):
            value = _from_iso(self.name, value)
        if isinstance(value, datetime.datetime):
            value = value.astimezone(_UTC) if value.tzinfo else value
            return value.replace(tzinfo=None)
        if isinstance(value, datetime.date):
            return self.encode(value)
        raise ValueError(
            f"{self.name} is compared with a date or ISO 8601 text, not {type(value).__name__}"
        )


def _from_iso(name: str, text: str) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{name} is compared with a date; {text[:40]!r} is no ISO 8601 date"
        ) from None
