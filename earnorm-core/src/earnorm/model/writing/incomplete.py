"""Checks and prepares what a save writes of embedded objects of which only some fields were fetched.

The changed fields of an object that lies in its record are sent by their paths. Everything else would
store an object without the fields that were not fetched, so it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import ErrorDetail, located
from earnorm.fields.base import MISSING, is_embedded
from earnorm.model.reading.fetch import Part, part_of
from earnorm.model.reading.parts import parts_in
from earnorm.model.slots import pending_of, set_fetch
from earnorm.model.writing.pending import changed_fields, unvalidated
from earnorm.model.writing.restoring import duplicate

if TYPE_CHECKING:
    from earnorm.model.structures import Structure


def refused_changes(structure: Structure, names: Iterable[str]) -> list[ErrorDetail]:
    """Return an error for each changed value that would be stored without what was not fetched.

    Args:
        structure: A record, or an embedded object.
        names: The names of its changed fields.
    """
    fetch: Any = getattr(structure, "_fetch", None)
    if fetch is None or not fetch.parts:
        return []
    changes, state = pending_of(structure).changes, structure.__dict__
    problems: list[ErrorDetail] = []
    for name in names:
        value: Any = state.get(name)
        part = next(parts_in(value), None) if name in fetch.parts else None
        if part is None:
            continue
        if is_embedded(value) and name not in changes:
            problems += located(refused_changes(value, changed_fields(value)), name)
        else:
            problems.append({"loc": (name,), "msg": refusal(part), "type": "partly_loaded"})
    return problems


def refusal(part: Part) -> str:
    """Return the message for an object that would be stored without what was not fetched."""
    return f"only some of its fields were fetched, and it would be stored without the others: {part.refused}"


def changed_inside(structure: Structure, name: str) -> list[str]:
    """Return the paths of what has changed in a field: its name, or paths inside a loaded object."""
    value: Any = structure.__dict__.get(name)
    if part_of(value) is None or name in pending_of(structure).changes:
        return [name]
    return [
        f"{name}.{path}" for each in changed_fields(value) for path in changed_inside(value, each)
    ]


def mark_own(copy: Any) -> None:
    """Mark the copy of a record's own object as one of which a save writes changed fields only."""
    part = part_of(copy)
    if part is None:
        return
    set_fetch(copy, part.own)
    for name in part.parts:
        if is_embedded(copy.__dict__.get(name)) and name not in pending_of(copy).changes:
            mark_own(copy.__dict__[name])


def completed(value: Any, whole: Any) -> Any:
    """Return a whole object with the changes of one of which only some fields were fetched.

    Args:
        value: The changed value of a record.
        whole: The same value as it is stored, all of it; it may become the result.

    Raises:
        FieldNotLoaded: It is not the same object in the database any more.
    """
    part = part_of(value)
    if part is None:
        return value
    if type(whole) is not type(value):
        raise part.incomplete()
    state, names = value.__dict__, changed_fields(value)
    pending = unvalidated(value, names)
    for name in names:
        below = state.get(name)
        if part_of(below) is not None:
            whole.__dict__[name] = completed(below, getattr(whole, name))
            continue
        whole.__dict__[name] = duplicate(below)
        if name in pending:
            whole._pending_or_new().changes[name] = MISSING
            whole._pending_or_new().refuse(name)
    return whole


def seen_whole(value: Any, whole: Any) -> Any:
    """Return a whole object for a constraint, made of valid changes and of what is stored.

    The rest that the constraint sees is noted, so that the write demands that it is still there.

    Args:
        value: The validated object, of which only some fields were fetched.
        whole: The same object as it is stored; it becomes the result.
    """
    part = part_of(value)
    if part is None or type(whole) is not type(value):
        return value
    schema = type(value)._schema
    seen = Part(part.app, part.path, part.loaded or frozenset())
    seen.parts, seen.seen = part.parts, dict(schema.document(whole.__dict__))
    for name, own in value.__dict__.items():
        below = None if part_of(own) is None else getattr(whole, name)
        whole.__dict__[name] = duplicate(own) if below is None else seen_whole(own, below)
    set_fetch(value, seen)
    return whole
