"""Expressions of pipelines, as a server evaluates them: paths, variables, literals and operators."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from bson import Decimal128

from earnorm.backends.in_memory.values import Evaluate, lacking, refused
from earnorm.domain.bson_order import MISSING
from earnorm.domain.values import is_dict, is_list

Variables = Mapping[str, Any]
Make = Callable[[Any], Evaluate]


def variables(document: Mapping[str, Any], given: Variables | None = None) -> Variables:
    """Return the variables of one document: ROOT, CURRENT, NOW, and those that are given."""
    return {**(given or {}), "ROOT": document, "CURRENT": document}


def is_true(value: Any) -> bool:
    """Return whether a server takes a value for true: all but false, null, nothing and zero."""
    if value is MISSING or value is None or value is False:
        return False
    if isinstance(value, Decimal128):
        return value.to_decimal() != 0
    return not (isinstance(value, int | float) and value == 0)


def expression(spec: Any) -> Evaluate:
    """Read an expression.

    Args:
        spec: The expression as it is sent.

    Returns:
        A function of the variables; it returns MISSING for no value.

    Raises:
        NotImplementedError: Memory does not have one of its operators.
        OperationFailure: A server refuses it, too.
    """
    if isinstance(spec, str) and spec.startswith("$"):
        return _variable(spec[2:]) if spec.startswith("$$") else _path("CURRENT", spec[1:])
    if is_dict(spec):
        name = next(iter(spec), "")
        if name.startswith("$"):
            if len(spec) > 1:
                raise refused(15983, "an expression has exactly one operator")
            make = OPERATORS.get(name)
            if make is None:
                raise lacking(f"{name} in an expression")
            return _folded(make(spec[name]), spec)
        return _object(spec)
    if is_list(spec) or isinstance(spec, tuple):
        parts = [expression(part) for part in spec]
        return lambda known: [_null(part(known)) for part in parts]
    return lambda _: spec


def literal(spec: Any) -> Evaluate:
    """Read ``$literal``: the value as it is."""
    return lambda _: spec


OPERATORS: Final[dict[str, Make]] = {}
"""Every operator by name; ``operators.load`` fills it, so that no operator's module is imported here."""


def _folded(evaluate: Evaluate, spec: Mapping[str, Any]) -> Evaluate:
    """Evaluate an expression at once if it is the same for every document, as a server does."""
    if not is_constant(spec):
        return evaluate
    value = evaluate({})
    return lambda _: value


def is_constant(spec: Any) -> bool:
    """Return whether an expression has the same value for every document."""
    if isinstance(spec, str):
        return not spec.startswith("$")
    if is_dict(spec):
        return "$literal" in spec or all(map(is_constant, spec.values()))
    return all(map(is_constant, spec)) if is_list(spec) else True


def _null(value: Any) -> Any:
    return None if value is MISSING else value


def _object(spec: Mapping[str, Any]) -> Evaluate:
    if any("." in name or name.startswith("$") for name in spec):
        raise refused(16412, "a field of an object has no dots, and no $ at its beginning")
    parts = {name: expression(part) for name, part in spec.items()}

    def evaluate(known: Variables) -> Any:
        values = {name: part(known) for name, part in parts.items()}
        return {name: value for name, value in values.items() if value is not MISSING}

    return evaluate


def _variable(name: str) -> Evaluate:
    name, dot, rest = name.partition(".")
    if name == "REMOVE":
        return lambda _: MISSING
    if dot:
        return _path(name, rest)

    def evaluate(known: Variables) -> Any:
        if name == "NOW":
            return known.get("NOW") or _now()
        if name not in known:
            raise refused(17276, f"Use of undefined variable: {name}")
        return known[name]

    return evaluate


def _now() -> datetime.datetime:
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def _path(name: str, path: str) -> Evaluate:
    parts = path.split(".")
    if not all(parts):
        raise refused(15998, "FieldPath field names may not be empty strings.")
    if any(part.startswith("$") for part in parts):
        raise refused(16410, "FieldPath field names may not start with '$'.")
    start = _variable(name)
    return lambda known: value_at(start(known), parts)


def value_at(value: Any, parts: Sequence[str]) -> Any:
    """Return what a path leads to: of a list the values of its items that are documents."""
    for number, part in enumerate(parts):
        if is_list(value):
            inner = [
                value_at(item, parts[number:]) for item in value if is_dict(item) or is_list(item)
            ]
            return [item for item in inner if item is not MISSING]
        if not is_dict(value):
            return MISSING
        value = value.get(part, MISSING)
    return value


# -- helpers of the operators ---------------------------------------------------------------------


def is_null(value: Any) -> bool:
    """Return whether there is no value, or null."""
    return value is None or value is MISSING


def arguments(spec: Any, least: int, most: int | None = None) -> list[Evaluate]:
    """Read the arguments of an operator: a list, or one that stands alone.

    Raises:
        OperationFailure: There are fewer than ``least`` or more than ``most`` (None: ``least``).
    """
    parts = list(spec) if is_list(spec) or isinstance(spec, tuple) else [spec]
    if len(parts) < least or len(parts) > (least if most is None else most):
        raise refused(16020, f"an expression takes {least} arguments, not {len(parts)}")
    return [expression(part) for part in parts]


def of_values(least: int, most: int | None, compute: Callable[..., Any]) -> Make:
    """Make an operator that is a function of the values of its arguments."""

    def make(spec: Any) -> Evaluate:
        parts = arguments(spec, least, most)
        return lambda known: compute(*[part(known) for part in parts])

    return make


def named(spec: Any, needed: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Evaluate]:
    """Read the named arguments of an operator.

    Raises:
        OperationFailure: One is missing or unknown.
    """
    needed, optional = list(needed), list(optional)
    if not is_dict(spec) or not set(needed) <= spec.keys() <= {*needed, *optional}:
        raise refused(40075, f"an operator takes {', '.join([*needed, *optional])}")
    return {name: expression(part) for name, part in spec.items()}


def with_variable(known: Variables, name: str, value: Any) -> Variables:
    """Return the variables with one more."""
    return {**known, name: value}
