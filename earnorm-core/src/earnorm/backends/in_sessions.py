"""A driver's session, and the operations in it.

An operation that is cancelled goes on: Motor's in its thread, and any driver's on the server. So each
operation in a session is a task of its own. Whoever waits for it can be cancelled, and the task
cannot; before the session ends, the operations under way are waited for: each until its time limit,
else ``OPERATION_SECONDS``.

What has not ended by then goes on without anybody waiting for it: its session is left as it is (in its
transaction, so that what is sent late belongs to no other one), is never used again, and is killed
on the server. So is a session whose transaction the server may not have heard the end of. Where the
kill does not reach the server either, it is tried again, until the server has ended the transaction
by itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from pymongo.errors import (
    AutoReconnect,
    InvalidOperation,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from typing_extensions import override

from earnorm.backends.base import Ended, Session
from earnorm.backends.conversions import settled
from earnorm.backends.left_reads import Leftovers
from earnorm.backends.plain_operations import IN_TRANSACTION, PlainOperations
from earnorm.backends.session_calls import SessionCollection, SessionCursor
from earnorm.backends.shielding import completed
from earnorm.exceptions import TransactionError, TransactionOutcomeUnknown

if TYPE_CHECKING:
    from earnorm.backends.transacting import DriverTransaction

log: Final = logging.getLogger("earnorm.backends")

T = TypeVar("T")

OPERATION_SECONDS: Final = 10.0
"""The time for which an operation under way without a time limit is waited for."""

_KILL_SECONDS: Final = 5.0
KILLED_WITHIN: Final = 60.0
"""The seconds for which a kill is tried again: the server's own limit of a transaction."""
_PAUSES: Final = (0.05, 1.0)  # seconds before it is tried again: at first, and at most
_SLACK: Final = 1.0  # seconds for an operation at its time limit to come back from its thread


