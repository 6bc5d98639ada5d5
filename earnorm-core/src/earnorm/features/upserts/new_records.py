"""The values that an upsert gives a new record: changes and paths as the server's own upsert applies them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from earnorm.exceptions import ErrorDetail, ValidationError
from earnorm.fields.base import MISSING
from earnorm.fields.structured import List
from earnorm.model.schema import Schema
from earnorm.model.writing.places import RefusedError, find_place
from earnorm.model.writing.planning import is_change, loc_of
from earnorm.model.writing.updates import Change

Values = Mapping[str, Any]


def values_of_new(schema: Schema, values: Values, new: Values, more: Values) -> dict[str, Any]:
    """Return the values of a new record; they are validated when it is created.

    Args:
        schema: The model's fields.
        values: Those for every record. A change becomes what the server makes of a missing value,
            and a path makes the object that it leads into.
        new: Those for a new record only, as they were given. They replace changes and paths.
        more: The same after their steps. A value that a step filled in replaces none.

    Raises:
        ValidationError: A path leads into an item of a list.
    """
    made = {name: value for name, value in values.items() if not is_change(name, value)}
    given = {schema.name_of(name) for name in new}
    problems: list[ErrorDetail] = []
    for path, value in values.items():
        if is_change(path, value) and schema.name_of(path.partition(".")[0]) not in given:
            try:
                _apply(schema, made, path, value)
            except RefusedError as error:
                problems.append({"loc": loc_of(path), "msg": str(error), "type": "change"})
    if problems:
        raise ValidationError(schema.name, problems)
    return {**made, **{n: v for n, v in more.items() if n in new or made.get(n) is None}}


def _apply(schema: Schema, made: dict[str, Any], path: str, value: Any) -> None:
    """Put one change or the value of a path into the values of a new record.

    Raises:
        RefusedError: The path leads into an item of a list.
    """
    name = schema.name_of(path)
    field = schema.fields.get(name)
    parents: list[str] = []
    if field is None:  # a path into a field; else it may be a read-only one, which no place is of
        place = find_place(schema, path)
        *parents, name = place.path.split(".")
        field = place.field
    if isinstance(value, Change):
        value = value.first(field)
        if value is MISSING:
            return
    inside: Any = made
    for number, parent in enumerate(parents, 1):
        if isinstance(find_place(schema, ".".join(parents[:number])).field, List):
            raise RefusedError("the path leads into a list, and a new record has no items there")
        inside = inside.setdefault(parent, {})
    inside[name] = value
