"""Filters as predicates: what a server's ``$match`` and ``find`` test, with the tests of the domains."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, Final

from bson import Code, Decimal128, MaxKey, MinKey, Regex

from earnorm.backends.in_memory.expressions import is_true, variables
from earnorm.backends.in_memory.values import (
    NUMBERS,
    TYPE_CODES,
    TYPE_NAMES,
    lacking,
    refused,
    type_name,
)
from earnorm.domain.bson_order import MISSING, key
from earnorm.domain.folding import fold
from earnorm.domain.geo import EARTH_RADIUS, Near, is_near
from earnorm.domain.in_memory import collect
from earnorm.domain.operators import OPERATORS
from earnorm.domain.regex import portable_regex
from earnorm.domain.values import is_list

Predicate = Callable[[Mapping[str, Any]], bool]
Test = Callable[[Sequence[Any]], bool]
"""Tests all values that a path leads to: a list's items, and then the list itself."""
Expressions = Callable[[Any], Callable[[Mapping[str, Any]], Any]]
"""Reads the expression of an ``$expr``; what it returns takes the variables of a document."""

_COMPARISONS: Final = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


def predicate(filter: Mapping[str, Any], expressions: Expressions | None = None) -> Predicate:
    """Make the predicate that is true for the documents that a server's filter finds.

    Args:
        filter: The filter, as it is sent.
        expressions: Reads ``$expr``; without it an ``$expr`` is refused.

    Raises:
        NotImplementedError: Memory does not have an operator of the filter.
        OperationFailure: A server refuses the filter, too.
    """
    parts = [
        _part(name, value, expressions) for name, value in filter.items() if name != "$comment"
    ]
    if len(parts) == 1:
        return parts[0]
    return lambda document: all(part(document) for part in parts)


def _part(name: str, value: Any, expressions: Expressions | None) -> Predicate:
    if name in ("$and", "$or", "$nor"):
        if not is_list(value) or not value:
            raise refused(2, f"{name} must be a nonempty array")
        children = [predicate(child, expressions) for child in value]
        if name == "$and":
            return lambda document: all(child(document) for child in children)
        wanted = name == "$or"
        return lambda document: any(child(document) for child in children) is wanted
    if name == "$expr":
        if expressions is None:
            raise lacking("$expr here")
        return _expr(expressions(value))
    if name.startswith("$"):
        raise lacking(name)
    return _on_path(name, _tests(value, expressions))


def _expr(evaluate: Callable[[Mapping[str, Any]], Any]) -> Predicate:
    return lambda document: is_true(evaluate(variables(document)))


def _on_path(path: str, tests: Sequence[tuple[bool, Test]]) -> Predicate:
    parts = tuple(path.split("."))

    def check(document: Mapping[str, Any]) -> bool:
        for whole, test in tests:
            values: list[Any] = []
            collect(document, parts, 0, whole, values)
            if not test(values):
                return False
        return True

    return check


def is_operators(value: Any) -> bool:
    """Return whether a value of a filter is a document of operators, and no value to compare with."""
    return isinstance(value, Mapping) and next(iter(value), "").startswith("$")


def _tests(value: Any, expressions: Expressions | None) -> list[tuple[bool, Test]]:
    """Read what stands beside a path; each test is told whether it takes a list as a whole."""
    if not is_operators(value):
        return [(False, equal(value))]
    if "$options" in value and "$regex" not in value:
        raise refused(2, "$options needs a $regex")
    tests: list[tuple[bool, Test]] = []
    for name, operand in value.items():
        if name == "$options":
            continue
        if name == "$regex":
            tests.append((False, _regex(operand, value.get("$options", ""))))
        elif name == "$not":
            tests += _negated(operand, expressions)
        elif name == "$elemMatch":
            tests.append((True, _element(operand, expressions)))
        elif name in _OPERATORS:
            whole, make = _OPERATORS[name]
            tests.append((whole, make(operand)))
        else:
            raise lacking(name)
    return tests


def _negated(operand: Any, expressions: Expressions | None) -> list[tuple[bool, Test]]:
    inner = [(False, _regex(operand, ""))] if _is_regex(operand) else _tests(operand, expressions)
    if len(inner) == 1:
        [(whole, test)] = inner
        return [(whole, lambda values: not test(values))]
    # The parts may look at lists differently, so the whole of a list is given to those that want it.
    if any(whole for whole, _ in inner):
        raise lacking("$not around several operators one of which is about a list")
    return [(False, lambda values: not all(test(values) for _, test in inner))]


