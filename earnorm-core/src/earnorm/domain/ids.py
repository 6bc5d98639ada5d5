"""The ids that a domain names: known from the domain alone, before anything is asked of the database."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from bson import Int64, ObjectId

from earnorm.domain.ast import TRUE, And, Condition, Domain
from earnorm.domain.schema import ID_PATHS, Schema
from earnorm.domain.values import thaw
from earnorm.exceptions import DomainError

__all__ = ["ID_TYPES", "ids_of", "split_ids"]

ID_TYPES: Final = frozenset({ObjectId, str, int, Int64, UUID})
"""Types of stored ids that are equal to Python exactly where they are to the server; 1.0 and True are not."""

# No field stores these in another form.
_AS_THEY_ARE: Final = frozenset({ObjectId, UUID})


def ids_of(domain: Domain, schema: Schema) -> list[Any] | None:
    """The stored ids that a domain names, each once; None where it names none, or not only such of ``ID_TYPES``.

    Every record that matches has one of them. The domain may demand more, so not every one of them matches.

    Args:
        domain: The condition.
        schema: The schema of its model.
    """
    named = split_ids(domain, schema)
    return None if named is None else named[0]


def split_ids(domain: Domain, schema: Schema) -> tuple[list[Any], Domain] | None:
    """Split a domain into the ids that it names and what it demands beside them; None where it names none.

    ``(id in ids) & rest`` means the same as the domain.

    Args:
        domain: The condition.
        schema: The schema of its model.
    """
    if type(domain) is Condition:
        ids = _listed(domain, schema)
        return None if ids is None else (ids, TRUE)
    if type(domain) is not And:
        return None
    lists: list[list[Any]] = []
    rest: list[Domain] = []
    for child in domain.children:
        found = _listed(child, schema) if type(child) is Condition else None
        if found is None:
            rest.append(child)
        else:
            lists.append(found)
    if not lists:
        return None
    shortest, *others = sorted(lists, key=len)
    for allowed in map(frozenset, others):
        shortest = [pk for pk in shortest if pk in allowed]
    if not rest:
        return shortest, TRUE
    return shortest, rest[0] if len(rest) == 1 else And(rest)


def _listed(node: Condition, schema: Schema) -> list[Any] | None:
    """The ids of one condition; None where it is not about the id."""
    if node.path not in ID_PATHS or node.operator not in ("=", "in"):
        return None
    value = node.value
    values: Any = value if node.operator == "in" and isinstance(value, tuple) else (value,)
    try:
        path = schema.resolve(node.path)
        if path.db_path != "_id":
            return None  # a model may have a field of that name
        if not _AS_THEY_ARE.issuperset(map(type, values)):
            values = [path.field.operand(thaw(each)) for each in values]
    except (DomainError, ValueError):
        return None  # who makes a filter of it says what is wrong
    return list(dict.fromkeys(values)) if ID_TYPES.issuperset(map(type, values)) else None
