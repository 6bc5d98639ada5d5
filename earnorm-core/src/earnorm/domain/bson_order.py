"""The equality and the order of BSON values, as a MongoDB server compares them.

Every stored value has a key ``(bracket, inner)``. Two values are equal if their keys are equal; one
is less than the other only if both are of one bracket (MongoDB calls this "type bracketing").
Source: "Comparison/Sort Order" in MongoDB's manual, probed on 6.0.5.
"""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal
from enum import Enum
from typing import Any, Final, cast

from bson import Binary, Code, DatetimeMS, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex
from bson.timestamp import Timestamp

from earnorm.domain.paths import is_position

__all__ = ["MISSING", "NULL_KEY", "UNDEFINED_KEY", "Key", "Missing", "key", "sort_keys"]

Key = tuple[int, Any]


class Missing(Enum):
    """The type of ``MISSING``, which means that the document does not have the key."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING

_NULL, _NAN, _NUMBER, _TEXT, _OBJECT, _ARRAY, _BINARY, _ID, _BOOL, _DATE, _STAMP, _REGEX, _CODE = (
    *(5, 9, 10, 15, 20, 25, 30, 35, 40, 45, 47, 50, 60),
)
_SCOPED_CODE: Final = 65
_NAN_KEY: Final[Key] = (_NAN, 0)  # NaN equals itself and has no order with numbers
NULL_KEY: Final[Key] = (_NULL, 0)  # a missing value equals null
UNDEFINED_KEY: Final[Key] = (0, 0)  # an empty list in a sort; nothing is stored like this
_EPOCH: Final = dt.datetime(1970, 1, 1)
_EPOCH_UTC: Final = _EPOCH.replace(tzinfo=dt.UTC)
_MILLISECOND: Final = dt.timedelta(milliseconds=1)


def key(value: object) -> Key:
    """Return the key of a stored value.

    Raises:
        TypeError: Documents hold no values of this type (a ``Decimal``, a ``date`` …).
    """
    make = _KEYS.get(type(value))
    return make(value) if make else _key_of_base(type(value))(value)


def _key_of_base(kind: type) -> Callable[[Any], Key]:
    for base in kind.__mro__:
        if base in _KEYS:
            return _KEYS[base]
    form: Callable[[Any], Any] | None = getattr(kind, "bson_form", None)
    if form is not None:  # a value that becomes BSON later, e.g. when it is encrypted
        return lambda value: key(form(value))
    raise TypeError(f"a {kind.__name__} is no stored value")


def _float(value: float) -> Key:
    return (_NUMBER, value) if value == value else _NAN_KEY


def _decimal(value: Decimal128) -> Key:
    number: Decimal = value.to_decimal()
    return _NAN_KEY if number.is_nan() else (_NUMBER, number)


def _date(value: dt.datetime) -> Key:
    # BSON dates count whole milliseconds; a naive datetime is UTC.
    return _DATE, (value - (_EPOCH if value.tzinfo is None else _EPOCH_UTC)) // _MILLISECOND


def _binary(value: bytes, subtype: int) -> Key:
    return _BINARY, (len(value), subtype, bytes(value))


def _object(value: dict[str, Any]) -> Key:
    # Of two fields in the same place, the types are compared first, then the names.
    fields = [(key(item), name) for name, item in value.items()]
    return _OBJECT, tuple([(bracket, name, inner) for (bracket, inner), name in fields])


def _code(value: Code) -> Key:
    if value.scope is None:
        return _CODE, str(value)
    return _SCOPED_CODE, (str(value), _object(dict(value.scope)))


_KEYS: Final[dict[type, Callable[[Any], Key]]] = {
    Missing: lambda v: NULL_KEY,
    type(None): lambda v: NULL_KEY,
    int: lambda v: (_NUMBER, v),
    Int64: lambda v: (_NUMBER, int(v)),
    float: _float,
    Decimal128: _decimal,
    str: lambda v: (_TEXT, v),
    dict: _object,
    list: lambda v: (_ARRAY, tuple([key(item) for item in v])),
    bytes: lambda v: _binary(v, 0),
    Binary: lambda v: _binary(v, v.subtype),
    uuid.UUID: lambda v: _binary(v.bytes, 4),
    ObjectId: lambda v: (_ID, v.binary),
    bool: lambda v: (_BOOL, v),
    dt.datetime: _date,
    DatetimeMS: lambda v: (_DATE, int(v)),
    Timestamp: lambda v: (_STAMP, (v.time, v.inc)),
    Regex: lambda v: (_REGEX, (v.pattern, v.flags)),
    re.Pattern: lambda v: (_REGEX, (v.pattern, v.flags)),
    Code: _code,
    DBRef: lambda v: _object(v.as_doc()),
    MinKey: lambda v: (-1, 0),
    MaxKey: lambda v: (127, 0),
}


def sort_keys(value: object, parts: Sequence[str]) -> list[Key]:
    """Return every key by which a server may sort a document: the lowest one, or the highest.

    Args:
        value: The document, or a value inside it; ``MISSING`` where there is none.
        parts: The rest of the path, in parts.

    Raises:
        TypeError: Documents hold no values of this type.
    """
    for position, part in enumerate(parts):
        if isinstance(value, dict):
            value = cast("dict[str, object]", value).get(part, MISSING)
        elif isinstance(value, list):
            return _keys_of_items(cast("list[object]", value), parts[position:])
        else:
            return [NULL_KEY]
    if not isinstance(value, list):
        return [key(value)]
    items = cast("list[object]", value)
    return [key(item) for item in items] or [UNDEFINED_KEY]


def _keys_of_items(items: list[object], parts: Sequence[str]) -> list[Key]:
    part = parts[0]
    if is_position(part):
        item = items[int(part)] if int(part) < len(items) else MISSING
        if parts[1:] or item == []:
            return sort_keys(item, parts[1:])
        return [key(item)]  # the server doesn't look into a list that it finds by its position
    keys = [sort_keys(item if isinstance(item, dict) else MISSING, parts) for item in items]
    return [one for several in keys for one in several] or [NULL_KEY]
