"""The layer of writes. A write closes its records until it has ended, then removes them from every level."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from earnorm.plugin import ModelView, Operation
from earnorm_cache.by_domain import among, is_by_domain, matching_ids
from earnorm_cache.change import Change, change_of
from earnorm_cache.shared import STOP_SECONDS

if TYPE_CHECKING:
    from earnorm.plugin import Call, Middleware, Transaction
    from earnorm_cache.closing import Shelf
    from earnorm_cache.levels import Levels

UNKNOWN_SECONDS: Final = 120.0
"""The time for which the ids of a transaction of unknown outcome stay closed: its commit may arrive at
the server late, and the server itself ends a transaction after 60 s (by default)."""

Closed = tuple[str, "Shelf", Change, bytes]
"""A collection with a change that closed a part of it, and the token of its barrier, if it has one."""


class Writer:
    """Closes what the writes of one App change, in and out of transactions.

    Args:
        levels: The levels of the App.
    """

    def __init__(self, levels: Levels) -> None:
        self._levels = levels
        self._open: WeakKeyDictionary[Transaction, list[Closed]] = WeakKeyDictionary()
        self._unknown: dict[int, tuple[asyncio.TimerHandle, list[Closed]]] = {}
        """The changes that transactions of unknown outcome have closed, with the timer that opens them."""
        self._late: set[asyncio.Task[None]] = set()

    def layer(self, model: ModelView, shelf: Shelf) -> Middleware:
        """Return the layer of the writes of one model."""
        levels, schema, collection = self._levels, model.schema, model.collection
        shelves = levels.shelves

        async def strict(op: Operation, call_next: Call, change: Change) -> Any:
            running, shared = op.env.transaction, levels.shared
            assert shared is not None
            try:
                barrier = await shared.bar(collection, change)
            except BaseException as error:
                shelves.reopen(shelf, change)
                if running is not None and not running.outcome.is_over:
                    running.doom(f"a write of a strict model was refused ({type(error).__name__})")
                raise
            closed = (collection, shelf, change, barrier)
            if running is not None and not running.outcome.is_over:
                self._reopen_at_end(running, closed)
                return await call_next(op)
            is_acknowledged = False
            try:
                result = await call_next(op)
                is_acknowledged = True
                return result
            finally:
                await levels.end(*closed, is_acknowledged=is_acknowledged)

        async def closed(op: Operation, call_next: Call, change: Change) -> Any:
            running = op.env.transaction
            shelves.close(shelf, change)
            if collection in levels.strict and levels.shared is not None:
                return await strict(op, call_next, change)
            if running is not None and not running.outcome.is_over:
                self._reopen_at_end(running, (collection, shelf, change, b""))
                return await call_next(op)
            try:
                return await call_next(op)
            finally:
                await levels.end(collection, shelf, change)

        async def write(op: Operation, call_next: Call, /) -> Any:
            change = change_of(op, schema)
            if change.ids is not None or not is_by_domain(op) or not self._is_worth_it(shelf):
                return await closed(op, call_next, change)
            matching = await matching_ids(op)
            if matching is None:
                return await closed(op, call_next, change)
            done = 0
            if matching:
                done = await closed(among(op, matching), call_next, change.of(matching))
            if done == 0 and matching and not op.options.many:
                # Others have changed all of these few; there may be new ones, of which one is wanted.
                done = await closed(op, call_next, change)
            return done

        return write

    def _is_worth_it(self, shelf: Shelf) -> bool:
        """Return whether something may be kept, here or in Redis, that a write need not drop."""
        return self._levels.shared is not None or bool(shelf.keys or shelf.leases)

    async def _end_all(self, closed: Sequence[Closed], *, is_acknowledged: bool = False) -> None:
        end = self._levels.end
        if self._levels.shared is None:
            for each in closed:
                await end(*each)
            return
        # A task that is cancelled before its first step does nothing, so none of these may be.
        ends = [end(*each, is_acknowledged=is_acknowledged) for each in closed]
        await asyncio.shield(self._begin(asyncio.gather(*ends)))

    def _begin(self, work: Awaitable[object]) -> asyncio.Task[None]:
        """Begin work that a cancellation of the task that needs it does not end."""

        async def to_its_end() -> None:
            await work

        task = asyncio.ensure_future(to_its_end())
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        return task

    def _reopen_at_end(self, running: Transaction, closed: Closed) -> None:
        """Reopen what the transaction wrote, or tried to write, when the transaction has ended."""
        earlier = self._open.get(running)
        if earlier is not None:
            earlier.append(closed)
            return
        self._open[running] = [closed]
        running.after_commit(partial(self._reopen, running))
        running.after_rollback(partial(self._reopen, running, is_acknowledged=False))

    async def _reopen(self, ended: Transaction, *, is_acknowledged: bool = True) -> None:
        await self._end_all(self._open.pop(ended), is_acknowledged=is_acknowledged)

    async def keep_closed(self, operations: Sequence[Operation]) -> None:
        """Keep closed what a transaction of unknown outcome wrote, as long as its commit may still be done."""
        for running in {op.env.transaction for op in operations}:
            closed = None if running is None else self._open.pop(running, None)
            if closed is None:
                continue
            timer = asyncio.get_running_loop().call_later(
                UNKNOWN_SECONDS, self._reopen_later, id(closed)
            )
            self._unknown[id(closed)] = timer, closed
            shared = self._levels.shared
            if shared is not None:  # it may be done already
                removing = [shared.remove(name, change, _nothing) for name, _, change, _ in closed]
                await asyncio.shield(self._begin(asyncio.gather(*removing)))

    def _reopen_later(self, key: int) -> None:
        self._begin(self._reopen_unknown(key))

    async def _reopen_unknown(self, key: int) -> None:
        timer, closed = self._unknown.pop(key)
        timer.cancel()
        await self._end_all(closed)

    async def stop(self) -> None:
        """End everything that is closed for later."""
        for key in list(self._unknown):
            await self._reopen_unknown(key)
        if self._late:
            # What waits for a Redis that is away ends when the connection to it is closed.
            await asyncio.wait(set(self._late), timeout=STOP_SECONDS)


def _nothing() -> None:
    """Do nothing."""
