"""Counts the operations outside of transactions, which begin in turn.

A write that meets what an open transaction has written waits on the server for the end of that
transaction, and keeps its connection meanwhile (with Motor its thread, too). If such writes have all
connections, the transaction gets none for its commit, and everything stands still until the server
ends the transaction, after a minute. So operations outside of transactions, *plain* ones, are counted:
at most as many as the pool has connections are under way, and one less while a transaction is open.

The others wait in line here, where they are counted, where a time limit ends the wait, and where one
that is cancelled has sent nothing. The operations of a transaction never wait here. They wait for
nobody on the server either, which refuses the later of two transactions at once: with one connection
that plain operations leave to them, each of them comes to its end.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

from pymongo.errors import WaitQueueTimeoutError

from earnorm.traffic import Traffic

LONGEST_WAIT: Final = 60.0
"""The seconds after which an operation without a time limit goes on without its turn. A server ends a
transaction after that time, by default, so that no transaction needs the connection any longer."""

IN_TRANSACTION: Final[ContextVar[bool]] = ContextVar("earnorm_in_transaction", default=False)
"""True in the tasks that carry out the operations of a transaction, and its end."""


class PlainOperations:
    """Counts the plain operations of one client, which begin in turn.

    One that begins takes a place, ``free -= weight``, and gives it back at its end. If no place is
    free, it waits for its turn before.

    Args:
        is_part: Returns whether the running code belongs to a transaction that it is outside of: what
            a block of a transaction waits for must not wait for the transaction.

    Attributes:
        free: The number of places that are free; below 0 if operations went on without a turn.
        line: The turns of those that wait.
        weight: The places that an operation takes: 1, or 0 if each of its calls takes one.
    """

    __slots__ = (
        "_is_part",
        "_last_timeout",
        "_passed",
        "_places",
        "_seconds",
        "_timeouts",
        "_transactions",
        "_wait_seconds",
        "_waits",
        "free",
        "line",
        "weight",
    )

    def __init__(self, is_part: Callable[[], bool]) -> None:
        self._is_part = is_part
        self._seconds: float | None = None
        self._transactions = 0
        self._places = self.free = sys.maxsize
        self.line: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self.weight = 1
        self._waits = self._timeouts = self._passed = 0
        self._wait_seconds = 0.0
        self._last_timeout: float | None = None

    def limit(self, places: int | None, seconds: float | None) -> None:
        """Set the number of places, None for no limit, and the longest time to wait for one."""
        self._places = self.free = sys.maxsize if places is None else places
        self._seconds = seconds

    def __repr__(self) -> str:
        return f"<PlainOperations {self._places - self.free} under way, {len(self.line)} waiting>"

    def traffic(self, threads: int | None = None, queued: int = 0) -> Traffic:
        """Return the figures.

        Args:
            threads: The number of threads, if the driver works in threads.
            queued: The operations that have their turn and wait for a thread.
        """
        no_limit = self._places == sys.maxsize
        last = self._last_timeout
        reserved = self._transactions > 0 and not no_limit
        return Traffic(
            at_once=None if no_limit else self._places,
            under_way=self._places - self.free - reserved,
            waiting=len(self.line) + queued,
            transactions=self._transactions,
            threads=threads,
            waits=self._waits,
            wait_seconds=self._wait_seconds,
            timeouts=self._timeouts,
            passed=self._passed,
            seconds_since_timeout=None if last is None else time.monotonic() - last,
        )

    # -- turns --------------------------------------------------------------------------------

    async def wait(self, seconds: float | None = None) -> None:
        """Wait for a free place, which the caller takes in the same step of the event loop.

        Args:
            seconds: The time limit of the operation.

        Raises:
            WaitQueueTimeoutError: None was free in time; nothing was sent.
        """
        if self._is_part():
            return
        limits = [limit for limit in (seconds, self._seconds) if limit is not None]
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.line[turn] = None
        self._waits += 1
        began = time.monotonic()
        try:
            await asyncio.wait((turn,), timeout=min(limits, default=LONGEST_WAIT))
        except asyncio.CancelledError:
            if turn.done():
                self.give_back()
            raise
        finally:
            self.line.pop(turn, None)
            self._wait_seconds += time.monotonic() - began
        if turn.done():
            self.free += 1  # the caller takes it
        elif not limits:
            self._passed += 1
        else:
            self._timeouts += 1
            self._last_timeout = time.monotonic()
            raise WaitQueueTimeoutError(
                f"no connection became free within {min(limits):g} s, and nothing was sent"
            )

    def give_back(self) -> None:
        """Give a place back."""
        self.free += 1
        if self.line:
            self.call_next()

    def call_next(self) -> None:
        """Give the places that are free to those that wait longest."""
        while self.line and self.free > 0:
            turn, _ = self.line.popitem(last=False)
            self.free -= 1
            turn.set_result(None)

    def call_all(self) -> None:
        """End all waiting, because the client is closed; it tells so whoever goes on."""
        self._places = self.free = sys.maxsize
        self.call_next()

    # -- transactions -------------------------------------------------------------------------

    def opened(self) -> None:
        """Note that a transaction begins: from now on a place is left to it."""
        self._transactions += 1
        if self._transactions == 1 and self._places < sys.maxsize:
            self.free -= 1

    def ended(self) -> None:
        """Note that a transaction is over on the server."""
        self._transactions -= 1
        if not self._transactions and self._places < sys.maxsize:
            self.give_back()
