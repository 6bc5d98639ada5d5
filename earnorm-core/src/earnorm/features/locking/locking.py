"""``search(...).lock()``: no other transaction may write the records before this one ends.

MongoDB has no lock for readers, but it has write conflicts: if two transactions write one document,
the later one fails at once, with a transient error. So a lock is a write to a separate key of the
document, which no model declares and no record shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from earnorm.domain.long_lists import chunks
from earnorm.exceptions import NotSupported, TransactionError
from earnorm.kernel.contract.left_out import need_feature
from earnorm.kernel.serving import searches
from earnorm.kernel.serving.requests import Request

if TYPE_CHECKING:
    from earnorm.backends.base import Collection, Document
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.operations import Operation

LOCK: Final = "_lock"
"""The stored key that counts the locks of a document."""


class Lock(Request):
    """Asks for the documents of a search in a transaction, with a lock on each."""

    __slots__ = ()

    def check(self, op: Operation, other: Request | None = None) -> None:
        """Refuse an operation that cannot lock.

        Raises:
            TransactionError: No transaction is running, and a lock lasts until the end of one.
            NotSupported: The operation is not a search for records.
        """
        need_feature("locking", "lock()", op.app)
        if op.name != "search" or other is not None:
            raise NotSupported(
                f"{op.model._name}: lock() goes with a search that is awaited: "
                f"'await {op.model.__name__}.search(...).lock()'"
            )
        if op.env.transaction is None:
            raise TransactionError(
                f"{op.model._name}: lock() holds until the end of a transaction, and none is running: "
                f"work inside 'async with earnorm.transaction():' or '@earnorm.transactional()'"
            )

    async def serve(self, bound: BoundModel, op: Operation) -> list[Document]:
        """Fetch the documents of the search, and lock them."""
        self.check(op)
        documents = await searches.documents(bound, op)
        await lock(bound._collection, documents, op)
        return documents


async def lock(collection: Collection, documents: Sequence[Document], op: Operation) -> None:
    """Write the lock of each document.

    Raises:
        TransactionError: Another transaction has written or locked a document since this one began.
            The error is transient, so ``@transactional`` tries again.
    """
    pks = [document["_id"] for document in documents]
    for chunk in chunks(pks):
        await collection.update(
            {"_id": {"$in": chunk}},
            {"$inc": {LOCK: 1}},
            session=op.env._database_session,
            timeout=op.options.timeout,
        )
