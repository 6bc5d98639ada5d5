"""A transaction in a driver's session, and the states in which it takes what.

| state of a transaction | it takes | it becomes |
|---|---|---|
| open | operations, a commit, a rollback | doomed, when a block inside it fails; closed, when an operation is cancelled or loses its connection; ending |
| doomed | operations, a rollback; a commit raises the reason | closed, ending |
| closed | a rollback; all else raises the reason | ending |
| ending | nothing | committed, rolled back or unknown |
| committed, rolled back, unknown | nothing | |

The end is not cut short by a cancellation of its task. It waits

- for the operations under way, as the end of a session does;
- for the abort ``ABORT_SECONDS``;
- where the server may not have heard of the abort, until the session is killed there;
- for a commit as long as it is retried, but no more than ``CANCELLED_COMMIT_SECONDS`` after a
  cancellation, and not beyond the grace of an App that stops.

An App that stops ends it from outside (``abort``): its block finds it over, and says why.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final

from pymongo.errors import ConnectionFailure, PyMongoError, WriteConcernError
from typing_extensions import override

from earnorm.backends.aborts import abort, is_open_after
from earnorm.backends.base import Ended
from earnorm.backends.errors import MAX_TIME_EXPIRED, TRANSIENT, UNKNOWN_COMMIT, said
from earnorm.backends.in_sessions import DriverSession
from earnorm.backends.plain_operations import IN_TRANSACTION
from earnorm.backends.shielding import completed, uncancelled
from earnorm.exceptions import TransactionError, TransactionOutcomeUnknown

COMMIT_SECONDS: Final = 120.0
"""The time for which a commit of unknown outcome is retried, as in MongoDB's convenient
transactions API:
https://github.com/mongodb/specifications/blob/master/source/transactions-convenient-api/transactions-convenient-api.md"""

CANCELLED_COMMIT_SECONDS: Final = 5.0
"""The time for which a commit is waited for after its task was cancelled."""

ABORT_SECONDS: Final = 10.0
"""The time that an abort may take."""


