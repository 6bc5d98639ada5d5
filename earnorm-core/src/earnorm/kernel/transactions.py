"""Transactions and sessions: the block, the retrying decorator, callbacks, and what happens to records on a rollback."""

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
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from earnorm.concerns import IN_TRANSACTIONS, ReadConcern, ReadPreference, WriteConcern
from earnorm.exceptions import BatchRefused, ConfigurationError, TransactionError
from earnorm.kernel.durable import Callback, called
from earnorm.kernel.environment import Env, current_env, use_env
from earnorm.kernel.outcome import Outcome

if TYPE_CHECKING:
    from earnorm.backends.base import Session
    from earnorm.kernel.layers import Middleware
    from earnorm.kernel.operations import Call, Operation
    from earnorm.model.base import BaseModel

P = ParamSpec("P")
R = TypeVar("R")

RETRY_SECONDS: Final = 120.0
"""How long a transaction is tried again, commits included; the figure of MongoDB's convenient API:
https://github.com/mongodb/specifications/blob/master/source/transactions-convenient-api/transactions-convenient-api.md"""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.5  # seconds between two tries; of the same specification


class Transaction:
    """A running transaction: what its block yields; the Env inside carries it."""

    __slots__ = (
        "_before",
        "_callbacks",
        "_created",
        "attempt",
        "doomed",
        "operations",
        "outcome",
        "session",
        "transient",
    )

    def __init__(self, session: Session, attempt: int = 1) -> None:
        self.session = session
        self.attempt = attempt
        """Which try of :func:`transactional` it is, from 1."""
        self.doomed = False
        """An inner block failed, so the whole will be rolled back."""
        self.transient = False
        """What doomed it may not happen again in another try."""
        self.operations: list[Operation] = []
        """What wrote inside it, for the hooks ``after_commit`` and ``after_rollback``."""
        self.outcome = Outcome()
        self._before: dict[int, tuple[BaseModel, Callable[[], None]]] = {}
        self._created: list[Sequence[BaseModel]] = []
        self._callbacks: dict[str, list[Callback]] = {"after_commit": [], "after_rollback": []}

    def after_commit(self, callback: Callback) -> None:
        """Call this once the whole transaction is durable, behind the plugins' hooks.

        Args:
            callback: Without arguments, sync or async. It runs outside of the transaction. What it
                raises is logged, and stops neither the other callbacks nor the program.

        Raises:
            TransactionError: The transaction is over.
        """
        self._register("after_commit", callback)

    def after_rollback(self, callback: Callback) -> None:
        """Call this once the transaction was rolled back; as :meth:`after_commit`."""
        self._register("after_rollback", callback)

    def _register(self, when: str, callback: Callback) -> None:
        if not callable(callback):
            raise TypeError(f"{when}() takes a function without arguments, not {callback!r}")
        if self.outcome.is_known:
            raise TransactionError(f"{when}(): the transaction is over")
        self._callbacks[when].append(callback)

    def touch(self, record: BaseModel) -> None:
        """Remember a record as it is, to bring it back if the transaction is rolled back."""
        if id(record) not in self._before:
            self._before[id(record)] = (record, record._restorer())

    def created(self, records: Sequence[BaseModel]) -> None:
        """These records did not exist before: a rollback makes them unsaved ones."""
        self._created.append(records)

    def restore(self) -> None:
        """Bring every touched record back to what it was, and mark what was read as stale."""
        self.outcome.rolled_back = True
        for _, restore in self._before.values():
            restore()
        for records in self._created:
            for record in records:
                if hasattr(record, "_fetch"):
                    object.__delattr__(record, "_fetch")

    async def notify(self, when: str) -> None:
        """Call the registered callbacks of ``after_commit`` or ``after_rollback``."""
        for callback in self._callbacks[when]:
            await called(callback, when)

    def __repr__(self) -> str:
        return f"<Transaction {len(self.operations)} writes{' doomed' if self.doomed else ''}>"


async def after_commit(callback: Callback) -> None:
    """Call this when the running transaction is durable, or at once where none is running.

    Args:
        callback: See :meth:`Transaction.after_commit`. At once means as an ordinary call: what it
            raises is raised here.
    """
    running = current_env().transaction
    if running is None:
        result = callback()
        if inspect.isawaitable(result):
            await result
    else:
        running.after_commit(callback)


async def after_rollback(callback: Callback) -> None:
    """Call this when the running transaction is rolled back; never where none is running."""
    running = current_env().transaction
    if running is not None:
        running.after_rollback(callback)


