"""Documents on their way into the memory and out of it, by way of BSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import bson
from bson.codec_options import CodecOptions
from pymongo.errors import DocumentTooLarge

from earnorm.backends.bson_form import CODEC
from earnorm.backends.in_memory.values import Document

MAX_DOCUMENT_BYTES: Final = 16 * 1024 * 1024

MOCK_CODEC: Final[CodecOptions[Document]] = CodecOptions(document_class=dict)
"""The default options, with which a UUID is a plain ``Binary``, the only form that mongomock
knows."""

# The annotation of bson.decode has an mmap and an array of unknown items.
_decode: Final[Callable[[bytes, CodecOptions[Document]], Document]] = cast("Any", bson).decode


def stored(document: Mapping[str, Any]) -> Document:
    """Convert a document to the form in which it is stored.

    Raises:
        DocumentTooLarge: It has more bytes than a server takes.
    """
    data = bson.encode(document, codec_options=CODEC)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise DocumentTooLarge(f"BSON document too large ({len(data)} bytes)")
    return _decode(data, MOCK_CODEC)


def loaded(document: Mapping[str, Any]) -> Document:
    """Convert a stored document to the form that a server's driver gives."""
    return _decode(bson.encode(document, codec_options=MOCK_CODEC), CODEC)


def is_too_large(document: Mapping[str, Any]) -> bool:
    """Return whether a stored document has more bytes than a server takes."""
    return len(bson.encode(document, codec_options=MOCK_CODEC)) > MAX_DOCUMENT_BYTES