def _element(operand: Any, expressions: Expressions | None) -> Test:
    if not isinstance(operand, Mapping):
        raise refused(2, "$elemMatch needs an Object")
    if is_operators(operand) and next(iter(operand)) not in ("$and", "$or", "$nor", "$expr"):
        tests = _tests(operand, expressions)
        return lambda values: any(
            all(test([item]) for _, test in tests)
            for items in values
            if is_list(items)
            for item in items
        )
    fits = predicate(operand, expressions)

    def test(values: Sequence[Any]) -> bool:
        for items in values:
            for item in items if is_list(items) else ():
                if is_list(item):
                    item = {str(position): inner for position, inner in enumerate(item)}
                if isinstance(item, Mapping) and fits(item):
                    return True
        return False

    return test


# -- tests ----------------------------------------------------------------------------------------


def equal(operand: Any) -> Test:
    """Make the test of a plain value: equality, or a match if it is a regular expression."""
    if _is_regex(operand):
        return _regex(operand, "")
    return OPERATORS["="].matches(operand)


def _eq(operand: Any) -> Test:
    if _is_regex(operand):
        wanted = key(operand)
        return lambda values: any(key(value) == wanted for value in values)
    return equal(operand)


def _not(make: Callable[[Any], Test]) -> Callable[[Any], Test]:
    def negated(operand: Any) -> Test:
        test = make(operand)
        return lambda values: not test(values)

    return negated


def _ne(operand: Any) -> Test:
    if _is_regex(operand):
        raise refused(2, "Can't have regex as arg to $ne.")
    return _not(equal)(operand)


def _in(operand: Any) -> Test:
    if not is_list(operand):
        raise refused(2, "$in needs an array")
    if any(map(is_operators, operand)):
        raise refused(2, "cannot nest $ under $in")
    patterns = [_regex(item, "") for item in operand if _is_regex(item)]
    plain = OPERATORS["in"].matches([item for item in operand if not _is_regex(item)])
    if not patterns:
        return plain
    return lambda values: plain(values) or any(pattern(values) for pattern in patterns)


def _all(operand: Any) -> Test:
    if not is_list(operand):
        raise refused(2, "$all needs an array")
    if any(map(is_operators, operand)):
        raise lacking("$all of operators")
    tests = [equal(item) for item in operand]
    return lambda values: bool(tests) and all(test(values) for test in tests)


def _compared(name: str) -> Callable[[Any], Test]:
    def make(operand: Any) -> Test:
        if _is_regex(operand):
            raise refused(2, f"Can't have RegEx as arg to predicate over field {name}")
        if isinstance(operand, MinKey | MaxKey):
            raise lacking(f"{name} with MinKey or MaxKey")
        return OPERATORS[_COMPARISONS[name]].matches(operand)

    return make


def _exists(operand: Any) -> Test:
    wanted = bool(operand)
    return lambda values: any(value is not MISSING for value in values) is wanted


def _size(operand: Any) -> Test:
    if isinstance(operand, bool) or not isinstance(operand, int) or operand < 0:
        raise refused(2, "$size needs a number that is not negative")
    return OPERATORS["size"].matches(operand)


def _type(operand: Any) -> Test:
    wanted: set[str] = set()
    for one in operand if is_list(operand) else [operand]:
        name = TYPE_CODES.get(one, one) if not isinstance(one, bool) else one
        if name not in TYPE_NAMES:
            raise refused(2, "Unknown type name or code in $type")
        wanted |= NUMBERS if name == "number" else {name}
    return lambda values: any(
        type_name(value) in wanted for value in values if value is not MISSING
    )


def _mod(operand: Any) -> Test:
    if not is_list(operand) or len(operand) != 2 or not all(type(n) is int for n in operand):
        raise lacking("$mod of anything but two integers")
    divisor, remainder = operand
    if not divisor:
        raise refused(2, "divisor cannot be 0")

    def fits(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal128):
            return False
        exact = value.to_decimal() if isinstance(value, Decimal128) else value
        if not isfinite(exact):
            return False
        number = int(exact)
        left = abs(number) % abs(divisor) * (1 if number >= 0 else -1)
        return bool(left == remainder)

    return lambda values: any(map(fits, values))