class DriverTransaction(DriverSession):
    """A transaction in a driver's session; the module describes its states.

    Args:
        session: The session.
        owns: The session ends with the transaction.
    """

    is_plain = False

    def __init__(self, session: DriverSession, *, owns: bool) -> None:
        super().__init__(session._client, session.native, session._leftovers, session.operations)
        self._session = session
        session.transaction = self
        self._owns = owns
        self._under_way = session._under_way
        self._is_ending = False
        self._ended: Ended | None = None
        self._problem: TransactionOutcomeUnknown | None = None
        self._reason: str | None = None
        self._is_closed = False
        self._is_transient = False
        self._rolling_back: asyncio.Task[None] | None = None
        self._is_aborted = False
        self._is_decided = False
        """The server has answered the commit."""
        self._aborted: asyncio.Future[None] | None = None
        """Is done when the commit is not to be waited for any longer."""

    @property
    @override
    def ended(self) -> Ended | None:
        return self._ended

    @property
    @override
    def problem(self) -> TransactionOutcomeUnknown | None:
        return self._problem

    @property
    @override
    def is_open(self) -> bool:
        return not (self._is_closed or self._is_ending)

    @override
    def doom(self, reason: str, *, transient: bool = False, at_once: bool = False) -> None:
        self._is_transient |= transient
        if self._reason is None or (at_once and not self._is_closed):
            self._reason = reason
        self._is_closed |= at_once

    @override
    def refuse(self) -> None:
        if self._is_ending and not self._is_aborted:
            raise TransactionError(
                f"this task was begun inside a transaction that {_STATES[self._ended]}, or acts in an "
                f"Env of it, and an operation of its own would not be part of it; await the task inside "
                f"the block, or begin it outside; what is called after a commit acts in the current Env, "
                f"not in that of an operation of the transaction (op.env)"
            ).coded("transaction_over")
        if self._is_closed:
            raise self._doomed("takes nothing more")

    def _doomed(self, consequence: str) -> TransactionError:
        return TransactionError(
            f"the transaction {consequence}, because {self._reason}; the end of its block rolls "
            f"all of it back",
            transient=self._is_transient,
        ).coded("transaction_doomed")

    # -- the end ------------------------------------------------------------------------------

    def refuse_commit(self) -> None:
        """Raise if the transaction cannot be committed.

        Raises:
            TransactionError: It is doomed, or an operation is under way.
        """
        if self.pending():
            self.doom("a task that was begun inside it is still at work in it, not awaited")
        self.refuse()
        if self._reason is not None:
            raise self._doomed("cannot be committed")

    async def roll_back(self) -> None:
        """Abort the transaction, although this task is cancelled; that is raised at the end."""
        self._is_ending = True
        task = self._rolling_back
        if task is None:
            task = self._rolling_back = asyncio.ensure_future(self._roll_back())
        try:
            await completed(task)
        finally:
            # Nothing of it can be committed any more, whether or not the server has heard of it.
            self._ended = "rolled_back"

    @override
    async def abort(self, reason: str) -> None:
        if self._aborted is not None:
            if not self._aborted.done():
                self._aborted.set_result(None)
            return
        if self._ended is None:
            self._is_aborted = True
            self.doom(reason, at_once=True)
            if self.pending():
                await self._kill()
            await self.roll_back()

    async def _roll_back(self) -> None:
        IN_TRANSACTION.set(True)
        if not await self.wait_for_pending():
            await self._session.give_up()
        elif self.native.in_transaction:
            await self.close_cursors()
            ending = asyncio.ensure_future(abort(self.native))
            await asyncio.wait({ending}, timeout=ABORT_SECONDS)
            if not ending.done():
                await self._session.give_up(ending)
            elif ending.cancelled() or ending.exception() is not None or not ending.result():
                await self._session.give_up()
        await self._end_owned()

    async def _end_owned(self) -> None:
        self._session.transaction = None
        if self._owns:
            await self._session._end()

    async def commit(self, until: float | None) -> None:
        """Commit, and retry while the outcome is unknown; the driver then asks for a majority.

        Args:
            until: The time to give up, as ``time.monotonic()`` counts.

        Raises:
            TransactionError: Nothing was written.
            TransactionOutcomeUnknown: It is not known whether it was.
            CancelledError: This task was cancelled. ``ended`` says what became of the transaction.
        """
        self._is_ending = True
        limit = [time.monotonic() + COMMIT_SECONDS if until is None else until]
        task = asyncio.ensure_future(self._commit(limit))
        aborted = self._aborted = asyncio.get_running_loop().create_future()
        cancellation = await uncancelled(task, seconds=CANCELLED_COMMIT_SECONDS, unless=aborted)
        if self._is_decided:  # the rest asks the server nothing
            cancellation = await uncancelled(task) or cancellation
        error: BaseException | None = None
        if not task.done():
            limit[0] = 0.0  # it is not tried again
            self._session.transaction = None
            self._session.give_up_later(task)
            seconds = f"{CANCELLED_COMMIT_SECONDS:g} s"
            error = _unknown(
                "its App was stopped meanwhile"
                if aborted.done()
                else f"its task was cancelled, and it took longer than {seconds}"
            )
        elif task.cancelled():
            error = _unknown("the event loop was stopped")
        else:
            error = task.exception()
        if error is None:
            self._ended = "committed"
        elif isinstance(error, TransactionOutcomeUnknown):
            self._ended, self._problem = "unknown", error
        else:
            self._ended = "rolled_back"
        if cancellation is not None:
            raise cancellation from error
        if error is not None:
            raise error

    async def _commit(self, limit: list[float]) -> None:
        IN_TRANSACTION.set(True)
        await self.close_cursors()
        while True:
            try:
                await self.native.commit_transaction()
            except PyMongoError as error:
                unknown = error.has_error_label(UNKNOWN_COMMIT)
                expired = getattr(error, "code", None) == MAX_TIME_EXPIRED
                if unknown and not expired and time.monotonic() < limit[0]:
                    continue
                # A write concern fails after the primary has committed.
                if unknown or isinstance(error, WriteConcernError | ConnectionFailure):
                    self._session.transaction = None
                    self._session.give_up_later()
                    raise _unknown(said(error)) from error
                self._is_decided = True
                transient = error.has_error_label(TRANSIENT)  # then the server has aborted it
                if not transient and is_open_after(error):
                    await self._session.give_up()
                await self._end_owned()
                raise TransactionError(
                    f"the transaction could not be committed, nothing was written: {said(error)}",
                    transient=transient,
                ) from error
            self._is_decided = True
            await self._end_owned()
            return


_STATES: Final[Mapping[Ended | None, str]] = {
    None: "is ending",
    "committed": "has been committed",
    "rolled_back": "was rolled back",
    "unknown": "ended without a known outcome",
}


def _unknown(reason: str) -> TransactionOutcomeUnknown:
    return TransactionOutcomeUnknown(
        f"the commit was sent, and its outcome is unknown: all of the transaction is in the "
        f"database, or nothing ({reason}); look whether what it wrote is there before it is done "
        f"again"
    )
