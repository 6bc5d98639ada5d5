"""The table of operators: which values each takes, and what it means on the server and in memory.

A plugin adds an operator by passing a larger table to the interpreters; nothing here knows the App.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import ge, gt, le, lt
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from bson import Code

from earnorm.domain.ast import FALSE, TRUE, Condition, Domain
from earnorm.domain.bson_order import MISSING, key
from earnorm.domain.days import Day
from earnorm.domain.full_text import has_text, text_filter, text_operand
from earnorm.domain.geo import (
    is_near,
    is_within,
    near_filter,
    near_operand,
    within_filter,
    within_operand,
)
from earnorm.domain.like import LikePattern
from earnorm.domain.long_lists import listed
from earnorm.domain.one_of import OneOf
from earnorm.domain.regex import portable_regex
from earnorm.domain.schema import Crossing, FieldLike, Path, Schema, kept_types
from earnorm.domain.values import PLAIN, PLAIN_STORED, is_dict, is_list, shorten, stored, thaw
from earnorm.exceptions import DomainError, UnresolvedDomain, nearest

__all__ = ["OPERATORS", "Bound", "Operator", "Test", "bind"]

WHOLE_RECORD: Final = "*"
"""The path of a condition about the whole record, not about a field."""

# An operator's `prepare` makes an operand of a value; only that operator knows its form.
Operand = Any
Values = Sequence[object]
Test = Callable[[Values], bool]


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator.

    Args:
        name: The middle of a condition, such as ``>=``.
        prepare: Makes the operand of a field's condition from its value. It may return
            ``Domain.TRUE`` or ``Domain.FALSE`` if the value alone decides, and raises
            ``ValueError`` for a value that it doesn't take. It isn't called for a nested operator.
        to_mongo: Makes the filter from a path in the stored document and an operand. The filter has
            a plain value or a dict of operators under the path; a dict that is data goes under
            ``$eq``.
        matches: Makes the test from an operand. A test gets every value that the path leads to, as
            the server finds them: a list's elements, then the list itself; ``MISSING`` if there is
            none.
        negated: The operator that is true exactly when this one isn't; it takes the same operands.
        whole: The test gets a list as it is, without its elements.
        nested: The value is a domain about the elements of a list; ``to_mongo`` gets its filter as
            operand, ``matches`` gets a test of one element's document.
        relational: The condition is about records of another model (or about a tree of the model's
            own records), so a condition on ids replaces it before a filter is made; ``to_mongo``
            and ``matches`` are never called.
        negatable: The filter may stand under a negation.
        pathless: The condition is about the whole record, and its path is ``*``.
    """

    name: str
    prepare: Callable[[FieldLike, Any], Operand]
    to_mongo: Callable[[str, Operand], dict[str, Any]]
    matches: Callable[[Operand], Test]
    negated: str | None = None
    whole: bool = False
    nested: bool = False
    relational: bool = False
    negatable: bool = True
    pathless: bool = False


class _Anything:
    """The field of the path ``*``."""

    name = WHOLE_RECORD

    def operand(self, value: Any) -> Any:
        return value


_ANYWHERE: Final = Path("", _Anything())


class Nested(NamedTuple):
    """The operand of a nested operator before an interpreter compiles it."""

    domain: Domain
    schema: Schema


Bound = tuple[Operator, str, Operand]
"""A condition bound to its schema: the operator, the path in the document, the operand."""


def _negation_hint(condition: Condition, operators: Mapping[str, Operator]) -> str:
    """Return how to negate an operator that has no negative of its own name; else nothing."""
    positive = condition.operator.removeprefix("not ")
    if positive == condition.operator or positive not in operators:
        return ""
    return f"; the complement of {positive!r} is '!', ({condition.path!r}, {positive!r}, ...)"


def bind(condition: Condition, schema: Schema, operators: Mapping[str, Operator]) -> Bound:
    """Resolve the path, find the operator, and convert the value.

    Raises:
        DomainError: Unknown field or operator, or a value that the operator or the field refuses.
    """
    operator = operators.get(condition.operator)
    if operator is None:
        raise DomainError(
            f"({condition.path!r}, {condition.operator!r}): no such operator"
            f"{_negation_hint(condition, operators) or nearest(condition.operator, operators)}",
            loc=(condition.path,),
        )
    if operator.relational:
        raise unresolved(condition, schema)
    path = _ANYWHERE if operator.pathless else schema.resolve(condition.path)
    if path.limits is not None:
        _check_limits(path.limits, condition)
    value: Any = condition.value
    if type(value) not in PLAIN:
        value = thaw(value)
    try:
        if operator.pathless and condition.path != WHOLE_RECORD:
            raise ValueError(f"it is about the whole record: ({WHOLE_RECORD!r}, …)")
        if operator.nested:
            elements = ElementSchema(schema, condition.path, path.db_path)
            return operator, path.db_path, Nested(Domain(value), elements)
        return operator, path.db_path, operator.prepare(path.field, value)
    except DomainError:
        raise
    except ValueError as error:
        raise DomainError(
            f"({condition.path!r}, {condition.operator!r}): {error}", loc=(condition.path,)
        ) from error


