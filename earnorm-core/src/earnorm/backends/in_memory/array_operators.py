"""Operators of expressions on lists, sets and documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from earnorm.backends.in_memory.accumulators import EXPRESSIONS
from earnorm.backends.in_memory.expressions import (
    Make,
    Variables,
    arguments,
    expression,
    is_constant,
    is_null,
    is_true,
    named,
    of_values,
)
from earnorm.backends.in_memory.values import Evaluate, key, lacking, refused, type_name
from earnorm.domain.bson_order import MISSING
from earnorm.domain.values import is_dict, is_list


def _list(value: Any, name: str, code: int) -> list[Any]:
    if not is_list(value):
        raise refused(
            code, f"the argument to {name} must be an array, but was of type: {type_name(value)}"
        )
    return value


def _lists_until_null(values: list[Any], name: str, code: int) -> list[list[Any]] | None:
    """Return the values, which are lists; None if one is null and no other value stands before it."""
    for value in values:
        if is_null(value):
            return None
        _list(value, name, code)
    return values


def _position(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise refused(28690, f"{name} takes a whole number")
    return int(value)


def _element_at(items: Any, position: Any) -> Any:
    if is_null(items) or is_null(position):
        return None
    _list(items, "$arrayElemAt", 28689)
    at = _position(position, "$arrayElemAt")
    return items[at] if -len(items) <= at < len(items) else MISSING


def _end(name: str, at: int) -> Make:
    def compute(items: Any) -> Any:
        if is_null(items):
            return None
        _list(items, name, 28689)
        return items[at] if items else MISSING

    return of_values(1, 1, compute)


def _slice(items: Any, one: Any, two: Any = MISSING) -> Any:
    if is_null(items) or is_null(one) or two is None:
        return None
    _list(items, "$slice", 28724)
    first = _position(one, "$slice")
    if two is MISSING:
        return items[:first] if first >= 0 else items[first:]
    count = _position(two, "$slice")
    if count <= 0:
        raise refused(28729, "the third argument to $slice must be positive")
    start = first if first >= 0 else max(0, len(items) + first)
    return items[start : start + count]


def _concatenated(spec: Any) -> Evaluate:
    parts = arguments(spec, 0, 10_000)

    def evaluate(known: Variables) -> Any:
        values = _lists_until_null([part(known) for part in parts], "$concatArrays", 28664)
        return None if values is None else [item for items in values for item in items]

    return evaluate


def _filter(spec: Any) -> Evaluate:
    if not is_dict(spec) or not {"input", "cond"} <= spec.keys() <= {"input", "cond", "as"}:
        raise lacking("$filter with a limit")
    source, test, name = expression(spec["input"]), expression(spec["cond"]), spec.get("as", "this")

    def evaluate(known: Variables) -> Any:
        items = source(known)
        if is_null(items):
            return None
        _list(items, "$filter", 28651)
        return [item for item in items if is_true(test({**known, name: item}))]

    return evaluate


def _map(spec: Any) -> Evaluate:
    if not is_dict(spec) or not {"input", "in"} <= spec.keys() <= {"input", "in", "as"}:
        raise refused(16878, "$map takes input, as and in")
    source, inner, name = expression(spec["input"]), expression(spec["in"]), spec.get("as", "this")

    def evaluate(known: Variables) -> Any:
        items = source(known)
        if is_null(items):
            return None
        _list(items, "$map", 16883)
        values = [inner({**known, name: item}) for item in items]
        return [None if value is MISSING else value for value in values]

    return evaluate


def _reduce(spec: Any) -> Evaluate:
    parts = named(spec, ("input", "initialValue", "in"))

    def evaluate(known: Variables) -> Any:
        items = parts["input"](known)
        if is_null(items):
            return None
        value = parts["initialValue"](known)
        for item in _list(items, "$reduce", 40080):
            value = parts["in"]({**known, "value": value, "this": item})
        return value

    return evaluate


def _contains(value: Any, items: Any) -> bool:
    _list(items, "$in", 40081)
    wanted = key(value)
    return any(key(item) == wanted for item in items)


def _index(items: Any, value: Any) -> Any:
    if is_null(items):
        return None
    wanted = key(value)
    for position, item in enumerate(_list(items, "$indexOfArray", 40090)):
        if key(item) == wanted:
            return position
    return -1


def _size(items: Any) -> int:
    return len(_list(items, "$size", 17124))


def _reversed(items: Any) -> Any:
    return None if is_null(items) else _list(items, "$reverseArray", 34435)[::-1]


def _range(start: Any, end: Any, step: Any = 1) -> list[int]:
    numbers = [_position(value, "$range") for value in (start, end, step)]
    if not numbers[2]:
        raise refused(34449, "$range requires a non-zero step value")
    return list(range(*numbers))


# -- sets -----------------------------------------------------------------------------------------


def _distinct(items: Sequence[Any]) -> list[Any]:
    """Return the different items in the order of their values, as a server's sets are in."""
    known: dict[Any, Any] = {}
    for item in items:
        known.setdefault(key(item), item)
    return [known[one] for one in sorted(known)]


def _sets(name: str, join: Callable[[list[list[Any]]], list[Any]]) -> Make:
    def make(spec: Any) -> Evaluate:
        parts = arguments(spec, 0, 10_000)

        def evaluate(known: Variables) -> Any:
            values = _lists_until_null([part(known) for part in parts], name, 17043)
            return None if values is None else join(values)

        return evaluate

    return make


