"""The monitor, which learns the state of every connection from the driver's public events.

The events are those of the "Connection Monitoring and Pooling" specification of MongoDB's drivers.
They arrive in the event loop's thread (PyMongo) or in the driver's worker threads (Motor). No event
reports two things, both after a cancellation in PyMongo's asyncio client: that an operation gave up
while it waited for a connection, and, if the cancellation hits the check-in, that a connection came
back. The monitor therefore notes the task (or thread) that waits for or holds a connection: a task
that is done, or whose operation has just failed, waits for and holds nothing.

Three events come with every command. Their handlers avoid calls, read the clock as a number and
take no lock: each step is one operation on a set or one attribute, and only one task has a
connection at a time. Everything else holds the lock.
"""

from __future__ import annotations

import asyncio
import threading
from asyncio import current_task
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from threading import get_ident
from time import monotonic, time
from typing import Any, Final

from pymongo.monitoring import (
    ConnectionCheckedInEvent,
    ConnectionCheckedOutEvent,
    ConnectionCheckOutFailedEvent,
    ConnectionCheckOutFailedReason,
    ConnectionCheckOutStartedEvent,
    ConnectionClosedEvent,
    ConnectionCreatedEvent,
    ConnectionPoolListener,
    ConnectionReadyEvent,
    PoolClearedEvent,
    PoolClosedEvent,
    PoolCreatedEvent,
    PoolReadyEvent,
)

from earnorm_pool.figures import PoolMetrics

Address = tuple[str, int | None]
Owner = asyncio.Task[Any] | int
"""The task, or the id of the thread, that waits for a connection or holds one."""
Key = tuple[Address, int]
"""A connection: its server and its number there."""

DEFAULT_MAX_POOL_SIZE: Final = (
    100  # the driver's default; its event has the size only if it differs
)
FIRST_PRUNING: Final = 64


class State(Enum):
    """The states of a connection."""

    PENDING = auto()
    AVAILABLE = auto()
    ACTIVE = auto()


PENDING, AVAILABLE, ACTIVE = State  # globals are faster than attributes; every command reads them


@dataclass(slots=True)
class Connection:
    """The monitor's notes on one connection.

    ``created`` and ``used`` are seconds of the monotonic clock, ``used_at`` is seconds since 1970.
    """

    address: Address
    number: int
    created: float
    created_at: datetime
    used: float
    used_at: float
    state: State = State.PENDING
    owner: Owner | None = None
    """The task or thread that opens it or holds it."""
    presumed: bool = False
    """The monitor concluded that it came back; no event said so."""
    checkouts: int = 0
    """The number of times that it was taken."""


@dataclass(slots=True)
class ServerPool:
    """The monitor's notes on one server's connections."""

    max_size: int
    is_ready: bool = False
    is_closed: bool = False
    connections: dict[int, Connection] = field(default_factory=dict[int, Connection])

    @property
    def usage(self) -> float:
        """The share of the allowed connections that is in use; 0 if there is no limit."""
        active = sum(c.state is State.ACTIVE for c in self.connections.values())
        return min(1.0, active / self.max_size) if self.max_size else 0.0


@dataclass(frozen=True, slots=True)
class Readiness:
    """The number of servers that the driver knows, and of those with connections to offer."""

    known: int
    ready: int


def _current_owner() -> Owner:
    try:
        return current_task() or get_ident()
    except RuntimeError:  # no event loop in this thread
        return get_ident()


def _is_gone(owner: Owner | None) -> bool:
    return isinstance(owner, asyncio.Task) and owner.done()


