"""Collects operations at the end of their layers, and sends all of them with one bulk write."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from earnorm.backends.base import BulkCounts, BulkRequest, Collection
from earnorm.exceptions import (
    BatchDuplicateKey,
    BatchRefused,
    EarnORMError,
    ErrorDetail,
    TransactionError,
)
from earnorm.kernel.life.in_flight import UNBROKEN
from earnorm.kernel.serving.sending import SENDER

if TYPE_CHECKING:
    from earnorm.kernel.operations import Operation
    from earnorm.kernel.transactions.blocks import Transaction


# The number of the collector's operation that runs here; tasks that a layer starts inherit it.
_owner: ContextVar[int] = ContextVar("earnorm_bulk_owner", default=-1)


@dataclass(eq=False, slots=True)
class _Waiting:
    owner: int
    op: Operation
    requests: Sequence[BulkRequest]
    answer: asyncio.Future[BulkCounts]


class Collector:
    """Sends writing operations together.

    The operations start one after another; each runs through its layers and then waits here. Then
    one bulk write is sent, and the operations return one after another. So layers that use a
    transaction's session never run at the same time.

    If a layer has begun work that is not to be broken off (:func:`earnorm.plugin.unbroken`), what it
    waits for here is a part of it: then a cancellation takes effect when everything is sent and
    answered.

    Args:
        transaction: The transaction in which all operations run.
    """

    def __init__(self, transaction: Transaction | None) -> None:
        self.refused: int | None = None
        """The number of the operation that a layer refused before anything was sent."""
        self.is_open = True
        """True while operations that arrive wait here; after that they are sent by themselves."""
        self._transaction = transaction
        self._is_unbroken = False
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()

    async def park(
        self, collection: Collection, op: Operation, requests: Sequence[BulkRequest]
    ) -> BulkCounts:
        """Wait until the bulk write is sent, and return its counts for these requests.

        Raises:
            TransactionError: The operation is in another transaction than the others.
        """
        if op.env.transaction is not self._transaction:
            raise TransactionError(
                f"{op.model._name}: a layer runs this {op.name} in a transaction of its own, so a "
                f"bulk() cannot send it with the others; the layer has to say so beforehand: make it "
                f"with in_transaction_if(), or give it needs(op)"
            )
        self._collection = collection
        parked = _Waiting(_owner.get(), op, requests, asyncio.get_running_loop().create_future())
        self._waiting.append(parked)
        self._is_unbroken |= UNBROKEN.get()
        self._arrived.set()
        return await parked.answer

    async def run(self, operations: Sequence[Operation]) -> list[Any]:
        """Send the operations, and return the result or the exception of each.

        Raises:
            EarnORMError: A layer refused an operation; nothing was sent.
        """
        tasks: list[asyncio.Task[Any]] = []
        try:
            for number, op in enumerate(operations):
                tasks.append(await self._start(number, op))
                if tasks[-1].done():
                    self.refused = number
                    tasks[-1].result()  # a layer has refused or answered it
                    self.refused = None
            finish = partial(self._finish, tasks)
            if self._is_unbroken:
                return await operations[0].app.in_flight.unbroken(finish)
            return await finish()
        finally:
            for parked in self._waiting:
                if not parked.answer.done():
                    # A layer that is not to be broken off would wait for it, and take it for sent.
                    parked.answer.set_exception(
                        EarnORMError("the bulk() was given up before this was sent")
                    )
            waiting = [task for task in tasks if not task.done()]
            for task in waiting:
                task.cancel()
            if waiting:
                await asyncio.wait(waiting)

    async def _finish(self, tasks: Sequence[asyncio.Task[Any]]) -> list[Any]:
        """Send what has arrived, and return the result or the exception of each operation."""
        await self._send()
        results: list[Any] = []
        for number, task in enumerate(tasks):
            for parked in self._waiting:
                if parked.owner == number:
                    self._answer(parked)
            results += await asyncio.gather(task, return_exceptions=True)
        return results

    async def _start(self, number: int, op: Operation) -> asyncio.Task[Any]:
        """Start an operation, and return its task when it waits here or has ended."""
        self._arrived.clear()
        op = op.with_note(SENDER, self)
        token = _owner.set(number)
        task = asyncio.ensure_future(op.app.execute(op))
        _owner.reset(token)
        arrived = asyncio.ensure_future(self._arrived.wait())
        try:
            await asyncio.wait({task, arrived}, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            task.cancel()
            raise
        finally:
            arrived.cancel()
        return task

    async def _send(self) -> None:
        self.is_open = False
        self._counts = BulkCounts(0, 0, 0)
        self._error: BaseException | None = None
        parked = self._waiting
        requests = [request for waiting in parked for request in waiting.requests]
        if not requests:
            return
        try:
            # The first failure ends a transaction; later requests would fail and hide the reason.
            self._counts = await self._collection.bulk_write(
                requests,
                ordered=self._transaction is not None,
                session=parked[0].op.env._database_session,
                timeout=parked[0].op.options.timeout,
            )
        except Exception as error:
            self._error = error

    def _answer(self, parked: _Waiting) -> None:
        error = self._error
        if error is None:
            parked.answer.set_result(self._counts)
            return
        if not isinstance(error, BatchRefused):
            parked.answer.set_exception(error)
            return
        start = 0
        for other in self._waiting:
            if other is parked:
                break
            start += len(other.requests)
        part = _part(error, start, len(parked.requests))
        if part is not None:
            parked.answer.set_exception(part)
            return
        # The error is about other operations, so all requests of this one were written.
        number = len(parked.requests)
        matched = number if error.matched is None else error.matched
        deleted = number if error.deleted is None else error.deleted
        parked.answer.set_result(BulkCounts(number, matched, deleted))


def _part(error: BatchRefused, start: int, size: int) -> BatchRefused | None:
    """Return the part of an error about some requests, with positions among them, or None."""
    details: list[ErrorDetail] = [
        {**detail, "loc": (int(detail["loc"][0]) - start, *detail["loc"][1:])}
        for detail in error.errors()
        if detail["loc"] and start <= int(detail["loc"][0]) < start + size
    ]
    if not details:
        return None
    written = error.written
    part_written = (
        None if written is None else [p - start for p in written if start <= p < start + size]
    )
    if isinstance(error, BatchDuplicateKey):
        return BatchDuplicateKey(error.subject, details, fields=error.fields, written=part_written)
    return BatchRefused(error.subject, details, written=part_written)