def _check_limits(limits: Callable[[str, object], str], condition: Condition) -> None:
    reason = limits(condition.operator, condition.value)
    if reason:
        raise DomainError(
            f"({condition.path!r}, {condition.operator!r}): {reason}", loc=(condition.path,)
        )


TREE_OPERATORS: Final = frozenset({"child_of", "parent_of"})


def unresolved(condition: Condition, schema: Schema) -> DomainError:
    """Make the error for a relational condition that was not resolved before it is compiled."""
    quoted = f"({condition.path!r}, {condition.operator!r})"
    crossing = schema.crossing(condition.path)
    on_tree = condition.operator in TREE_OPERATORS
    if crossing is None and not (on_tree and schema.resolve(condition.path).db_path == "_id"):
        return DomainError(
            f"{quoted}: {condition.path!r} is no relation of {schema.name}"
            + ("" if on_tree else "; about the elements of a list asks 'elem'"),
            loc=(condition.path,),
        )
    return UnresolvedDomain(
        f"{quoted} is about other records, and a single document doesn't hold them; "
        f"'await app.resolve(model, domain)' first",
        loc=(condition.path,),
    )


class ElementSchema:
    """The schema of a list's elements: paths begin inside an element."""

    def __init__(self, schema: Schema, path: str, db_path: str) -> None:
        self.name = schema.name
        self._schema = schema
        self._path = path
        self._db_path = f"{db_path}."

    def resolve(self, path: str) -> Path:
        """Resolve a path inside an element."""
        inner = self._schema.resolve(f"{self._path}.{path}")
        if not inner.db_path.startswith(self._db_path):
            raise DomainError(
                f"{path!r} does not lie inside {self._path!r}", loc=(self._path, path)
            )
        return replace(inner, db_path=inner.db_path.removeprefix(self._db_path))

    def substitute(self, path: str) -> None:
        """Return None, because nothing inside an element is computed."""

    def crossing(self, path: str) -> Crossing | None:
        """Return the first relation on a path inside an element."""
        inner = self._schema.crossing(f"{self._path}.{path}")
        if inner is None or not inner.path.startswith(f"{self._path}."):
            return None
        return replace(inner, path=inner.path.removeprefix(f"{self._path}."))


# --- values ---------------------------------------------------------------------------------------


# Every value of these types can be stored; a text or an integer has to be checked.
_NEED_NO_CHECK: Final = PLAIN_STORED - {str, int}
_CHECKED: Final = _NEED_NO_CHECK | {Day, OneOf}  # the last two are not one value


def _value(field: FieldLike, value: Any) -> Any:
    if value is None:
        return None
    operand = field.operand(value)
    return operand if type(operand) in _CHECKED else stored(operand)


def _no_items(value: Any) -> bool:
    return type(value) is list and not value


def _unset(value: Any) -> bool:
    return value is None or _no_items(value)


def _equal(field: FieldLike, value: Any) -> Any:
    if value is None:
        return None
    if type(value) is list and not value:
        return _EMPTY
    operand = field.operand(value)  # as _value(), without a call
    return operand if type(operand) in _CHECKED else stored(operand)


def _equal_if_set(field: FieldLike, value: Any) -> Any:
    return TRUE if _unset(value) else _equal(field, value)


def _ordered(field: FieldLike, value: Any) -> Any:
    operand = None if _unset(value) else _value(field, value)
    if operand is None or isinstance(operand, dict | list | OneOf):
        raise ValueError(f"{shorten(value)} has no order; to find unset values use ('=', None)")
    return operand


def _listed(field: FieldLike, value: Any) -> list[Any]:
    convert = field.operand
    values = value if is_list(value) else [value]
    kinds = set(map(type, values))
    if kinds <= kept_types(convert):
        return list(values)  # 1,000 ids take a tenth of the time this way
    operands = [None if item is None else convert(item) for item in values]
    kinds = set(map(type, operands))
    if kinds <= _NEED_NO_CHECK:
        return operands  # the common case; a long list takes a third of the time this way
    if Day in kinds:
        raise ValueError(
            "a day is no point in time, and stands in no list; use '=' for each with '|'"
        )
    if OneOf in kinds:
        operands = [
            form for one in operands for form in (one.forms if type(one) is OneOf else (one,))
        ]
    for operand in operands:
        stored(operand)
    for operand in operands:
        if is_dict(operand) and next(iter(operand), "").startswith("$"):
            # Under $in and $all the server reads such a dict as an operator.
            raise ValueError(
                "a dict whose first key begins with '$' cannot stand in a list; use '='"
            )
    return operands


