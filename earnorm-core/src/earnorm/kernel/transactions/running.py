"""The running transaction: what the kernel remembers of it until it has ended, and its end.

The states in which it takes operations are those of its session; the backend describes them.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import BatchRefused, TransactionError
from earnorm.kernel.environment import find_env, use_env
from earnorm.kernel.pauses import Finishing
from earnorm.kernel.transactions.durable import Callback, Waiting, called, each
from earnorm.kernel.transactions.held_records import HeldRecords, Reapplied
from earnorm.kernel.transactions.outcome import Outcome

if TYPE_CHECKING:
    from earnorm.application import App
    from earnorm.backends.base import Session
    from earnorm.kernel.environment import Env
    from earnorm.kernel.operations import Operation
    from earnorm.kernel.transactions.queue import Place
    from earnorm.model.base import BaseModel


class Transaction:
    """A running transaction. Its block yields it, and the Env inside holds it."""

    __slots__ = (
        "__weakref__",
        "_at_work",
        "_callbacks",
        "_session",
        "attempt",
        "done",
        "drawn_ids",
        "ends_with_blocks",
        "held",
        "is_unsent",
        "later",
        "operations",
        "outcome",
        "place",
    )

    def __init__(
        self,
        session: Session,
        attempt: int = 1,
        place: Place | None = None,
        reapplied: Reapplied | None = None,
    ) -> None:
        self._session = session
        self.place = place
        """Its place in the queue of the records that it will write."""
        self.attempt = attempt
        """The number of the try of :func:`transactional`, from 1."""
        self.operations: list[Operation] = []
        """The writes inside it, for the hook ``after_rollback``."""
        self.done: list[Operation] = []
        """Those that the database has carried out, for ``after_commit``; empty if nobody hears."""
        self.outcome = Outcome()
        """The way in which it has ended."""
        self.later: Waiting | None = None
        """On a transaction of one operation: tells of the commit at the operation's end."""
        self.drawn_ids: set[Any] = set()
        """Ids that were drawn for new records, and not given by the program."""
        self.held = HeldRecords(reapplied)
        self.is_unsent = True
        """True until its first operation, with which it begins on the server."""
        self.ends_with_blocks = False
        """True if it takes nothing more once a block inside it has failed; set where it stands for
        several transactions, of which that block would have been one."""
        self._at_work = 0
        self._callbacks: dict[str, list[tuple[Env | None, Callback]]] = {
            "after_commit": [],
            "after_rollback": [],
        }

    def after_commit(self, callback: Callback) -> None:
        """Call a function once the whole transaction is durable, after the plugins' hooks.

        Args:
            callback: Without arguments, sync or async. It runs outside of the transaction, as who
                registers it now, with the same context. An exception that it raises is logged, and stops neither the other callbacks nor the
                program. If its task is cancelled, it hears that, and the others are called.

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
        if self.outcome.is_over:
            raise TransactionError(f"{when}(): the transaction is over").coded("transaction_over")
        env = find_env()
        alone = env and env.replace(transaction=None, _session=None, _block=None)
        self._callbacks[when].append((alone, callback))

    # -- what it takes ------------------------------------------------------------------------

    def doom(self, reason: str, *, transient: bool = False, at_once: bool = False) -> None:
        """Make sure that the transaction is not committed: the end of its block rolls it back.

        Args:
            reason: The end of a sentence that begins with "because".
            transient: Another try may succeed.
            at_once: It takes no further operation either.
        """
        self._session.doom(reason, transient=transient, at_once=at_once)

    def enter(self) -> None:
        """Begin a piece of work in it: an operation, or a block inside its block.

        Raises:
            TransactionError: It takes nothing more; the message says why.
        """
        self._session.refuse()
        self._at_work += 1

    def leave(self) -> None:
        """End a piece of work, whether or not it has failed."""
        self._at_work -= 1

    def refuse_result(self) -> None:
        """Raise after a piece of work if the transaction takes nothing more.

        Raises:
            TransactionError: It was doomed meanwhile, or its end has begun, in another task.
        """
        self._session.refuse()

    def check_at_work(self) -> None:
        """Doom it if a task that was begun inside is still at work in it.

        A part of that work would be committed.
        """
        if self._at_work:
            self.doom("a task that was begun inside it is still at work in it, not awaited")

    # -- the records --------------------------------------------------------------------------

    def touch(self, record: BaseModel) -> None:
        """Remember the state of a record, to restore it if the transaction is rolled back."""
        if not self.outcome.is_over:  # a task that outlives it assigns to its records
            self.held.touch(record)

    def undo(self, call: Callable[[], None]) -> None:
        """Call a function if the transaction is rolled back, when its records are restored."""
        if not self.outcome.is_over:
            self.held.undo(call)

    def created(self, records: Iterable[BaseModel], states: Iterable[dict[str, Any]]) -> None:
        """Note records that the transaction creates: a rollback makes them unsaved again.

        Args:
            records: The records.
            states: Their states as they were given, without what the creation filled in. A record
                that was touched before gets its state from then.
        """
        if not self.outcome.is_over:
            self.held.created(records, states, self.drawn_ids)

    # -- the end ------------------------------------------------------------------------------

    async def end(self, app: App, error: BaseException | None) -> None:
        """Bring the records to the state that the end has left, and tell who wants to hear it.

        Args:
            app: The App.
            error: The exception that ended the block.
        """
        if self.place is not None:
            self.place.leave()  # before the hooks and callbacks, which may wait for a turn
        if self.outcome.is_over:  # the App was stopped, and has ended it
            return
        ended, finishing = self._session.ended, Finishing()
        if ended == "committed":
            self.outcome.committed = True
            self.held.release()
            tell = functools.partial(self._tell, app.committed, self.done, "after_commit")
            if self.later is None:
                await tell()
            else:
                self.later.news += (tell,)
        elif ended == "unknown":
            self.outcome.unknown = True
            await finishing.wait_for(self.held.give_up(self.outcome))
            self._callbacks.clear()
            app.contention.unknown += 1
            problem = self._session.problem
            assert problem is not None
            await app.unknown(self.operations, problem)
        else:
            if isinstance(error, BatchRefused):
                error.written = ()  # the rollback removed the written documents, too
            self.outcome.rolled_back = True
            await finishing.wait_for(self.held.take_back(self.outcome))
            await self._tell(app.rolled_back, self.operations, "after_rollback")
        finishing.end()

    async def abort(self, app: App, reason: str) -> None:
        """End it now, because the App stops; its block hears of it at its next step.

        A commit that was sent is not waited for any longer: its block ends it, as unknown.

        Args:
            app: The App.
            reason: The end of a sentence that begins with "because".
        """
        await self._session.abort(reason)
        if self._session.ended == "rolled_back":
            await self.end(app, None)

    async def _tell(
        self,
        hooks: Callable[[Sequence[Operation]], Awaitable[None]],
        operations: Sequence[Operation],
        when: str,
    ) -> None:
        try:
            await hooks(operations)
        finally:
            await self.notify(when)

    async def notify(self, when: str) -> None:
        """Call the registered callbacks of ``after_commit`` or ``after_rollback``."""
        callbacks = self._callbacks.get(when, ())
        self._callbacks = {}
        await each(functools.partial(_called, env, callback, when) for env, callback in callbacks)

    def __repr__(self) -> str:
        return f"<Transaction {len(self.operations)} writes {self.outcome!r}>"


async def _called(env: Env | None, callback: Callback, when: str) -> None:
    """Call a callback as the one who registered it, in the session in which the transaction was."""
    here = find_env()
    if env is not None and here is not None and here.app is env.app:
        env = env.replace(_session=here._session)
    with nullcontext() if env is None else use_env(env):
        await called(callback, when)
