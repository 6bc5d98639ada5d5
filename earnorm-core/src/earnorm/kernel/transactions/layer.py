"""The layer that runs an operation in a transaction of its own, where none is running."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from earnorm.kernel.environment import current_env, use_env
from earnorm.kernel.transactions.blocks import atomic
from earnorm.kernel.transactions.durable import WAITING
from earnorm.kernel.transactions.missing_collections import make_missing

if TYPE_CHECKING:
    from earnorm.kernel.layers import Middleware
    from earnorm.kernel.operations import Call, Operation
    from earnorm.kernel.transactions.queue import QueuesFor


async def in_transaction(op: Operation, call_next: Call, *, retries: int | None = None) -> Any:
    """Run an operation in the running transaction, or in one that begins and ends with it.

    It is a layer, and what a layer of a plugin's own calls that does more inside the transaction.

    Args:
        op: The operation.
        call_next: Runs the operation that it is given, which has the transaction.
        retries: The highest number of further tries; None means the App's ``retry_timeout``.
    """
    if op.env.transaction is not None:
        return await call_next(op)
    from earnorm.kernel.steps import HAND_BACK, HandBack  # loaded with the first App

    back, collected = op.note(HAND_BACK), HandBack()
    waiting = op.note(WAITING)

    bound = op.app.bind(op.model)
    queues_for = bound.queues_for(op)
    if op.name == "create" and not bound.has_collection:
        await make_missing(bound)

    async def run() -> Any:
        nonlocal collected
        running = current_env().transaction
        if running is not None:
            running.later = waiting
        attempt = op.replace(env=op.env.replace(transaction=running))
        if back is not None:
            # What an attempt that is rolled back handed back must not reach the records.
            collected = HandBack(back.records)
            attempt = attempt.with_note(HAND_BACK, collected)
        return await call_next(attempt)

    with use_env(op.env):
        result = await atomic(run, retries=retries, queues_for=queues_for)
    if back is not None:
        back.take(collected)
    return result


class TransactionLayer:
    """A layer that runs an operation in a transaction if ``needs`` returns True for it."""

    __slots__ = ("needs", "queues_for")

    def __init__(
        self, needs: Callable[[Operation], bool], queues_for: QueuesFor | None = None
    ) -> None:
        self.needs = needs
        self.queues_for = queues_for

    def __call__(self, op: Operation, call_next: Call) -> Awaitable[Any]:
        """Run the operation."""
        if op.env.transaction is None and self.needs(op):
            return in_transaction(op, call_next)
        return call_next(op)

    def __repr__(self) -> str:
        return f"<TransactionLayer {self.needs!r}>"


def in_transaction_if(
    needs: Callable[[Operation], bool], *, queues_for: QueuesFor | None = None
) -> Middleware:
    """Make a layer that runs an operation in a transaction if ``needs`` returns True for it.

    Args:
        needs: Returns whether it does.
        queues_for: Returns other records that the operation will write, each as the name of its
            model and its stored id, as far as that is known beforehand. Before the transaction
            begins, the operation waits for those of this process that will write one of them, too.
    """
    return TransactionLayer(needs, queues_for)


def may_open_transaction(layer: Middleware) -> bool:
    """Return whether a layer says that it runs operations in transactions."""
    return layer is in_transaction or hasattr(layer, "needs")


def opens_transaction(layer: Middleware, op: Operation) -> bool:
    """Return whether such a layer runs an operation in a transaction."""
    needs: Callable[[Operation], bool] | None = getattr(layer, "needs", None)
    return needs is None or needs(op)
