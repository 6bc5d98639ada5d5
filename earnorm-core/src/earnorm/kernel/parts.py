"""Operations on more ids than one filter can hold, done in parts.

Only for ids: no record has two, so the parts have no record in common, and no write moves one from
one part to another. As with any update of many records, it is atomic inside a transaction only.
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
"""On an operation about some of the ids that another one names."""


def parts(bound: BoundModel, op: Operation, refused: LongList) -> Iterator[Operation]:
    """The operation in parts, each about some of the ids.

    Raises:
        LongList: (``refused``) Its domain is not about ids, or not only.
    """
    named = None if IS_PART in op.notes else split_ids(op.domain, bound.schema)
    if named is None:
        raise refused  # of a part, another list is too long
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
    """The documents of all parts; an order would be one of each part."""
    if op.options.order or op.options.offset:
        raise refused
    found: list[Document] = []
    limit = op.options.limit
    for part in parts(bound, op, refused):
        found += await read(bound, _at_most(part, limit - len(found)) if limit else part)
        if limit and len(found) >= limit:
            break
    return found


async def count(
    read: Callable[[BoundModel, Operation], Awaitable[int]],
    bound: BoundModel,
    op: Operation,
    refused: LongList,
) -> int:
    """Count the matches of all parts, up to the limit."""
    if op.options.offset:
        raise refused
    found, limit = 0, op.options.limit
    for part in parts(bound, op, refused):
        found += await read(bound, _at_most(part, limit - found) if limit else part)
        if limit and found >= limit:
            break
    return found


async def change(
    write: Callable[[Operation], Awaitable[int]],
    bound: BoundModel,
    op: Operation,
    refused: LongList,
) -> int:
    """Write or delete part by part; only the first record where one is wanted."""
    done = 0
    for part in parts(bound, op, refused):
        done += await write(part)
        if done and not op.options.many:
            break
    return done


def _at_most(op: Operation, limit: int) -> Operation:
    return op.replace(options=op.options.replace(limit=limit))


class Cursors:
    """A cursor over the parts, one after the other."""

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
        """The next documents; empty at the end."""
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
