"""The interpreter that makes a MongoDB filter of a domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from earnorm.domain.ast import FALSE, TRUE, And, Condition, Domain, Not, Or
from earnorm.domain.operators import OPERATORS, Operator, bind
from earnorm.domain.schema import Schema
from earnorm.domain.values import is_dict
from earnorm.exceptions import DomainError

__all__ = ["to_filter"]

Filter = dict[str, Any]
# A part that is the same for every document is a bool: the server knows no empty $and or $or.
_Part: TypeAlias = Filter | bool
_Operators: TypeAlias = Mapping[str, Operator]


def to_filter(domain: Domain, schema: Schema, operators: _Operators = OPERATORS) -> Filter:
    """Make the filter that finds exactly the records for which the domain is true.

    Args:
        domain: The condition.
        schema: Resolves paths and converts values.
        operators: The operators of the App.

    Returns:
        ``{}`` if every record matches; a filter that no record matches if none does.

    Raises:
        DomainError: Unknown field or operator, or a value that doesn't fit.
    """
    if type(domain) is Condition:  # the most common one; this test saves a call
        part = _condition(domain, schema, operators)
    else:
        part = _compile(domain, schema, operators)
    if isinstance(part, bool):
        # Not {"$expr": False}, because every server plans this one as a search that ends at once.
        return {} if part else {"_id": {"$in": []}}
    return part


def _compile(node: Domain, schema: Schema, operators: _Operators) -> _Part:
    if type(node) is Condition:
        return _condition(node, schema, operators)
    if type(node) is And:
        return _all(
            [
                # Most children are conditions; this test saves a call for each.
                _condition(child, schema, operators)
                if type(child) is Condition
                else _compile(child, schema, operators)
                for child in node.children
            ]
        )
    if type(node) is Or:
        return _any([_compile(child, schema, operators) for child in node.children])
    if type(node) is Not:
        return _not(node.child, schema, operators)
    return node is TRUE


def _condition(
    node: Condition, schema: Schema, operators: _Operators, *, negate: bool = False
) -> _Part:
    operator, db_path, operand = bind(node, schema, operators)
    if operand is TRUE or operand is FALSE:
        return (operand is TRUE) is not negate
    if operator.nested:
        operand = to_filter(operand.domain, operand.schema, operators)
    if not negate:
        return operator.to_mongo(db_path, operand)
    _check_negatable(node, operator)
    opposite = operators.get(operator.negated) if operator.negated else None
    if opposite is not None:
        return opposite.to_mongo(db_path, operand)
    return {"$nor": [operator.to_mongo(db_path, operand)]}


def _check_negatable(node: Condition, operator: Operator) -> None:
    if not operator.negatable:
        raise DomainError(
            f"({node.path!r}, {node.operator!r}) cannot be negated: the server finds what fits, "
            f"and nothing else",
            loc=(node.path,),
        )


def _all(parts: list[_Part]) -> _Part:
    merged: Filter = {}
    filters: list[Filter] = []
    for part in parts:
        if isinstance(part, bool):
            if not part:
                return False
        else:
            merged.update(part)
            filters.append(part)
    if len(merged) == sum(map(len, filters)):
        return merged or True  # the common case: no two conditions on one path
    return _all_clashing(filters)


def _all_clashing(filters: list[Filter]) -> Filter:
    merged: Filter = {}
    clashes: list[Filter] = []
    for part in filters:
        if merged.keys().isdisjoint(part):
            merged.update(part)
        elif not _merge_operators(merged, part):
            clashes.append(part)
    if not clashes:
        return merged
    if "$and" in merged:
        return {"$and": [merged, *clashes]}
    return {**merged, "$and": clashes}


def _merge_operators(merged: Filter, part: Filter) -> bool:
    """Merge ``{"a": {"$lt": 9}}`` into ``{"a": {"$gt": 1}}``; each is still tested on its own."""
    if len(part) > 1:
        return False
    ((path, new),) = part.items()
    old: Any = merged[path]
    # A dict after a path always holds operators, because a literal dict comes as {"$eq": …}.
    if path.startswith("$") or not (is_dict(old) and is_dict(new)):
        return False
    if not old.keys().isdisjoint(new) or "$geoWithin" in old or "$geoWithin" in new:
        return False  # the server reads $geoWithin only where it stands alone
    merged[path] = {**old, **new}
    return True


def _any(parts: list[_Part]) -> _Part:
    if True in parts:
        return True
    filters = [part for part in parts if part is not False]
    if not filters:
        return False
    return filters[0] if len(filters) == 1 else {"$or": filters}


def _not(child: Domain, schema: Schema, operators: _Operators) -> _Part:
    if type(child) is Condition:
        return _condition(child, schema, operators, negate=True)
    for condition in child.conditions():
        if condition.operator in operators:
            _check_negatable(condition, operators[condition.operator])
    part = _compile(child, schema, operators)
    if isinstance(part, bool):
        return not part
    return {"$nor": part["$or"] if part.keys() == {"$or"} else [part]}
