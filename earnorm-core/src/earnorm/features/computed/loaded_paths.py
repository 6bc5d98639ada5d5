"""Tells, without reading them, whether the values at the paths of a formula were fetched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from earnorm.fields.relational import Relation, is_record, is_recordset
from earnorm.model.reading.fetch import is_gone
from earnorm.model.reading.parts import inside

if TYPE_CHECKING:
    from earnorm.fields.base import Field


def is_loaded(structure: Any, names: Sequence[str]) -> bool:
    """Return whether a path can be read from a record or an embedded object.

    Args:
        structure: The record or embedded object.
        names: The names of the path.
    """
    name, rest = names[0], names[1:]
    schema = type(structure)._schema
    field: Field[Any, Any] | None = schema.fields.get(name)
    if field is None or is_gone(structure):
        return True  # the id, a property, or the fields of no record
    state = structure.__dict__
    if name in state:
        return _is_whole(structure, field, state[name], rest)
    if schema.derived is not None and name in schema.derived.by_name:
        if not schema.derived.can_read(structure, field):
            return False
        return not rest or _is_whole(structure, field, getattr(structure, name), rest)
    fetch = getattr(structure, "_fetch", None)
    if fetch is None:
        return True
    is_inverse = isinstance(field, Relation) and not field.stored
    return bool(fetch.knows(name)) and not is_inverse


def _is_whole(structure: Any, field: Field[Any, Any], value: Any, rest: Sequence[str]) -> bool:
    """Return whether a field's value, and the rest of the path from it, can be read."""
    if value is None:
        return True
    if is_recordset(value):
        if value._records is None:
            return not value._pks if rest else value._pks is not None
        return not value._part_of and (not rest or all(is_loaded(r, rest) for r in value._records))
    if not rest:
        return True
    if is_record(value):
        return is_loaded(value, rest)
    if field.structure is not None:
        return all(is_loaded(embedded, rest) for embedded in inside([structure], field))
    if isinstance(field, Relation):  # ids, of whose records nothing else was fetched
        return not value or rest[0] in ("id", "pk", "_id")
    return True
