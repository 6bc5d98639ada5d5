"""The figures of operations that are under way, and that wait for a connection."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Traffic:
    """The operations of an App outside of transactions, *plain* ones, at the time of the call.

    Attributes:
        at_once: The highest number of plain operations under way; one less while a transaction is
            open. None if there is no limit.
        under_way: The plain operations under way.
        waiting: The operations that wait for their turn.
        transactions: The open transactions.
        threads: The highest number of threads that the driver works in; None if it needs none.
        waits: The operations that have had to wait since the App started.
        wait_seconds: The time of all these waits.
        timeouts: The operations that got no turn within their time limit or ``pool_timeout``.
        passed: The operations without a time limit that went on without their turn, after a minute.
        seconds_since_timeout: The time since the last one of ``timeouts``; None if there was none.
    """

    at_once: int | None = None
    under_way: int = 0
    waiting: int = 0
    transactions: int = 0
    threads: int | None = None
    waits: int = 0
    wait_seconds: float = 0.0
    timeouts: int = 0
    passed: int = 0
    seconds_since_timeout: float | None = None