def _listed_or(empty: Domain) -> Callable[[FieldLike, Any], Operand]:
    """Make the ``prepare`` of a list; an empty one gives ``empty``."""
    return lambda field, value: _listed(field, value) or empty


def _all(field: FieldLike, value: Any) -> Any:
    values = value if is_list(value) else [value]
    if any(type(field.operand(item)) is OneOf for item in values if item is not None):
        raise ValueError("a value of this field has several stored forms; use '=' or 'in'")
    return _listed(field, value) or TRUE


def _flag(_: FieldLike, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"'exists' takes True or False, not {shorten(value)}")
    return value


def _length(_: FieldLike, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise ValueError(f"a size is an integer from 0 to 2**31 - 1, not {shorten(value)}")
    return value


def _regex(_: FieldLike, value: Any) -> Any:
    return portable_regex(value)


def _not_prepared(_: FieldLike, value: Any) -> Any:
    raise NotImplementedError("bind() reads the domain of a nested operator")


def _relational(name: str, negated: str | None = None) -> Operator:
    def never(*_: object) -> Any:
        raise NotImplementedError("a relational condition is resolved before it is compiled")

    return Operator(name, never, never, never, negated, relational=True)


# --- the server's side ----------------------------------------------------------------------------

# The operand of '= []': unset, or an empty list. It is compared by identity.
_EMPTY: Final = object()
_UNSET_VALUES: Final[tuple[Any, ...]] = (None, [])


def _eq(path: str, operand: Any) -> dict[str, Any]:
    if type(operand) in PLAIN_STORED:
        return {path: operand}
    if operand is _EMPTY:
        return {path: {"$in": list(_UNSET_VALUES)}}
    if type(operand) is Day:
        return {path: operand.equals()}
    if type(operand) is OneOf:
        return {path: {"$in": list(operand.forms)}}
    return {path: {"$eq": operand}}


def _ne(path: str, operand: Any) -> dict[str, Any]:
    if operand is _EMPTY:
        return {path: {"$nin": list(_UNSET_VALUES)}}
    if type(operand) is Day:
        return {path: {"$not": operand.equals()}}
    if type(operand) is OneOf:
        return {path: {"$nin": list(operand.forms)}}
    return {path: {"$ne": operand}}


def _limit(sign: str) -> Callable[[str, Operand], dict[str, Any]]:
    def to_mongo(path: str, operand: Any) -> dict[str, Any]:
        point_sign, limit = operand.limit(sign) if type(operand) is Day else (sign, operand)
        return {path: {point_sign: limit}}

    return to_mongo


def _with(sign: str) -> Callable[[str, Operand], dict[str, Any]]:
    return lambda path, operand: {path: {sign: operand}}


def _like(path: str, pattern: LikePattern) -> dict[str, Any]:
    literal = pattern.literal
    return {path: literal if literal is not None else {"$regex": pattern.regex()}}


def _not_like(path: str, pattern: LikePattern) -> dict[str, Any]:
    literal = pattern.literal
    if literal is not None:
        return {path: {"$ne": literal}}
    return {path: {"$not": {"$regex": pattern.regex()}}}


def _with_regex(path: str, pattern: re.Pattern[str]) -> dict[str, Any]:
    return {path: {"$regex": pattern.pattern}}


# --- in memory ------------------------------------------------------------------------------------


def _is_equal(operand: Any) -> Test:
    if operand is _EMPTY:
        return _is_in(_UNSET_VALUES)
    if type(operand) is OneOf:
        return _is_in(operand.forms)
    if type(operand) is Day:
        # As on the server, two different items of a list may meet the two limits.
        from_start, before_end = _compared("$gte")(operand.start), _compared("$lt")(operand.end)
        return lambda values: from_start(values) and before_end(values)
    wanted = key(operand)
    return lambda values: any(key(value) == wanted for value in values)


def _is_in(operands: Sequence[Any]) -> Test:
    wanted = frozenset(map(key, operands))
    return lambda values: any(key(value) in wanted for value in values)


def _has_all(operands: Sequence[Any]) -> Test:
    tests = [_is_equal(operand) for operand in operands]
    return lambda values: all(test(values) for test in tests)


_HOLDS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "$gt": gt,
    "$gte": ge,
    "$lt": lt,
    "$lte": le,
}


