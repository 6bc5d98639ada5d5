"""Other ways to send a write than at once and by itself: notes that the end of the layers reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from earnorm.kernel.notes import Note

if TYPE_CHECKING:
    from earnorm.backends.base import BulkCounts, BulkRequest, Collection, Document
    from earnorm.kernel.operations import Operation


class Returned:
    """Asks a write of one record for some of its fields afterwards, in the same round trip, and holds them.

    A layer that hides fields takes them out of ``document`` when the write has come back.
    """

    __slots__ = ("document", "fields")

    def __init__(self, fields: frozenset[str]) -> None:
        self.fields = fields
        """Names of the fields that are asked for."""
        self.document: Document | None = None
        """In stored form; None where nothing was written."""


RETURNED: Note[Returned] = Note("returned")
"""On a write with ``many=False``: the record's values afterwards are asked for."""


class Sender(Protocol):
    """Sends the statements of several operations together."""

    @property
    def is_open(self) -> bool:
        """Whether an operation that arrives waits for the others; later ones go their own way."""
        ...

    async def park(
        self, collection: Collection, op: Operation, requests: Sequence[BulkRequest]
    ) -> BulkCounts:
        """Wait until all was sent; what became of these requests."""
        ...


SENDER: Note[Sender] = Note("sender")
"""On a create, write or unlink: who sends it, together with others."""
