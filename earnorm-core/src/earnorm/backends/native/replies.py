"""Puts the compiled decoder in the driver's way.

A driver hands each reply, whole and undecoded, to a ``document_class`` that is a subclass of
``RawBSONDocument``. The ``__new__`` of one returns the decoded reply as a plain dict. So sessions,
retries, compression, listeners and errors are the driver's as ever. A change stream needs the
undecoded event for its token, so ``watch()`` never gets such options.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from bson.codec_options import CodecOptions
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument

from earnorm.backends.bson_form import CODEC, from_bson
from earnorm.backends.native.interface import imported

if TYPE_CHECKING:
    from earnorm.backends.base import DocumentKeys, KeyTree
    from earnorm.backends.native.interface import DecoderPlan

BATCHES: Final = ("firstBatch", "nextBatch")


def options_for(keys: DocumentKeys) -> CodecOptions[Any] | None:
    """Return the codec options of reads that get documents with these keys.

    Returns:
        None if the decoder cannot tell the documents' keys beforehand, or there are too many.
    """
    tree = keys.tree
    plan = None if tree is None else plan_of(tree)
    if plan is None:
        return None
    return CODEC.with_options(document_class=reply_class(plan, keys))


def plan_of(tree: KeyTree) -> DecoderPlan | None:
    """Return the plan of documents with these keys; None if a plan has no room for them."""
    decoder = imported()
    if len(tree) > decoder.MOST_FIELDS:
        return None
    # An embedded document without a plan is decoded all the same.
    fields = [(key, None if inner is None else plan_of(inner)) for key, inner in tree.items()]
    try:
        return decoder.Plan(fields)
    except ValueError:  # a key that no document has
        return None


def reply_class(plan: DecoderPlan, keys: DocumentKeys) -> type[RawBSONDocument]:
    """Return a class whose call decodes a reply."""
    decode = imported().reply

    class Reply(RawBSONDocument):
        """Is called with a reply by the driver, and returns it as a dict."""

        __slots__ = ()

        def __new__(cls, raw: Any, codec_options: object = None) -> Any:
            try:
                reply = decode(plan, raw)
            except InvalidBSON:
                reply = None  # the driver's error is raised outside of here, without this one
            if reply is None:
                return _by_driver(raw, keys)
            if plan.take_others():
                keys.note_others()
            return reply

    return Reply


def _by_driver(raw: Any, keys: DocumentKeys) -> Mapping[str, Any]:
    """Decode a reply that the decoder does not take.

    Raises:
        InvalidBSON: The driver does not take it either.
    """
    reply = from_bson(raw)
    cursor = reply.get("cursor")
    if isinstance(cursor, dict):
        for name in BATCHES:
            if name in cursor:
                cursor[name] = keys.only(cursor[name])
    return reply
