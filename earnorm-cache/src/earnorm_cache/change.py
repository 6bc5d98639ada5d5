"""The extent of a write: which records and which fields it may have changed.

One value goes through all levels: it closes records in this process, removes them from Redis, and is the
message to the other processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from earnorm.domain import Schema
from earnorm.plugin import ID_TYPES, Operation, PerRecord, StoredId, from_bson, ids_of, to_bson


@dataclass(frozen=True, slots=True)
class Change:
    """The extent of one write.

    Attributes:
        ids: The records that may have changed; None if that may be all of the collection.
        names: The stored keys that were written, the first part of each path; None if that is unknown.
        is_membership: Records may have come into the collection, or have left it.
    """

    ids: tuple[StoredId, ...] | None
    names: frozenset[str] | None
    is_membership: bool

    def of(self, ids: Iterable[StoredId]) -> Change:
        """Return the same change of some of the records."""
        return Change(tuple(ids), self.names, self.is_membership)

    def to_message(self) -> bytes:
        """Return the change in the form in which a stream carries it."""
        said: dict[str, object] = {"in": self.is_membership}
        if self.ids is not None:
            said["ids"] = list(self.ids)
        if self.names is not None:
            said["names"] = sorted(self.names)
        return to_bson(said)


EVERYTHING: Final = Change(None, None, True)
"""The change of a write of which nothing is known."""


def change_in(message: bytes) -> Change:
    """Return the change in a message of a stream. What a message does not say may be anything."""
    if not message:
        return EVERYTHING
    said = from_bson(message)
    ids, names = said.get("ids"), said.get("names")
    return Change(
        None if ids is None else tuple(ids),
        None if names is None else frozenset(names),
        bool(said.get("in", True)),
    )


def change_of(op: Operation, schema: Schema) -> Change:
    """Return the extent of a create, write or unlink."""
    ids = written_ids(op, schema)
    if op.name == "write":
        return Change(ids, op.written, False)
    return Change(ids, frozenset(), True)


def written_ids(op: Operation, schema: Schema) -> tuple[StoredId, ...] | None:
    """Return the ids of all records that a create, write or unlink can change; None if unknown.

    A PerRecord changes only the records of its keys, whatever the domain says.
    """
    if isinstance(op.values, PerRecord):
        return _distinct_ids(op.values)
    if isinstance(op.values, list):
        return _distinct_ids([document["_id"] for document in op.values])
    ids = ids_of(op.domain, schema)
    return None if ids is None else tuple(ids)


def _distinct_ids(values: Iterable[Any]) -> tuple[StoredId, ...] | None:
    ids = tuple(dict.fromkeys(value for value in values if type(value) in ID_TYPES))
    return ids if all(type(value) in ID_TYPES for value in values) else None
