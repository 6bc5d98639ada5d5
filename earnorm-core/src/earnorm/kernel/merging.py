"""Merges the changes of one update: each one is applied as if it came after those before it.

MongoDB refuses an update with two changes of one place. The program's change and those of steps
are therefore combined here: into one operator where operators combine, and into one value where the
value before is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import DecimalException
from typing import Any, Final

from earnorm.domain.paths import is_position, overlap
from earnorm.fields.base import MISSING
from earnorm.kernel.known_values import (
    TOGGLE,
    UnknownResult,
    changed,
    given_items,
    larger,
    product,
    smaller,
    total,
    union,
)

Operators = Mapping[str, Mapping[str, Any]]

_BESIDE_TOGGLE: Final = frozenset({TOGGLE, "$set", "$inc", "$unset"})
_REPLACING: Final = frozenset({"$set", "$unset", "$currentDate"})
"""The operators whose result does not depend on the value before."""


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
            inside = path[len(other) + 1 :]
            after = changed(before, inside.split(".") if inside else (), operator, operand)
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
    except (UnknownResult, TypeError, ValueError, ArithmeticError, DecimalException):
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


_JOINED: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "$inc": total,
    "$mul": product,
    "$max": larger,
    "$min": smaller,
    "$push": lambda one, other: {"$each": given_items(one) + given_items(other)},
    "$addToSet": lambda one, other: {"$each": union(given_items(one), given_items(other))},
    "$pullAll": lambda one, other: [*one, *other],
}
"""By operator, the operand of two changes in one."""
