"""Makes the BSON of loaded documents, which is what every level keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from earnorm.plugin import ID_TYPES, StoredId, pause, slices, to_bson

# A document holds any BSON value, so there is no narrower type.
Document: TypeAlias = dict[str, Any]

PAUSE_EVERY: Final = 50
"""The number of documents that are copied between two pauses, at 5 µs each."""

ABSENT: Final = b"-"
"""The value that is kept of an id that has no record; no BSON is as short."""

Kept: TypeAlias = Callable[[StoredId, bytes], None]
"""Is given an id and the BSON of its document, or ``ABSENT``."""


async def encoded(documents: Sequence[Document], kept: Kept) -> dict[StoredId, bytes]:
    """Return the BSON of documents by id, and hand it on; those with ids of other types are left out."""
    by_id: dict[StoredId, bytes] = {}
    for part in slices(documents, PAUSE_EVERY):
        for document in part:
            pk = document["_id"]
            if type(pk) in ID_TYPES:
                by_id[pk] = to_bson(document)
                kept(pk, by_id[pk])
        if len(part) == PAUSE_EVERY:
            await pause()
    return by_id


def note_absent(
    ids: Sequence[StoredId], documents: Sequence[Document], by_id: dict[StoredId, bytes], kept: Kept
) -> None:
    """Note the ids of which no document was loaded, and hand that on.

    Args:
        ids: The ids that were asked for.
        documents: All documents that were loaded.
        by_id: Their BSON; the other ids are added.
        kept: As of ``encoded``.
    """
    if len(by_id) < len(documents):
        return  # one has an id of another type, which to the server may be equal: 1.0 is 1
    for pk in ids:
        if pk not in by_id:
            by_id[pk] = ABSENT
            kept(pk, ABSENT)
