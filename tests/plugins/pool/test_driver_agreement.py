"""The counts from events against the driver's real pool, under load and cancellation, without an App."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient

from earnorm_pool import driver_internals
from earnorm_pool.monitor import ConnectionMonitor

CLIENTS = {"pymongo": AsyncMongoClient, "motor": AsyncIOMotorClient}


@pytest.fixture
def monitor() -> ConnectionMonitor:
    return ConnectionMonitor()


@pytest.fixture
async def client(mongo_uri: str, driver: str, monitor: ConnectionMonitor) -> AsyncIterator[Any]:
    made = CLIENTS[driver](mongo_uri, event_listeners=[monitor], maxPoolSize=5, minPoolSize=1)
    try:
        yield made
    finally:
        closing = made.close()
        if closing is not None:
            await closing


def driver_pools(client: object) -> driver_internals.DriverPools:
    found = driver_internals.find_pools(client)
    assert found is not None, (
        "the driver changed: driver_internals.py no longer finds what it needs, cleanup_stale() is dead"
    )
    return found


async def settle(monitor: ConnectionMonitor) -> None:
    """Wait until nothing is in use: Motor's threads go on after their task was cancelled."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = monitor.metrics()
        if not (
            found.active_connections or found.acquiring_connections or found.pending_connections
        ):
            return
        await asyncio.sleep(0.02)


async def hold(client: Any, seconds: float) -> None:
    """Keep a connection busy: an awaitable hello answers when the topology changes or time is up."""
    version = (await client.admin.command("hello"))["topologyVersion"]
    await client.admin.command("hello", topologyVersion=version, maxAwaitTimeMS=int(seconds * 1000))


@pytest.mark.parametrize("seed", range(3))
async def test_the_counts_are_the_drivers_own_after_a_load_with_cancellations(
    client: Any, monitor: ConnectionMonitor, seed: int
) -> None:
    chance = random.Random(seed)
    # All five are open first: PyMongo 4.20 can lose its topology lock when a handshake is cancelled.
    await asyncio.gather(*(hold(client, 0.05) for _ in range(5)))
    holders = [asyncio.create_task(hold(client, 0.3)) for _ in range(5)]
    await asyncio.sleep(0.1)

    async def impatient() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                try:
                    await client.admin.command("ping")
                except BaseException:
                    monitor.operation_failed()  # what the plugin does when it hears of a failed operation
                    raise
        await asyncio.sleep(0.5)  # the task lives on

    waiters = [asyncio.create_task(client_ping(client)) for _ in range(35)]
    impatients = [asyncio.create_task(impatient()) for _ in range(10)]
    await asyncio.sleep(0.03)
    assert monitor.metrics().active_connections == 5
    assert monitor.metrics().acquiring_connections > 0
    for task in chance.sample(waiters, 15):
        task.cancel()
    holders[0].cancel()  # in the middle of its answer: that connection is closed
    await asyncio.gather(*holders, *waiters, return_exceptions=True)
    await settle(monitor)

    sockets = driver_internals.idle_numbers(driver_pools(client))
    found = monitor.metrics()
    assert {(c.address, c.number) for c in monitor.connections()} == sockets
    assert found.total_connections == found.available_connections == len(sockets)
    assert (found.active_connections, found.acquiring_connections) == (0, 0)
    assert found.checkout_count >= 5 + 5 + 20
    await asyncio.gather(*impatients)


async def client_ping(client: Any) -> None:
    await client.admin.command("ping")


async def test_chosen_idle_connections_are_closed_and_no_others(
    client: Any, monitor: ConnectionMonitor
) -> None:
    await asyncio.gather(*(hold(client, 0.05) for _ in range(5)))
    await settle(monitor)
    keys = sorted((c.address, c.number) for c in monitor.connections())
    assert len(keys) > 1
    assert await driver_internals.close_idle(driver_pools(client), keys[:1]) == 1
    left = {(c.address, c.number) for c in monitor.connections()}
    assert keys[0] not in left
    assert set(keys[1:]) <= left
    assert (await client.admin.command("ping"))["ok"] == 1


async def test_a_connection_in_use_is_left_alone(client: Any, monitor: ConnectionMonitor) -> None:
    await client.admin.command("ping")
    keys = [(c.address, c.number) for c in monitor.connections()]
    for pool in driver_pools(client).by_address.values():
        pool.conns.clear()  # as if all of them were checked out
    assert await driver_internals.close_idle(driver_pools(client), keys) == 0


@pytest.mark.parametrize("missing", ["_topology", "pools"])
def test_a_driver_that_is_built_otherwise_is_recognised(missing: str) -> None:
    class Changed(AsyncMongoClient[Any]):
        def __init__(self) -> None:
            if missing == "pools":
                self._topology = type("T", (), {"_servers": {("a", 1): type("S", (), {"pool": 1})}})

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(name)

        def __del__(self) -> None: ...

    assert driver_internals.find_pools(Changed()) is None


def test_something_that_is_no_client_is_recognised() -> None:
    assert driver_internals.find_pools(object()) is None
