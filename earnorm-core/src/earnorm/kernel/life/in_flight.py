"""Work that an App has under way, and its end when the App stops.

An App that stops goes through three phases:

| phase | takes | ends |
|---|---|---|
| draining | what is part of work in flight: operations of an open transaction or session, further batches of a stream, operations that another one makes, and those of a plugin's hooks | when nothing is in flight, or after the grace |
| aborting | operations of plugins' hooks | when transactions are aborted, cursors closed and operations cut off |
| shutting down | operations of plugins' hooks | with the connections |

The way of an operation only notes its task here. Whether the App takes it is asked only of an App
that stops.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from earnorm.backends.shielding import uncancelled
from earnorm.exceptions import AppStopping
from earnorm.kernel.operations import PARENT, Operation

if TYPE_CHECKING:
    from earnorm.application import App
    from earnorm.backends.base import Session
    from earnorm.kernel.serving.requests import Stream
    from earnorm.kernel.transactions.running import Transaction

log = logging.getLogger("earnorm")

GRACE: Final = 10.0
"""The seconds for which a stop waits by default for what is in flight."""

LEAVE_SECONDS: Final = 5.0
"""The seconds for which a stop waits until what it has cut off has left the App."""

UNBROKEN_SECONDS: Final = 10.0
"""The seconds that work which belongs together has to end, after its task was cancelled."""

_LOOKS: Final = 3  # a task that goes on after an operation begins the next one within these steps
_PAUSE: Final = 0.005  # seconds between two looks at what is in flight

UNIT: Final[ContextVar[object]] = ContextVar("earnorm_unit", default=None)
"""The key of the operation that runs, also for the tasks that it begins."""

_HOOKS_OF: ContextVar[object] = ContextVar("earnorm_hooks_of", default=None)
"""The App whose startup or shutdown hooks run, also for the tasks that they begin."""

UNBROKEN: Final[ContextVar[bool]] = ContextVar("earnorm_unbroken", default=False)
"""This is part of work that is carried out to its end, also for the tasks that it begins."""

T = TypeVar("T")
Opened = WeakKeyDictionary[T, asyncio.Task[Any] | None]
"""Open things, each with the task that opened it. What nobody holds is not in flight."""


class Endless(Protocol):
    """A stream that has no end by itself."""

    async def cut_off(self) -> None:
        """Close it on the server; who waits for it gets an ``AppStopping``."""
        ...


@dataclass(frozen=True, slots=True)
class Stopped:
    """The numbers of what a stop had to cut off, because it was not over after the grace.

    Attributes:
        operations: The number of operations; whether their writes were done is not known.
        transactions: The number of transactions that were aborted, or whose commit was not awaited
            any longer.
        sessions: The number of blocks of ``earnorm.session()`` that were ended.
        streams: The number of cursors that were closed.
        callbacks: The number of transactions that are over, and whose callbacks had not all ended:
            these go on, and their operations are refused.
    """

    operations: int = 0
    transactions: int = 0
    sessions: int = 0
    streams: int = 0
    callbacks: int = 0

    @property
    def is_clean(self) -> bool:
        """True if everything had ended by itself."""
        return self == Stopped()

    def __str__(self) -> str:
        counted = ((getattr(self, each.name), each.name) for each in fields(self))
        parts = [f"{n} {name if n > 1 else name[:-1]}" for n, name in counted if n]
        return ", ".join(parts) or "nothing"


@contextmanager
def in_hooks_of(app: object) -> Iterator[None]:
    """Run the startup or shutdown hooks of an App: it takes their operations while it stops."""
    token = _HOOKS_OF.set(app)
    try:
        yield
    finally:
        _HOOKS_OF.reset(token)


def _hear(task: asyncio.Task[Any]) -> None:
    """Take the error of a task that nobody waits for, because asyncio would log it."""
    if not task.cancelled():
        task.exception()


def was_in_flight(op: Operation) -> bool:
    """Return whether an operation goes on with a transaction, a session or a stream begun earlier."""
    request = op.request
    return op.env.is_in_session or (request is not None and request.is_under_way)


class InFlight:
    """The work that one App has under way.

    Attributes:
        operations: The task of each operation, by a key that is its own.
        transactions: The open transactions, until their callbacks are over, each with the task
            that opened it; as what follows.
        streams: The streams with an open cursor.
        watches: What has no end by itself; a stop closes it and does not wait for it.
        interrupted: The tasks that the stop has cancelled, each with the number of cancellations
            that had been asked of it before.
    """

    __slots__ = (
        "_app",
        "_is_aborting",
        "_sessions",
        "_stopper",
        "_unbroken",
        "interrupted",
        "operations",
        "streams",
        "transactions",
        "watches",
    )

    def __init__(self, app: App) -> None:
        self._app = app
        self.operations: dict[object, asyncio.Task[Any] | None] = {}
        self.transactions: Opened[Transaction] = WeakKeyDictionary()
        self._sessions: Opened[Session] = WeakKeyDictionary()  # of open blocks
        self.streams: Opened[Stream] = WeakKeyDictionary()
        self.watches: WeakSet[Endless] = WeakSet()
        self.interrupted: dict[asyncio.Task[Any], int] = {}
        self._unbroken: set[asyncio.Task[Any]] = set()  # a stop does not cancel them
        self.reset()

    def reset(self) -> None:
        """Begin a new life of the App: what a loop that died has left is forgotten."""
        self._is_aborting = False
        self._stopper: asyncio.Task[Any] | None = None
        for each in (self.operations, self.transactions, self._sessions, self.streams):
            each.clear()
        self.watches.clear()
        self.interrupted.clear()
        self._unbroken.clear()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Count several operations as one: a stop does not come between them.

        Whether the App takes it is not asked: call ``admit`` before, if it is new.
        """
        key, outer = object(), UNIT.get()
        self.operations[key] = asyncio.current_task()
        UNIT.set(key)
        try:
            yield
        except asyncio.CancelledError as error:
            told = self.told(error)
            if told is error:
                raise
            raise told from None
        finally:
            UNIT.set(outer)
            self.operations.pop(key, None)

    async def unbroken(self, work: Callable[[], Awaitable[T]]) -> T:
        """Carry out work to its end, although this task is cancelled or the App stops.

        See :func:`earnorm.plugin.unbroken`.
        """

        async def begun() -> T:
            UNBROKEN.set(True)
            return await work()

        with in_hooks_of(self._app):  # a stop takes its operations
            task = asyncio.ensure_future(begun())
        self._unbroken.add(task)
        task.add_done_callback(self._unbroken.discard)
        cancellation = await uncancelled(task, seconds=UNBROKEN_SECONDS)
        if cancellation is None:
            return task.result()
        if not task.done():
            log.warning(
                "App %r: work that belongs together is cut off, because it has not ended %g s after "
                "its cancellation",
                *(self._app.name, UNBROKEN_SECONDS),
            )
            task.cancel()
        task.add_done_callback(_hear)
        raise cancellation

    # -- what an App that stops takes ---------------------------------------------------------

    def admit(self, op: Operation | None = None) -> None:
        """Raise if the App, which stops, does not take this.

        Args:
            op: The operation; None for a block of a transaction or a session, or for a stream of
                changes.

        Raises:
            AppStopping: It is not part of what is in flight.
        """
        if _HOOKS_OF.get() is self._app or (not self._is_aborting and self._is_part(op)):
            return
        raise self.refusal()

    def _is_part(self, op: Operation | None) -> bool:
        """Return whether an operation or a block is part of something in flight."""
        # After its commit a transaction calls its callbacks, which are outside of it.
        if UNIT.get() in self.operations or asyncio.current_task() in self.transactions.values():
            return True
        if op is None:
            return False
        return was_in_flight(op) or PARENT in op.notes

    def refusal(self) -> AppStopping:
        """Return the error for what is not taken, and for what is cut off."""
        return AppStopping(
            f"App {self._app.name!r} is stopping and takes no new work; what was in flight had its "
            f"time to end"
        )

    def told(self, error: BaseException) -> BaseException:
        """Return the error that the program sees of an operation that has failed.

        A cancellation by the stop becomes an ``AppStopping``: nobody has cancelled the task that
        waits for the operation.
        """
        task = asyncio.current_task()
        if task is None or not isinstance(error, asyncio.CancelledError):
            return error
        before = self.interrupted.pop(task, None)
        if before is None or task.uncancel() > before:
            return error
        return self.refusal()

    # -- the stop -----------------------------------------------------------------------------

    def is_busy(self) -> bool:
        """Return whether something is in flight that the stopping task can wait for."""
        own = self._stopper
        return any(
            task is not own and not (task is not None and task.done())
            for tasks in (self.operations, self.transactions, self._sessions, self.streams)
            for task in tuple(tasks.values())
        )

    def is_over(self) -> bool:
        """Return whether there is nothing to be cut off."""
        return not (
            self.transactions
            or self._sessions
            or self.streams
            or self.watches
            or any(task is not self._stopper for task in self.operations.values())
        )

    async def drain(self, grace: float) -> None:
        """Wait until nothing is in flight, but no longer than ``grace`` seconds."""
        self._stopper = asyncio.current_task()
        until = time.monotonic() + grace
        quiet = 0
        while quiet < _LOOKS:
            if not self.is_busy():
                quiet += 1
                await asyncio.sleep(0)
                continue
            quiet = 0
            left = until - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(_PAUSE, left))

    def refuse_all(self) -> None:
        """Take nothing more, also of what is in flight, but for plugins' hooks."""
        self._is_aborting = True

    async def abort(self) -> Stopped:
        """Cut off what is still in flight: nothing of it stays on the server."""
        with in_hooks_of(self._app):  # they hear of the end of transactions
            return await self._abort()

    async def _abort(self) -> Stopped:
        tasks = [t for t in self.operations.values() if t is not None and t is not self._stopper]
        transactions = [each for each in self.transactions if not each.outcome.is_over]
        callbacks = [
            each
            for each, task in self.transactions.items()
            if each.outcome.is_over and task is not self._stopper
        ]
        sessions, streams = list(self._sessions), list(self.streams)
        cut = Stopped(len(tasks), len(transactions), len(sessions), len(streams), len(callbacks))
        reason = f"App {self._app.name!r} was stopped"
        for transaction in transactions:
            transaction.doom(reason, at_once=True)
        for task in set(tasks) - self._unbroken:
            self.interrupted[task] = task.cancelling()
            task.cancel()
        await self._all(each.abort(self._app, reason) for each in transactions)
        await self._all(session.abort(reason) for session in sessions)
        await self._left(LEAVE_SECONDS)
        await self._all(each.cut_off() for each in streams)
        await self._all(each.cut_off() for each in tuple(self.watches))
        return cut

    async def _left(self, seconds: float) -> None:
        """Wait until the cut operations and transactions have left."""
        for _ in range(round(seconds / _PAUSE)):
            if all(task is self._stopper for task in self.operations.values()) and all(
                each.outcome.is_over for each in tuple(self.transactions)
            ):
                return
            await asyncio.sleep(_PAUSE)

    async def _all(self, works: Iterable[Awaitable[object]]) -> None:
        """Do all of it at once; log what fails, which must not keep the App from stopping."""
        for result in await asyncio.gather(*works, return_exceptions=True):
            if isinstance(result, BaseException):
                log.error("App %r: not ended cleanly", self._app.name, exc_info=result)
