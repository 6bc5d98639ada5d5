"""The operators of keyset paging: "after", "before" and "beside" a value in a sort.

``<`` and ``>`` compare within one type only, as the server's do. A sort orders all types: unset
values come first, then NaN, numbers, texts, and the rest of BSON's types in their order. These
operators follow the sort, so that a page begins exactly where the last one ended, whatever values
are stored.
Source: "Comparison/Sort Order" in MongoDB's manual, probed on 6.0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from earnorm.domain.bson_order import key
from earnorm.domain.operators import Operator, Test, Values
from earnorm.domain.schema import FieldLike
from earnorm.domain.values import PLAIN_STORED, shorten, stored

__all__ = ["AFTER", "BEFORE", "BESIDE", "KEYSET_OPERATORS"]

AFTER: Final = "sorts after"
BEFORE: Final = "sorts before"
BESIDE: Final = "sorts beside"

# BSON's types in the order of a sort, one tuple for each bracket that compares within itself.
_BRACKETS: Final[tuple[tuple[str, ...], ...]] = (
    ("minKey",),
    ("null", "undefined"),
    ("int", "long", "double", "decimal"),
    ("string", "symbol"),
    ("object",),
    ("array",),
    ("binData",),
    ("objectId",),
    ("bool",),
    ("date",),
    ("timestamp",),
    ("regex",),
    ("dbPointer",),
    ("javascript",),
    ("javascriptWithScope",),
    ("maxKey",),
)
# From a bracket of bson_order.key() to its index in _BRACKETS.
_POSITION: Final[Mapping[int, int]] = {
    5: 1,
    9: 2,
    10: 2,
    15: 3,
    20: 4,
    25: 5,
    30: 6,
    35: 7,
    40: 8,
    45: 9,
    47: 10,
}
_NULL, _NUMBER = 1, 2
_IS_NAN: Final = key(float("nan"))[0]
_NAN: Final = float("nan")


def _prepare(_: FieldLike, value: Any) -> Any:
    # The value is in stored form, and of any type, because another program may have stored it.
    if type(value) not in PLAIN_STORED:
        raise ValueError(f"{shorten(value)} is no single value that records are sorted by")
    return stored(value)


def _types(brackets: tuple[tuple[str, ...], ...]) -> list[str]:
    return [name for bracket in brackets for name in bracket]


def _after(path: str, value: Any) -> dict[str, Any]:
    bracket, _ = key(value)
    position = _POSITION[bracket]
    higher = {path: {"$type": _types(_BRACKETS[position + 1 :])}}
    if position == _NULL:
        return higher
    if bracket == _IS_NAN:
        return {"$or": [{path: {"$type": "number", "$ne": _NAN}}, higher]}
    return {"$or": [{path: {"$gt": value}}, higher]}


def _before(path: str, value: Any) -> dict[str, Any]:
    bracket, _ = key(value)
    position = _POSITION[bracket]
    lowest = {path: {"$type": ["minKey"]}}
    if position == _NULL:
        return lowest
    parts: list[dict[str, Any]] = [{path: None}, lowest]  # null finds missing values too
    if position > _NUMBER:
        parts.append({path: {"$type": _types(_BRACKETS[_NUMBER:position])}})
    elif bracket != _IS_NAN:
        parts.append({path: _NAN})
    else:
        return {"$or": parts}
    return {"$or": [{path: {"$lt": value}}, *parts]}


def _beside(path: str, value: Any) -> dict[str, Any]:
    return {path: {"$eq": value}}


def _compared(holds: Callable[[Any, Any], bool]) -> Callable[[Any], Test]:
    def matches(operand: Any) -> Test:
        wanted = key(operand)

        def test(values: Values) -> bool:
            return any(holds(key(value), wanted) for value in values)

        return test

    return matches


_TABLE: Final = (
    Operator(AFTER, _prepare, _after, _compared(lambda one, other: bool(one > other))),
    Operator(BEFORE, _prepare, _before, _compared(lambda one, other: bool(one < other))),
    Operator(BESIDE, _prepare, _beside, _compared(lambda one, other: bool(one == other))),
)

KEYSET_OPERATORS: Final[Mapping[str, Operator]] = MappingProxyType({op.name: op for op in _TABLE})
"""The operators of keyset paging, by name. Every App knows them."""
