"""The records of an operation, which its domain may not find any more when they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from earnorm.plugin import DocumentBatch, Note, Operation, Options

_PKS: Final[Note[Sequence[Any]]] = Note("security: written records")
_ID: Final = Options(fields=frozenset({"_id"}))
_REASON: Final = "security: which records are written?"


async def written(op: Operation) -> list[Any]:
    """Return the ids of the records that an operation is about."""
    env = op.env.as_system(_REASON)
    search = op.child("search", op.model, op.domain, options=_ID, origin="security", env=env)
    return [document["_id"] for document in await op.app.execute(search)]


async def note_written(batch: DocumentBatch) -> None:
    """Note which records a write changes, once for all steps that ask when they are stored."""
    if _PKS not in batch.notes:
        batch.notes[_PKS] = await written(batch.operation)


def stored(batch: DocumentBatch) -> Sequence[Any]:
    """Return the ids of the records that are stored now: new ones, or those that were noted."""
    if batch.op.name == "create":
        return [document["_id"] for document in batch.op.documents]
    pks: Sequence[Any] = batch.notes.get(_PKS, ())
    return pks
