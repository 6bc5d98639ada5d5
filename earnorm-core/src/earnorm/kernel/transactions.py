"""Transactions and sessions: blocks, the retrying decorator, callbacks, and the restoring of
records."""

from __future__ import annotations

import asyncio
import functools
import inspect
import random
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from earnorm.concerns import IN_TRANSACTIONS, ReadConcern, ReadPreference, WriteConcern
from earnorm.exceptions import BatchRefused, ConfigurationError, TransactionError
from earnorm.kernel.durable import WAITING, Callback, Waiting, called
from earnorm.kernel.environment import Env, current_env, use_env
from earnorm.kernel.held_records import HeldRecords
from earnorm.kernel.outcome import Outcome

if TYPE_CHECKING:
    from earnorm.application import App
    from earnorm.backends.base import Session
    from earnorm.kernel.layers import Middleware
    from earnorm.kernel.operations import Call, Operation
    from earnorm.model.base import BaseModel

P = ParamSpec("P")
R = TypeVar("R")

RETRY_SECONDS: Final = 120.0
"""The seconds during which a transaction is tried again, commits included; the figure of MongoDB's
convenient API:
https://github.com/mongodb/specifications/blob/master/source/transactions-convenient-api/transactions-convenient-api.md
"""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.5  # seconds between two tries, from the same specification


class Transaction:
    """A running transaction. Its block yields it, and the Env inside holds it."""

    __slots__ = (
        "_callbacks",
        "attempt",
        "doomed",
        "drawn_ids",
        "held",
        "later",
        "operations",
        "outcome",
        "session",
        "transient",
    )

    def __init__(self, session: Session, attempt: int = 1) -> None:
        self.session = session
        self.attempt = attempt
        """The number of the try of :func:`transactional`, from 1."""
        self.doomed = False
        """True if an inner block failed: the whole transaction will be rolled back."""
        self.transient = False
        """True if the error that doomed it may not happen again in another try."""
        self.operations: list[Operation] = []
        """The writes inside it, for the hooks ``after_commit`` and ``after_rollback``."""
        self.outcome = Outcome()
        self.later: Waiting | None = None
        """On a transaction of one operation: tells of the commit at the operation's end."""
        self.drawn_ids: set[Any] = set()
        """Ids that were drawn for new records, and not given by the program."""
        self.held = HeldRecords()
        self._callbacks: dict[str, list[Callback]] = {"after_commit": [], "after_rollback": []}

    def after_commit(self, callback: Callback) -> None:
        """Call a function once the whole transaction is durable, after the plugins' hooks.

        Args:
            callback: Without arguments, sync or async. It runs outside of the transaction. An
                exception that it raises is logged, and stops neither the other callbacks nor the
                program.

        Raises:
            TransactionError: The transaction is over.
        """
        self._register("after_commit", callback)

    def after_rollback(self, callback: Callback) -> None:
        """Call a function after the transaction was rolled back; as :meth:`after_commit`."""
        self._register("after_rollback", callback)

    def _register(self, when: str, callback: Callback) -> None:
        if not callable(callback):
            raise TypeError(f"{when}() takes a function without arguments, not {callback!r}")
        if self.outcome.is_known:
            raise TransactionError(f"{when}(): the transaction is over")
        self._callbacks[when].append(callback)

    def touch(self, record: BaseModel) -> None:
        """Remember the state of a record, to restore it if the transaction is rolled back."""
        self.held.touch(record)

    def created(self, records: Iterable[BaseModel], states: Iterable[dict[str, Any]]) -> None:
        """Note records that the transaction creates: a rollback makes them unsaved again.

        Args:
            records: The records.
            states: Their states as they were given, without what the creation filled in. A record
                that was touched before gets its state from then.
        """
        self.held.created(records, states, self.drawn_ids)

    def restore(self) -> None:
        """Take back what was done to records, and mark all values that were read as stale."""
        self.outcome.rolled_back = True
        self.held.take_back(self.outcome)

    async def notify(self, when: str) -> None:
        """Call the registered callbacks of ``after_commit`` or ``after_rollback``."""
        for callback in self._callbacks[when]:
            await called(callback, when)

    def __repr__(self) -> str:
        return f"<Transaction {len(self.operations)} writes{' doomed' if self.doomed else ''}>"


