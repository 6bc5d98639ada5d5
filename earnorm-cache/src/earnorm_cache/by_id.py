"""The ids in operations: of searches that can be cached, and of writes that name their records.

This module knows domains and operations, but not the cache. Records with ids of other types than
``ID_TYPES`` (1.0 is 1 to the server, True is 1 to Python) are never cached, and a write by such an
id counts as one of the collection.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from earnorm.domain import And, Condition, Schema
from earnorm.plugin import ID_TYPES, Operation, PerRecord, StoredId, ids_of

MAX_IDS: Final = 1_000
"""A search by more ids is a bulk load; its records would displace those that are read often."""


def cacheable_ids(op: Operation, schema: Schema) -> tuple[StoredId, ...] | None:
    """Return the ids of a search that asks for these whole records and nothing else, or None.

    Inside a transaction a search sees that transaction's snapshot, which other tasks must not read.
    A search with a read concern or a session must reach the server.
    """
    options = op.options
    # A layer without a restriction may have added a domain that is always true.
    domain = op.domain.simplify() if isinstance(op.domain, And) else op.domain
    if (
        not isinstance(domain, Condition)
        or op.env.is_in_session
        or options.concerns is not None
        or options.fields is not None
        or op.request is not None
        or options.offset
    ):
        return None
    ids = ids_of(domain, schema)
    if ids is None or len(ids) > MAX_IDS:
        return None
    # Only the server knows the order of several records, and which of them a limit leaves.
    if len(ids) > 1 and (options.order or 0 < options.limit < len(ids)):
        return None
    return tuple(ids)


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
