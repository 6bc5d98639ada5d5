"""Calls that wait until a write is durable: ``op.after_durable(call)``.

Each write that has layers or steps carries a list of the calls that were asked for. When the
operation has succeeded, the calls are made at once, or by the running transaction at its commit.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
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
    """The calls that wait for one operation, each with its transaction."""

    is_over = False

    def add(self, call: Callback, transaction: Transaction | None) -> None:
        """Add a call, with the transaction that runs at this moment."""
        if not callable(call):
            raise TypeError(f"after_durable() takes a function without arguments, not {call!r}")
        if self.is_over:
            raise PluginError("after_durable(): the operation is over").coded("operation_over")
        self.append((call, transaction))

    async def settle(self) -> None:
        """Make the calls, or register them with their transaction. The operation has succeeded."""
        for call, transaction in self:
            if transaction is None or transaction.outcome.committed:
                await called(call, "after_durable")
            elif not transaction.outcome.rolled_back:
                # After a rollback the next try adds its own call.
                transaction.after_commit(call)


WAITING: Note[Waiting] = Note("waiting")
"""On a write with layers or steps: the calls that wait until it is durable."""


def settling(write: Call) -> Call:
    """Wrap a write so that its layers and steps can ask for calls after it is durable."""

    async def call(op: Operation) -> Any:
        waiting = Waiting()
        result = await write(replace(op, notes={**op.notes, WAITING: waiting}))
        waiting.is_over = True
        if waiting:
            await waiting.settle()
        return result

    return call


async def called(call: Callback, when: str) -> None:
    """Make a call, sync or async; log its exception, because the write is already done."""
    try:
        result = call()
        if inspect.isawaitable(result):
            await result
    except Exception:
        name = getattr(call, "__qualname__", type(call).__qualname__)
        log.exception("the %s callback %s failed; the others are called", when, name)
