"""Compares the compiled decoder with the driver, on made-up replies, before it is used.

The driver documents the classes and functions that the decoder stands on, and does not promise that
a reply comes the way it does. So the way is tried when the first App of a process starts; it takes a
millisecond.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import UUID

import bson
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.errors import InvalidBSON

from earnorm.backends.bson_form import from_bson, to_bson
from earnorm.backends.native.replies import options_for

if TYPE_CHECKING:
    from bson.codec_options import CodecOptions

    from earnorm.backends.base import Document, KeyTree

_INNER: Final = {
    "street": "Łódź 1",
    "city": "Hanoi",
    "since": datetime(1969, 12, 31, 23, 59, 59, 999000),
    "by": ObjectId("0123456789abcdef01234567"),
}
DOCUMENT: Final[Mapping[str, Any]] = {
    "_id": ObjectId("fedcba9876543210fedcba98"),
    "text": "text",
    "none": None,
    "yes": True,
    "no": False,
    "small": -(2**31),
    "large": Int64(2**63 - 1),
    "real": 0.1,
    "money": Decimal128("12.50"),
    "at": datetime(2024, 2, 29, 12, 30, 15, 250000),
    "bytes": b"\0\1",
    "uuid": UUID(int=7),
    "binary": Binary(b"abc", 128),
    "pattern": Regex("a+", "i"),
    "stamp": Timestamp(1, 2),
    "least": MinKey(),
    "most": MaxKey(),
    "code": Code("f()"),
    "link": DBRef("other", 1),
    "inner": _INNER,
    "inners": [_INNER, {**_INNER, "more": 1}, {}],
    "free": {"a": [[1, "x"], {"b": None}], "ü": "😀"},
}
"""A document with a value of each kind."""


class _Keys:
    """The keys of the document above."""

    def __init__(self) -> None:
        inner: KeyTree = dict.fromkeys(_INNER)
        self.tree: KeyTree | None = {
            key: inner if key in ("inner", "inners") else None for key in DOCUMENT
        }
        self.has_others = False

    def only(self, documents: list[Document]) -> list[Document]:
        return [{k: v for k, v in one.items() if k in DOCUMENT} for one in documents]

    def note_others(self) -> None:
        self.has_others = True


def _batches() -> Iterator[list[Mapping[str, Any]]]:
    yield []
    yield [DOCUMENT] * 3
    turned = {key: DOCUMENT[key] for key in reversed(list(DOCUMENT))}
    few = {key: DOCUMENT[key] for key in ("_id", "inners", "text")}
    yield [turned, few, few, few, {**few, "text": ""}, {}]


def difference() -> str | None:
    """Return the first thing in which the decoder differs from the driver; None if nothing does."""
    keys = _Keys()
    options = _options(keys)
    for name in ("firstBatch", "nextBatch"):
        for batch in _batches():
            cursor = {"id": Int64(2**40), "ns": "a.b", name: batch}
            problem = _compared(
                options, {"cursor": cursor, "ok": 1.0, "operationTime": Timestamp(1, 1)}
            )
            if problem is not None:
                return problem
    problem = _compared(options, {"ok": 0.0, "errmsg": "no", "code": 2})
    if problem is not None:
        return problem
    if keys.has_others:
        return "it misses declared keys"
    if not _leaves_out_others():
        return "it does not leave out undeclared keys"
    cut = bytearray(to_bson({"cursor": {"firstBatch": [{"_id": 1, "yes": True}]}}))
    cut[cut.index(b"yes\0") + 4] = 9
    try:
        _decoded(bytes(cut), options)
    except InvalidBSON:
        return None
    return "it takes what the driver refuses"


def _options(keys: _Keys) -> CodecOptions[Any]:
    options = options_for(keys)
    assert options is not None  # so few keys have a plan
    return options


def _leaves_out_others() -> bool:
    keys = _Keys()
    stray = {"cursor": {"firstBatch": [{**DOCUMENT, "stray": 1}], "id": Int64(0)}, "ok": 1.0}
    [reply] = _decoded(to_bson(stray), _options(keys))
    return keys.has_others and "stray" not in reply["cursor"]["firstBatch"][0]


def _decoded(data: bytes, options: CodecOptions[Any]) -> list[Any]:
    # As the drivers do with a reply. A strict checker does not know the types of bson's functions.
    return cast("Any", bson).decode_all(memoryview(data), options)  # type: ignore[no-any-return]


def _compared(options: CodecOptions[Any], reply: Mapping[str, Any]) -> str | None:
    data = to_bson(reply)
    [decoded] = _decoded(data, options)
    return None if same(decoded, from_bson(data)) else "it does not decode as the driver does"


def same(one: Any, other: Any) -> bool:
    """Return whether two decoded values are equal, in their types and in the order of keys too."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return [*one] == [*other] and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, DBRef):
        return same(dict(one.as_doc()), dict(other.as_doc()))
    if isinstance(one, float):
        return repr(one) == repr(other)
    return bool(one == other)
