"""The values that the pool returns: one connection, the counts, the health."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypedDict

Status = Literal["healthy", "degraded", "unhealthy", "unknown"]


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """The state of one connection at the time of the call.

    Attributes:
        id: ``host:port#number``. The driver numbers the connections of each server from 1.
        address: The server, ``host:port``.
        created_at: The time at which the driver began to open it (UTC, aware).
        last_used_at: The time at which it last came back or became ready (UTC, aware); now for one
            in use.
        idle_time: Seconds since ``last_used_at``; 0 for one that is not available.
        lifetime: Seconds since ``created_at``.
        is_stale: Older than the App's ``max_lifetime``, or available for longer than its
            ``idle_timeout``.
        is_available: Open and not in use.
    """

    id: str
    address: str
    created_at: datetime
    last_used_at: datetime
    idle_time: float
    lifetime: float
    is_stale: bool
    is_available: bool


@dataclass(frozen=True, slots=True)
class PoolMetrics:
    """The counts over all servers; ``total = active + available + pending``.

    Attributes:
        total_connections: Every connection that is not closed.
        active_connections: In use.
        available_connections: Open and not in use.
        pending_connections: Being opened.
        acquiring_connections: Operations that wait for a connection now: in the driver, or for
            their turn in the App.
        created_count: Connections that were opened since the App started.
        closed_count: Connections that were closed since then.
        checkout_count: Times that an operation took a connection since then.
        failed_checkout_count: Times that an operation got none (timeout or a failed connection).
        timeout_count: Those of these failures that a time limit caused.
        threads: The highest number of threads in which Motor works; None with PyMongo.
    """

    total_connections: int = 0
    active_connections: int = 0
    available_connections: int = 0
    pending_connections: int = 0
    acquiring_connections: int = 0
    created_count: int = 0
    closed_count: int = 0
    checkout_count: int = 0
    failed_checkout_count: int = 0
    timeout_count: int = 0
    threads: int | None = None


class Statistics(TypedDict):
    """The figures of a health check; times in seconds."""

    total_connections: int
    active_connections: int
    available_connections: int
    acquiring_connections: int
    stale_connections: int
    average_idle_time: float
    """The average over the available connections; 0 without any."""
    average_lifetime: float
    """The average over all connections; 0 without any."""
    connection_usage: float
    """The share of ``max_pool_size`` in use, 0 to 1, on the server where it is largest."""


class Health(TypedDict):
    """The answer of a health check."""

    status: Status
    reasons: list[str]
    """The reasons why the status is not ``healthy``; empty if it is."""
    statistics: Statistics
    cleanup: Literal["available", "not available"]
    """Says if ``cleanup_stale()`` can close connections with the installed release of the
    driver."""
