"""News of a write that is durable: ``op.after_durable(call)``, and the hook ``after_commit``.

Each write that somebody may hear of collects them until it is over. They are told at the end of the
operation, or by the running transaction at its commit. Whoever holds the written records asks with
``LATER`` to tell the news itself, once the records know that they are stored.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import BatchRefused, PluginError
from earnorm.kernel.contract.cancellations import delivered, is_escaped
from earnorm.kernel.notes import Note

if TYPE_CHECKING:
    from earnorm.kernel.operations import Call, Operation
    from earnorm.kernel.transactions.running import Transaction

log = logging.getLogger("earnorm")

Callback = Callable[[], object]
"""A function without arguments; if it returns an awaitable, that is awaited."""


class Waiting(list[tuple[Callback, "Transaction | None"]]):
    """The calls that wait for one operation, each with its transaction, and what is durable of it.

    Attributes:
        is_over: True if the operation takes no more calls.
        has_written: True if the operation has succeeded, or if the database refused a part of it
            and nothing takes back the rest: the calls are made.
        news: Tell what is durable, whether or not the operation has succeeded.
    """

    # Attributes of the class, since an __init__ would be one more call of each write.
    is_over = False
    has_written = False
    _following: list[Callback] | None = None  # while a call is made: takes those that it adds
    news: tuple[Callable[[], Awaitable[None]], ...] = ()

    def add(self, call: Callback, transaction: Transaction | None) -> None:
        """Add a call, with the transaction that runs at this moment."""
        if not callable(call):
            raise TypeError(f"after_durable() takes a function without arguments, not {call!r}")
        if self._following is not None:
            self._following.append(call)
            return
        if self.is_over:
            raise PluginError("after_durable(): the operation is over").coded("operation_over")
        self.append((call, transaction))

    async def tell(self) -> None:
        """Tell the news, then make the calls or register them with their transaction."""
        try:
            await each(self.news)
        finally:
            if self.has_written:
                await each(partial(self._make, *pair) for pair in self)

    async def _make(self, call: Callback, transaction: Transaction | None) -> None:
        if transaction is None or transaction.outcome.committed:
            await self._call(call)
        elif not transaction.outcome.is_over:
            # After a rollback the next try adds its own call.
            transaction.after_commit(partial(self._call, call))

    async def _call(self, call: Callback) -> None:
        """Make a call, and after it those that it asks for, as a step at ``Stage.DURABLE`` may."""
        calls = self._following = [call]
        try:
            await each(partial(called, each_call, "after_durable") for each_call in calls)
        finally:
            self._following = None


WAITING: Note[Waiting] = Note("waiting")
"""On a write that somebody may hear of: what is to be told when it is durable."""

LATER: Note[list[Waiting]] = Note("later")
"""On a write: takes what is to be told; whoever set the note tells it after the operation."""


def settling(write: Call) -> Call:
    """Wrap a write so that what waits until it is durable is told at its end."""

    async def call(op: Operation) -> Any:
        waiting = Waiting()
        notes = {**op.notes, WAITING: waiting}
        later = notes.pop(LATER, None)  # a part of the operation, or its child, is not its writer's
        try:
            result = await write(replace(op, notes=notes))
            waiting.has_written = True
        except BatchRefused as error:
            waiting.has_written = bool(error.written) and op.env.transaction is None
            raise
        finally:
            waiting.is_over = True
            if waiting or waiting.news:
                if later is None:
                    await waiting.tell()
                else:
                    later.append(waiting)
        return result

    return call


async def tell(later: list[Waiting]) -> None:
    """Tell what operations with the note ``LATER`` have left in its list."""
    await each(waiting.tell for waiting in later)


async def each(calls: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Make every call, also if this task is cancelled in one of them or one raises.

    Raises:
        BaseException: The first exception, and a cancellation before others.
    """
    failure: BaseException | None = None
    for call in calls:
        try:
            await call()
        except asyncio.CancelledError as error:
            if not isinstance(failure, asyncio.CancelledError):
                failure = error
        except BaseException as error:
            failure = failure or error
    if failure is not None:
        raise failure


async def called(call: Callback, when: str) -> None:
    """Make a call, sync or async; log its exception, because the write is already done."""
    before = delivered()
    try:
        result = call()
        if inspect.isawaitable(result):
            await result
    except (Exception, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError) and not is_escaped(error, before):
            raise
        inner: object = call
        while isinstance(inner, partial):
            inner = inner.func
        name = getattr(inner, "__qualname__", type(inner).__qualname__)
        where = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
        log.exception("the %s callback %s failed%s; the others are called", when, name, where)
