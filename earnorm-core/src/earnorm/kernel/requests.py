"""Requests: other answers of a search than its documents as one list.

A request travels as a note on the search. The layers narrow the search as any other, and its ``serve`` takes
the place of fetching at their end. A layer that answers by itself passes such an operation on: it asks whether
``op.request`` is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from earnorm.exceptions import NotSupported
from earnorm.kernel import searches

if TYPE_CHECKING:
    from earnorm.backends.base import Cursor, Document
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.operations import Operation


class Request:
    """One kind of answer. A request is of one search, unless it keeps nothing.

    Attributes:
        reads_documents: The database is asked for documents.
    """

    __slots__ = ()
    reads_documents: ClassVar[bool] = True

    @property
    def is_under_way(self) -> bool:
        """The answer has begun with an earlier operation: nobody looks at the domain again."""
        return False

    def check(self, op: Operation, other: Request | None = None) -> None:
        """Refuse an operation that the request does not go with.

        Args:
            op: The operation.
            other: What is asked of it besides.

        Raises:
            NotSupported: The two do not go together.
        """

    async def serve(self, bound: BoundModel, op: Operation) -> list[Document]:
        """Answer the operation as its layers have made it.

        Args:
            bound: Its model.
            op: The operation. What it selects, the functions of ``kernel.searches`` ask the database for.

        Returns:
            The documents, as a search without a request gives them; empty where the answer is left elsewhere.
        """
        raise NotImplementedError


class Stream(Request):
    """The batches of a cursor, one by each of the operations that share the request.

    Each batch travels through the layers as a search of its own, so a layer that filters or
    refuses documents needs no second implementation for streams.
    """

    __slots__ = ("batch_size", "cursor")

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.cursor: Cursor | None = None

    @property
    def is_under_way(self) -> bool:
        """The cursor is open."""
        return self.cursor is not None

    async def serve(self, bound: BoundModel, op: Operation) -> list[Document]:
        """Fetch the next batch; empty at the end."""
        if self.cursor is None:
            self.cursor = await searches.open_cursor(bound, op, self.batch_size)
        documents = await self.cursor.next_batch()
        if op.name == "group" or op.options.fields is not None:
            return documents
        return bound.declared.only(documents)

    async def close(self) -> None:
        """Close the cursor, if it was opened."""
        if self.cursor is not None:
            await self.cursor.close()


class PipelineCapture(Request):
    """Captures the restricted pipeline of a search, so that another model's search can look it up on the server."""

    __slots__ = ("stages",)
    reads_documents = False

    def __init__(self) -> None:
        self.stages: tuple[Mapping[str, Any], ...] = ()

    async def serve(self, bound: BoundModel, op: Operation) -> list[Document]:
        """Keep the stages."""
        self.stages = (*searches.stages(bound, op), *searches.hiding(bound, op))
        return []


class DryRun(Request):
    """Captures the operation and the filter that a search would send, without sending it."""

    __slots__ = ("filter", "op")
    reads_documents = False

    def __init__(self) -> None:
        self.op: Operation | None = None
        self.filter: Mapping[str, Any] = {}

    async def serve(self, bound: BoundModel, op: Operation) -> list[Document]:
        """Keep the two.

        Raises:
            NotSupported: No filter holds the condition.
        """
        if searches.STAGES in op.notes:
            raise NotSupported(
                f"{bound.model._name}: more related records fulfil the domain than one filter can name"
            )
        self.op, self.filter = op, bound.filter(op.domain)
        return []


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """What ``group`` asks for."""

    keys: Mapping[str, str]
    """Result name to the stored path that is grouped by."""
    aggregates: Mapping[str, str]
    """Result name to the stored path that is computed with; empty for a plain number of records."""
    stages: tuple[Mapping[str, Any], ...]
    """The pipeline behind the leading ``$match``; it names its results ``k0…`` and ``a0…``."""

    @property
    def paths(self) -> frozenset[str]:
        """Every stored path that is looked at."""
        return frozenset(filter(None, (*self.keys.values(), *self.aggregates.values())))

    def rows(self, found: Iterable[Document]) -> list[dict[str, Any]]:
        """The results of the stages under their result names."""
        columns = [(name, f"k{number}") for number, name in enumerate(self.keys)]
        columns += [(name, f"a{number}") for number, name in enumerate(self.aggregates)]
        return [{name: row.get(column) for name, column in columns} for row in found]