class DriverSession(Session):
    """A driver's session, and the operations in it.

    Args:
        client: The driver's client.
        native: The driver's session.
        leftovers: Takes the tasks that watch what did not end in time.
        operations: The operations outside of transactions, which leave a connection to those inside.
    """

    is_plain: ClassVar[bool] = True
    """Its operations are outside of a transaction."""

    def __init__(
        self, client: Any, native: Any, leftovers: Leftovers, operations: PlainOperations
    ) -> None:
        self.native = native
        self.operations = operations
        self._client = client
        self._leftovers = leftovers
        self._under_way: dict[asyncio.Future[Any], float | None] = {}
        """The operations under way, each with the time at which it has come back by itself."""
        self.cursors: set[SessionCursor] = set()
        """The cursors that may be open on the server, to be closed with it at the latest."""
        self._is_over = False
        self._is_given_up = False
        self.transaction: DriverTransaction | None = None
        """The transaction that runs in it."""

    @property
    @override
    def ended(self) -> Ended | None:
        return None

    @property
    @override
    def problem(self) -> TransactionOutcomeUnknown | None:
        return None

    @property
    def is_open(self) -> bool:
        """True if it takes operations."""
        return not (self._is_over or self._is_given_up)

    @override
    def doom(self, reason: str, *, transient: bool = False, at_once: bool = False) -> None:
        if self.transaction is not None:  # the operation was a part of it
            self.transaction.doom(reason, transient=transient, at_once=at_once)

    @override
    def refuse(self) -> None:
        if self._is_over:
            raise TransactionError(
                "this task was begun inside a block of session() that has ended, and its "
                "operations would go through a session that is over; await the task inside the "
                "block, or begin it outside"
            ).coded("session_over")
        if self._is_given_up:
            raise TransactionError(
                "the session was given up, because an operation in it did not end in time, or a "
                "transaction of it could not be aborted; leave its block and begin again"
            ).coded("session_over")
        if self.transaction is not None:
            self.transaction.refuse()

    # -- operations ---------------------------------------------------------------------------

    def on(self, collection: Any, timeout: float | None) -> SessionCollection:
        """Return a driver's collection whose calls are made in this session."""
        return SessionCollection(collection, self, timeout)

    async def carry(self, begin: Callable[[], Awaitable[T]], timeout: float | None) -> T:
        """Carry out an operation, which goes on if this task is cancelled.

        Args:
            begin: Begins it.
            timeout: Its time limit in seconds.

        Raises:
            TransactionError: The session takes no operation.
        """
        self.refuse()
        until = None if timeout is None else time.monotonic() + timeout + _SLACK
        # With a future of its own the task is awaited in one turn of the event loop less than with
        # asyncio.shield.
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(self._carry(begin, answer))
        self._under_way[task] = until
        task.add_done_callback(self._back)
        try:
            return await answer
        except asyncio.CancelledError:
            self.doom(
                "an operation in it was cancelled (the end of a time limit of asyncio cancels, "
                "too), and it is not known what that one did",
                at_once=True,
            )
            raise
        except AutoReconnect as error:
            if not isinstance(error, ServerSelectionTimeoutError):  # else nothing was sent
                self.doom(
                    "an operation in it lost its connection, and it is not known what that one did",
                    transient=True,
                    at_once=True,
                )
            raise

    async def _carry(self, begin: Callable[[], Awaitable[T]], answer: asyncio.Future[T]) -> None:
        if not self.is_plain:
            IN_TRANSACTION.set(True)
        try:
            result = await begin()
        except asyncio.CancelledError:  # the event loop is being stopped
            answer.cancel()
            raise
        except BaseException as error:
            if not answer.done():  # else nobody waits for it any more
                answer.set_exception(error)
        else:
            if not answer.done():
                answer.set_result(result)

    def _back(self, task: asyncio.Future[Any]) -> None:
        del self._under_way[task]

    def pending(self) -> list[asyncio.Future[Any]]:
        """Return the operations under way."""
        return [task for task in self._under_way if not task.done()]

    async def wait_for_pending(self) -> bool:
        """Wait for the operations under way; return False if one of them does not end in time."""
        pending = self.pending()
        if not pending:
            return True
        now = time.monotonic()
        limits = [self._under_way[task] or now + OPERATION_SECONDS for task in pending]
        await asyncio.wait(pending, timeout=max(0.0, max(limits) - now))
        return not self.pending()

    async def close_cursors(self) -> None:
        """Close the cursors that the program has left open."""
        while self.cursors:
            await self.cursors.pop().close_native()

    # -- the end ------------------------------------------------------------------------------

    async def end(self) -> None:
        """End the session, although this task is cancelled; the cancellation is raised then."""
        if self._is_over:
            return
        self._is_over = True
        await completed(asyncio.ensure_future(self._end()))

    @override
    async def abort(self, reason: str) -> None:
        if not self._is_over:
            if self.pending():
                await self._kill()
            await self.end()

    async def _end(self) -> None:
        """Wait for the operations under way, and end the driver's session."""
        self._is_over = True
        IN_TRANSACTION.set(True)  # nothing that ends something waits for a turn
        if self._is_given_up:
            return
        if not await self.wait_for_pending():
            await self.give_up()
            return
        await self.close_cursors()
        await settled(self.native.end_session())  # the driver sends nothing

    async def give_up(self, *also: asyncio.Future[Any]) -> None:
        """Leave the driver's session as it is, never use it again, and kill it on the server."""
        if self._is_given_up:
            return
        self._is_given_up = True
        log.warning(
            "a session is left and killed on the server, because what was under way in it did not "
            "end in time, or the server may not have heard of its end"
        )
        is_killed = await self._kill()
        pending = [*self.pending(), *also]
        if pending or not is_killed:
            self._watch(self._kill_after(pending))

    def give_up_later(self, *tasks: asyncio.Future[Any]) -> None:
        """Do the same when these tasks have ended, without waiting for it here."""
        self._is_given_up = True
        self._watch(self._kill_after(tasks))

    async def _kill_after(self, tasks: Collection[asyncio.Future[Any]]) -> None:
        """Kill it when these tasks have ended, and try again until the server has heard it."""
        if tasks:  # what is sent late may begin the transaction anew on the server
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()  # asyncio would log an error that nobody has retrieved
        until = time.monotonic() + KILLED_WITHIN
        pause, longest = _PAUSES
        while not await self._kill() and time.monotonic() < until:
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def _kill(self) -> bool:
        """Kill it on the server; return False if another try may reach the server."""
        token = IN_TRANSACTION.set(True)
        try:
            command = {"killSessions": [self.native.session_id]}
            async with asyncio.timeout(_KILL_SECONDS):
                await settled(self._client.admin.command(command))
        except (InvalidOperation, RuntimeError):  # the client is closed
            return True
        except (PyMongoError, TimeoutError):
            return False
        finally:
            IN_TRANSACTION.reset(token)
        return True

    def _watch(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._leftovers.add(task)
        task.add_done_callback(self._leftovers.discard)
        # Until then the server may hold what the transaction has locked.
        self.operations.opened()
        task.add_done_callback(lambda _: self.operations.ended())
