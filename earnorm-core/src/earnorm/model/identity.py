"""The identity of a record: its id, which never changes, and the equality and hash that follow.

An ObjectId is drawn when somebody first asks which record this is, because drawing one for each
record that is constructed would cost up to three quarters of the construction. A drawn id lies in a
slot until the record is stored, so that its state has only what the program gave.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from bson import ObjectId

from earnorm.domain.values import hashable
from earnorm.fields.identifiers import ObjectIdField
from earnorm.fields.record_ids import id_text
from earnorm.kernel.environment import find_env
from earnorm.model.writing.objectids import object_ids

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.model.base import BaseModel


class IdText(property):
    """``record.id``; on the class it is the field ``_id``, as any field is there.

    A plain property would be compared as an object there: ``Post.id != post.id`` would be True, and a
    query with that as its condition would take every record.
    """

    def __get__(self, record: Any, owner: Any = None) -> Any:
        """Return the id as text; None before the record is stored."""
        if record is None:
            return owner._schema.fields["_id"]
        pk = record.__dict__.get("_id")
        if pk is None or not hasattr(record, "_fetch"):
            return None
        return str(pk) if type(pk) is ObjectId else id_text(type(record)._schema.fields["_id"], pk)


class IdStored(property):
    """``record.pk``; on the class it is the field ``_id``, see :class:`IdText`."""

    def __get__(self, record: Any, owner: Any = None) -> Any:
        """Return the id as it is stored; None before the record is stored."""
        if record is None:
            return owner._schema.fields["_id"]
        return record.__dict__.get("_id") if hasattr(record, "_fetch") else None


def find_id(record: BaseModel) -> Any:
    """Return the id that the record has or was drawn for it; None if it has none yet."""
    pk = record.__dict__.get("_id")
    return getattr(record, "_drawn_id", None) if pk is None else pk


def has_id(record: BaseModel, pk: Any) -> bool:
    """Return whether the record has this id, in whichever form."""
    known = find_id(record)
    return known is not None and bool(_stored_id(record, known) == _stored_id(record, pk))


def draw_ids(records: Iterable[BaseModel]) -> None:
    """Draw an id for each record that has none, where the ids of its model are ObjectIds."""
    missing = [
        record
        for record in {id(record): record for record in records}.values()
        if find_id(record) is None and _are_drawn(type(record))
    ]
    if missing:
        for record, pk in zip(missing, object_ids(len(missing)), strict=True):
            object.__setattr__(record, "_drawn_id", pk)


def keep_as_drawn(record: BaseModel, pk: Any) -> None:
    """Make the id of a record that is not stored any more one that was drawn, not given."""
    record.__dict__.pop("_id", None)
    object.__setattr__(record, "_drawn_id", pk)


def hash_of(record: BaseModel) -> int:
    """Return the record's hash, which never changes.

    Raises:
        TypeError: The record has no id, and none can be drawn.
    """
    pk = _drawn_id_of(record)
    if pk is None:
        raise TypeError(
            f"a {type(record).__name__} without _id has no hash: give _id first, because ids of "
            f"this model are not drawn"
        )
    if type(pk) is ObjectId:
        return hash((record._identity, pk))
    return hash((record._identity, hashable(_stored_id(record, pk))))


def are_same(one: BaseModel, other: BaseModel) -> bool:
    """Return whether two objects are the same record: of one family, one id and one App."""
    if one._identity != other._identity:
        return False
    pk, other_pk = _drawn_id_of(one), _drawn_id_of(other)
    if pk is None or other_pk is None:
        return False
    if type(pk) is not ObjectId or type(other_pk) is not ObjectId:
        pk, other_pk = _stored_id(one, pk), _stored_id(other, other_pk)
    return bool(pk == other_pk) and _app_of(one) is _app_of(other)


def _drawn_id_of(record: BaseModel) -> Any:
    """Return the record's id; draw it if it has none. None where ids are not drawn."""
    pk = find_id(record)
    if pk is None and _are_drawn(type(record)):
        draw_ids([record])
        pk = find_id(record)
    return pk


def _are_drawn(model: type[BaseModel]) -> bool:
    return isinstance(model._schema.fields["_id"], ObjectIdField)


def _stored_id(record: BaseModel, pk: Any) -> Any:
    """Return the stored form of an id; a new record has the value, a loaded one the stored form."""
    return type(record)._schema.fields["_id"].encode(pk)


def _app_of(record: BaseModel) -> App | None:
    """Return the record's App; a record that is not stored belongs to the current one."""
    if record.is_stored:
        return record._fetch.app
    env = find_env()
    return None if env is None else env.app
