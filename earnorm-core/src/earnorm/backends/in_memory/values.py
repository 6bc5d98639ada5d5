"""Values of stored documents: their types, their copies, and their order in a pipeline."""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex
from bson.timestamp import Timestamp
from pymongo.errors import OperationFailure

from earnorm.domain.bson_order import MISSING, Key, Missing
from earnorm.domain.bson_order import key as order_key

Document = dict[str, Any]

_MISSING_KEY: Final[Key] = (1, 0)
INT32: Final = 2**31
INT64: Final = 2**63

TYPE_CODES: Final[Mapping[int, str]] = {
    1: "double",
    2: "string",
    3: "object",
    4: "array",
    5: "binData",
    6: "undefined",
    7: "objectId",
    8: "bool",
    9: "date",
    10: "null",
    11: "regex",
    12: "dbPointer",
    13: "javascript",
    14: "symbol",
    15: "javascriptWithScope",
    16: "int",
    17: "timestamp",
    18: "long",
    19: "decimal",
    -1: "minKey",
    127: "maxKey",
}
"""MongoDB's numbers of the types, and their names."""
TYPE_NAMES: Final = frozenset({*TYPE_CODES.values(), "number"})
NUMBERS: Final = frozenset({"int", "long", "double", "decimal"})


def type_name(value: Any) -> str:
    """Return MongoDB's name of a value's type; ``missing`` for no value."""
    for kind, name in _TYPES:
        if isinstance(value, kind):
            is_long = name == "int" and not -INT32 <= int(value) < INT32
            return "long" if is_long else name
    raise NotImplementedError(f"the type {type(value).__name__}")


_TYPES: Final[tuple[tuple[Any, str], ...]] = (
    (Missing, "missing"),
    (type(None), "null"),
    (bool, "bool"),
    (Int64, "long"),
    (int, "int"),
    (float, "double"),
    (Decimal128, "decimal"),
    (Code, "javascript"),
    (str, "string"),
    (Mapping, "object"),
    (list, "array"),
    ((bytes, Binary, uuid.UUID), "binData"),
    (ObjectId, "objectId"),
    (datetime.datetime, "date"),
    (Timestamp, "timestamp"),
    ((Regex, re.Pattern), "regex"),
    (MinKey, "minKey"),
    (MaxKey, "maxKey"),
)


def is_number(value: Any) -> bool:
    """Return whether a value is a number."""
    return isinstance(value, int | float | Decimal128) and not isinstance(value, bool)


def copied(value: Any) -> Any:
    """Return a copy that shares no list and no document with the value."""
    if isinstance(value, dict):
        return {name: copied(item) for name, item in value.items()}
    if isinstance(value, list):
        return [copied(item) for item in value]
    return value


def key(value: Any) -> Key:
    """Return the key of a value in a pipeline, where no value is less than null."""
    return _MISSING_KEY if value is MISSING else order_key(value)


def refused(code: int, text: str) -> OperationFailure:
    """Make the error with which a server refuses a pipeline."""
    return OperationFailure(text, code, {"code": code, "errmsg": text})


def lacking(what: str) -> NotImplementedError:
    """Make the error about something that memory does not have."""
    return NotImplementedError(f"it does not have {what}")


Evaluate = Callable[[Mapping[str, Any]], Any]
"""An expression after it was read: a function of the variables; ROOT and CURRENT are documents."""
