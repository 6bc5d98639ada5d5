"""Plans: which searches, counts and groups can be kept, under which key, and what they depend on.

This module knows domains and operations, but not the cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from bson.errors import BSONError

from earnorm.domain import OPERATORS
from earnorm.exceptions import EarnORMError
from earnorm.plugin import (
    CACHING,
    EXTENT,
    JUDGED,
    RELATION,
    WHOLE,
    ModelView,
    Operation,
    made_by,
    to_bson,
)
from earnorm_cache.by_id import PLAIN, is_decided_in_memory
from earnorm_cache.change import ANYTHING, MEMBERS, field_token

if TYPE_CHECKING:
    from earnorm.domain import Domain

_HARMLESS: Final = frozenset({CACHING, EXTENT, JUDGED, RELATION, WHOLE, *made_by("cache")})
"""The notes that change nothing of what the database answers."""


class Kind(Enum):
    """The form in which a result is kept."""

    IDS = "ids"
    """The ids of whole documents, in order: the documents come by id, and are judged again."""
    ROWS = "rows"
    """Documents or rows as they are."""
    NUMBER = "number"


class Plan(NamedTuple):
    """The way in which the result of one operation is kept.

    Attributes:
        kind: The form of what is kept.
        key: Tells the result from all others of the collection: a digest of all that shapes it.
        names: The names of the tokens that it depends on, in order.
        order: The stored keys that it is sorted by.
    """

    kind: Kind
    key: bytes
    names: tuple[str, ...]
    order: tuple[str, ...] = ()


_WHOLE: Final = ""
"""Stands for all of a document among stored keys, none of which is empty."""


def is_wanted(op: Operation, by_default: bool) -> bool:
    """Return whether the result of an operation is to be kept.

    What a feature or a plugin asks for by itself decides what is written, so the database answers it;
    but relations that the program loads are as good as its own queries.

    Args:
        op: The operation.
        by_default: The results of the model's queries are kept, unless a query says otherwise.
    """
    caching = op.note(CACHING)
    if caching is not None:
        return caching.is_wanted
    if not by_default:
        return False
    if op.is_asked_for:
        return True
    return op.note(RELATION) is not None and op.env.origin == "program" and op.parent is None


def plan_of(op: Operation, model: ModelView, read_as: Iterable[str]) -> Plan | None:
    """Return how the result of a search, count or group is kept; None if it cannot be.

    Args:
        op: The operation, after security has restricted it.
        model: Its model.
        read_as: Names that differ where two programs read the collection in different ways.
    """
    options, bound = op.options, op.app.bind(op.model)
    if (
        op.env.is_in_session
        or options.concerns is not None
        or options.pipeline is not None
        or not _HARMLESS.issuperset(op.notes)
        or bound.secret_paths
        or model.attribute("_read_concern") not in (None, "local")
    ):
        return None
    try:
        names = _names(op)
        condition = bound.filter(op.domain)
        shape = to_bson(_shape(op, condition))
    except (EarnORMError, BSONError, OverflowError):
        return None  # about other records, too long for one filter, or wrong, as the core will say
    if names is None:
        return None
    kind = _kind(op, model)
    if kind is Kind.IDS:
        names.discard(_WHOLE)
    tokens = (ANYTHING,) if _WHOLE in names else (MEMBERS, *map(field_token, sorted(names)))
    digest = hashlib.blake2b(shape, digest_size=16)
    caching = op.note(CACHING)
    if (
        caching is not None and caching.ttl is not None
    ):  # who wants it for a second is given none of an hour
        digest.update(repr(float(caching.ttl)).encode() + b"\0")
    for name in (kind.value, *tokens, *read_as):
        digest.update(name.encode() + b"\0")
    order = tuple(path for path, _ in options.order if path != "_id") if kind is Kind.IDS else ()
    return Plan(kind, digest.digest(), tokens, order)


def _kind(op: Operation, model: ModelView) -> Kind:
    if op.name == "count":
        return Kind.NUMBER
    if op.name == "group" or op.options.fields is not None:
        return Kind.ROWS
    if not is_decided_in_memory(op.domain, model):
        return Kind.ROWS
    stored = model.stored
    for path, _ in op.options.order:
        field = stored.get(path)
        if field is None or type(field) not in PLAIN:
            return Kind.ROWS
    return Kind.IDS


def _names(op: Operation) -> set[str] | None:
    """Return the stored keys that a result depends on, with ``_WHOLE`` for all; None if nobody knows."""
    options, schema = op.options, op.app.bind(op.model).schema
    names = _keys_of(op.domain, op)
    if names is None:
        return None
    names |= {path.partition(".")[0] for path, _ in options.order}
    if op.name == "group":
        spec = options.group
        if spec is None:
            return None
        names |= {path.partition(".")[0] for path in spec.paths}
    elif op.name == "search":
        if options.fields is None:
            names.add(_WHOLE)
        for name in options.fields or ():
            field = schema.fields.get(name)
            if field is None:  # of a class below the model
                names.add(_WHOLE)
            elif field.stored:
                names.add(field.db_name)
    names.discard("_id")  # it never changes
    return names


def _keys_of(domain: Domain, op: Operation) -> set[str] | None:
    """Return the stored keys that a domain looks at; None if it looks at more than the document."""
    schema, operators = op.app.bind(op.model).schema, op.app.operators
    names: set[str] = set()
    for condition in domain.conditions():
        operator = OPERATORS.get(condition.operator)
        if operator is None or operators.get(condition.operator) is not operator:
            return None  # an operator of a plugin may look at the time
        if operator.pathless:
            names.add(_WHOLE)
            continue
        if schema.substitute(condition.path) is not None:
            return None
        names.add(schema.resolve(condition.path).db_path.partition(".")[0])
    return names


def _shape(op: Operation, condition: object) -> dict[str, object]:
    """Return all that shapes the answer of an operation."""
    options, spec = op.options, op.options.group
    shape: dict[str, object] = {
        "operation": op.name,
        "filter": condition,
        "order": [list(pair) for pair in options.order],
        "window": [options.offset, options.limit],
        "fields": None if options.fields is None else sorted(options.fields),
        "inside": sorted(options.inside),
    }
    if spec is not None:
        shape["group"] = [dict(spec.keys), dict(spec.aggregates), list(spec.stages)]
    return shape