@asynccontextmanager
async def session(*, causal: bool = True, snapshot: bool = False) -> AsyncIterator[None]:
    """Do everything in the block in one session of the server, without a transaction.

    Args:
        causal: A read sees what was written and read before it in the block, whichever member of
            the replica set answers. Over failures too, that takes read and write concern
            ``"majority"``.
        snapshot: Every read in the block sees the database as it was at the first one; the server
            refuses writes.

    Raises:
        NotSupported: The backend or the server has no sessions.
        TransactionError: A transaction is running, which has a session of its own.
    """
    env = current_env()
    if env.transaction is not None:
        raise TransactionError("session(): a transaction is running, and has its own session")
    await env.app.prepare_models()
    async with env.app.backend.session(causal=causal, snapshot=snapshot) as native:
        with use_env(env.replace(session=native)):
            yield


def transaction(
    *,
    read_concern: ReadConcern | None = None,
    write_concern: WriteConcern | None = None,
    read_preference: ReadPreference | None = None,
    max_commit_time: float | None = None,
) -> AbstractAsyncContextManager[Transaction]:
    """Do everything in the block, or nothing of it: ``async with earnorm.transaction():``.

    A block inside another joins it: where the inner one fails, the whole is rolled back, also if
    the error is caught in between (MongoDB has no savepoints). In-memory values of records that
    were written go back to what they were; records that were read are stale.

    Args:
        read_concern: ``"local"``, ``"majority"`` or ``"snapshot"``; else the App's, if it is one of these.
        write_concern: A number of members, or ``"majority"``; else the App's.
        read_preference: ``"primary"``: the only one that the server has in a transaction.
        max_commit_time: Seconds that the server may work on the commit.

    Raises:
        NotSupported: The backend has no transactions.
        ConfigurationError: An option is not valid.
        TransactionError: It could not be committed; ``.transient`` says whether to try again
            (:func:`transactional` does that).
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
        async with env.app.backend.transaction(options, env.session) as native:
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
                error.written = ()  # it was taken back with the rest
            running.restore()
            try:
                await env.app.rolled_back(running.operations)
            finally:
                await running.notify("after_rollback")
        raise
    running.outcome.committed = True
    try:
        await env.app.committed(running.operations)
    finally:
        await running.notify("after_commit")


def _options(env: Env, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for, over the App's own concerns where a transaction may have them."""
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
    # The client may prefer secondaries, and hands that on otherwise.
    options.setdefault("read_preference", "primary")
    wider = env.app.settings.concerns
    if wider is not None:
        if wider.read_concern in IN_TRANSACTIONS:
            options.setdefault("read_concern", wider.read_concern)
        if wider.write_concern is not None:
            options.setdefault("write_concern", dict(wider.write_concern))
    return options


def transactional(
    *, retries: int = 3, **options: Any
) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
    """Run an async function in a transaction, and again from its beginning after a transient error.

    Args:
        retries: How often to try again before giving up; nothing is tried again after 120 seconds.
        **options: As for :func:`transaction`.

    A call inside a running transaction joins it, and leaves retrying to the outermost. A commit of
    unknown outcome is repeated by itself, not the function.
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
            transaction(**options)  # an unknown option is said before anything starts
            until = time.monotonic() + RETRY_SECONDS
            for attempt in count(1):
                running: Transaction | None = None
                try:
                    async with _block({**options, "commit_until": until}, attempt) as running:
                        return await function(*args, **kwargs)
                except TransactionError as error:
                    # Once it is committed, an error is one of a hook; it must not be done twice.
                    done = running is not None and running.outcome.committed
                    # Full jitter, so that two transactions that clashed do not clash again.
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
    """Do all of the work or nothing of it: in the running transaction, or in one of its own, which is
    tried again after a transient error. Where the backend has no transactions, just do it."""
    env = current_env()
    if env.transaction is None and "transactions" not in env.app.backend.capabilities:
        return await work()

    @transactional()
    async def run() -> R:
        return await work()

    return await run()


async def in_transaction(op: Operation, call_next: Call) -> Any:
    """Do an operation in its own transaction: the one that runs, or one that begins and ends with it."""
    if op.env.transaction is not None:
        return await call_next(op)

    async def run() -> Any:
        return await call_next(
            op.replace(env=op.env.replace(transaction=current_env().transaction))
        )

    with use_env(op.env):
        return await atomic(run)


def in_transaction_if(needs: Callable[[Operation], bool]) -> Middleware:
    """A layer that does those operations in a transaction that need one."""

    def layer(op: Operation, call_next: Call) -> Awaitable[Any]:
        if op.env.transaction is None and needs(op):
            return in_transaction(op, call_next)
        return call_next(op)

    return layer
