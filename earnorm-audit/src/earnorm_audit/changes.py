"""The changes between two images of a record, in a form that JSON holds without loss. No I/O."""

from __future__ import annotations

import base64
import datetime
import json
import math
import struct
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from bson import Decimal128, Int64, ObjectId

from earnorm.plugin import from_bson, to_bson

# These hold any value of BSON and JSON, so there is no narrower type.
Document = Mapping[str, Any]
Changes = dict[str, dict[str, Any]]

HIDDEN: Final = {"changed": True}
"""The entry for a field whose values must not be recorded."""

_MARK: Final = "~"
"""A mapping with one key that begins with the mark stands for a value that JSON lacks. A record's
own such key gets a second mark, which adds no level to a document that may be nested up to BSON's
limit."""
_INT32: Final = (-(2**31), 2**31 - 1)


@dataclass(frozen=True, slots=True)
class Recorded:
    """The fields of one model that are recorded.

    Attributes:
        fields: Field name to the key in the stored document.
        hidden: Names of the fields whose values are never recorded.
    """

    fields: Mapping[str, str]
    hidden: Collection[str]

    def difference(self, old: Document | None, new: Document | None) -> Changes:
        """Return the fields that differ; a side without the field is left out.

        Args:
            old: The stored document before, or None if there was none.
            new: The stored document after, or None if there is none.
        """
        changes: Changes = {}
        for name, key in self.fields.items():
            sides = {
                side: image[key]
                for side, image in (("old", old), ("new", new))
                if image is not None and key in image
            }
            if not sides or (len(sides) == 2 and is_same(sides["old"], sides["new"])):
                continue
            if name in self.hidden:
                changes[name] = dict(HIDDEN)
            else:
                changes[name] = {side: to_json(value) for side, value in sides.items()}
        return changes


def _float_text(value: float) -> str:
    """Write ``inf``, ``-inf`` or ``nan``; a NaN with a sign or a payload as the 64 bits of BSON."""
    bits = struct.pack(">d", value)
    return str(value) if bits == struct.pack(">d", float(str(value))) else f"bits {bits.hex()}"


def _float_of(text: str) -> float:
    if not text.startswith("bits "):
        return float(text)
    value: float
    (value,) = struct.unpack(">d", bytes.fromhex(text.removeprefix("bits ")))
    return value


def is_same(old: Any, new: Any) -> bool:
    """Return whether two stored values are the same BSON.

    1, 1.0 and True are three values, and the order of keys counts.
    """
    return type(old) is type(new) and _bson(old) == _bson(new)


def to_json(value: Any) -> Any:
    """Convert a stored value to JSON.

    A value that JSON lacks gets a mark: ``{"~date": "2026-01-31T12:00:00"}``.
    """
    kind: type[Any] = type(value)
    if value is None or kind in (str, bool, int):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"~float": _float_text(value)}
    if kind is list:
        return [to_json(item) for item in value]
    if kind is dict:
        escape = _MARK if _is_marked(value) else ""
        return {escape + key: to_json(item) for key, item in value.items()}
    if kind is Int64 and not _INT32[0] <= value <= _INT32[1]:
        return int(value)  # it needs no mark: only a small one would come back as another BSON type
    for mark, (type_, encode, _) in _MARKED.items():
        if kind is type_:
            return {mark: encode(value)}
    return {"~bson": _text(_bson(value))}


def from_json(value: Any) -> Any:
    """Convert the result of ``to_json`` back to the stored value."""
    if isinstance(value, list):
        return [from_json(item) for item in cast("Iterable[Any]", value)]
    if not isinstance(value, dict):
        return value
    mapping = cast("dict[str, Any]", value)
    if not _is_marked(mapping):
        return {key: from_json(item) for key, item in mapping.items()}
    [(mark, inner)] = mapping.items()
    if mark.startswith(_MARK * 2):
        return {mark[1:]: from_json(inner)}
    return _MARKED[mark][2](inner)


def id_text(pk: Any) -> str:
    """Return the text by which a record's stored id is recorded: an ObjectId's digits …"""
    plain = isinstance(pk, str | int | ObjectId | uuid.UUID) and not isinstance(pk, bool)
    return str(pk) if plain else json.dumps(to_json(pk))


def replay(changes: Iterable[tuple[str, Changes]]) -> dict[str, Any] | None:
    """Return the stored values of a record, by field name, after these changes.

    Args:
        changes: Operation and changes of each entry, from the record's creation on.

    Returns:
        The values, or None if the record was deleted. Hidden fields are not among them.
    """
    state: dict[str, Any] | None = None
    for operation, change in changes:
        if operation == "unlink":
            state = None
            continue
        state = {} if operation == "create" or state is None else state
        for name, sides in change.items():
            if "new" in sides:
                state[name] = from_json(sides["new"])
            else:
                state.pop(name, None)
    return state


def _is_marked(mapping: Document) -> bool:
    return len(mapping) == 1 and next(iter(mapping)).startswith(_MARK)


def _bson(value: Any) -> bytes:
    return to_bson({"": value})


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decoded(text: str) -> Any:
    return from_bson(base64.b64decode(text))[""]


# For each mark: the type and its conversions to text and back. Any other type is stored as BSON.
_MARKED: Final[Mapping[str, tuple[type[Any], Callable[[Any], Any], Callable[[Any], Any]]]] = {
    "~oid": (ObjectId, str, ObjectId),
    "~date": (
        datetime.datetime,
        datetime.datetime.isoformat,
        datetime.datetime.fromisoformat,
    ),
    "~decimal": (Decimal128, str, Decimal128),
    "~uuid": (uuid.UUID, str, uuid.UUID),
    "~binary": (bytes, _text, base64.b64decode),
    "~float": (float, _float_text, _float_of),
    "~int64": (Int64, int, Int64),
    "~bson": (type(_MARK), str, _decoded),  # never chosen by type: a text is plain JSON
}