async def after_commit(callback: Callback) -> None:
    """Call a function when the running transaction is durable, or at once if none is running.

    Args:
        callback: See :meth:`Transaction.after_commit`. Outside of a transaction it is an ordinary
            call: its exception is raised here.
    """
    running = current_env().transaction
    if running is None:
        result = callback()
        if inspect.isawaitable(result):
            await result
    else:
        running.after_commit(callback)


async def after_rollback(callback: Callback) -> None:
    """Call a function when the running transaction is rolled back; never if none is running."""
    running = current_env().transaction
    if running is not None:
        running.after_rollback(callback)


@asynccontextmanager
async def session(*, causal: bool = True, snapshot: bool = False) -> AsyncIterator[None]:
    """Run everything in the block in one session of the server, without a transaction.

    Args:
        causal: A read sees all earlier reads and writes of the block, whichever member of the
            replica set answers. This holds after failures only with read and write concern
            ``"majority"``.
        snapshot: Every read in the block sees the database as it was at the first read; the
            server refuses writes.

    Raises:
        NotSupported: The backend or the server has no sessions.
        TransactionError: A transaction is running, which has a session of its own.
    """
    env = current_env()
    if env.transaction is not None:
        raise TransactionError("session(): a transaction is running, and has its own session")
    await env.app.prepare_models()
    async with env.app._backend.session(causal=causal, snapshot=snapshot) as native:
        with use_env(env.replace(session=native)):
            yield


def transaction(
    *,
    read_concern: ReadConcern | None = None,
    write_concern: WriteConcern | None = None,
    read_preference: ReadPreference | None = None,
    max_commit_time: float | None = None,
) -> AbstractAsyncContextManager[Transaction]:
    """Run everything in the block in a transaction: all of it is done, or nothing.

    Use it as ``async with earnorm.transaction():``. A block inside another joins its transaction:
    if the inner block fails, the whole is rolled back, even if the error is caught in between
    (MongoDB has no savepoints). A rollback restores the in-memory values of written records;
    records that were read are stale.

    Args:
        read_concern: ``"local"``, ``"majority"`` or ``"snapshot"``. The default is the App's, if
            it is one of these.
        write_concern: A number of members, or ``"majority"``. The default is the App's.
        read_preference: ``"primary"``, the only one that the server allows in a transaction.
        max_commit_time: Seconds that the server may take for the commit.

    Raises:
        NotSupported: The backend has no transactions.
        ConfigurationError: An option is not valid.
        TransactionError: It could not be committed; ``.transient`` tells whether another try may
            succeed (:func:`transactional` tries again).
    """
    return _block(
        {
            "read_concern": read_concern,
            "write_concern": write_concern,
            "read_preference": read_preference,
            "max_commit_time": max_commit_time,
        }
    )


@asynccontextmanager
async def _block(asked: Mapping[str, Any], attempt: int = 1) -> AsyncGenerator[Transaction]:
    env = current_env()
    outer = env.transaction
    if outer is not None:
        try:
            yield outer
        except BaseException as error:
            outer.transient |= isinstance(error, TransactionError) and error.transient
            outer.doomed = True
            raise
        return
    options = _options(env, asked)
    await env.app.prepare_models()
    running: Transaction | None = None
    try:
        async with env.app._backend.transaction(options, env.session) as native:
            running = Transaction(native, attempt)
            with use_env(env.replace(transaction=running)):
                yield running
            if running.doomed:
                raise TransactionError(
                    "a block inside this transaction failed, so the whole is rolled back",
                    transient=running.transient,
                )
    except BaseException as error:
        if running is not None:
            if isinstance(error, BatchRefused):
                error.written = ()  # the rollback removed the written documents, too
            running.restore()
            try:
                await env.app.rolled_back(running.operations)
            finally:
                await running.notify("after_rollback")
        raise
    running.outcome.committed = True
    running.held.release()
    tell = functools.partial(_tell_commit, env.app, running)
    if running.later is None:
        await tell()
    else:
        running.later.news += (tell,)


async def _tell_commit(app: App, running: Transaction) -> None:
    try:
        await app.committed(running.operations)
    finally:
        await running.notify("after_commit")


