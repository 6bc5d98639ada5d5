"""Operations whose domain asks about other records: resolve it, then do them, with a pipeline where
a filter could not hold the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from earnorm.domain import Condition
from earnorm.domain.long_lists import chunks
from earnorm.domain.relational import asks_others
from earnorm.exceptions import NotSupported, UnresolvedDomain
from earnorm.features.locking.locking import lock
from earnorm.kernel.operations import (
    Call,
    Explanation,
    Operation,
    OperationName,
    PerRecord,
    Rehearsal,
    Selecting,
    Stream,
)
from earnorm.model.reading.across import lookups
from earnorm.model.reading.resolution import Selection, select

if TYPE_CHECKING:
    from earnorm.backends.base import Cursor, Document
    from earnorm.kernel.binding import BoundModel

_BATCH: Final = 100_000  # ids that are read at once

Stages = list[Mapping[str, Any]]


def resolving(bound: BoundModel, name: OperationName, core: Call) -> Call:
    """The core, behind which a domain may ask about other records.

    Costs nothing where it doesn't: making the filter is what finds out.
    """
    if not bound.schema.may_cross:
        return core

    reads = _READS.get(name)

    async def call(op: Operation) -> Any:
        if op.options.across:
            stream = op.options.stream
            if isinstance(stream, Stream) and stream.cursor is not None:
                return await stream.cursor.next_batch()
            if name in ("search", "group"):
                return await _looking(bound, op, _READS[name])
            op = op.replace(options=op.options.replace(across=(), order=()))
        try:
            return await core(op)
        except UnresolvedDomain:
            pass  # not from here: what fails below is no consequence of it
        selection = await select(bound, op)
        if not selection.lookups:
            return await core(op.replace(domain=selection.domain))
        if reads is None:
            return await _change(bound, op, selection, core)
        return await reads(bound, op, selection.stages(bound))

    return call


async def _looking(bound: BoundModel, op: Operation, reads: _Reads) -> Any:
    """With an order or group keys that lie in other records."""
    selection = Selection(op.domain)
    if asks_others(op.domain, bound.schema, bound.operators):
        selection = await select(bound, op)
    added = await lookups(bound, op.env, op.options.across)
    return await reads(bound, op, [*selection.stages(bound), *added])


def _window(op: Operation) -> Stages:
    options = op.options
    stages: Stages = []
    if options.order:
        stages.append({"$sort": dict(options.order)})
    if options.offset:
        stages.append({"$skip": options.offset})
    if options.limit:
        stages.append({"$limit": options.limit})
    return stages


async def _search(bound: BoundModel, op: Operation, stages: Stages) -> Any:
    stream = op.options.stream
    if isinstance(stream, Selecting):
        stream.stages = (*stages, *bound.hiding(op))
        return []
    if isinstance(stream, Rehearsal):
        raise NotSupported(
            f"{bound.model._name}: more related records fulfil the domain than one filter can name"
        )
    # Always a projection: the looked-up keys are no part of the record.
    declared = bound.projection(op) or bound.schema.projection
    stages = [*stages, *_window(op), {"$project": declared}]
    if isinstance(stream, Explanation):
        stream.plan = await bound.collection.explain_pipeline(stages, verbosity=stream.verbosity)
        return []
    if isinstance(stream, Stream):
        stream.cursor = await _open(bound, op, stages, stream.batch_size)
        return await stream.cursor.next_batch()
    documents = await _rows(bound, op, stages)
    if op.options.lock:
        await lock(bound.collection, documents, op)
    return documents


async def _count(bound: BoundModel, op: Operation, stages: Stages) -> int:
    rows = await _rows(bound, op, [*stages, *_window(op), {"$count": "n"}])
    return int(rows[0]["n"]) if rows else 0


async def _group(bound: BoundModel, op: Operation, stages: Stages) -> Any:
    return await bound.group(op, stages)


async def _change(bound: BoundModel, op: Operation, selection: Selection, core: Call) -> int:
    """Write or delete in chunks of ids, which are all known before the first is written."""
    stages: Stages = [*selection.stages(bound), {"$project": {"_id": 1}}]
    if not op.options.many:
        stages.append({"$limit": 1})
    cursor = await _open(bound, op, stages, _BATCH)
    pks: list[Any] = []
    while documents := await cursor.next_batch():
        pks += [document["_id"] for document in documents]
    done = 0
    for chunk in chunks(pks):
        # What needs no other record is asked again, as part of the write itself.
        part = op.replace(domain=selection.first & Condition("_id", "in", chunk))
        if isinstance(op.values, PerRecord):
            own = {pk: op.values[pk] for pk in chunk if pk in op.values}
            part = part.replace(values=PerRecord(own))
        done += await core(part)
    return done


async def _rows(bound: BoundModel, op: Operation, stages: Stages) -> list[Document]:
    return await bound.collection_of(op).aggregate(
        stages, session=op.env.database_session, timeout=op.options.timeout or bound.timeout
    )


async def _open(bound: BoundModel, op: Operation, stages: Stages, batch_size: int) -> Cursor:
    return await bound.collection_of(op).open_pipeline(
        stages,
        batch_size=batch_size,
        session=op.env.database_session,
        timeout=op.options.timeout or bound.timeout,
    )


_Reads = Callable[["BoundModel", Operation, Stages], Awaitable[Any]]
_READS: Final[Mapping[str, _Reads]] = {"search": _search, "count": _count, "group": _group}
