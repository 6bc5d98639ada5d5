"""Documents that a driver cannot decode: finds their ids and the places inside that are to blame.

A driver fails as a whole at one such document of a reply, and says neither which it is nor where. So
the same documents are asked for again in their raw form, and each is decoded on its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Final

from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument

from earnorm.backends.base import Document
from earnorm.backends.bson_form import CODEC, from_bson
from earnorm.exceptions import ErrorDetail, UnreadableDocument

RAW: Final = CODEC.with_options(document_class=RawBSONDocument)
"""The codec options with which a driver gives documents as they are stored."""

OnBroken = Callable[[UnreadableDocument], Awaitable[None]]
"""Is told of each document that cannot be decoded; the others are read on."""

_MOST: Final = 20  # documents that one error names


def decoded(subject: str, raw: Any) -> Document:
    """Decode one raw document.

    Raises:
        UnreadableDocument: It cannot be decoded.
    """
    try:
        return from_bson(raw.raw)
    except InvalidBSON:
        raise broken(subject, [raw]) from None


def broken(subject: str, raws: Iterable[Any]) -> UnreadableDocument:
    """Make the error for raw documents, of which some cannot be decoded."""
    details: list[ErrorDetail] = []
    ids: list[Any] = []
    for raw in raws:
        problems = list(_problems(raw.raw))
        if not problems:
            continue
        pk = _id_of(raw.raw)
        ids.append(pk)
        for path, message in problems:
            place = (*(() if pk is None else (str(pk),)), *path)
            details.append({"loc": place, "msg": message, "type": "unreadable_document"})
        if len(ids) == _MOST:
            break
    if not details:
        message = "a stored document cannot be decoded"
        details.append({"loc": (), "msg": message, "type": "unreadable_document"})
    return UnreadableDocument(subject, details, ids=[pk for pk in ids if pk is not None])


async def find_broken(subject: str, cursor: Any, batch_size: int) -> UnreadableDocument | None:
    """Return the error for the first batch of a raw cursor that has broken documents."""
    while raws := await cursor.to_list(batch_size):
        wrong = [raw for raw in raws if not _is_whole(raw)]
        if wrong:
            await cursor.close()
            return broken(subject, wrong)
    return None


def _is_whole(raw: Any) -> bool:
    try:
        from_bson(raw.raw)
    except InvalidBSON:
        return False
    return True


# -- the places inside a document ------------------------------------------------------------------

# The sizes of values without a length of their own, by type: https://bsonspec.org/spec.html
_SIZES: Final = {
    1: 8,
    6: 0,
    7: 12,
    8: 1,
    9: 8,
    10: 0,
    16: 4,
    17: 8,
    18: 8,
    19: 16,
    127: 0,
    255: 0,
}
# What is added to the length that a value begins with.
_ADDED: Final = {2: 4, 3: 0, 4: 0, 5: 5, 12: 16, 13: 4, 14: 4, 15: 0}
_REGEX: Final = 11
_MESSAGES: Final = {
    2: "a text that is no valid UTF-8",
    5: "a UUID that has not 16 bytes",
    9: "a date outside of the years 1 to 9999",
}


def _elements(data: bytes) -> Iterator[tuple[str, int, bytes, bytes]]:
    """Yield the name, the type, the bytes and the value's bytes of each element of a document."""
    position = 4
    while data[position]:
        start, kind = position, data[position]
        name_end = data.index(0, position + 1)
        name = data[position + 1 : name_end].decode(errors="replace")
        begin = name_end + 1
        if kind == _REGEX:
            end = data.index(0, data.index(0, begin) + 1) + 1
        elif kind in _SIZES:
            end = begin + _SIZES[kind]
        else:
            end = begin + int.from_bytes(data[begin : begin + 4], "little") + _ADDED[kind]
        yield name, kind, data[start:end], data[begin:end]
        position = end


def _document(element: bytes) -> bytes:
    return (len(element) + 5).to_bytes(4, "little") + element + b"\0"


def _problems(data: bytes) -> Iterator[tuple[tuple[str | int, ...], str]]:
    for name, kind, element, value in _elements(data):
        try:
            from_bson(_document(element))
        except InvalidBSON:
            inner = list(_problems(value)) if kind in (3, 4) else []
            for path, message in inner:
                yield (name, *path), message
            if not inner:
                yield (name,), _MESSAGES.get(kind, "a value that cannot be decoded")


def _id_of(data: bytes) -> Any:
    for name, _, element, _ in _elements(data):
        if name == "_id":
            try:
                return from_bson(_document(element))["_id"]
            except InvalidBSON:
                return None
    return None