class ConnectionMonitor(ConnectionPoolListener):
    """Notes the state of every connection of one client. Any thread may read or notify it."""

    def __init__(self) -> None:
        self.on_ready: Callable[[], object] | None = None
        """Is called, in the driver's thread, when a server has become ready."""
        self._lock = threading.Lock()
        self._pools: dict[Address, ServerPool] = {}
        self._waiting: set[Owner] = set()  # a task waits for one connection at a time
        self._counts: Counter[str] = Counter()
        self._failed_at: float | None = None
        self._prune_at = FIRST_PRUNING

    def __repr__(self) -> str:
        return f"<ConnectionMonitor of {len(self._pools)} servers>"

    # -- readers ------------------------------------------------------------------------------

    def metrics(self) -> PoolMetrics:
        """Return the counts over all servers."""
        with self._lock:
            self._prune()
            states = Counter(c.state for c in self._connections())
            return PoolMetrics(
                total_connections=states.total(),
                active_connections=states[State.ACTIVE],
                available_connections=states[State.AVAILABLE],
                pending_connections=states[State.PENDING],
                acquiring_connections=len(self._waiting),
                created_count=self._counts["created"],
                closed_count=self._counts["closed"],
                checkout_count=self._counts["checked out"]
                + sum(c.checkouts for c in self._connections()),
                failed_checkout_count=self._counts["failed"],
                timeout_count=self._counts["timed out"],
            )

    def connections(self) -> list[Connection]:
        """Return a copy of the notes on every connection, oldest first."""
        with self._lock:
            self._prune()
            copies = [
                Connection(c.address, c.number, c.created, c.created_at, c.used, c.used_at, c.state)
                for c in self._connections()
            ]
        return sorted(copies, key=lambda c: c.created)

    def readiness(self) -> Readiness:
        """Count the known servers, and those that are ready."""
        with self._lock:
            pools = [pool for pool in self._pools.values() if not pool.is_closed]
            return Readiness(len(pools), sum(pool.is_ready for pool in pools))

    def usage(self) -> float:
        """Return the share of the allowed connections in use (0 to 1) on the busiest server."""
        with self._lock:
            self._prune()
            return max((pool.usage for pool in self._pools.values()), default=0.0)

    def seconds_since_failure(self) -> float | None:
        """Return the seconds since a check-out last failed, or None if none did."""
        with self._lock:
            return None if self._failed_at is None else monotonic() - self._failed_at

    # -- facts that no event reports ----------------------------------------------------------

    def operation_failed(self) -> None:
        """Note that a driver's call of this task failed, so that it waits for and holds nothing."""
        with self._lock:
            self._release(_current_owner())

    def not_in_pool(self, keys: Iterable[Key]) -> None:
        """Note that these are not idle in the driver: those presumed to have come back did not."""
        with self._lock:
            for address, number in keys:
                pool = self._pools.get(address)
                if pool and (connection := pool.connections.get(number)) and connection.presumed:
                    self._remove(pool, number)

    # -- the driver's events ------------------------------------------------------------------

    def pool_created(self, event: PoolCreatedEvent) -> None:
        """Note that a server was discovered."""
        size = (event.options or {}).get("maxPoolSize", DEFAULT_MAX_POOL_SIZE)
        with self._lock:
            # The driver gives inf or None if there is no limit.
            self._pools[event.address] = ServerPool(size if isinstance(size, int) else 0)

    def pool_ready(self, event: PoolReadyEvent) -> None:
        """Note that a server answered."""
        with self._lock:
            self._pool(event.address).is_ready = True
        if self.on_ready is not None:
            self.on_ready()

    def pool_cleared(self, event: PoolClearedEvent) -> None:
        """Note that a server stopped answering."""
        with self._lock:
            # Behind a load balancer the event may clear one service; the others still answer.
            if event.service_id is None:
                self._pool(event.address).is_ready = False

    def pool_closed(self, event: PoolClosedEvent) -> None:
        """Note that a server left the deployment, or that the client was closed."""
        with self._lock:
            pool = self._pool(event.address)
            pool.is_ready, pool.is_closed = False, True
            self._drop_if_over(event.address, pool)

    def connection_created(self, event: ConnectionCreatedEvent) -> None:
        """Note that a connection is being opened."""
        now, wall = monotonic(), time()
        at = datetime.fromtimestamp(wall, UTC)
        with self._lock:
            self._counts["created"] += 1
            self._pool(event.address).connections[event.connection_id] = Connection(
                event.address, event.connection_id, now, at, now, wall, owner=_current_owner()
            )

    def connection_ready(self, event: ConnectionReadyEvent) -> None:
        """Note that a connection is open (or authenticated again)."""
        with self._lock:
            connection = self._pool(event.address).connections.get(event.connection_id)
            if connection and connection.state is State.PENDING:
                self._make_available(connection)

    def connection_closed(self, event: ConnectionClosedEvent) -> None:
        """Note that a connection was closed, for any reason."""
        with self._lock:
            pool = self._pool(event.address)
            self._remove(pool, event.connection_id)
            self._drop_if_over(event.address, pool)

    def connection_check_out_started(self, event: ConnectionCheckOutStartedEvent) -> None:
        """Note that an operation asks for a connection."""
        waiting = self._waiting
        waiting.add(_current_owner())
        if len(waiting) >= self._prune_at:
            # Tasks that gave up stay in the set until a reader prunes it; this bounds its size.
            with self._lock:
                self._prune()
                self._prune_at = max(FIRST_PRUNING, 2 * len(waiting))

    def connection_check_out_failed(self, event: ConnectionCheckOutFailedEvent) -> None:
        """Note that an operation got no connection."""
        with self._lock:
            self._waiting.discard(_current_owner())
            self._counts["failed"] += 1
            self._counts["timed out"] += event.reason == ConnectionCheckOutFailedReason.TIMEOUT
            if event.reason != ConnectionCheckOutFailedReason.POOL_CLOSED:
                self._failed_at = monotonic()

    def connection_checked_out(self, event: ConnectionCheckedOutEvent) -> None:
        """Note that an operation got a connection."""
        owner = _current_owner()
        self._waiting.discard(owner)
        pool = self._pools.get(event.address)
        connection = None if pool is None else pool.connections.get(event.connection_id)
        if connection is not None:
            connection.checkouts += 1
            connection.state, connection.owner, connection.presumed = ACTIVE, owner, False

    def connection_checked_in(self, event: ConnectionCheckedInEvent) -> None:
        """Note that an operation gave its connection back."""
        pool = self._pools.get(event.address)
        connection = None if pool is None else pool.connections.get(event.connection_id)
        if connection is not None and connection.state is not PENDING:
            connection.used, connection.used_at = monotonic(), time()
            connection.state, connection.owner, connection.presumed = AVAILABLE, None, False

    # -- called with the lock held ------------------------------------------------------------

    def _pool(self, address: Address) -> ServerPool:
        if address not in self._pools:
            self._pools[address] = ServerPool(DEFAULT_MAX_POOL_SIZE)
        return self._pools[address]

    def _connections(self) -> Iterable[Connection]:
        return (c for pool in self._pools.values() for c in pool.connections.values())

    def _make_available(self, connection: Connection, presumed: bool = False) -> None:
        connection.used, connection.used_at = monotonic(), time()
        connection.state, connection.owner, connection.presumed = State.AVAILABLE, None, presumed

    def _remove(self, pool: ServerPool, number: int) -> None:
        connection = pool.connections.pop(number, None)
        if connection is not None:
            self._counts["closed"] += 1
            self._counts["checked out"] += connection.checkouts

    def _drop_if_over(self, address: Address, pool: ServerPool) -> None:
        if pool.is_closed and not pool.connections:
            self._pools.pop(address, None)

    def _release(self, owner: Owner) -> None:
        self._waiting.discard(owner)
        for pool in self._pools.values():
            for connection in [c for c in pool.connections.values() if c.owner == owner]:
                if connection.state is State.PENDING:
                    self._remove(pool, connection.number)
                else:
                    self._make_available(connection, presumed=True)

    def _prune(self) -> None:
        owners = self._waiting | {c.owner for c in self._connections() if c.owner is not None}
        for owner in owners:
            if _is_gone(owner):
                self._release(owner)
