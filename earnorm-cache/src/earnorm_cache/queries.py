"""The layer of searches, counts and groups whose results are kept: in this process, in Redis, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from earnorm.domain import Condition
from earnorm.plugin import (
    CACHING,
    ID_TYPES,
    ModelView,
    Operation,
    Options,
    from_bson,
    pause,
    slices,
    to_bson,
)
from earnorm_cache.encoding import PAUSE_EVERY, Document
from earnorm_cache.in_progress import IN_FUNCTION, IN_WRITE, note_read
from earnorm_cache.plans import Kind, Plan, is_wanted, plan_of
from earnorm_cache.reading import in_order

if TYPE_CHECKING:
    from earnorm.plugin import Call
    from earnorm_cache.closing import Shelf
    from earnorm_cache.levels import Levels
    from earnorm_cache.options import Kept
    from earnorm_cache.reading import RecordReader
    from earnorm_cache.results import LoadResult, SharedResults

MOST_ROWS: Final = 1_000
MOST_BYTES: Final = 2**20
"""The largest results that are kept."""

_UNKNOWN: Final = object()
"""The answer of an operation that was not given yet."""


class QueryReader:
    """Keeps the results of the queries of one model.

    Args:
        levels: The levels of the App.
        model: The model.
        shelf: The shelf of its collection.
        kept: How its records and results are kept.
        records: Reads its records by their ids.
    """

    def __init__(
        self,
        levels: Levels,
        model: ModelView,
        shelf: Shelf,
        kept: Kept,
        records: RecordReader,
    ) -> None:
        self._levels, self._model, self._shelf, self._how = levels, model, shelf, kept
        self._records = records
        self._flights: dict[tuple[bytes, tuple[int, ...]], asyncio.Future[bytes | None]] = {}
        """The loads of this process where it uses no Redis, by key and vector."""

    async def search(self, op: Operation, call_next: Call, /) -> Any:
        """Answer a search, by its ids if it has some."""
        if IN_FUNCTION.get() is not None:
            note_read(op)
        if op.notes:
            caching = op.note(CACHING)
            if caching is not None and not caching.is_wanted:
                return await call_next(op)
        else:
            kept = await self._records.kept(op)
            if kept is not None:
                return kept
        found = await self._records.find(op, call_next)
        return await self._answer(op, call_next) if found is None else found

    async def answer(self, op: Operation, call_next: Call, /) -> Any:
        """Answer a count or group."""
        if IN_FUNCTION.get() is not None:
            note_read(op)
        return await self._answer(op, call_next)

    async def _answer(self, op: Operation, call_next: Call) -> Any:
        levels, shelf, how = self._levels, self._shelf, self._how
        if not is_wanted(op, how.queries) or self._model.collection in levels.expiring:
            return await call_next(op)
        # A right that was taken away must not last as long as the memory may be old: then only Redis is asked.
        is_open = op.env.system or not op.app.bind(op.model).is_restricted
        is_open = is_open and how.in_memory and not IN_WRITE.get()
        if not is_open and self._results is None:
            return await call_next(op)
        plan = plan_of(op, self._model, self._records.read_as(op.app))
        if plan is None or shelf.is_written(plan.names):
            return await call_next(op)
        if is_open and await levels.are_heard((self._model.collection,)):
            data = self._kept(plan)
            if data is not None:
                given = await self._given(plan, data, op, call_next, is_open)
                if given is not _UNKNOWN:
                    return given
        return await self._fetch(plan, op, call_next, is_open)

    async def _fetch(self, plan: Plan, op: Operation, call_next: Call, is_open: bool) -> Any:
        """Answer from Redis, or else from the database."""
        counts, name, results = self._levels.shelves.counts, self._model.name, self._results
        vector, loaded, data = self._shelf.vector(plan.names), _UNKNOWN, None
        caching = op.note(CACHING)
        ttl = self._how.ttl
        if caching is not None and caching.ttl is not None:
            ttl = caching.ttl

        async def load() -> bytes | None:
            nonlocal loaded, data
            loaded = await call_next(op)
            data = await _packed(plan, loaded)
            return data

        if results is None:
            data = await self._joined(plan, vector, load) or data
        else:
            where = self._model.collection
            data = await results.fetch(where, plan.key, plan.names, load, ttl) or data
        if data is not None and is_open:
            self._keep(plan, vector, data, ttl)
        if loaded is not _UNKNOWN:
            counts.query_misses[name] += 1
            return loaded
        assert data is not None
        given = await self._given(plan, data, op, call_next, is_open)
        return await call_next(op) if given is _UNKNOWN else given

    async def _joined(self, plan: Plan, vector: tuple[int, ...], load: LoadResult) -> bytes | None:
        """Return the result that another task of this process is loading, or else load it."""
        place = (plan.key, vector)  # a write that has ended since then has changed the vector
        flight = self._flights.get(place)
        if flight is not None:
            data = await asyncio.shield(flight)
            if data is None:  # it failed, or is too large
                await load()
            return data
        flight = self._flights[place] = asyncio.get_running_loop().create_future()
        data = None
        try:
            data = await load()
            return None
        finally:
            del self._flights[place]
            flight.set_result(data)

    @property
    def _results(self) -> SharedResults | None:
        return self._levels.results if self._how.in_redis else None

    # -- the memory of this process -----------------------------------------------------------

    def _kept(self, plan: Plan) -> bytes | None:
        """Return a result that this process keeps, if nothing that it depends on was written since."""
        shelf = self._shelf
        kept = self._levels.shelves.memory.get((self._model.name, plan.key))
        if kept is None or shelf.is_written(plan.names):
            return None
        head = _head(shelf.vector(plan.names))
        return kept[len(head) :] if kept.startswith(head) else None

    def _keep(self, plan: Plan, vector: tuple[int, ...], data: bytes, ttl: float) -> None:
        shelf, memory = self._shelf, self._levels.shelves.memory
        if shelf.vector(plan.names) == vector and not shelf.is_written(plan.names):
            memory.put((self._model.name, plan.key), _head(vector) + data, shelf.results, ttl)

    # -- results as bytes ---------------------------------------------------------------------

    async def _given(
        self, plan: Plan, data: bytes, op: Operation, call_next: Call, is_open: bool
    ) -> Any:
        """Return the result of which bytes were kept; ``_UNKNOWN`` if it is not true any more."""
        kept = from_bson(data)
        if plan.kind is Kind.NUMBER:
            result: Any = kept["number"]
        elif plan.kind is Kind.ROWS:
            result = await _rows(kept["rows"])
        else:
            result = await self._documents(plan, kept, op, call_next, is_open)
        if result is not _UNKNOWN:
            self._levels.shelves.counts.query_hits[self._model.name] += 1
        return result

    async def _documents(
        self, plan: Plan, kept: Document, op: Operation, call_next: Call, is_open: bool
    ) -> Any:
        """Return the documents of kept ids, if each of them still matches, in this order.

        A document may be newer than the vector that the ids were kept with: who asks may not see it any more.
        """
        ids = kept["ids"]
        if not ids:
            return []
        by_id = op.replace(
            domain=Condition("_id", "in", ids), options=Options(timeout=op.options.timeout)
        )
        documents = await self._records.documents(by_id, call_next, tuple(ids), from_memory=is_open)
        if len(documents) != len(ids):
            return _UNKNOWN
        documents = in_order(ids, documents)
        matches = op.app.matcher(op.model, op.domain)
        for part in slices([*zip(documents, kept["order"] or ids, strict=True)], PAUSE_EVERY):
            for document, values in part:
                if not matches(document) or (
                    plan.order and [document.get(key) for key in plan.order] != values
                ):
                    return _UNKNOWN
            if len(part) == PAUSE_EVERY:
                await pause()
        return documents


def _head(vector: tuple[int, ...]) -> bytes:
    return b"".join(number.to_bytes(8, "little") for number in vector)


async def _packed(plan: Plan, result: Any) -> bytes | None:
    """Return the bytes of a result; None if it is not kept."""
    if plan.kind is Kind.NUMBER:
        return to_bson({"number": result})
    if len(result) > MOST_ROWS:
        return None
    if plan.kind is Kind.IDS:
        ids = [document["_id"] for document in result]
        if not all(type(pk) in ID_TYPES for pk in ids):
            return None
        order = [[document.get(key) for key in plan.order] for document in result]
        return to_bson({"ids": ids, "order": order if plan.order else None})
    rows: list[bytes] = []
    size = 0
    for part in slices(result, PAUSE_EVERY):
        for row in part:
            rows.append(to_bson(row))
            size += len(rows[-1])
        if size > MOST_BYTES:
            return None
        if len(part) == PAUSE_EVERY:
            await pause()
    return to_bson({"rows": rows})


async def _rows(packed: Sequence[bytes]) -> list[Document]:
    rows: list[Document] = []
    for part in slices(packed, PAUSE_EVERY):
        rows += map(from_bson, part)
        if len(part) == PAUSE_EVERY:
            await pause()
    return rows
