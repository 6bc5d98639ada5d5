"""The one place that touches what the driver keeps to itself: closing chosen idle connections.

The driver retires connections that idle for too long (``maxIdleTimeMS``) but has no public means to
retire old ones, or any at a moment of one's choice. ``find_pools`` checks that everything used here
is there; where it isn't, nothing is closed and the health check says so.
What is done to a pool is what the driver's own ``Pool.remove_stale_sockets`` does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

from pymongo import AsyncMongoClient, MongoClient
from pymongo.monitoring import ConnectionClosedReason

from earnorm_pool.monitor import Address, Key

# Private classes of the driver; their attributes are checked in find_pools.
DriverPool = Any
DriverConnection = Any

POOL_ATTRIBUTES = ("conns", "lock", "remove_stale_sockets")
CONNECTION_ATTRIBUTES = ("id", "close_conn")


@dataclass(frozen=True, slots=True)
class DriverPools:
    """The driver's pools by server."""

    by_address: Mapping[Address, DriverPool]
    is_async: bool


def find_pools(client: object) -> DriverPools | None:
    """The pools of a client, or None where the driver is not built as this module expects.

    Args:
        client: An ``AsyncMongoClient``, a ``MongoClient``, or Motor's client around one (its public
            ``delegate``).
    """
    is_async = isinstance(client, AsyncMongoClient)
    # Any other attribute of a client is a database: ask the type before the attribute.
    inner = client if isinstance(client, (AsyncMongoClient, MongoClient)) else _delegate(client)
    if inner is None:
        return None
    try:
        servers = cast("Any", inner)._topology._servers
        pools: dict[Address, DriverPool] = {a: server.pool for a, server in servers.items()}
    except (AttributeError, TypeError):
        return None
    lock_type = AbstractAsyncContextManager if is_async else AbstractContextManager
    for pool in pools.values():
        if not all(hasattr(pool, name) for name in POOL_ATTRIBUTES):
            return None
        if not isinstance(pool.conns, deque) or not isinstance(pool.lock, lock_type):
            return None
        if not all(hasattr(one, name) for one in _idle(pool) for name in CONNECTION_ATTRIBUTES):
            return None
    return DriverPools(pools, is_async)


def _delegate(client: object) -> object | None:
    inner = getattr(client, "delegate", None)
    return cast("object", inner) if isinstance(inner, MongoClient) else None


def _idle(pool: DriverPool) -> list[DriverConnection]:
    return list(pool.conns)


def idle_numbers(pools: DriverPools) -> set[Key]:
    """The idle connections that the driver has now."""
    return {(address, one.id) for address, pool in pools.by_address.items() for one in _idle(pool)}


async def close_idle(pools: DriverPools, chosen: Iterable[Key]) -> int:
    """Close those of the chosen connections that are idle; one in use is left alone.

    Returns:
        How many were closed.
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
            # The lock is a thread's: another thread may hold it.
            closed += await asyncio.to_thread(_close_sync, pool, wanted)
    return closed


async def _close_async(pool: DriverPool, wanted: set[int]) -> int:
    async with pool.lock:
        taken = _take(pool, wanted)
    # Out of the pool they are nobody's: a cancellation must not leave them open.
    await asyncio.shield(_close_all(taken))
    return len(taken)


async def _close_all(taken: list[DriverConnection]) -> None:
    for one in taken:
        await one.close_conn(ConnectionClosedReason.STALE)


def _close_sync(pool: DriverPool, wanted: set[int]) -> int:
    with pool.lock:
        taken = _take(pool, wanted)
    for one in taken:
        one.close_conn(ConnectionClosedReason.STALE)
    return len(taken)


def _take(pool: DriverPool, wanted: set[int]) -> list[DriverConnection]:
    taken = [one for one in pool.conns if one.id in wanted]
    kept = [one for one in pool.conns if one.id not in wanted]
    pool.conns.clear()
    pool.conns.extend(kept)
    return taken
