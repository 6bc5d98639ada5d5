"""Requests: answers of a search other than a list of its documents.

A request travels as a note on the search. The layers narrow the search as usual; at their end
``serve`` runs instead of fetching the documents. A layer that answers searches itself must pass on
an operation whose ``op.request`` is not None.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from earnorm.exceptions import NotSupported, UnreadableDocument

if TYPE_CHECKING:
    from earnorm.backends.base import Cursor, Document
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.life.in_flight import InFlight
    from earnorm.kernel.operations import Operation
    from earnorm.kernel.serving.searches import Sight


OnError = Literal["raise", "skip"] | Callable[[UnreadableDocument], object]
"""The ways of a stream to go on at a document that cannot be decoded; a function is told of it."""


class Request:
    """One kind of answer. Each search needs its own request, unless the request keeps no state.

    Attributes:
        reads_documents: True if the database is asked for documents.
    """

    __slots__ = ()
    reads_documents: ClassVar[bool] = True

    @property
    def is_under_way(self) -> bool:
        """True if an earlier operation has begun the answer: the domain is not read again."""
        return False

    def check(self, op: Operation, other: Request | None = None) -> None:
        """Refuse an operation that cannot be combined with the request.

        Args:
            op: The operation.
            other: Another request on the same operation.

        Raises:
            NotSupported: They cannot be combined.
        """

    async def serve(self, bound: BoundModel, op: Operation) -> list[Document]:
        """Answer the operation after its layers have changed it.

        Args:
            bound: Its model.
            op: The operation. The functions of ``searches`` fetch its documents.

        Returns:
            The documents, as a search without a request gives them; empty if the request keeps
            the answer.
        """
        raise NotImplementedError


class Stream(Request):
    """The batches of a cursor: each operation that shares the request fetches the next one.

    Each batch passes through the layers as a separate search, so a layer that filters or refuses
    documents needs no second implementation for streams.
    """

    __slots__ = ("__weakref__", "_cursor", "_is_cut_off", "batch_size", "in_flight", "on_error")

    def __init__(self, batch_size: int, on_error: OnError = "raise") -> None:
        self.batch_size = batch_size
        self.on_error = on_error
        self._cursor: Cursor | None = None
        self.in_flight: InFlight | None = None
        self._is_cut_off = False

    @property
    def is_under_way(self) -> bool:
        """True if the cursor is open."""
        return self._cursor is not None

    async def serve(self, bound: BoundModel, op: Operation) -> list[Document]:
        """Fetch the next batch; it is empty at the end."""
        from earnorm.kernel.serving import searches  # loaded with the first App

        if self._is_cut_off:  # and the App was started again, else it would not be here
            assert self.in_flight is not None
            raise self.in_flight.refusal()
        try:
            if self._cursor is None:
                on_broken = None if self.on_error == "raise" else partial(self._broken, bound)
                self._cursor = await searches.open_cursor(bound, op, self.batch_size, on_broken)
                self.in_flight = bound.app.in_flight
                self.in_flight.streams[self] = asyncio.current_task()
            return await self._cursor.next_batch()
        except UnreadableDocument as error:
            raise searches.named(bound, op, error) from None

    async def _broken(self, bound: BoundModel, error: UnreadableDocument) -> None:
        """Tell the program of a document that cannot be decoded."""
        if callable(self.on_error):
            told = self.on_error(error.renamed(bound.model._name, bound.schema.renamed))
            if isawaitable(told):
                await told

    async def cut_off(self) -> None:
        """Close the cursor; who goes on with the stream gets an ``AppStopping``."""
        self._is_cut_off = True
        await self.close()

    async def close(self) -> None:
        """Close the cursor, if it was opened."""
        if self.in_flight is not None:
            self.in_flight.streams.pop(self, None)
        if self._cursor is not None:
            await self._cursor.close()


class PipelineCapture(Request):
    """Captures the restricted pipeline of a search, for a lookup of another search.

    Attributes:
        stages: The stages that select its documents, and leave out fields that a layer hides.
        selecting: Those that select its documents.
        sight: What a pipeline of the principal sees of them.
    """

    __slots__ = ("selecting", "sight", "stages")
    reads_documents = False

    def __init__(self) -> None:
        self.stages: tuple[Mapping[str, Any], ...] = ()
        self.selecting: tuple[Mapping[str, Any], ...] = ()
        self.sight: Sight

    async def serve(self, bound: BoundModel, op: Operation) -> list[Document]:
        """Keep the stages."""
        from earnorm.kernel.serving import searches

        self.selecting = searches.stages(bound, op)
        self.sight = searches.sight(bound, op)
        self.stages = (*self.selecting, *searches.hiding(bound, op))
        return []


class DryRun(Request):
    """Captures the operation and the filter that a search would send, without sending it."""

    __slots__ = ("filter", "op")
    reads_documents = False

    def __init__(self) -> None:
        self.op: Operation | None = None
        self.filter: Mapping[str, Any] = {}

    async def serve(self, bound: BoundModel, op: Operation) -> list[Document]:
        """Keep the operation and the filter.

        Raises:
            NotSupported: No filter can express the condition.
        """
        from earnorm.kernel.serving import searches

        if searches.STAGES in op.notes:
            raise NotSupported(
                f"{bound.model._name}: more related records fulfil the domain than one filter can name"
            )
        self.op, self.filter = op, bound.filter(op.domain)
        return []


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """The keys and aggregates of a group."""

    keys: Mapping[str, str]
    """The stored path to group by, by result name."""
    aggregates: Mapping[str, str]
    """The stored path to aggregate, by result name; an empty path counts records."""
    stages: tuple[Mapping[str, Any], ...]
    """The pipeline after the leading ``$match``; it names its results ``k0…`` and ``a0…``."""

    @property
    def paths(self) -> frozenset[str]:
        """Every stored path that the group reads."""
        return frozenset(filter(None, (*self.keys.values(), *self.aggregates.values())))

    def rows(self, documents: Iterable[Document]) -> list[dict[str, Any]]:
        """Return the rows of the pipeline with result names instead of ``k0…`` and ``a0…``."""
        names = (*self.keys, *self.aggregates)
        columns = [f"k{number}" for number in range(len(self.keys))]
        columns += [f"a{number}" for number in range(len(self.aggregates))]
        # A comprehension inside of one would be a call of each row.
        return [dict(zip(names, map(row.get, columns), strict=True)) for row in documents]
