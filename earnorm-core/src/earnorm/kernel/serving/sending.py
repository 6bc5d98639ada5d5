"""Notes that change how the core sends a write: with values returned, or together with others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from earnorm.kernel.notes import Note

if TYPE_CHECKING:
    from earnorm.backends.base import BulkCounts, BulkRequest, Collection, Document
    from earnorm.kernel.operations import Operation
    from earnorm.kernel.transactions.running import Transaction


class Returned:
    """Asks a write of one record for some of its fields after the write, in the same round trip.

    A layer that hides fields removes them from ``document`` when the write has come back.
    """

    __slots__ = ("document", "fields")

    def __init__(self, fields: frozenset[str]) -> None:
        self.fields = fields
        """Names of the fields to return."""
        self.document: Document | None = None
        """The record in stored form; None if nothing was written."""


RETURNED: Note[Returned] = Note("returned")
"""On a write with ``many=False``: asks for the record's values after the write."""


class Sender(Protocol):
    """Sends the statements of several operations together."""

    @property
    def is_open(self) -> bool:
        """True while an arriving operation waits for the others; a later one is sent alone."""
        ...

    async def park(
        self, collection: Collection, op: Operation, requests: Sequence[BulkRequest]
    ) -> BulkCounts:
        """Wait until all statements were sent; return the counts of these requests."""
        ...


class Arrival:
    """Tells whether the documents of a create have arrived in the database.

    Attributes:
        has_arrived: True if the database has taken them.
        transaction: The transaction in which it has; None without one.
    """

    # An attribute of the class, since an __init__ would be one more call of each save.
    has_arrived = False
    transaction: Transaction | None = None

    @property
    def may_be_stored(self) -> bool:
        """True if the documents have arrived, and were not rolled back."""
        running = self.transaction
        return self.has_arrived and not (running is not None and running.outcome.rolled_back)


ARRIVAL: Note[Arrival] = Note("arrival")
"""On a create of records that the program holds: whether its documents have arrived."""


SENDER: Note[Sender] = Note("sender")
"""On a create, write or unlink: the object that sends it together with others."""
