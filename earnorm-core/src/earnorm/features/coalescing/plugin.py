"""Many gets at once as one query: what a data loader does, for every get by id.

Off unless asked for: ``App(..., coalesce=True)``, or a block of ``earnorm.coalescing()``. The first
get of a loop's tick goes out at once, so a lone get waits for nobody; those that follow in the same
tick become one ``$in``. While such a query is under way, the first one joins the others as well:
where there was a crowd, there will be one again when its answer comes, and a get that always runs
ahead of it costs a query of its own each time. Figures are in docs/performance.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from earnorm.domain import Domain, condition
from earnorm.domain.ids import split_ids
from earnorm.fields.base import freeze
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.layers import Layer, Middleware
from earnorm.kernel.operations import ONE, Call, Operation

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.operations import OperationName
    from earnorm.model.base import BaseModel

_Waiter = asyncio.Future[list[dict[str, Any]]]
_Wait = tuple[list[Any], _Waiter]
"""The ids that somebody asks for, and where the documents go."""

_asked: ContextVar[bool] = ContextVar("earnorm_coalescing", default=False)


@contextmanager
def coalescing() -> Iterator[None]:
    """Inside the block, gets by id of one tick of the event loop become one query.

    Same results and errors as without it. Tasks that the block starts are part of it; inside of a
    transaction nothing is joined.
    """
    token = _asked.set(True)
    try:
        yield
    finally:
        _asked.reset(token)


class CoalescingPlugin:
    """Joins gets by id, within the access rules: security has narrowed each domain before."""

    api = API
    name = "coalescing"

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Inside a cache, which answers what it knows without any query."""
        if operation == "search":
            return [(Layer.COALESCE, _Gets(model, app.settings.coalesce))]
        return ()


@dataclass(slots=True)
class _Batch:
    """Gets that wait for the end of the tick.

    Attributes:
        op: The first of them; the others differ in nothing but the id.
        call_next: Where they go.
        rest: What beside the id each of their domains demands.
        waiting: Who waits for which ids.
    """

    op: Operation
    call_next: Call
    rest: Domain
    waiting: list[_Wait] = field(default_factory=list[_Wait])


class _Gets:
    """The layer of one model."""

    def __init__(self, model: type[BaseModel], always: bool) -> None:
        self._schema = model._schema
        self._always = always
        self._hot: set[Hashable] = set()
        """Of what a get went out in this tick, or several are under way as one query."""
        self._open: dict[Hashable, _Batch] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, op: Operation, call_next: Call) -> Awaitable[Any]:
        """Not a coroutine itself: where nothing is joined it costs one call."""
        if not (self._always or _asked.get()) or op.env.database_session is not None:
            return call_next(op)
        asked = self._by_ids(op)
        return call_next(op) if asked is None else self._join(op, call_next, *asked)

    def _by_ids(self, op: Operation) -> tuple[list[Any], Domain] | None:
        """The ids that a search asks for, and the rest of its domain."""
        options = op.options
        if options.order or options.offset or op.request is not None:
            return None
        named = split_ids(op.domain, self._schema)
        if named is None or (options.limit and (options.limit != 1 or len(named[0]) != 1)):
            return None
        return named

    async def _join(self, op: Operation, call_next: Call, ids: list[Any], rest: Domain) -> Any:
        loop = asyncio.get_running_loop()
        # Plain gets are told apart by the rest alone: options hash with all that they have.
        key = rest if op.options is ONE else (op.options, rest)
        batch = self._open.get(key)
        if batch is None:
            if key not in self._hot:
                self._hot.add(key)
                loop.call_soon(self._hot.discard, key)
                return await call_next(op)
            batch = self._open[key] = _Batch(op, call_next, rest)
            loop.call_soon(self._send, key)
        future: _Waiter = loop.create_future()
        batch.waiting.append((ids, future))
        return await future

    def _send(self, key: Hashable) -> None:
        # A task of its own: whoever is cancelled leaves the others' query alone.
        batch = self._open.pop(key)
        task = asyncio.ensure_future(self._load(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if len(batch.waiting) > 1:
            self._hot.add(key)
            # Called when those who waited have gone on, and have asked for what they need next.
            task.add_done_callback(lambda _: self._hot.discard(key))

    async def _load(self, batch: _Batch) -> None:
        ids = dict.fromkeys(pk for each, _ in batch.waiting for pk in each)
        domain = condition("_id", "in", list(ids))
        if batch.rest is not Domain.TRUE:
            domain &= batch.rest
        options = batch.op.options.replace(limit=0)
        try:
            documents = await batch.call_next(batch.op.replace(domain=domain, options=options))
        except BaseException as error:
            for _, future in batch.waiting:
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        found = {document["_id"]: document for document in documents}
        given: set[Any] = set()
        for wanted, future in batch.waiting:
            if future.done():
                continue
            # A record adopts its document: whoever comes next needs one of its own.
            future.set_result(
                [freeze(found[pk]) if pk in given else found[pk] for pk in wanted if pk in found]
            )
            given.update(wanted)
