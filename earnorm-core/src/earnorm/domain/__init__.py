"""Search conditions: one immutable ``Domain``, read from lists, compiled to MongoDB or to a predicate."""

from __future__ import annotations

from earnorm.domain.ast import FALSE, TRUE, And, Condition, Domain, DomainSource, Not, Or, condition
from earnorm.domain.bson_order import MISSING
from earnorm.domain.ids import ID_TYPES, StoredId, ids_of
from earnorm.domain.in_memory import matcher
from earnorm.domain.one_of import OneOf
from earnorm.domain.operators import OPERATORS, Operator
from earnorm.domain.schema import Crossing, FieldLike, Path, Schema
from earnorm.domain.to_mongo import to_filter

__all__ = [
    "FALSE",
    "ID_TYPES",
    "MISSING",
    "OPERATORS",
    "TRUE",
    "And",
    "Condition",
    "Crossing",
    "Domain",
    "DomainSource",
    "FieldLike",
    "Not",
    "OneOf",
    "Operator",
    "Or",
    "Path",
    "Schema",
    "StoredId",
    "condition",
    "ids_of",
    "matcher",
    "to_filter",
]
