"""Transactions and sessions: their blocks, the decorator that tries again, and callbacks."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from earnorm.concerns import IN_TRANSACTIONS, ReadConcern, ReadPreference, WriteConcern
from earnorm.exceptions import ConfigurationError, TransactionError
from earnorm.kernel.environment import Env, current_env, use_env
from earnorm.kernel.transactions.durable import Callback
from earnorm.kernel.transactions.held_records import Reapplied
from earnorm.kernel.transactions.queue import LONGEST_WAIT, Place, keys_of
from earnorm.kernel.transactions.retries import Tries
from earnorm.kernel.transactions.running import Transaction

if TYPE_CHECKING:
    from earnorm.application import App

__all__ = [
    "Transaction",
    "after_commit",
    "after_rollback",
    "atomic",
    "session",
    "transaction",
    "transactional",
]

P = ParamSpec("P")
R = TypeVar("R")


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
    env.app.admit()
    await env.app.prepare_models()
    async with env.app._backend.session(causal=causal, snapshot=snapshot) as native:
        open_sessions = env.app.in_flight._sessions
        open_sessions[native] = asyncio.current_task()
        try:
            with use_env(env.replace(_session=native)):
                yield
        finally:
            open_sessions.pop(native, None)


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
async def _block(
    asked: Mapping[str, Any],
    attempt: int = 1,
    place: Place | None = None,
    reapplied: Reapplied | None = None,
) -> AsyncGenerator[Transaction]:
    env = current_env()
    if env.transaction is not None:
        async with _joined(env.transaction) as outer:
            yield outer
        return
    options = _options(env, asked)
    env.app.admit()
    await env.app.prepare_models()
    running: Transaction | None = None
    try:
        async with env.app._backend.transaction(options, env._session) as native:
            running = Transaction(native, attempt, place, reapplied)
            env.app.in_flight.transactions[running] = asyncio.current_task()
            with use_env(env.replace(transaction=running)):
                yield running
            running.check_at_work()
    except BaseException as error:
        if running is not None:
            await _ended(running, env.app, error)
        raise
    await _ended(running, env.app, None)


async def _ended(running: Transaction, app: App, error: BaseException | None) -> None:
    """Tell of the end of a transaction, after which it is not in flight any more."""
    try:
        await running.end(app, error)
    finally:
        app.in_flight.transactions.pop(running, None)


@asynccontextmanager
async def _joined(outer: Transaction) -> AsyncGenerator[Transaction]:
    """Be a block inside the block of a transaction."""
    outer.enter()
    try:
        yield outer
    except BaseException as error:
        outer.doom(
            "a block inside it failed",
            transient=isinstance(error, TransactionError) and error.transient,
            at_once=outer.ends_with_blocks,
        )
        raise
    finally:
        outer.leave()
    outer.refuse_result()


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
    *, retries: int | None = None, **options: Any
) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
    """Run an async function in a transaction; run it again after a transient error.

    Args:
        retries: The highest number of further tries, within 120 seconds. Without it the function is
            tried again until the App's ``retry_timeout``, 30 seconds by default.
        **options: The same as for :func:`transaction`.

    A call inside a running transaction joins it; only the outermost call tries again. After a
    commit of unknown outcome only the commit is repeated, not the function.

    Raises:
        TransactionError: (By the function.) No try has succeeded; it says how many there were, and
            the limit.
    """
    if retries is not None and (type(retries) is not int or retries < 0):
        raise TypeError(
            "@transactional(retries=3) takes a number of further tries, from 0; without it, the "
            "function is tried again until the App's retry_timeout"
        )

    def decorate(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"@transactional needs an async function, not {function!r}")

        @functools.wraps(function)
        async def run(*args: P.args, **kwargs: P.kwargs) -> R:
            if current_env().transaction is not None:
                async with transaction(**options):
                    return await function(*args, **kwargs)
            transaction(**options)  # this refuses an unknown option before anything starts
            work = functools.partial(function, *args, **kwargs)
            return await _tried(work, retries, options, reapplied=Reapplied())

        return run

    return decorate


async def atomic(
    work: Callable[[], Awaitable[R]],
    *,
    retries: int | None = None,
    queues_for: Iterable[tuple[str, Any]] = (),
) -> R:
    """Run the work in the running transaction, or in its own one, so that all or nothing is done.

    Its own transaction is tried again after a transient error. If the backend has no transactions,
    the work runs without one.

    Args:
        work: An async function without arguments.
        retries: The highest number of further tries; None means the App's ``retry_timeout``.
        queues_for: Records that it will write, as far as they are known beforehand, each as the
            name of its model and its stored id. Before its own transaction begins, it waits for
            the operations of this process that will write one of them, too.

    Raises:
        PluginError: ``queues_for`` gives anything else.
    """
    env = current_env()
    if env.transaction is not None:
        async with _joined(env.transaction):
            return await work()
    if "transactions" not in env.app.capabilities:
        env.app.admit()
        with env.app.in_flight.whole():
            return await work()
    return await _tried(work, retries, {}, queues_for)


async def _tried(
    work: Callable[[], Awaitable[R]],
    retries: int | None,
    options: Mapping[str, Any],
    queues_for: Iterable[tuple[str, Any]] = (),
    reapplied: Reapplied | None = None,
) -> R:
    """Run the work in a transaction of its own, again after each transient error.

    Args:
        work: An async function without arguments.
        retries: The highest number of further tries; None means the App's ``retry_timeout``.
        options: The options of the transaction.
        queues_for: Records that it will write, as far as they are known beforehand.
        reapplied: On work of the program's, which may change records in place: refuses to do that
            twice.
    """
    app = current_env().app
    keys = keys_of(app, queues_for)
    tries = Tries(retries, app.settings.retry_timeout, app.contention)
    asked = {**options, "commit_until": tries.commit_until}
    while True:
        running: Transaction | None = None
        place: Place | None = None
        if keys:
            # For each try anew: who had waited too long once would lose to all who still queue.
            place = await app.queue.take(keys, LONGEST_WAIT)
        try:
            async with _block(asked, tries.number, place, reapplied) as running:
                return await work()
        except TransactionError as error:
            # After the commit the error comes from a hook; the work must not be done twice.
            done = running is not None and running.outcome.committed
            if done or not error.transient:
                raise
            if running is not None:  # now it is known what it writes
                changed = (app.bind(op.model).changed_by(op) for op in running.operations)
                keys = keys_of(app, chain.from_iterable(changed), keys)
            await tries.pause(error)
        finally:
            if place is not None:
                place.leave()  # where it could not begin; else its end has done so
