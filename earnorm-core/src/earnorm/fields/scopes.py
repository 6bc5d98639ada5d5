"""The fields by whose values unique values and numbers may be kept apart: a tenant, a shop, a project."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote
from uuid import UUID

import bson
from bson import Binary, ObjectId

from earnorm.fields.sequences import Sequence

if TYPE_CHECKING:
    from earnorm.fields.base import Field

_LONGEST: Final = 100
_NOT_ALONE: Final = frozenset({"array", "object"})


def scope_problem(field: Field[Any, Any] | None) -> str:
    """Return why a field can be no scope; nothing if it can.

    Its value must be known before a new record is numbered, and one value must have one stored form.
    """
    if field is None:
        return "does not exist"
    if not field.stored or field.name == "_id":
        return (
            "is not stored in the record" if not field.stored else "is another one in each record"
        )
    if field.is_derived:
        return "is computed, and the numbers of new records are given before that"
    if isinstance(field, Sequence):
        return "is a number itself"
    kinds = field.bson_schema().get("bsonType", ())
    if (
        field.secret
        or field.mutable
        or not _NOT_ALONE.isdisjoint([kinds] if isinstance(kinds, str) else kinds)
    ):
        return f"is a {type(field).__name__}; a scope is a link or one plain value"
    return ""


def scope_text(value: Any) -> str:
    """Return the part of a counter's name that tells a value of the scope.

    The parts of two scopes beside each other tell both, whatever is in the values.

    Args:
        value: The stored value, or the text of an id; None for a record without one.
    """
    if value is None:
        return "[]"
    if isinstance(value, Binary) and value.subtype in (3, 4):
        value = value.as_uuid()
    elif not isinstance(value, str | int | ObjectId | UUID):
        value = bson.encode({"": value}).hex()
    text = quote(str(value), safe="") or "%"
    return f"[{text if len(text) <= _LONGEST else '%' + sha256(text.encode()).hexdigest()}]"
