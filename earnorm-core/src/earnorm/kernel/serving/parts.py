"""Operations on more ids than one filter can hold, done in parts.

Only a list of ids can be split: each record has one id, so the parts have no record in common, and
no write moves a record from one part to another. Like any update of many records, the operation is
atomic only inside a transaction.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

from earnorm.domain import And, Condition
from earnorm.domain.ids import split_ids
from earnorm.domain.long_lists import chunks
from earnorm.exceptions import LongList
from earnorm.kernel.notes import Note

if TYPE_CHECKING:
    from earnorm.backends.base import Cursor, Document
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.operations import Operation

IS_PART: Note[bool] = Note("is_part")
"""On an operation that is about some of the ids of another operation."""


def parts(bound: BoundModel, op: Operation, refused: LongList) -> Iterator[Operation]:
    """Split the operation into parts, each about some of the ids.

    Raises:
        LongList: (``refused``) Its domain is not about ids, or not only about ids.
    """
    named = None if IS_PART in op.notes else split_ids(op.domain, bound.schema)
    if named is None:
        raise refused  # a part is refused because of another long list, which cannot be split
    pks, rest = named
    op = op.with_note(IS_PART, True)
    for piece in chunks(pks):
        yield op.replace(domain=And([rest, Condition("_id", "in", piece)]))


async def search(
    read: Callable[[BoundModel, Operation], Awaitable[list[Document]]],
    bound: BoundModel,
    op: Operation,
    refused: LongList,
) -> list[Document]:
    """Return the documents of all parts; refuse an order, which each part would have alone."""
    if op.options.order or op.options.offset:
        raise refused
    documents: list[Document] = []
    limit = op.options.limit
    for part in parts(bound, op, refused):
        documents += await read(bound, _at_most(part, limit - len(documents)) if limit else part)
        if limit and len(documents) >= limit:
            break
    return documents


async def count(
    read: Callable[[BoundModel, Operation], Awaitable[int]],
    bound: BoundModel,
    op: Operation,
    refused: LongList,
) -> int:
    """Count the matches of all parts, up to the limit."""
    if op.options.offset:
        raise refused
    total, limit = 0, op.options.limit
    for part in parts(bound, op, refused):
        total += await read(bound, _at_most(part, limit - total) if limit else part)
        if limit and total >= limit:
            break
    return total


async def change(
    write: Callable[[Operation], Awaitable[int]],
    bound: BoundModel,
    op: Operation,
    refused: LongList,
) -> int:
    """Write or delete part by part; stop after the first record if only one is to be changed."""
    done = 0
    for part in parts(bound, op, refused):
        done += await write(part)
        if done and not op.options.many:
            break
    return done


def _at_most(op: Operation, limit: int) -> Operation:
    return op.replace(options=op.options.replace(limit=limit))


class Cursors:
    """A cursor over all parts, one part after the other."""

    def __init__(
        self,
        open_cursor: Callable[[BoundModel, Operation, int], Awaitable[Cursor]],
        bound: BoundModel,
        op: Operation,
        batch_size: int,
        refused: LongList,
    ) -> None:
        if op.options.order or op.options.offset:
            raise refused
        self._open, self._bound = open_cursor, bound
        self._size, self._left = batch_size, op.options.limit
        self._is_limited = op.options.limit > 0
        self._parts = parts(bound, op, refused)
        self._op: Operation | None = next(self._parts, None)
        self._cursor: Cursor | None = None

    async def next_batch(self) -> list[Document]:
        """Return the next documents; the list is empty at the end."""
        while self._op is not None and (self._left or not self._is_limited):
            if self._cursor is None:
                part = _at_most(self._op, self._left)
                self._cursor = await self._open(self._bound, part, self._size)
            documents = await self._cursor.next_batch()
            if documents:
                self._left -= len(documents) if self._is_limited else 0
                return documents
            await self.close()
            self._op = next(self._parts, None)
        return []

    async def close(self) -> None:
        """Close the cursor of the part that is being read."""
        if self._cursor is not None:
            await self._cursor.close()
            self._cursor = None
