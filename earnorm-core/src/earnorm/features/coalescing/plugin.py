"""Joins gets by id that run at the same time into one query, as a data loader does.

It is off unless ``App(..., coalesce=True)`` or a block of ``earnorm.coalescing()`` turns it on. The
first get in a tick of the event loop is sent at once, so that a single get never waits; the later
ones of the same tick become one ``$in``. While a joined query is running, the first get waits for
the others too: tasks that asked together usually ask together again when the answer comes, and a
first get that is always sent alone costs one more query each time. Figures are in
docs/performance.md.
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
from earnorm.kernel.contract.left_out import need_feature
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.layers import Layer, Middleware
from earnorm.kernel.observing.asking import start_task
from earnorm.kernel.operations import ONE, Call, Operation

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.operations import OperationName
    from earnorm.model.base import BaseModel

_Waiter = asyncio.Future[list[dict[str, Any]]]
_Wait = tuple[list[Any], _Waiter]
"""The ids that one caller asks for, and the future that receives their documents."""

_is_on: ContextVar[bool] = ContextVar("earnorm_coalescing", default=False)


@contextmanager
def coalescing() -> Iterator[None]:
    """Join the gets by id of one tick of the event loop into one query, inside the block.

    Results and errors are the same as without it. Tasks that the block starts take part; inside a
    transaction nothing is joined.
    """
    need_feature("coalescing", "coalescing()")
    token = _is_on.set(True)
    try:
        yield
    finally:
        _is_on.reset(token)


class CoalescingPlugin:
    """Joins gets by id after the security layer has added the access rules to each domain.

    Args:
        coalesce: Join them everywhere, not only in blocks of ``coalescing()``.
    """

    api = API
    name = "coalescing"

    def __init__(self, coalesce: bool = False) -> None:
        self._is_always_on = coalesce

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Return the layer. It lies inside the cache, which answers known ids without a query."""
        if operation == "search":
            return [(Layer.COALESCE, _JoinGets(model, self._is_always_on))]
        return ()


@dataclass(slots=True)
class _Batch:
    """Gets that wait for the end of the tick.

    Attributes:
        op: The first of them; the others differ from it only in the id.
        call_next: The next layer, which gets the joined search.
        rest: The part of their domains that is not about the id; the same for all of them.
        waiting: The callers that wait, each with its ids.
    """

    op: Operation
    call_next: Call
    rest: Domain
    waiting: list[_Wait] = field(default_factory=list[_Wait])


class _JoinGets:
    """The layer that joins the gets of one model."""

    def __init__(self, model: type[BaseModel], always: bool) -> None:
        self._schema = model._schema
        self._always = always
        self._joining: set[Hashable] = set()
        """The keys whose next get waits for others: a get was sent in this tick, or a joined query
        runs."""
        self._batches: dict[Hashable, _Batch] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, op: Operation, call_next: Call) -> Awaitable[Any]:
        """Join a get with others, or pass the operation on.

        This is no coroutine itself, so that an operation that is not joined costs one call.
        """
        if not (self._always or _is_on.get()) or op.env.is_in_session:
            return call_next(op)
        split = self._by_ids(op)
        return call_next(op) if split is None else self._join(op, call_next, *split)

    def _by_ids(self, op: Operation) -> tuple[list[Any], Domain] | None:
        """Return the ids of a search and the rest of its domain; None if it is no get by id."""
        options = op.options
        if options.order or options.offset or op.request is not None:
            return None
        split = split_ids(op.domain, self._schema)
        if split is None or (options.limit and (options.limit != 1 or len(split[0]) != 1)):
            return None
        return split

    async def _join(self, op: Operation, call_next: Call, ids: list[Any], rest: Domain) -> Any:
        loop = asyncio.get_running_loop()
        # For a plain get the rest alone is the key, because hashing options reads all their fields.
        key = rest if op.options is ONE else (op.options, rest)
        batch = self._batches.get(key)
        if batch is None:
            if key not in self._joining:
                self._joining.add(key)
                loop.call_soon(self._joining.discard, key)
                return await call_next(op)
            batch = self._batches[key] = _Batch(op, call_next, rest)
            loop.call_soon(self._send, key)
        future: _Waiter = loop.create_future()
        batch.waiting.append((ids, future))
        return await future

    def _send(self, key: Hashable) -> None:
        # The query runs in its own task, so that a cancelled caller does not cancel it for the
        # others.
        batch = self._batches.pop(key)
        task = start_task(self._load(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if len(batch.waiting) > 1:
            self._joining.add(key)
            # This callback runs after the waiting tasks have continued and sent their next gets.
            task.add_done_callback(lambda _: self._joining.discard(key))

    async def _load(self, batch: _Batch) -> None:
        ids = dict.fromkeys(pk for asked, _ in batch.waiting for pk in asked)
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
        by_id = {document["_id"]: document for document in documents}
        given: set[Any] = set()
        for wanted, future in batch.waiting:
            if future.done():
                continue
            # A record keeps the document it is made of, so each further caller needs a copy.
            future.set_result(
                [freeze(by_id[pk]) if pk in given else by_id[pk] for pk in wanted if pk in by_id]
            )
            given.update(wanted)