def _union(sets: list[list[Any]]) -> list[Any]:
    return _distinct([item for items in sets for item in items])


def _intersection(sets: list[list[Any]]) -> list[Any]:
    if not sets:
        return []
    others = [{key(item) for item in items} for items in sets[1:]]
    return [item for item in _distinct(sets[0]) if all(key(item) in other for other in others)]


def _difference(one: Any, other: Any) -> Any:
    if is_null(one) or is_null(other):
        return None
    gone = {key(item) for item in _list(other, "$setDifference", 17049)}
    kept: dict[Any, Any] = {}
    for item in _list(one, "$setDifference", 17048):
        if key(item) not in gone:
            kept.setdefault(key(item), item)
    return list(kept.values())


def _is_subset(one: Any, other: Any) -> bool:
    known = {key(item) for item in _list(other, "$setIsSubset", 17042)}
    return all(key(item) in known for item in _list(one, "$setIsSubset", 17046))


def _subset(spec: Any) -> Evaluate:
    parts = arguments(spec, 2)
    if is_constant(spec[1]):
        _list(parts[1]({}), "$setIsSubset", 17042)  # which a server looks at beforehand
    return lambda known: _is_subset(*[part(known) for part in parts])


def _are_equal(spec: Any) -> Evaluate:
    parts = arguments(spec, 2, 10_000)

    def evaluate(known: Variables) -> bool:
        sets = [frozenset(map(key, _list(part(known), "$setEquals", 17044))) for part in parts]
        return len(set(sets)) == 1

    return evaluate


# -- documents ------------------------------------------------------------------------------------


def _merged(spec: Any) -> Evaluate:
    parts = arguments(spec, 0, 10_000)

    def evaluate(known: Variables) -> Any:
        result: dict[str, Any] = {}
        for part in parts:
            value = part(known)
            for one in value if is_list(value) else [value]:
                if is_null(one):
                    continue
                if not is_dict(one):
                    raise refused(
                        40400, f"$mergeObjects requires object inputs, not {type_name(one)}"
                    )
                result.update(one)
        return result

    return evaluate


def _to_pairs(value: Any) -> Any:
    if is_null(value):
        return None
    if not is_dict(value):
        raise refused(40390, "$objectToArray requires a document input")
    return [{"k": name, "v": item} for name, item in value.items()]


def _from_pairs(pairs: Any) -> Any:
    if is_null(pairs):
        return None
    result: dict[str, Any] = {}
    for pair in _list(pairs, "$arrayToObject", 40386):
        if is_dict(pair) and pair.keys() == {"k", "v"} and isinstance(pair["k"], str):
            result[pair["k"]] = pair["v"]
        elif is_list(pair) and len(pair) == 2 and isinstance(pair[0], str):
            result[pair[0]] = pair[1]
        else:
            raise refused(40397, "$arrayToObject requires pairs of a key and a value")
    return result


def _get_field(spec: Any) -> Evaluate:
    given = spec if is_dict(spec) and "field" in spec else {"field": spec}
    name = expression(given["field"])
    source = expression(given.get("input", "$$CURRENT"))

    def evaluate(known: Variables) -> Any:
        value, field = source(known), name(known)
        if not isinstance(field, str):
            raise refused(3041704, "$getField requires 'field' to be a string")
        if is_dict(value):
            return value.get(field, MISSING)
        return None if is_null(value) and value is None else MISSING

    return evaluate


def _accumulated(name: str) -> Make:
    def make(spec: Any) -> Evaluate:
        compute = EXPRESSIONS[name]
        if not (is_list(spec) or isinstance(spec, tuple)):
            only = expression(spec)

            def of_one(known: Variables) -> Any:
                value = only(known)
                return compute(value if is_list(value) else [value])

            return of_one
        parts = [expression(part) for part in spec]

        def evaluate(known: Variables) -> Any:
            values = [part(known) for part in parts]
            if len(values) == 1 and is_list(values[0]):
                values = values[0]
            return compute(values)

        return evaluate

    return make


OPERATORS: Final[Mapping[str, Make]] = {
    "$arrayElemAt": of_values(2, 2, _element_at),
    "$first": _end("$first", 0),
    "$last": _end("$last", -1),
    "$slice": of_values(2, 3, _slice),
    "$concatArrays": _concatenated,
    "$filter": _filter,
    "$map": _map,
    "$reduce": _reduce,
    "$in": of_values(2, 2, _contains),
    "$indexOfArray": of_values(2, 2, _index),
    "$isArray": of_values(1, 1, is_list),
    "$size": of_values(1, 1, _size),
    "$reverseArray": of_values(1, 1, _reversed),
    "$range": of_values(2, 3, _range),
    "$setUnion": _sets("$setUnion", _union),
    "$setIntersection": _sets("$setIntersection", _intersection),
    "$setDifference": of_values(2, 2, _difference),
    "$setIsSubset": _subset,
    "$setEquals": _are_equal,
    "$allElementsTrue": of_values(
        1, 1, lambda items: all(map(is_true, _list(items, "$allElementsTrue", 17040)))
    ),
    "$anyElementTrue": of_values(
        1, 1, lambda items: any(map(is_true, _list(items, "$anyElementTrue", 17041)))
    ),
    "$mergeObjects": _merged,
    "$objectToArray": of_values(1, 1, _to_pairs),
    "$arrayToObject": of_values(1, 1, _from_pairs),
    "$getField": _get_field,
    **{name: _accumulated(name) for name in EXPRESSIONS},
}
