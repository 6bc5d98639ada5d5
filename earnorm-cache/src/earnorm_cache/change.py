"""The extent of a write: which records and which fields it may have changed.

One value goes through all levels: it closes records in this process, removes them from Redis, and is the
message to the other processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from earnorm.domain import Schema
from earnorm.plugin import ID_TYPES, Operation, PerRecord, StoredId, from_bson, ids_of, to_bson

MEMBERS: Final = "m"
"""The token of a collection's membership: which records are in it."""

ANYTHING: Final = "a"
"""The token that every change of a collection renews."""


MOST_IDS: Final = 10_000
"""The most ids that are named of several writes together; beyond it the whole collection is."""


def field_token(key: str) -> str:
    """Return the name of the token of a stored key."""
    return "f:" + key


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

    @property
    def tokens(self) -> frozenset[str] | None:
        """The names of the tokens that it renews; None for all that a collection has."""
        if self.names is None:
            return None
        tokens = {ANYTHING, *map(field_token, self.names)}
        if self.is_membership:
            tokens.add(MEMBERS)
        return frozenset(tokens)

    def to_message(self) -> bytes:
        """Return the change in the form in which a stream carries it."""
        said: dict[str, object] = {"in": self.is_membership}
        if self.ids is not None:
            said["ids"] = list(self.ids)
        if self.names is not None:
            said["names"] = sorted(self.names)
        return to_bson(said)


@dataclass(slots=True)
class Changes:
    """Several changes of one collection, which are told as one."""

    ids: set[StoredId] | None = field(default_factory=set[StoredId])
    names: set[str] | None = field(default_factory=set[str])
    is_membership: bool = False

    def add(self, change: Change) -> None:
        """Take one more."""
        self.is_membership |= change.is_membership
        if change.names is None:
            self.names = None
        elif self.names is not None:
            self.names.update(change.names)
        if self.ids is not None:
            if change.ids is None or len(self.ids) + len(change.ids) > MOST_IDS:
                self.ids = None
            else:
                self.ids.update(change.ids)

    @property
    def together(self) -> Change:
        """All of them."""
        return Change(
            None if self.ids is None else tuple(self.ids),
            None if self.names is None else frozenset(self.names),
            self.is_membership,
        )


EVERYTHING: Final = Change(None, None, True)
"""The change of a write of which nothing is known."""

NOTHING: Final = Change((), frozenset(), False)
"""The change of a write that was refused."""


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
    if op.name != "write":
        return Change(ids, frozenset(), True)
    names = op.written
    for update in op.updates:
        renamed = update.operators.get("$rename")
        if renamed:  # the values are keys, too
            names = names.union(str(path).partition(".")[0] for path in renamed.values())
    return Change(ids, names, False)


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
