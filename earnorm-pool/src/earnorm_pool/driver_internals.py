"""The only module that uses private parts of the driver: it closes old and chosen connections.

The driver retires connections that are idle for too long (``maxIdleTimeMS``), but has no public way
to retire old ones, or any at a chosen time. ``find_pools`` checks that everything used here exists;
if not, nothing is closed and the health check says so.

An idle connection is closed in the way of the driver's own ``Pool.remove_stale_sockets``. In a busy
pool none is idle for long, so the age of each one is looked at when an operation takes it and when it
comes back. One that is too old is given the generation of a pool that has been cleared since, and the
driver closes it, and opens another one for who waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, cast

from pymongo import AsyncMongoClient, MongoClient
from pymongo.monitoring import ConnectionClosedReason

from earnorm_pool.monitor import Address, Key

# Private classes of the driver; their attributes are checked in find_pools.
DriverPool = Any
DriverConnection = Any

POOL_ATTRIBUTES = ("conns", "lock", "remove_stale_sockets", "checkin", "_perished")
CONNECTION_ATTRIBUTES = ("id", "close_conn", "creation_time", "generation")

MOMENTS: Final = ("_perished", "checkin")
"""The methods of a pool that get a connection when it is taken, and when it comes back. Both close it if
its generation is not the pool's."""

CLEARED: Final = -1
"""A generation that no pool has; they count from 0."""


@dataclass(frozen=True, slots=True)
class DriverPools:
    """The driver's pools by server."""

    by_address: Mapping[Address, DriverPool]
    is_async: bool


def find_pools(client: object) -> DriverPools | None:
    """Return the pools of a client, or None if the driver is not built as this module expects.

    Args:
        client: An ``AsyncMongoClient``, a ``MongoClient``, or Motor's client around one (its public
            ``delegate``).
    """
    is_async = isinstance(client, AsyncMongoClient)
    # The type is tested first, because every unknown attribute of a client is a database.
    inner = client if isinstance(client, (AsyncMongoClient, MongoClient)) else _delegate(client)
    if inner is None:
        return None
    try:
        servers = cast("Any", inner)._topology._servers
        pools: dict[Address, DriverPool] = {a: server.pool for a, server in servers.items()}
    except (AttributeError, TypeError, RuntimeError):  # the last: they change at this moment
        return None
    lock_type = AbstractAsyncContextManager if is_async else AbstractContextManager
    for pool in pools.values():
        if not all(hasattr(pool, name) for name in POOL_ATTRIBUTES):
            return None
        if not isinstance(pool.conns, deque) or not isinstance(pool.lock, lock_type):
            return None
        if not all(
            hasattr(connection, name)
            for connection in _idle(pool)
            for name in CONNECTION_ATTRIBUTES
        ):
            return None
    return DriverPools(pools, is_async)


def _delegate(client: object) -> object | None:
    inner = getattr(client, "delegate", None)
    return cast("object", inner) if isinstance(inner, MongoClient) else None


def _idle(pool: DriverPool) -> list[DriverConnection]:
    return list(pool.conns)


def idle_numbers(pools: DriverPools) -> set[Key]:
    """Return the keys of the connections that are idle in the driver now."""
    return {
        (address, connection.id)
        for address, pool in pools.by_address.items()
        for connection in _idle(pool)
    }


def keep_lifetime(pools: DriverPools, seconds: float) -> None:
    """Have the driver close each connection that is older, when it is taken and when it comes back.

    A pool is changed once, whatever is asked later.
    """
    for pool in pools.by_address.values():
        if MOMENTS[0] not in vars(pool):
            for name in MOMENTS:
                setattr(pool, name, _judged(getattr(pool, name), seconds))


def _judged(method: Callable[[DriverConnection], Any], seconds: float) -> Callable[..., Any]:
    # With PyMongo's asyncio client the method returns a coroutine, which is passed on.
    def judge(connection: DriverConnection) -> Any:
        if monotonic() - connection.creation_time > seconds:
            connection.generation = CLEARED
        return method(connection)

    return judge


async def close_idle(pools: DriverPools, chosen: Iterable[Key]) -> int:
    """Close the chosen connections that are idle; those in use stay open.

    Returns:
        The number of closed connections.
    """
    numbers: dict[Address, set[int]] = {}
    for address, number in chosen:
        numbers.setdefault(address, set()).add(number)
    closed = 0
    for address, wanted in numbers.items():
        pool = pools.by_address.get(address)
        if pool is None:
            continue
        if pools.is_async:
            closed += await _close_async(pool, wanted)
        else:
            # Another thread may hold the lock, so a thread waits for it, not the event loop.
            closed += await asyncio.to_thread(_close_sync, pool, wanted)
    return closed


async def _close_async(pool: DriverPool, wanted: set[int]) -> int:
    async with pool.lock:
        taken = _take(pool, wanted)
    # They have left the pool, so nothing else would close them after a cancellation.
    await asyncio.shield(_close_all(taken))
    return len(taken)


async def _close_all(taken: list[DriverConnection]) -> None:
    for connection in taken:
        await connection.close_conn(ConnectionClosedReason.STALE)


def _close_sync(pool: DriverPool, wanted: set[int]) -> int:
    with pool.lock:
        taken = _take(pool, wanted)
    for connection in taken:
        connection.close_conn(ConnectionClosedReason.STALE)
    return len(taken)


def _take(pool: DriverPool, wanted: set[int]) -> list[DriverConnection]:
    taken = [connection for connection in pool.conns if connection.id in wanted]
    kept = [connection for connection in pool.conns if connection.id not in wanted]
    pool.conns.clear()
    pool.conns.extend(kept)
    return taken
