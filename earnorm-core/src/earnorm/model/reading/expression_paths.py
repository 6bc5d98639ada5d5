"""Field paths in the database's own expressions: ``"address.city"`` as ``"$address.city"``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import DomainError
from earnorm.fields.base import Field
from earnorm.fields.relational import ToMany
from earnorm.fields.sets import Set
from earnorm.fields.structured import Dict, Embedded, Json, List
from earnorm.fields.vector import Vector

if TYPE_CHECKING:
    from earnorm.model.schema import Schema


@dataclass(frozen=True, slots=True)
class ExpressionPath:
    """A field path, resolved for the database's own expressions.

    Attributes:
        expression: The value at its end, null where there is none.
        db_path: The stored path.
        field: The field at its end; of a list's items where the list is taken apart.
        lists: The stored paths of the lists on the way, the outermost first.
        ends_at_list: Whether the last of them is the value itself.
    """

    expression: Any
    db_path: str
    field: Field[Any, Any]
    lists: tuple[str, ...]
    ends_at_list: bool

    @property
    def plain(self) -> Any:
        """The value at its end, or nothing, for what takes the two alike."""
        return f"${self.db_path}"


def expression_path(schema: Schema, path: str) -> ExpressionPath:
    """Resolve a path for an expression.

    Raises:
        DomainError: No such field, or a path that an expression cannot follow.
    """
    found = schema.resolve(path)
    db_path = found.db_path
    # In an expression, unlike in a filter, a part with a $ is an operator or a variable.
    if any(not part or part.startswith("$") or "\0" in part for part in db_path.split(".")):
        raise DomainError(f"{path!r} is no path that a group can look at")
    lists = tuple(_lists(schema, path))
    field: Any = found.field
    ends_at_list = isinstance(field, List | Set | ToMany | Vector)
    while isinstance(field, List | Set):
        field = field._item
    # A missing value and null are two groups to the database, and one here.
    return ExpressionPath({"$ifNull": [f"${db_path}", None]}, db_path, field, lists, ends_at_list)


def _lists(schema: Schema, path: str) -> Iterator[str]:
    names = path.split(".")
    prefix = ""
    for position, name in enumerate(names):
        if position and name.isdecimal():
            raise DomainError(
                f"{path!r}: a group looks at every item of a list; aggregate() reaches one by its "
                f"position ($arrayElemAt)"
            )
        found = schema.resolve(name)
        field: Any = found.field
        prefix += found.db_path
        if isinstance(field, ToMany | Vector):
            yield prefix  # ids, and numbers; they are their own items
            return
        while isinstance(field, List | Set):
            yield prefix
            field = field._item
        if not isinstance(field, Embedded) or isinstance(field, Dict | Json):
            return
        schema = field.model._schema
        prefix += "."
