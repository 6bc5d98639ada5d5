"""What changed between two images of a record, in a form that JSON can carry without loss. No I/O."""

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

import bson
from bson import Decimal128, ObjectId
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions

# Stored values and JSON values: whatever BSON and JSON hold, so no narrower type can be said.
Document = Mapping[str, Any]
Changes = dict[str, dict[str, Any]]

HIDDEN: Final = {"changed": True}
"""All that is said about a field whose values must not be recorded."""

_MARK: Final = "~"
"""A mapping with one key that begins so stands for a value that JSON has not; a record's own such key
gets a second mark, which adds no level to a document that may be nested up to BSON's limit."""
_INT32: Final = (-(2**31), 2**31 - 1)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What is recorded of one model's records.

    Attributes:
        fields: Field name to the key in the stored document.
        hidden: Names of the fields whose values are never recorded.
    """

    fields: Mapping[str, str]
    hidden: Collection[str]

    def difference(self, old: Document | None, new: Document | None) -> Changes:
        """The fields that differ; a side is left out where the field is not stored.

        Args:
            old: The stored document before, or None where there was none.
            new: The stored document after, or None where there is none.
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
    """``inf``, ``-inf``, ``nan``; a NaN with a sign or a payload by its 64 bits, as BSON keeps it."""
    bits = struct.pack(">d", value)
    return str(value) if bits == struct.pack(">d", float(str(value))) else f"bits {bits.hex()}"


def _float_of(text: str) -> float:
    if not text.startswith("bits "):
        return float(text)
    value: float
    (value,) = struct.unpack(">d", bytes.fromhex(text.removeprefix("bits ")))
    return value


def is_same(old: Any, new: Any) -> bool:
    """Whether two stored values are the same BSON: 1, 1.0 and True are three values, and the
    order of keys counts."""
    return type(old) is type(new) and _bson(old) == _bson(new)


def to_json(value: Any) -> Any:
    """A stored value as JSON has it; what JSON has not becomes ``{"~date": "2026-01-31T12:00:00"}``."""
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
    if kind is bson.Int64 and not _INT32[0] <= value <= _INT32[1]:
        return int(value)  # only a small one would come back as another BSON type
    for mark, (type_, encode, _) in _MARKED.items():
        if kind is type_:
            return {mark: encode(value)}
    return {"~bson": _text(_bson(value))}


def from_json(value: Any) -> Any:
    """The stored value that ``to_json`` was given."""
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
    """The text under which a record's stored id is recorded; an ObjectId's digits, a UUID's text …"""
    plain = isinstance(pk, str | int | ObjectId | uuid.UUID) and not isinstance(pk, bool)
    return str(pk) if plain else json.dumps(to_json(pk))


def replay(changes: Iterable[tuple[str, Changes]]) -> dict[str, Any] | None:
    """The stored values of a record, by field name, after these changes.

    Args:
        changes: Operation and changes of each entry, from the record's creation on.

    Returns:
        The values, None where the record was deleted. Hidden fields are not among them.
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
    return bson.encode({"": value}, codec_options=_CODEC)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decoded(text: str) -> Any:
    return _decode(base64.b64decode(text), _CODEC)[""]


_CODEC: Final[Any] = CodecOptions[dict[str, Any]](
    uuid_representation=UuidRepresentation.STANDARD, tz_aware=False
)
# bson.decode itself is annotated with an array of unknown items.
_decode: Final[Callable[[bytes, Any], dict[str, Any]]] = cast("Any", bson).decode
# Mark: type, to text, from text. Anything else goes through BSON itself.
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
    "~int64": (bson.Int64, int, bson.Int64),
    "~bson": (type(_MARK), str, _decoded),  # never chosen by type: a text is plain JSON
}
