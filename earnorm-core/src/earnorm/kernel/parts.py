"""Operations on more ids than one filter can hold, done in parts.

Only for ids: no record has two, so the parts have no record in common, and no write moves one from
one part to another. As with any update of many records, it is atomic inside a transaction only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from earnorm.domain import And, Condition
from earnorm.domain.ids import ID_TYPES
from earnorm.domain.long_lists import chunks
from earnorm.domain.schema import ID_PATHS
from earnorm.exceptions import LongList
from earnorm.kernel.operations import Call, Operation, Stream

if TYPE_CHECKING:
    from earnorm.backends.base import Document


def parts(op: Operation, refused: LongList) -> Iterator[Operation]:
    """The operation in parts, each about some of the ids.

    Raises:
        LongList: (``refused``) Its domain is not about ids, or not only.
    """
    domain = op.domain
    children = domain.children if isinstance(domain, And) else (domain,)
    lists = [child for child in children if _is_id_list(child)]
    if not lists:
        raise refused
    rest = [child for child in children if not _is_id_list(child)]
    operand = op.model._schema.fields["_id"].operand
    shortest, *others = sorted((each.value for each in lists), key=len)  # type: ignore[attr-defined] # _is_id_list: conditions whose values are tuples
    wanted = list(map(operand, shortest))
    allowed = [frozenset(map(operand, other)) for other in others]
    if not ID_TYPES.issuperset(map(type, wanted)):
        raise refused
    pks = list(dict.fromkeys(wanted))
    if allowed:
        pks = [pk for pk in pks if all(pk in each for each in allowed)]
    pieces = list(chunks(pks))
    if len(pieces) == 1 and not others:
        raise refused  # another list is the long one
    for piece in pieces:
        yield op.replace(domain=And([*rest, Condition("_id", "in", piece)]))


def _is_id_list(part: object) -> bool:
    return (
        isinstance(part, Condition)
        and part.path in ID_PATHS
        and part.operator == "in"
        and isinstance(part.value, tuple)
    )


async def search(core: Call, op: Operation, refused: LongList) -> list[Document]:
    """The documents of all parts; an order would be one of each part."""
    if op.options.order or op.options.offset:
        raise refused
    found: list[Document] = []
    limit = op.options.limit
    for part in parts(op, refused):
        found += await core(_at_most(part, limit - len(found)) if limit else part)
        if limit and len(found) >= limit:
            break
    return found


async def count(core: Call, op: Operation, refused: LongList) -> int:
    """How many there are in all parts, counting no further than to the limit."""
    if op.options.offset:
        raise refused
    found, limit = 0, op.options.limit
    for part in parts(op, refused):
        found += await core(_at_most(part, limit - found) if limit else part)
        if limit and found >= limit:
            break
    return found


async def change(core: Call, op: Operation, refused: LongList) -> int:
    """Write or delete part by part; only the first record where one is wanted."""
    done = 0
    for part in parts(op, refused):
        done += await core(part)
        if done and not op.options.many:
            break
    return done


def _at_most(op: Operation, limit: int) -> Operation:
    return op.replace(options=op.options.replace(limit=limit))


class Batches:
    """A cursor over the parts, one after the other."""

    def __init__(self, core: Call, op: Operation, batch_size: int, refused: LongList) -> None:
        if op.options.order or op.options.offset:
            raise refused
        self._core, self._size, self._left = core, batch_size, op.options.limit
        self._is_limited = op.options.limit > 0
        self._parts = parts(op, refused)
        self._op: Operation | None = next(self._parts, None)
        self._stream = Stream(batch_size)

    async def next_batch(self) -> list[Document]:
        """The next documents; empty at the end."""
        while self._op is not None and (self._left or not self._is_limited):
            options = self._op.options.replace(stream=self._stream, limit=self._left)
            documents: list[Document] = await self._core(self._op.replace(options=options))
            if documents:
                self._left -= len(documents) if self._is_limited else 0
                return documents
            await self.close()
            self._op, self._stream = next(self._parts, None), Stream(self._size)
        return []

    async def close(self) -> None:
        """Close the cursor of the part that is being read."""
        if self._stream.cursor is not None:
            await self._stream.cursor.close()
