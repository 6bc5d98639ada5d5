"""Generated documents of every BSON type at every place, whole and damaged, and what the driver makes of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from bson import (
    Binary,
    Code,
    DBRef,
    Decimal128,
    Int64,
    MaxKey,
    MinKey,
    ObjectId,
    Regex,
    Timestamp,
    encode,
)

from earnorm.backends.base import Document, KeyTree
from earnorm.backends.bson_form import CODEC

INNER: KeyTree = {"street": None, "city": None, "code": {"a": None}}
TREE: KeyTree = {
    "_id": None,
    "name": None,
    "email": None,
    "age": None,
    "address": INNER,
    "tags": None,
    "lines": INNER,
    "x": None,
    "é": None,
    "a_rather_long_name_of_a_field": None,
}
OTHERS = ("unknown", "save", "ñ", "na", "names", "a_rather_long_name_of_a_fiel")


class Cases:
    """Draws documents from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        draw = self.random
        self._scalars: tuple[Callable[[], Any], ...] = (
            self.text,
            self.text,
            lambda: draw.randrange(-(2**31), 2**31),
            lambda: Int64(draw.randrange(-(2**63), 2**63)),
            lambda: draw.choice([0.0, -0.0, 1e308, float("inf"), float("nan"), draw.random()]),
            lambda: draw.choice([True, False, None]),
            lambda: ObjectId(draw.randbytes(12)),
            self.moment,
            lambda: draw.randbytes(draw.randrange(20)),
            lambda: Binary(draw.randbytes(16), draw.choice([2, 3, 4, 5, 6, 9, 128])),
            lambda: Binary(draw.randbytes(draw.choice([0, 5])), draw.choice([2, 5, 128])),
            lambda: Decimal128.from_bid(draw.randbytes(16)),
            lambda: Regex("a+é", draw.choice(["", "i", "imsx"])),
            lambda: Timestamp(draw.randrange(2**32), draw.randrange(2**32)),
            MinKey,
            MaxKey,
            lambda: Code("x"),
            lambda: Code("x", {"a": self.text()}),
        )

    def text(self) -> str:
        size = self.random.choice([0, 1, 2, 3, 7, 8, 9, 40, 41, 200])
        letters = "aZq" if self.random.random() < 0.7 else "aé世😀\0"
        return "".join(self.random.choices(letters, k=size))

    def moment(self) -> datetime:
        r = self.random.randrange
        return datetime(r(1, 10000), r(1, 13), r(1, 29), r(24), r(60), r(60), r(1000) * 1000)

    def value(self, depth: int = 0) -> Any:
        kind = self.random.randrange(len(self._scalars) + (0 if depth > 4 else 8))
        if kind < len(self._scalars):
            return self._scalars[kind]()
        if kind % 4 == 0:
            return [self.value(depth + 1) for _ in range(self.random.randrange(4))]
        if kind % 4 == 1:
            return [self.embedded(depth + 1) for _ in range(self.random.randrange(3))]
        if kind % 4 == 2:
            return DBRef("c", self.value(depth + 1), *self.random.choice([(), ("db",)]))
        keys = ["a", "", "street", "é", "$x", "$ref", "$id"]
        return {
            self.random.choice(keys): self.value(depth + 1) for _ in range(self.random.randrange(4))
        }

    def embedded(self, depth: int = 0) -> Document:
        keys = ["street", "city", "code", *self.random.choices(["other", "$ref", ""], k=1)]
        if self.random.random() < 0.5:
            keys = ["street", "city", "code"]
        if self.random.random() < 0.3:
            keys = self.random.sample(keys, self.random.randrange(len(keys) + 1))
        return {key: self.value(depth + 1) for key in keys}

    def document(self, *, others: bool = True) -> Document:
        keys = list(TREE)
        if self.random.random() < 0.4:
            self.random.shuffle(keys)
        if self.random.random() < 0.6:
            keys = keys[: self.random.randrange(len(keys) + 1)]
        if others and self.random.random() < 0.2:
            keys.insert(self.random.randrange(len(keys) + 1), self.random.choice(OTHERS))
        document = {key: self.value() for key in keys}
        for key in ("address", "lines"):
            if key in document and self.random.random() < 0.5:
                document[key] = self.embedded() if key == "address" else [self.embedded()]
        return document

    def encoded(self, *, others: bool = True) -> bytes:
        """Return a document's bytes; now and then a key comes twice."""
        data: bytes = encode(self.document(others=others), codec_options=CODEC)
        if self.random.random() < 0.05:
            more = encode({"name": self.value(), "age": 1}, codec_options=CODEC)
            data = framed(data[4:-1] + more[4:-1])
        return data

    def damaged(self, data: bytes) -> bytes:
        """Return the bytes with one or two faults; most keep a fitting length and the final zero."""
        broken, draw = bytearray(data), self.random
        for _ in range(draw.randrange(1, 3)):
            how = draw.randrange(6)
            if how > 1:
                broken[draw.randrange(len(broken))] = draw.choice([0, 1, 255, draw.randrange(256)])
            elif how and len(broken) > 6:
                del broken[draw.randrange(4, len(broken)) :]
            else:
                broken.insert(draw.randrange(len(broken) + 1), draw.randrange(256))
        if draw.random() < 0.8 and len(broken) >= 5:
            broken[:4] = len(broken).to_bytes(4, "little")
            broken[-1] = 0
        return bytes(broken)


def framed(elements: bytes) -> bytes:
    """Return a document of these elements."""
    return (len(elements) + 5).to_bytes(4, "little") + elements + b"\0"


def declared(document: Document) -> Document:
    """Return the document without undeclared keys."""
    return {key: value for key, value in document.items() if key in TREE}


_SIZES = {1: 8, 6: 0, 7: 12, 8: 1, 9: 8, 10: 0, 16: 4, 17: 8, 18: 8, 19: 16, 127: 0, 255: 0}
_ADDED = {2: 4, 3: 0, 4: 0, 5: 5, 12: 16, 13: 4, 14: 4, 15: 0}


def elements(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the key and the bytes of each element of a document."""
    at = 4
    while at < len(data) - 1:
        kind, key_end = data[at], data.index(0, at + 1)
        begin = key_end + 1
        if kind == 11:
            end = data.index(0, data.index(0, begin) + 1) + 1
        elif kind in _SIZES:
            end = begin + _SIZES[kind]
        else:
            end = begin + int.from_bytes(data[begin : begin + 4], "little") + _ADDED[kind]
        yield data[at + 1 : key_end], data[at:end]
        at = end


def without_others(data: bytes) -> bytes:
    """Return the bytes of a document without its undeclared keys."""
    known = {key.encode() for key in TREE}
    return framed(b"".join(element for key, element in elements(data) if key in known))
