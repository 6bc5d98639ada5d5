"""The records that a write by a condition will change, so that it drops these and not its whole collection.

They are asked for right before the write, which is then restricted to them. That is one of the ways in which the
database may carry out the write alone: it looks at one document after the other, and whether it sees a record that
comes to match meanwhile is chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from earnorm.domain import And, Condition
from earnorm.plugin import ID_TYPES, Concerns, Layer, Operation, Options, StoredId, Update

MANY: Final = 1_000
"""The most records of one write that are dropped one by one; of more, all of the collection is."""

OF_ONE: Final = 20
"""The most records among which a write of only one may choose; the list is fetched for that one."""

# The newest records, which a secondary or a majority may not know yet.
_NEWEST: Final = Concerns(read_concern="local", read_preference="primary")


def is_by_domain(op: Operation) -> bool:
    """Return whether an operation writes or deletes what a condition selects."""
    return op.name == "unlink" or isinstance(op.values, Update)


async def matching_ids(op: Operation) -> tuple[StoredId, ...] | None:
    """Return the ids of the records that a write selects, if they are few and of types that are cached."""
    most = MANY if op.options.many else OF_ONE
    options = Options(
        fields=frozenset({"_id"}),
        limit=most + 1,
        timeout=op.options.timeout,
        concerns=_NEWEST if op.env.transaction is None else None,
    )
    search = op.child("search", op.model, op.domain, None, options, origin="cache")
    found: Sequence[dict[str, StoredId]] = await op.app.execute_beneath(search, Layer.CACHE)
    ids = tuple(document["_id"] for document in found)
    return None if len(ids) > most or any(type(pk) not in ID_TYPES for pk in ids) else ids


def among(op: Operation, ids: Sequence[StoredId]) -> Operation:
    """Return the same write of some of the records only."""
    return op.replace(domain=And((Condition("_id", "in", tuple(ids)), op.domain)))
