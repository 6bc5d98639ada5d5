"""Turns field paths into database expressions: ``"address.city"`` into ``"$address.city"``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from earnorm.domain.paths import is_position
from earnorm.exceptions import DomainError
from earnorm.fields.base import Field
from earnorm.fields.relational import ToMany
from earnorm.fields.sets import Set
from earnorm.fields.structured import Dict, Embedded, Json, List
from earnorm.fields.vector import Vector
from earnorm.model.schema import schema_inside

if TYPE_CHECKING:
    from earnorm.model.schema import Schema


@dataclass(frozen=True, slots=True)
class ExpressionPath:
    """A field path, resolved for the database's own expressions.

    Attributes:
        expression: The expression of the value, which is null where there is none.
        db_path: The stored path.
        field: The field at the end; for a list, the field of its items.
        lists: The stored paths of the lists on the way, the outermost first.
        ends_at_list: The value itself is a list.
    """

    expression: Any
    db_path: str
    field: Field[Any, Any]
    lists: tuple[str, ...]
    ends_at_list: bool

    @property
    def plain(self) -> Any:
        """The expression without the null, for operators that treat null and no value alike."""
        return f"${self.db_path}"


def expression_path(schema: Schema, path: str) -> ExpressionPath:
    """Resolve a path for an expression.

    Raises:
        DomainError: No such field, or a path that an expression cannot follow.
    """
    resolved = schema.resolve(path)
    if resolved.limits is not None:
        schema.order_path_of(path)  # it refuses the path, for the same reason
    db_path = resolved.db_path
    # Unlike a filter, an expression reads a part with a $ as an operator or a variable.
    if any(not part or part.startswith("$") or "\0" in part for part in db_path.split(".")):
        raise DomainError(f"{path!r} is no path that a group can look at")
    lists = tuple(_lists(schema, path))
    field: Any = resolved.field
    ends_at_list = isinstance(field, List | Set | ToMany | Vector)
    while isinstance(field, List | Set):
        field = field.contents().items
    # The database makes two groups of a missing value and null, and a group here must be one.
    return ExpressionPath({"$ifNull": [f"${db_path}", None]}, db_path, field, lists, ends_at_list)


def _lists(schema: Schema, path: str) -> Iterator[str]:
    names = path.split(".")
    prefix = ""
    for position, name in enumerate(names):
        if position and is_position(name):
            raise DomainError(
                f"{path!r}: a group looks at every item of a list; aggregate() reaches one by its "
                f"position ($arrayElemAt)"
            )
        resolved = schema.resolve(name)
        field: Any = resolved.field
        prefix += resolved.db_path
        if isinstance(field, ToMany | Vector):
            yield prefix  # ids and numbers have no field of their items
            return
        while isinstance(field, List | Set):
            yield prefix
            field = field.contents().items
        if not isinstance(field, Embedded) or isinstance(field, Dict | Json):
            return
        schema = schema_inside(field)
        prefix += "."
