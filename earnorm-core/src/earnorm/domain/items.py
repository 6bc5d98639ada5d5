"""The filter that chooses the items of a list that an update changes: MongoDB's ``arrayFilters``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from earnorm.domain.ast import Domain
from earnorm.domain.operators import OPERATORS, Operator
from earnorm.domain.schema import Crossing, Path, Schema, Substitute
from earnorm.domain.to_mongo import to_filter

__all__ = ["item_filter"]


def item_filter(
    name: str, domain: Domain, schema: Schema, operators: Mapping[str, Operator] = OPERATORS
) -> dict[str, Any]:
    """Make the filter of the items for which a domain is true.

    It matches the items that ``elem`` matches: a value that is no object is never one of them.

    Args:
        name: The name that stands for an item in the update's paths (``lines.$[name].qty``).
        domain: The condition about the fields of an item.
        schema: The fields of an item.
        operators: The operators of the App.

    Raises:
        DomainError: Unknown field or operator, or a value that doesn't fit.
    """
    condition = to_filter(domain, _ItemSchema(schema, name), operators)
    if "_id" in condition:  # the filter for "none"; a path inside an item begins with the name
        return {name: {"$in": []}}
    # In a list of lists, a type is also that of each inner item, so lists are left out apart.
    is_object: dict[str, Any] = {name: {"$type": "object", "$not": {"$type": "array"}}}
    return {"$and": [is_object, condition]} if condition else is_object


class _ItemSchema:
    """The schema of an item in an array filter: its stored paths begin with a name."""

    def __init__(self, schema: Schema, name: str) -> None:
        self.name = schema.name
        self._schema, self._prefix = schema, name

    def resolve(self, path: str) -> Path:
        """Resolve a path inside an item."""
        inner = self._schema.resolve(path)
        return Path(f"{self._prefix}.{inner.db_path}", inner.field)

    def substitute(self, path: str) -> Substitute | None:
        """Return the substitute of a condition on a path inside an item."""
        return self._schema.substitute(path)

    def crossing(self, path: str) -> Crossing | None:
        """Return the first relation on a path inside an item."""
        return self._schema.crossing(path)
