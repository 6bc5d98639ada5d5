"""News of a write that is durable: ``op.after_durable(call)``, and the hook ``after_commit``.

Each write that somebody may hear of collects them until it is over. They are told at the end of the
operation, or by the running transaction at its commit. Whoever holds the written records asks with
``LATER`` to tell the news itself, once the records know that they are stored.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import PluginError
from earnorm.kernel.notes import Note

if TYPE_CHECKING:
    from earnorm.kernel.operations import Call, Operation
    from earnorm.kernel.transactions import Transaction

log = logging.getLogger("earnorm")

Callback = Callable[[], object]
"""A function without arguments; if it returns an awaitable, that is awaited."""


class Waiting(list[tuple[Callback, "Transaction | None"]]):
    """The calls that wait for one operation, each with its transaction, and what is durable of it.

    Attributes:
        is_over: True if the operation takes no more calls.
        has_succeeded: True if the operation has succeeded, so that the calls are made.
        news: Tell what is durable, whether or not the operation has succeeded.
    """

    # Attributes of the class, since an __init__ would be one more call of each write.
    is_over = False
    has_succeeded = False
    news: tuple[Callable[[], Awaitable[None]], ...] = ()

    def add(self, call: Callback, transaction: Transaction | None) -> None:
        """Add a call, with the transaction that runs at this moment."""
        if not callable(call):
            raise TypeError(f"after_durable() takes a function without arguments, not {call!r}")
        if self.is_over:
            raise PluginError("after_durable(): the operation is over").coded("operation_over")
        self.append((call, transaction))

    async def tell(self) -> None:
        """Tell the news, then make the calls or register them with their transaction."""
        for news in self.news:
            await news()
        if not self.has_succeeded:
            return
        for call, transaction in self:
            if transaction is None or transaction.outcome.committed:
                await called(call, "after_durable")
            elif not transaction.outcome.rolled_back:
                # After a rollback the next try adds its own call.
                transaction.after_commit(call)


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
            waiting.has_succeeded = True
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
    for waiting in later:
        await waiting.tell()


async def called(call: Callback, when: str) -> None:
    """Make a call, sync or async; log its exception, because the write is already done."""
    try:
        result = call()
        if inspect.isawaitable(result):
            await result
    except Exception:
        name = getattr(call, "__qualname__", type(call).__qualname__)
        log.exception("the %s callback %s failed; the others are called", when, name)
