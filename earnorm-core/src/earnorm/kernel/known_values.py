"""The value after an update of a stored value that is known, as far as memory is as sure as the server."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, DecimalException
from typing import Any, Final, cast

from bson import Decimal128, Int64, Regex
from bson.decimal128 import create_decimal128_context

from earnorm.domain.bson_order import key as order_of
from earnorm.domain.paths import is_position
from earnorm.fields.base import MISSING

TOGGLE: Final = "$toggle"
"""An operator in addition to MongoDB's own: it inverts a Boolean. A missing value counts as the
operand.
"""

_LARGEST: Final = 2**63 - 1
_REMOVING: Final = frozenset({"$unset", "$pull", "$pullAll", "$pop"})
"""The operators that make no object on the way to a path."""
_COMPARING: Final = frozenset({"$min", "$max", "$addToSet", "$pull", "$pullAll"})
"""The operators whose result depends on how a collection compares texts."""


class UnknownResult(Exception):
    """Only the server knows the result, or it refuses the change."""


def changed(
    value: Any, inside: Sequence[str], operator: str, operand: Any, *, has_collation: bool = False
) -> Any:
    """Return a known value after a change of it, or of a value inside it.

    Args:
        value: The value before, which stays as it is; MISSING for no value.
        inside: The parts of the path from the value to what is changed; none for the value itself.
        operator: The update operator.
        operand: Its operand.
        has_collation: True if the collection compares texts in a way of its own.

    Returns:
        The value after; MISSING for no value.

    Raises:
        UnknownResult: Memory cannot tell the value.
    """
    if not inside:
        change = _RESULTS.get(operator)
        if change is None or (has_collation and operator in _COMPARING):
            raise UnknownResult
        try:
            return change(value, operand)
        except (TypeError, ValueError, ArithmeticError, DecimalException):
            raise UnknownResult from None
    part, *rest = inside
    if value is MISSING:
        if operator in _REMOVING:
            return MISSING
        value = {}
    after: Any = value.copy() if isinstance(value, dict | list) else None
    key: Any = part
    if isinstance(after, list) and is_position(part) and int(part) < len(after):
        key, before = int(part), after[int(part)]
    elif isinstance(after, dict) and not part.startswith("$"):
        before = after.get(part, MISSING)
    else:
        raise UnknownResult
    result = changed(before, rest, operator, operand, has_collation=has_collation)
    if result is not MISSING:
        after[key] = result
    elif isinstance(after, list):
        raise UnknownResult  # the server leaves null in the place of the item
    else:
        after.pop(key, None)
    return after


def _number(value: Any) -> Any:
    """Return a number; 0 for no value."""
    if value is MISSING or value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal128):
        raise TypeError
    return value


def _arithmetic(one: Any, other: Any, compute: Callable[[Any, Any], Any]) -> Any:
    """Return the result for two stored numbers, of the type that a server gives it."""
    one, other = _number(one), _number(other)
    if isinstance(one, Decimal128) or isinstance(other, Decimal128):
        if isinstance(one, float) or isinstance(other, float):
            raise TypeError  # the server rounds the binary number in a way of its own
        with_context = create_decimal128_context()
        numbers = [
            n.to_decimal() if isinstance(n, Decimal128) else Decimal(int(n)) for n in (one, other)
        ]
        return Decimal128(with_context.create_decimal(compute(*numbers)))
    result = compute(one, other)
    if isinstance(result, int) and not -_LARGEST - 1 <= result <= _LARGEST:
        raise ValueError
    return Int64(result) if Int64 in (type(one), type(other)) and type(result) is int else result


def total(one: Any, other: Any) -> Any:
    """Return the sum of two stored numbers."""
    return _arithmetic(one, other, lambda a, b: a + b)


def product(one: Any, other: Any) -> Any:
    """Return the product of two stored numbers."""
    return _arithmetic(one, other, lambda a, b: a * b)


def larger(one: Any, other: Any) -> Any:
    """Return the larger of two stored values; of equal ones the first."""
    return other if one is MISSING or order_of(other) > order_of(one) else one


def smaller(one: Any, other: Any) -> Any:
    """Return the smaller of two stored values; of equal ones the first."""
    return other if one is MISSING or order_of(other) < order_of(one) else one


def items_of(value: Any) -> list[Any]:
    """Return the items of a list, in a list of its own; none for no value."""
    if value is MISSING or value is None:
        return []
    if not isinstance(value, list):
        raise TypeError
    return list(value)


def given_items(operand: Any) -> list[Any]:
    """Return the items that a ``$push`` or an ``$addToSet`` adds.

    Raises:
        TypeError: It also sorts or cuts the list, or inserts somewhere.
    """
    if isinstance(operand, dict) and "$each" in operand:
        spec = cast("dict[str, Any]", operand)
        if len(spec) > 1:
            raise TypeError
        return list(spec["$each"])
    return [operand]


def union(items: list[Any], more: list[Any]) -> list[Any]:
    """Add to the items those that are not there, and return them."""
    for item in more:
        if all(order_of(item) != order_of(one) for one in items):
            items.append(item)
    return items


def _without(value: Any, gone: Any) -> Any:
    if value is MISSING:
        return MISSING
    keys = [order_of(item) for item in gone]
    return [item for item in items_of(value) if order_of(item) not in keys]


def _pulled(value: Any, operand: Any) -> Any:
    """Return a list without the items that are equal to a value, or to one of ``$in``."""
    if isinstance(operand, Mapping):
        if operand.keys() != {"$in"}:
            raise TypeError
        operand = list(operand["$in"])
    else:
        operand = [operand]
    if any(isinstance(item, Mapping | list | Regex | re.Pattern) for item in operand):
        raise TypeError  # these match what is not equal to them
    return _without(value, operand)


def _popped(value: Any, end: Any) -> Any:
    if value is MISSING:
        return MISSING
    return items_of(value)[:-1] if end == 1 else items_of(value)[1:]


_RESULTS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "$set": lambda _, operand: operand,
    "$unset": lambda _, __: MISSING,
    "$inc": total,
    "$mul": product,
    "$max": larger,
    "$min": smaller,
    "$push": lambda value, operand: items_of(value) + given_items(operand),
    "$addToSet": lambda value, operand: union(items_of(value), given_items(operand)),
    "$pull": _pulled,
    "$pullAll": _without,
    "$pop": _popped,
    TOGGLE: lambda value, unset: not (unset if value is MISSING or value is None else value),
}
