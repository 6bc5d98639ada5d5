"""The searches by id that can be cached, and the conditions that memory judges as the server does.

This module knows domains and operations, but not the cache. Records with ids of other types than
``ID_TYPES`` (1.0 is 1 to the server, True is 1 to Python) are never cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from earnorm.domain import And, Condition, Domain, Schema
from earnorm.plugin import ModelView, Operation, StoredId, fields, ids_of

MAX_IDS: Final = 1_000
"""A search by more ids is a bulk load; its records would displace those that are read often."""


_COMPARED: Final = frozenset({"=", "!=", "in", "not in", "<", "<=", ">", ">="})
"""The operators of which memory and the server mean the same without a collation."""

PLAIN: Final = (
    fields.String,
    fields.Int,
    fields.Boolean,
    fields.DateTime,
    fields.Selection,
    fields.ObjectIdField,
    fields.UUID,
    fields.Many2one,
)
"""The kinds of fields whose stored values are single ones that memory compares as the server does."""


def is_decided_in_memory(rest: Domain, model: ModelView) -> bool:
    """Return whether a condition on a document means in memory what it means on the server.

    Whatever it cannot be sure of is left to the server: a path into a value, likeness, full text,
    operators of plugins.
    """
    if model.has_collation:
        return False
    for condition in rest.conditions():
        field = model.fields.get(condition.path)
        if condition.operator not in _COMPARED or field is None or not field.stored:
            return False
        if type(field) not in PLAIN:  # a subclass may compare otherwise
            return False
    return True


def is_plain_search(op: Operation) -> bool:
    """Return whether a search is for whole records as they are now, from the first one on."""
    options = op.options
    return not (
        op.env.is_in_session
        or options.concerns is not None
        or options.fields is not None
        or op.request is not None
        or options.offset
    )


def cacheable_ids(op: Operation, schema: Schema) -> tuple[tuple[StoredId, ...], Domain] | None:
    """Return the ids of a search for whole records by their ids, and its other conditions.

    Returns:
        None if it is no such search. The other conditions are ``Domain.TRUE`` where there are none.

    Inside a transaction a search sees that transaction's snapshot, which other tasks must not read.
    A search with a read concern or a session must reach the server.
    """
    options = op.options
    # A layer without a restriction may have added a domain that is always true.
    domain = op.domain.simplify() if isinstance(op.domain, And) else op.domain
    if not isinstance(domain, Condition | And) or not is_plain_search(op):
        return None
    ids, rest = _split(domain, schema)
    if ids is None or len(ids) > MAX_IDS:
        return None
    # Only the server knows the order of several records, and which of them a limit leaves.
    if len(ids) > 1 and (options.order or 0 < options.limit < len(ids)):
        return None
    return tuple(ids), rest


def _split(domain: Condition | And, schema: Schema) -> tuple[Sequence[StoredId] | None, Domain]:
    """Take the ids that a domain names apart from its other conditions."""
    if isinstance(domain, Condition):
        return ids_of(domain, schema), Domain.TRUE
    rest: list[Domain] = []
    found: Sequence[StoredId] | None = None
    for child in domain.children:
        ids = ids_of(child, schema) if found is None else None
        if ids is None:
            rest.append(child)
        else:
            found = ids
    return found, And(rest).simplify()