def _compared(sign: str) -> Callable[[Operand], Test]:
    def matches(operand: Any) -> Test:
        point_sign, point = operand.limit(sign) if type(operand) is Day else (sign, operand)
        holds = _HOLDS[point_sign]
        bracket, limit = key(point)

        def test(values: Values) -> bool:
            for value in values:
                value_bracket, inner = key(value)
                if value_bracket == bracket and holds(inner, limit):
                    return True
            return False

        return test

    return matches


def _is_like(pattern: LikePattern) -> Test:
    return lambda values: any(pattern.matches(text) for text in _texts(values))


def _texts(values: Values) -> list[str]:
    return [v for v in values if isinstance(v, str) and not isinstance(v, Code)]


def _matches_regex(pattern: re.Pattern[str]) -> Test:
    return lambda values: any(pattern.search(text) for text in _texts(values))


def _exists(wanted: bool) -> Test:
    return lambda values: any(value is not MISSING for value in values) is wanted


def _has_size(size: int) -> Test:
    return lambda values: any(len(items) == size for items in _lists(values))


def _has_element(fits: Callable[[Mapping[str, Any]], bool]) -> Test:
    def test(values: Values) -> bool:
        return any(fits(doc) for items in _lists(values) for doc in _documents(items))

    return test


def _lists(values: Values) -> list[list[Any]]:
    return [value for value in values if is_list(value)]


def _documents(items: list[Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the elements that $elemMatch tests; a list is a document with positions as keys."""
    for item in items:
        if is_list(item):
            yield {str(position): inner for position, inner in enumerate(item)}
        elif is_dict(item):
            yield item


def _negation(matches: Callable[[Operand], Test]) -> Callable[[Operand], Test]:
    """Negate a test: the result is true without a value, and for a list if no element fits."""

    def negated(operand: Operand) -> Test:
        test = matches(operand)
        return lambda values: not test(values)

    return negated


# --- the table ------------------------------------------------------------------------------------


def _order(name: str, sign: str) -> Operator:
    return Operator(name, _ordered, _limit(sign), _compared(sign))


def _like_pair(name: str, *, anchored: bool, ignore_case: bool) -> tuple[Operator, Operator]:
    """Make a pattern operator and its negation. ``like ''`` finds every record, as in Odoo."""

    def prepare(empty: Domain) -> Callable[[FieldLike, Any], Operand]:
        def pattern(_: FieldLike, value: Any) -> Operand:
            if value == "" and not anchored:
                return empty
            return LikePattern(value, anchored=anchored, ignore_case=ignore_case)

        return pattern

    negated = f"not {name}"
    return (
        Operator(name, prepare(TRUE), _like, _is_like, negated),
        Operator(negated, prepare(FALSE), _not_like, _negation(_is_like), name),
    )


_TABLE: Final = (
    Operator("=", _equal, _eq, _is_equal, "!="),
    Operator("!=", _equal, _ne, _negation(_is_equal), "="),
    Operator("=?", _equal_if_set, _eq, _is_equal),
    _order(">", "$gt"),
    _order(">=", "$gte"),
    _order("<", "$lt"),
    _order("<=", "$lte"),
    Operator("in", _listed_or(FALSE), listed("in", "$in"), _is_in, "not in"),
    Operator("not in", _listed_or(TRUE), listed("not in", "$nin"), _negation(_is_in), "in"),
    *_like_pair("like", anchored=False, ignore_case=False),
    *_like_pair("ilike", anchored=False, ignore_case=True),
    *_like_pair("=like", anchored=True, ignore_case=False),
    *_like_pair("=ilike", anchored=True, ignore_case=True),
    Operator("exists", _flag, _with("$exists"), _exists, whole=True),
    Operator("size", _length, _with("$size"), _has_size, whole=True),
    Operator("all", _all, listed("all", "$all"), _has_all),
    Operator("elem", _not_prepared, _with("$elemMatch"), _has_element, whole=True, nested=True),
    Operator("regex", _regex, _with_regex, _matches_regex),
    Operator("near", near_operand, near_filter, is_near),
    Operator("within", within_operand, within_filter, is_within),
    Operator("text", text_operand, text_filter, has_text, negatable=False, pathless=True),
    _relational("any", "not any"),
    _relational("not any", "any"),
    _relational("child_of"),
    _relational("parent_of"),
)

OPERATORS: Final[Mapping[str, Operator]] = MappingProxyType({op.name: op for op in _TABLE})
"""Every operator of the core, by name."""
