"""Operators of expressions that convert a value to another type."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from bson import Decimal128, Int64, ObjectId
from bson.errors import InvalidId

from earnorm.backends.in_memory.expressions import Make, is_null, is_true, of_values
from earnorm.backends.in_memory.numbers import as_decimal
from earnorm.backends.in_memory.values import INT32, INT64, is_number, lacking, refused, type_name

FAILURE: Final = 241  # ConversionFailure
_EPOCH: Final = datetime.datetime(1970, 1, 1)
_MILLISECOND: Final = datetime.timedelta(milliseconds=1)


def _failed(value: Any, kind: str) -> Exception:
    return refused(FAILURE, f"Unsupported conversion from {type_name(value)} to {kind}")


def _converted(convert: Callable[[Any], Any]) -> Make:
    return of_values(1, 1, lambda value: None if is_null(value) else convert(value))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime.datetime):
        return value.isoformat(timespec="milliseconds") + "Z"
    if isinstance(value, ObjectId | Decimal128):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value) or not value.is_integer() or abs(value) >= 1e15:
            raise lacking("$toString of a binary fraction")
        return str(int(value))
    if isinstance(value, int):
        return str(int(value))
    raise _failed(value, "string")


def _whole(kind: str, limit: int, make: Callable[[int], Any]) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if isinstance(value, bool):
            number = int(value)
        elif isinstance(value, str):
            digits = value.removeprefix("-")
            if not (digits.isascii() and digits.isdecimal()):
                raise refused(FAILURE, "Failed to parse number in $convert with no onError value")
            number = int(value)
        elif isinstance(value, datetime.datetime) and kind == "long":
            number = (value - _EPOCH) // _MILLISECOND
        elif is_number(value):
            exact: Any = value.to_decimal() if isinstance(value, Decimal128) else value
            if not math.isfinite(exact):
                raise refused(FAILURE, "Attempt to convert NaN or infinity to an integer")
            number = int(exact)
        else:
            raise _failed(value, kind)
        if not -limit <= number < limit:
            raise refused(FAILURE, "Conversion would overflow target type")
        return make(number)

    return convert


def _double(value: Any) -> float:
    if isinstance(value, str):
        raise lacking("$toDouble of a text")
    if isinstance(value, datetime.datetime):
        return float((value - _EPOCH) // _MILLISECOND)
    if isinstance(value, Decimal128):
        return float(value.to_decimal())
    if isinstance(value, int | float):
        return float(value)
    raise _failed(value, "double")


def _decimal(value: Any) -> Decimal128:
    if isinstance(value, str | datetime.datetime):
        raise lacking("$toDecimal of a text or a date")
    if isinstance(value, bool):
        return Decimal128(str(int(value)))
    if isinstance(value, Decimal128):
        return value
    if is_number(value):
        return Decimal128(as_decimal(value))
    raise _failed(value, "decimal")


def _bool(value: Any) -> bool:
    return is_true(value)


def _date(value: Any) -> datetime.datetime:
    if isinstance(value, datetime.datetime):
        return value
    if isinstance(value, ObjectId):
        return value.generation_time.replace(tzinfo=None)
    if isinstance(value, str):
        raise lacking("$toDate of a text")
    if isinstance(value, Int64 | float | Decimal128):
        number = value.to_decimal() if isinstance(value, Decimal128) else value
        try:
            return _EPOCH + _MILLISECOND * int(number)
        except (OverflowError, ValueError):
            raise lacking("date beyond the year 9999") from None
    raise _failed(value, "date")


def _object_id(value: Any) -> ObjectId:
    if isinstance(value, ObjectId):
        return value
    if isinstance(value, str):
        try:
            if len(value) == 24:
                return ObjectId(value)
        except InvalidId:
            pass
        raise refused(FAILURE, "Failed to parse objectId in $convert with no onError value")
    raise _failed(value, "objectId")


OPERATORS: Final[Mapping[str, Make]] = {
    "$toString": _converted(_text),
    "$toInt": _converted(_whole("int", INT32, int)),
    "$toLong": _converted(_whole("long", INT64, Int64)),
    "$toDouble": _converted(_double),
    "$toDecimal": _converted(_decimal),
    "$toBool": _converted(_bool),
    "$toDate": _converted(_date),
    "$toObjectId": _converted(_object_id),
}
