"""The error for a stored value that a field cannot read, and the links that are none."""

from __future__ import annotations

from typing import Any

from earnorm.domain.ids import ID_TYPES
from earnorm.exceptions import ErrorDetail, UnreadableDocument
from earnorm.fields.base import Field
from earnorm.fields.relational import Relation, is_record
from earnorm.model.slots import pending_of

are_plain_ids = ID_TYPES.issuperset
"""Takes the types of stored values, and returns whether all are ids: one call for a whole list."""


def _is_id(value: object) -> bool:
    """Return whether a stored value can be an id: it has a hash, and is no list or document."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


def unreadable(structure: Any, field: Field[Any, Any], problem: str) -> UnreadableDocument:
    """Make the error for a value of one record or embedded object: it names model, id and field.

    Args:
        structure: The record, or the embedded object, which has no id of its own.
        field: The field.
        problem: The problem in words, without the value.
    """
    pk = structure.__dict__.get("_id")
    name = getattr(type(structure), "_name", None) or type(structure).__name__
    place = (field.name,) if pk is None else (str(pk), field.name)
    detail: ErrorDetail = {"loc": place, "msg": problem, "type": "unreadable_value"}
    return UnreadableDocument(name, [detail], ids=() if pk is None else (pk,))


def refuse_no_link(structure: Any, field: Relation[Any, Any], value: Any) -> None:
    """Refuse a stored value that names no record.

    Raises:
        UnreadableDocument: It is no id; for a Reference, it has no model and id.
    """
    if not field.comodel:
        is_link = (
            isinstance(value, dict)
            and isinstance(value.get("model"), str)
            and _is_id(value.get("id", []))
        )
        if not is_link:
            raise unreadable(structure, field, "stored without a model and an id")
    elif not _is_id(value):
        raise unreadable(structure, field, f"a {type(value).__name__} is stored, which is no id")


def refuse_no_links(structure: Any, field: Field[Any, Any], value: Any) -> None:
    """Refuse a stored value that is no list of ids; commands and records are not stored values.

    Raises:
        UnreadableDocument: It is something else.
    """
    if not isinstance(value, list | tuple | set | frozenset):
        kind = type(value).__name__
        raise unreadable(structure, field, f"a {kind} is stored, which is no list of ids")
    if are_plain_ids(map(type, value)):
        return
    if structure.is_stored and field.name not in pending_of(structure).changes:
        for item in value:
            if not (_is_id(item) or is_record(item)):
                kind = type(item).__name__
                raise unreadable(structure, field, f"a {kind} is in the list, which is no id")
