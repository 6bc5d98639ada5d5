"""Accumulators: what a ``$group`` computes of the values of a group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from earnorm.backends.in_memory.expressions import expression
from earnorm.backends.in_memory.numbers import deviation, mean, total
from earnorm.backends.in_memory.sorting import sorted_by
from earnorm.backends.in_memory.values import Evaluate, is_number, key, lacking, refused, type_name
from earnorm.domain.bson_order import MISSING
from earnorm.domain.values import is_dict, is_list

Values = Sequence[Any]
Accumulate = Callable[[Sequence[Mapping[str, Any]]], Any]
"""Takes the variables of each document of a group, in their order."""


def _numbers(values: Values) -> list[Any]:
    return [value for value in values if is_number(value)]


def _known(values: Values) -> list[Any]:
    return [value for value in values if value is not MISSING and value is not None]


def _least(values: Values) -> Any:
    known = _known(values)
    return min(known, key=key) if known else None


def _most(values: Values) -> Any:
    known = _known(values)
    if not known:
        return None
    best = known[0]
    for value in known[1:]:
        if key(value) > key(best):
            best = value
    return best


def _different(values: Values) -> list[Any]:
    known: dict[Any, Any] = {}
    for value in values:
        if value is not MISSING:
            known.setdefault(key(value), value)
    return list(known.values())


def _merged(values: Values) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for value in _known(values):
        if not is_dict(value):
            raise refused(40400, f"$mergeObjects requires object inputs, not {type_name(value)}")
        result.update(value)
    return result


def _null(value: Any) -> Any:
    return None if value is MISSING else value


EXPRESSIONS: Final[Mapping[str, Callable[[Values], Any]]] = {
    "$sum": lambda values: total(_numbers(values)),
    "$avg": lambda values: mean(_numbers(values)),
    "$min": _least,
    "$max": _most,
    "$stdDevPop": lambda values: deviation(_numbers(values), is_sample=False),
    "$stdDevSamp": lambda values: deviation(_numbers(values), is_sample=True),
}
"""Those that are operators of expressions, too, by name: functions of the values."""

_OF_VALUES: Final[Mapping[str, Callable[[Values], Any]]] = {
    **EXPRESSIONS,
    "$first": lambda values: _null(values[0]),
    "$last": lambda values: _null(values[-1]),
    "$push": lambda values: [value for value in values if value is not MISSING],
    "$addToSet": _different,
    "$mergeObjects": _merged,
}


def accumulator(spec: Any) -> Accumulate:
    """Read an accumulator of a ``$group``.

    Raises:
        NotImplementedError: Memory does not have it.
        OperationFailure: A server refuses it, too.
    """
    if not is_dict(spec) or len(spec) != 1:
        raise refused(40234, "a field of a $group is an accumulator object")
    [(name, operand)] = spec.items()
    if name == "$count":
        return len
    if name in ("$top", "$topN", "$bottom", "$bottomN"):
        return _best(name, operand)
    compute = _OF_VALUES.get(name)
    if compute is None:
        raise lacking(f"the accumulator {name}")
    evaluate = expression(operand)
    return lambda group: compute([evaluate(known) for known in group])


def _best(name: str, operand: Any) -> Accumulate:
    output, order = expression(operand["output"]), operand["sortBy"]
    count: Evaluate = expression(operand["n"] if name.endswith("N") else 1)

    def accumulate(group: Sequence[Mapping[str, Any]]) -> Any:
        most = count(group[0])
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise refused(5788004, f"{name} takes a positive integer as n")
        for path in order:
            if any(_passes_list(known["ROOT"], path.split(".")) for known in group):
                raise lacking(f"{name} by a path through a list")
        ordered = sorted_by(group, order, lambda known: known["ROOT"])
        taken = ordered[:most] if name.startswith("$top") else ordered[-most:]
        values = [_null(output(known)) for known in taken]
        return values if name.endswith("N") else values[0]

    return accumulate


def _passes_list(value: Any, parts: Sequence[str]) -> bool:
    for part in parts:
        if not is_dict(value):
            return is_list(value)
        value = value.get(part, MISSING)
    return False
