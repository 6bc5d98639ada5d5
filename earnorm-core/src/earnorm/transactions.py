"""Transactions: the block, the retrying decorator, and what happens to records on a rollback."""

from __future__ import annotations

import asyncio
import functools
import inspect
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from earnorm.environment import current_env, use_env
from earnorm.exceptions import TransactionError

if TYPE_CHECKING:
    from earnorm.backends.base import Session
    from earnorm.models import BaseModel
    from earnorm.operations import Operation

P = ParamSpec("P")
R = TypeVar("R")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.5  # seconds between two tries


class Transaction:
    """A running transaction; the Env of its block carries it."""

    __slots__ = ("_before", "doomed", "operations", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.doomed = False
        """An inner block failed, so the whole will be rolled back."""
        self.operations: list[Operation] = []
        """What wrote inside it, for ``after_commit`` and ``after_rollback``."""
        self._before: dict[int, tuple[BaseModel, Callable[[], None]]] = {}

    def touch(self, record: BaseModel) -> None:
        """Remember a record as it is, to bring it back if the transaction is rolled back."""
        if id(record) not in self._before:
            self._before[id(record)] = (record, record._restorer())

    def restore(self) -> None:
        """Bring every touched record back to what it was."""
        for _, restore in self._before.values():
            restore()

    def __repr__(self) -> str:
        return f"<Transaction {len(self.operations)} writes{' doomed' if self.doomed else ''}>"


@asynccontextmanager
async def transaction(
    *,
    read_concern: str | None = None,
    write_concern: int | str | None = None,
    read_preference: str | None = None,
    max_commit_time: float | None = None,
) -> AsyncIterator[Transaction]:
    """Do everything in the block, or nothing of it.

    A block inside another joins it: where the inner one fails, the whole is rolled back, also if
    the error is caught in between (MongoDB has no savepoints). In-memory values of records that
    were written go back to what they were.

    Args:
        read_concern: MongoDB's level, e.g. ``"snapshot"``.
        write_concern: A number of members, or ``"majority"``.
        read_preference: A mode, e.g. ``"primary"``.
        max_commit_time: Seconds.

    Raises:
        NotSupported: The backend has no transactions.
        TransactionError: It could not be committed; ``.transient`` says whether to try again
            (:func:`transactional` does that).
    """
    env = current_env()
    outer = env.transaction
    if outer is not None:
        try:
            yield outer
        except BaseException:
            outer.doomed = True
            raise
        return
    await env.app.prepare_models()
    asked = {
        "read_concern": read_concern,
        "write_concern": write_concern,
        "read_preference": read_preference,
        "max_commit_time": max_commit_time,
    }
    options = {name: value for name, value in asked.items() if value is not None}
    running: Transaction | None = None
    try:
        async with env.app.backend.transaction(options) as session:
            running = Transaction(session)
            with use_env(env.replace(transaction=running)):
                yield running
            if running.doomed:
                raise TransactionError(
                    "a block inside this transaction failed, so the whole is rolled back"
                )
    except BaseException:
        if running is not None:
            running.restore()
            await env.app.rolled_back(running.operations)
        raise
    await env.app.committed(running.operations)


def transactional(
    *, retries: int = 3, **options: Any
) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
    """Run an async function in a transaction, and again from its beginning after a transient error.

    Args:
        retries: How often to try again before giving up.
        **options: As for :func:`transaction`.

    A call inside a running transaction joins it, and leaves retrying to the outermost.
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
            for attempt in range(retries + 1):
                try:
                    async with transaction(**options):
                        return await function(*args, **kwargs)
                except TransactionError as error:
                    if not error.transient or attempt == retries:
                        raise
                # Full jitter, so that two transactions that clashed do not clash again.
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt)
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - not for secrecy
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