def _options(env: Env, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given options, completed by the App's concerns that a transaction may have."""
    options = {name: value for name, value in asked.items() if value is not None}
    level, mode = options.get("read_concern"), options.get("read_preference")
    if isinstance(level, str) and level not in IN_TRANSACTIONS:
        raise ConfigurationError(
            f"transaction(): read_concern={level!r} is not valid; "
            f"a transaction has {', '.join(sorted(IN_TRANSACTIONS))}"
        )
    if isinstance(mode, str) and mode != "primary":
        raise ConfigurationError(
            f"transaction(): read_preference={mode!r} is not valid; a transaction reads from the primary"
        )
    # Otherwise the driver would use the client's preference, which may be for secondaries.
    options.setdefault("read_preference", "primary")
    app_concerns = env.app.settings.concerns
    if app_concerns is not None:
        if app_concerns.read_concern in IN_TRANSACTIONS:
            options.setdefault("read_concern", app_concerns.read_concern)
        if app_concerns.write_concern is not None:
            options.setdefault("write_concern", dict(app_concerns.write_concern))
    return options


def transactional(
    *, retries: int = 3, **options: Any
) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
    """Run an async function in a transaction; run it again after a transient error.

    Args:
        retries: The highest number of further tries; there is none after 120 seconds.
        **options: The same as for :func:`transaction`.

    A call inside a running transaction joins it; only the outermost call tries again. After a
    commit of unknown outcome only the commit is repeated, not the function.
    """
    if not isinstance(retries, int) or retries < 0:
        raise TypeError("@transactional(retries=3) takes a number of retries, from 0")

    def decorate(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"@transactional needs an async function, not {function!r}")

        @functools.wraps(function)
        async def run(*args: P.args, **kwargs: P.kwargs) -> R:
            if current_env().transaction is not None:
                async with transaction(**options):
                    return await function(*args, **kwargs)
            transaction(**options)  # this refuses an unknown option before anything starts
            until = time.monotonic() + RETRY_SECONDS
            for attempt in count(1):
                running: Transaction | None = None
                try:
                    async with _block({**options, "commit_until": until}, attempt) as running:
                        return await function(*args, **kwargs)
                except TransactionError as error:
                    # After the commit the error comes from a hook; the work must not be done twice.
                    done = running is not None and running.outcome.committed
                    # The pause is random, so that two transactions that clashed do not clash again.
                    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (attempt - 1))
                    pause = random.uniform(0, longest)  # noqa: S311 - not for secrecy
                    late = time.monotonic() + pause > until
                    if done or late or not error.transient or attempt > retries:
                        raise
                await asyncio.sleep(pause)
            raise AssertionError("unreachable")

        return run

    return decorate


async def atomic(work: Callable[[], Awaitable[R]]) -> R:
    """Run the work in the running transaction, or in its own one, so that all or nothing is done.

    Its own transaction is tried again after a transient error. If the backend has no transactions,
    the work runs without one.
    """
    env = current_env()
    if env.transaction is None and "transactions" not in env.app.capabilities:
        return await work()

    @transactional()
    async def run() -> R:
        return await work()

    return await run()


async def in_transaction(op: Operation, call_next: Call) -> Any:
    """Run an operation in the running transaction, or in one that begins and ends with it."""
    if op.env.transaction is not None:
        return await call_next(op)
    from earnorm.kernel.steps import HAND_BACK, HandBack  # loaded with the first App

    back, collected = op.note(HAND_BACK), HandBack()
    waiting = op.note(WAITING)

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
        result = await atomic(run)
    if back is not None:
        back.take(collected)
    return result


class TransactionLayer:
    """A layer that runs an operation in a transaction if ``needs`` returns True for it."""

    __slots__ = ("needs",)

    def __init__(self, needs: Callable[[Operation], bool]) -> None:
        self.needs = needs

    def __call__(self, op: Operation, call_next: Call) -> Awaitable[Any]:
        """Run the operation."""
        if op.env.transaction is None and self.needs(op):
            return in_transaction(op, call_next)
        return call_next(op)

    def __repr__(self) -> str:
        return f"<TransactionLayer {self.needs!r}>"


def in_transaction_if(needs: Callable[[Operation], bool]) -> Middleware:
    """Make a layer that runs an operation in a transaction if ``needs`` returns True for it."""
    return TransactionLayer(needs)


def may_open_transaction(layer: Middleware) -> bool:
    """Return whether a layer says that it runs operations in transactions."""
    return layer is in_transaction or hasattr(layer, "needs")


def opens_transaction(layer: Middleware, op: Operation) -> bool:
    """Return whether such a layer runs an operation in a transaction."""
    needs: Callable[[Operation], bool] | None = getattr(layer, "needs", None)
    return needs is None or needs(op)