def _geo_within(operand: Any) -> Test:
    circle = operand.get("$centerSphere") if isinstance(operand, Mapping) else None
    if circle is None:
        # A side of a polygon is a part of a great circle, on a grid of the server's own.
        raise lacking("$geoWithin of a polygon")
    position, radius = circle
    # One rounding is in the radius that was sent, and another one is added by the test.
    return is_near(Near(list(position), radius * EARTH_RADIUS - 1e-6, 0.0))


_OPERATORS: Final[Mapping[str, tuple[bool, Callable[[Any], Test]]]] = {
    "$eq": (False, _eq),
    "$ne": (False, _ne),
    "$in": (False, _in),
    "$nin": (False, _not(_in)),
    "$all": (False, _all),
    **{name: (False, _compared(name)) for name in _COMPARISONS},
    "$exists": (True, _exists),
    "$size": (True, _size),
    "$type": (False, _type),
    "$mod": (False, _mod),
    "$geoWithin": (False, _geo_within),
}
"""By name: whether the test takes lists as a whole, and what makes it of the operand."""


# -- regular expressions --------------------------------------------------------------------------

_FOLDED: Final = "(?i)"
"""The beginning of an ``ilike``'s expression, whose letters are folded already."""
_CLASSES: Final = re.compile(r"\\[wWsSdDbBZzvuNpPhHRXKGQE0-9]|\[\[:")
"""The parts of an expression that Python and the server read differently."""


def _differs(pattern: str) -> bool:
    return _CLASSES.search(pattern.replace("\\\\", "")) is not None


_LETTERS_OF_ASCII: Final = {0x130: 0xE000, 0x131: 0xE000}
"""Two letters that Python takes for an i, and the server doesn't."""


def _is_regex(value: Any) -> bool:
    return isinstance(value, re.Pattern | Regex)


def regex_search(operand: Any, options: Any) -> Callable[[str], object]:
    """Return the function that searches a text for a regular expression, as a server does.

    Raises:
        NotImplementedError: Python reads the expression differently.
        OperationFailure: The server refuses it, too.
    """
    pattern = operand
    if isinstance(operand, Regex | re.Pattern):
        pattern, options = operand.pattern, options or _letters(int(operand.flags))
    if not isinstance(pattern, str) or not isinstance(options, str):
        raise refused(2, "$regex has to be a string")
    return _searched(pattern, options)


def _regex(operand: Any, options: Any) -> Test:
    search = regex_search(operand, options)
    return lambda values: any(
        search(value) for value in values if isinstance(value, str) and not isinstance(value, Code)
    )


def _letters(flags: int) -> str:
    known = {re.I: "i", re.M: "m", re.S: "s", re.X: "x"}
    return "".join(letter for flag, letter in known.items() if flags & flag)


def _searched(pattern: str, options: str) -> Callable[[str], object]:
    if set(options) - set("ims"):
        raise lacking(f"the options {options!r} of a $regex")
    flags = (re.M if "m" in options else 0) | (re.S if "s" in options else 0)
    if pattern.startswith(_FOLDED) and not options and not _differs(pattern):
        folded = _compiled(pattern.removeprefix(_FOLDED), 0)
        return lambda text: folded.search(fold(text))
    is_portable = _is_portable(pattern)
    if not is_portable and _differs(pattern):
        raise lacking("a $regex that Python reads differently")
    if "i" in options:
        return _ignoring_case(pattern, flags | re.I)
    return _compiled(pattern, flags | (re.ASCII if is_portable else 0)).search


def _is_portable(pattern: str) -> bool:
    try:
        portable_regex(pattern)
    except ValueError:
        return False
    return True


def _ignoring_case(pattern: str, flags: int) -> Callable[[str], object]:
    if not pattern.isascii():
        raise lacking("a $regex that ignores the case of other letters than a to z")
    narrow = _compiled(pattern, flags | re.ASCII)
    wide = None if _differs(pattern) else _compiled(pattern, flags)

    def search(text: str) -> object:
        if text.isascii():
            return narrow.search(text)
        if wide is None:
            raise lacking("a $regex that ignores the case and has classes, over other letters")
        return wide.search(text.translate(_LETTERS_OF_ASCII))

    return search


def _compiled(pattern: str, flags: int) -> re.Pattern[str]:
    try:
        return re.compile(pattern, flags)
    except re.error as error:
        raise lacking(f"a $regex that Python does not know ({error})") from error
