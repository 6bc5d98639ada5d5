"""The ids that a domain names, found in the domain alone, without asking the database."""

from __future__ import annotations

from typing import Any, Final, TypeAlias
from uuid import UUID

from bson import Int64, ObjectId

from earnorm.domain.ast import TRUE, And, Condition, Domain
from earnorm.domain.schema import ID_PATHS, Schema
from earnorm.domain.values import thaw
from earnorm.exceptions import DomainError

__all__ = ["ID_TYPES", "StoredId", "ids_of", "split_ids"]

StoredId: TypeAlias = ObjectId | str | int | UUID
"""A stored id of one of ``ID_TYPES``."""

ID_TYPES: Final = frozenset({ObjectId, str, int, Int64, UUID})
"""Types of stored ids that Python and the server compare alike; they compare 1.0 and True
differently."""

# Every field stores these as they are.
_STORED_AS_THEY_ARE: Final = frozenset({ObjectId, UUID})


def ids_of(domain: Domain, schema: Schema) -> list[Any] | None:
    """Return the stored ids that a domain names, each once, or None.

    It is None if the domain names no ids, or one that is not of ``ID_TYPES``.

    Every record that matches has one of them. The domain may demand more, so some of them may not
    match.

    Args:
        domain: The condition.
        schema: The schema of its model.
    """
    named = split_ids(domain, schema)
    return None if named is None else named[0]


def split_ids(domain: Domain, schema: Schema) -> tuple[list[Any], Domain] | None:
    """Split a domain into the ids that it names and its other conditions; None if it names none.

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
        ids_of_child = _listed(child, schema) if type(child) is Condition else None
        if ids_of_child is None:
            rest.append(child)
        else:
            lists.append(ids_of_child)
    if not lists:
        return None
    shortest, *others = sorted(lists, key=len)
    for allowed in map(frozenset, others):
        shortest = [pk for pk in shortest if pk in allowed]
    return shortest, And(rest).simplify() if rest else TRUE


def _listed(node: Condition, schema: Schema) -> list[Any] | None:
    """Return the ids of one condition, or None if it is not about the id."""
    if node.path not in ID_PATHS or node.operator not in ("=", "in"):
        return None
    value = node.value
    values: Any = value if node.operator == "in" and isinstance(value, tuple) else (value,)
    try:
        path = schema.resolve(node.path)
        if path.db_path != "_id":
            return None  # a model may have a field of that name
        if not _STORED_AS_THEY_ARE.issuperset(map(type, values)):
            values = [path.field.operand(thaw(item)) for item in values]
    except (DomainError, ValueError):
        return None  # to_filter() raises the error for it
    return list(dict.fromkeys(values)) if ID_TYPES.issuperset(map(type, values)) else None
