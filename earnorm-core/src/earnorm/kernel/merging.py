"""Merges the changes of one update: each one is applied as if it came after those before it.

MongoDB refuses an update with two changes of one place. The program's change and those of steps
are therefore combined here: into one operator where operators combine, and into one value where the
value before is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal, DecimalException
from typing import Any, Final, cast

from bson import Decimal128, Int64
from bson.decimal128 import create_decimal128_context

from earnorm.domain.bson_order import key as order_of
from earnorm.domain.paths import is_position, overlap
from earnorm.fields.base import MISSING

Operators = Mapping[str, Mapping[str, Any]]

TOGGLE: Final = "$toggle"
"""An operator in addition to MongoDB's own: it inverts a Boolean. A missing value counts as the
operand.
"""

_BESIDE_TOGGLE: Final = frozenset({TOGGLE, "$set", "$inc", "$unset"})
_REPLACING: Final = frozenset({"$set", "$unset", "$currentDate"})
"""The operators whose result does not depend on the value before."""
_LARGEST: Final = 2**63 - 1


class ConflictingChange(Exception):
    """Two changes of one place that no update can make together.

    Attributes:
        path: The stored path.
        operator: The operator of the later change.
        other: The operator that it meets.
    """

    def __init__(self, path: str, operator: str, other: str) -> None:
        super().__init__(f"{operator} of {path!r} beside {other}")
        self.path, self.operator, self.other = path, operator, other


def merged(operators: Operators, operator: str, values: Mapping[str, Any]) -> Operators:
    """Return operators that also apply ``{operator: values}``, after all that is there.

    Args:
        operators: MongoDB's update operators, by name.
        operator: The operator to add.
        values: Its operands by stored path.

    Raises:
        ConflictingChange: There is no update that makes both changes.
    """
    result: dict[str, dict[str, Any]] = {name: dict(spec) for name, spec in operators.items()}
    for path, operand in values.items():
        _merge(result, operator, path, operand)
    result = {name: spec for name, spec in result.items() if spec}
    if TOGGLE in result:
        _refuse_beside_toggle(result, operator, values)
    return result


def _merge(result: dict[str, dict[str, Any]], operator: str, path: str, operand: Any) -> None:
    for name, spec in result.items():
        for other in spec:
            if ("$[" in path or "$[" in other) and _may_be_one_item(path, other):
                raise ConflictingChange(path, operator, name)
    met = _met(result, path)
    if not met:
        result.setdefault(operator, {})[path] = operand
        return
    if operator in _REPLACING and all(len(other) >= len(path) for _, other in met):
        for name, other in met:
            if (name, other) != (operator, path):
                del result[name][other]
        result.setdefault(operator, {})[path] = operand
        return
    (name, other), *more = met
    if more or len(other) > len(path):
        raise ConflictingChange(path, operator, name)
    try:
        if name in ("$set", "$unset"):
            before = result[name].pop(other) if name == "$set" else MISSING
            after = _changed(before, path[len(other) + 1 :], operator, operand)
            if name == "$unset":
                del result[name][other]
            if after is MISSING:
                result.setdefault("$unset", {})[other] = True
            else:
                result.setdefault("$set", {})[other] = after
        elif name == operator and other == path and operator in _JOINED:
            result[name][path] = _JOINED[operator](result[name][path], operand)
        else:
            raise ConflictingChange(path, operator, name)
    except (TypeError, ValueError, ArithmeticError, DecimalException):
        raise ConflictingChange(path, operator, name) from None


def _met(result: Mapping[str, Mapping[str, Any]], path: str) -> list[tuple[str, str]]:
    """Return the changes of a path, of a value around it, and of values inside it."""
    return [
        (name, other) for name, spec in result.items() for other in spec if overlap(path, other)
    ]


def _may_be_one_item(path: str, other: str) -> bool:
    """Return whether one path names by its position an item that the other one may choose."""
    by_position = False
    for part, other_part in zip(path.split("."), other.split("."), strict=False):
        if part == other_part:
            continue
        first, second = sorted((part, other_part))
        if not (first.startswith("$[") and is_position(second)):
            return False
        by_position = True
    return by_position


def _refuse_beside_toggle(
    result: Mapping[str, Mapping[str, Any]], operator: str, values: Mapping[str, Any]
) -> None:
    """Refuse a change that the pipeline of a toggle cannot make."""
    toggled, path = next(iter(result[TOGGLE])), next(iter(values), "")
    others = [name for name in result if name not in _BESIDE_TOGGLE]
    if others:
        raise ConflictingChange(path, operator, f"{TOGGLE} of {toggled!r} and {others[0]}")
    if any("." in key for key in values):
        raise ConflictingChange(path, operator, f"{TOGGLE} of {toggled!r}")


# -- a value that is known ------------------------------------------------------------------------


def _changed(value: Any, inside: str, operator: str, operand: Any) -> Any:
    """Return a known value after a change of it, or of a value inside it; MISSING for no value.

    Raises:
        TypeError: The value cannot be changed so.
    """
    if not inside:
        return _APPLIED[operator](value, operand) if operator in _APPLIED else _refuse()
    if value is MISSING:
        value = {}
    if not isinstance(value, dict):
        _refuse()
    first, _, rest = inside.partition(".")
    after = dict(cast("dict[str, Any]", value))
    part = _changed(after.get(first, MISSING), rest, operator, operand)
    if part is MISSING:
        after.pop(first, None)
    else:
        after[first] = part
    return after


def _refuse(*_: object) -> Any:
    raise TypeError


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


def _sum(one: Any, other: Any) -> Any:
    return _arithmetic(one, other, lambda a, b: a + b)


def _product(one: Any, other: Any) -> Any:
    return _arithmetic(one, other, lambda a, b: a * b)


def _larger(one: Any, other: Any) -> Any:
    return other if one is MISSING or order_of(other) > order_of(one) else one


def _smaller(one: Any, other: Any) -> Any:
    return other if one is MISSING or order_of(other) < order_of(one) else one


def _items(value: Any) -> list[Any]:
    """Return the items of a list; none for no value."""
    if value is MISSING or value is None:
        return []
    if not isinstance(value, list):
        raise TypeError
    return list(value)


def _given(operand: Any) -> list[Any]:
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


def _union(items: list[Any], more: list[Any]) -> list[Any]:
    for item in more:
        if all(order_of(item) != order_of(one) for one in items):
            items.append(item)
    return items


def _without(value: Any, operand: Any) -> list[Any]:
    pulled = [order_of(item) for item in operand]
    return [item for item in _items(value) if order_of(item) not in pulled]


def _popped(value: Any, which: Any) -> list[Any]:
    return _items(value)[:-1] if which == 1 else _items(value)[1:]


_APPLIED: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "$set": lambda _, operand: operand,
    "$unset": lambda _, __: MISSING,
    "$inc": _sum,
    "$mul": _product,
    "$max": _larger,
    "$min": _smaller,
    "$push": lambda value, operand: _items(value) + _given(operand),
    "$addToSet": lambda value, operand: _union(_items(value), _given(operand)),
    "$pullAll": lambda value, operand: MISSING if value is MISSING else _without(value, operand),
    "$pop": lambda value, which: MISSING if value is MISSING else _popped(value, which),
    TOGGLE: lambda value, unset: not (unset if value is MISSING or value is None else value),
}
"""By operator, the value after a change of a known value."""

_JOINED: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "$inc": _sum,
    "$mul": _product,
    "$max": _larger,
    "$min": _smaller,
    "$push": lambda one, other: {"$each": _given(one) + _given(other)},
    "$addToSet": lambda one, other: {"$each": _union(_given(one), _given(other))},
    "$pullAll": lambda one, other: [*one, *other],
}
"""By operator, the operand of two changes in one."""
