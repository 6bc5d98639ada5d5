"""Which operations are about known ids: the searches that can be cached, the writes that name their records.

Knows domains and operations; nothing about what is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeAlias
from uuid import UUID

from bson import ObjectId

from earnorm.domain import ID_TYPES, And, Condition, Schema
from earnorm.plugin import Operation, PerRecord, ids_of

StoredId: TypeAlias = ObjectId | str | int | UUID
"""A record's id in stored form, of a type in ``ID_TYPES``. Records with others (1.0 is 1 to the server, True
is 1 to Python) are never cached, and a write by them counts for the collection."""

MAX_IDS: Final = 1_000
"""A search by more ids than this is a bulk load; kept, it would sweep out what is read often."""


def cacheable_ids(op: Operation, schema: Schema) -> tuple[StoredId, ...] | None:
    """The ids that a search asks for, if its answer is those whole records and nothing else decides.

    Inside a transaction a search sees that transaction's snapshot, which is nobody else's business;
    and who asks for a read concern or a session asks for the server.
    """
    options = op.options
    # A layer that had nothing to add may have added what is always true.
    domain = op.domain.simplify() if isinstance(op.domain, And) else op.domain
    if (
        not isinstance(domain, Condition)
        or op.env.database_session is not None
        or options.concerns is not None
        or options.fields is not None
        or op.request is not None
        or options.offset
    ):
        return None
    ids = ids_of(domain, schema)
    if ids is None or len(ids) > MAX_IDS:
        return None
    # Which of several come first, or at all, is for the server to say.
    if len(ids) > 1 and (options.order or 0 < options.limit < len(ids)):
        return None
    return tuple(ids)


def written_ids(op: Operation, schema: Schema) -> tuple[StoredId, ...] | None:
    """The only records that a create, write or unlink can change; None where it may be any.

    A PerRecord changes nothing but its own keys, whatever else the domain says.
    """
    if isinstance(op.values, PerRecord):
        return _known(op.values)
    if isinstance(op.values, list):
        return _known([document["_id"] for document in op.values])
    ids = ids_of(op.domain, schema)
    return None if ids is None else tuple(ids)


def _known(values: Iterable[Any]) -> tuple[StoredId, ...] | None:
    ids = tuple(dict.fromkeys(value for value in values if type(value) in ID_TYPES))
    return ids if all(type(value) in ID_TYPES for value in values) else None
