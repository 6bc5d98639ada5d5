"""Puts values for dotted paths into a record's own changes of the same fields: one write has both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from earnorm.domain.paths import overlap
from earnorm.exceptions import FieldNotLoaded, ValidationError
from earnorm.fields.base import is_embedded
from earnorm.fields.structured import Dict
from earnorm.model.writing.places import Place, RefusedError, find_place
from earnorm.model.writing.planning import loc_of
from earnorm.model.writing.sending import unsaved
from earnorm.model.writing.snapshots import Snapshot
from earnorm.model.writing.updates import Change

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel
    from earnorm.model.schema import Schema


def has_paths(values: Iterable[object]) -> bool:
    """Return whether any name is a dotted path."""
    return any(isinstance(name, str) and "." in name for name in values)


def roots_of(record: BaseModel, values: Iterable[object]) -> set[str]:
    """Return the names of the fields into which dotted paths lead."""
    schema = type(record)._schema
    return {schema.field_at(n) for n in values if isinstance(n, str) and "." in n}


def put_paths(
    record: BaseModel, own: dict[str, Any], held: Snapshot, values: Mapping[str, Any]
) -> dict[str, Any]:
    """Put the values for paths into the record's own changed values; return the other values.

    A path that no write takes is left to the check of the values, which refuses it.

    Args:
        record: A stored record.
        own: Copies of its changed values by name, which get the values for paths.
        held: The snapshot of these changes, which gets the changed names.
        values: Values by name or dotted path.

    Raises:
        ValidationError: A path leads through a value that is not there, or the server is to change a
            part of what the record changes itself.
    """
    schema = type(record)._schema
    given = {schema.name_of(name) for name in values}
    rest: dict[str, Any] = {}
    for path, value in values.items():
        place = _place(schema, path)
        if isinstance(value, Change) and place is not None and place.root in own.keys() - given:
            raise ValidationError(schema.name, [unsaved(place.root)])
        if (
            place is None
            or place.root not in own
            or place.root in given
            or any(
                isinstance(other, str) and other != path and overlap(path, other)
                for other in values
            )
        ):
            rest[path] = value
            continue
        names = place.path.split(".")[1:]
        _put(schema, path, own[place.root], schema.fields[place.root], names, value)
        _note_changed(held, [place.root, *names])
        held.known = {name: known for name, known in held.known.items() if name != place.root}
    return rest


def _place(schema: Schema, path: str) -> Place | None:
    if not (isinstance(path, str) and "." in path):
        return None
    try:
        return find_place(schema, path)
    except RefusedError:
        return None


def _put(schema: Schema, path: str, value: Any, field: Any, names: list[str], given: Any) -> None:
    """Set what is given at the place in a value to which the names lead."""
    *outer, last = names
    try:
        for name in outer:
            value, field = _below(value, field, name)
        if is_embedded(value):
            setattr(value, last, given)
        elif isinstance(value, list):
            value[int(last)] = given
        elif isinstance(value, dict):
            value[_key(field, last)] = given
        else:
            raise LookupError(last)
    except FieldNotLoaded:  # it is an AttributeError
        raise
    except (LookupError, ValueError, AttributeError):
        message = "the path leads through a value that this record does not have"
        raise ValidationError(
            schema.name, [{"loc": loc_of(path), "msg": message, "type": "no_path"}]
        ) from None


def _below(value: Any, field: Any, name: str) -> tuple[Any, Any]:
    if is_embedded(value):
        return getattr(value, name), type(value)._schema.fields[name]
    if isinstance(value, list):
        return value[int(name)], field and field.contents().items
    if isinstance(value, dict):
        return value[_key(field, name)], field and field.contents().values
    raise LookupError(name)


def _key(field: Any, name: str) -> Any:
    return field._texts.decode(name) if isinstance(field, Dict) else name


def _note_changed(held: Snapshot, names: Iterable[str]) -> None:
    """Note the changed fields in the snapshots of the objects on the way that were loaded."""
    part: Any = held
    for name in names:
        if part is not held:
            if part.changed is None:  # it is written whole
                return
            if name not in part.changed:
                part.changed.append(name)
        part = part.parts.get(name)
        if type(part) is not Snapshot:
            return
    part.changed = None  # another object was given
