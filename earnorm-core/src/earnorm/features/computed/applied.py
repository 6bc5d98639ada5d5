"""Applies an update to a stored document in memory, as far as the server's result is sure."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from bson import ObjectId

from earnorm.domain.paths import is_position
from earnorm.fields.base import MISSING
from earnorm.kernel.merging import TOGGLE
from earnorm.kernel.operations import Update

_LARGEST: Final = 2**63 - 1
_COMPARED: Final = (frozenset({int, float}), frozenset({str}), frozenset({datetime.datetime}))
_REMOVING: Final = frozenset({"$unset", "$pull", "$pullAll", "$pop"})
"""The operators that make no object on the way to a path."""
_EXACT: Final = frozenset({str, ObjectId, bytes})
"""The types whose values are equal for the server if they are for Python."""


class _UnsureError(Exception):
    """Only the server knows the result."""


def applied(document: Mapping[str, Any], update: Update) -> dict[str, Any] | None:
    """Return a stored document as it is after an update; None if only the server can tell.

    Args:
        document: The document, which stays as it is; it has the keys that the update changes.
        update: The update.
    """
    if update.items:
        return None
    result = dict(document)
    for key in update.keys:
        if key in result:
            result[key] = copy.deepcopy(result[key])
    try:
        for operator, spec in update.operators.items():
            change = _CHANGES.get(operator)
            if change is None:
                return None
            for path, operand in spec.items():
                _apply(result, path.split("."), change, operand, adds=operator not in _REMOVING)
    except _UnsureError:
        return None
    return result


def _apply(
    holder: Any,
    parts: Sequence[str],
    change: Callable[[Any, Any], Any],
    operand: Any,
    *,
    adds: bool,
) -> None:
    part, *rest = parts
    key: Any = part
    if isinstance(holder, list):
        if not is_position(part) or int(part) >= len(holder):
            raise _UnsureError
        key = int(part)
    elif not isinstance(holder, dict) or part.startswith("$"):
        raise _UnsureError
    old = holder.get(key, MISSING) if isinstance(holder, dict) else holder[key]
    if rest:
        if old is MISSING:
            if not adds:
                return
            old = holder[key] = {}
        _apply(old, rest, change, operand, adds=adds)
        return
    new = change(old, operand)
    if new is not MISSING:
        holder[key] = new
    elif isinstance(holder, list):
        raise _UnsureError  # the server leaves null in the place of the item
    else:
        holder.pop(key, None)


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _UnsureError
    return value


def _within(value: Any) -> Any:
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise _UnsureError
    return value


def _inc(old: Any, by: Any) -> Any:
    return _within((0 if old is MISSING else _number(old)) + _number(by))


def _mul(old: Any, by: Any) -> Any:
    return _within((0 if old is MISSING else _number(old)) * _number(by))


def _smaller(old: Any, other: Any) -> Any:
    return other if old is MISSING else min(_comparable(old, other))


def _larger(old: Any, other: Any) -> Any:
    return other if old is MISSING else max(_comparable(old, other))


def _comparable(*values: Any) -> tuple[Any, ...]:
    kinds = {type(value) for value in values}
    if not any(kinds <= known for known in _COMPARED):
        raise _UnsureError
    return values


def _list(old: Any) -> list[Any]:
    if old is MISSING:
        return []
    if not isinstance(old, list):
        raise _UnsureError
    items: list[Any] = old
    return items


def _added(operand: Any) -> Sequence[Any]:
    if not isinstance(operand, Mapping) or operand.keys() != {"$each"}:
        raise _UnsureError
    return list(operand["$each"])


def _push(old: Any, operand: Any) -> Any:
    return [*_list(old), *_added(operand)]


def _exact(items: Sequence[Any]) -> Sequence[Any]:
    if not {type(item) for item in items} <= _EXACT:
        raise _UnsureError
    return items


def _add_to_set(old: Any, operand: Any) -> Any:
    items, added = list(_exact(_list(old))), _exact(_added(operand))
    for item in added:
        if item not in items:
            items.append(item)
    return items


def _pull(old: Any, operand: Any) -> Any:
    if isinstance(operand, Mapping):
        if operand.keys() != {"$in"}:
            raise _UnsureError
        operand = operand["$in"]
    if old is MISSING:
        return MISSING
    gone = _exact(operand)
    return [item for item in _exact(_list(old)) if item not in gone]


def _pop(old: Any, end: Any) -> Any:
    if old is MISSING:
        return MISSING
    items = _list(old)
    return items[:-1] if end == 1 else items[1:]


_CHANGES: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "$set": lambda old, value: value,
    "$unset": lambda old, value: MISSING,
    "$inc": _inc,
    "$mul": _mul,
    "$min": _smaller,
    "$max": _larger,
    "$push": _push,
    "$addToSet": _add_to_set,
    "$pull": _pull,
    "$pullAll": _pull,
    "$pop": _pop,
    TOGGLE: lambda old, unset: not (unset if old is MISSING or old is None else old),
}
