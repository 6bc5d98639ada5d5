"""``earnorm.pool`` in an App on a real server, with both drivers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo import AsyncMongoClient

import earnorm
from earnorm import models
from earnorm_pool import Pool, PoolPlugin, driver_internals
from earnorm_pool.monitor import ConnectionMonitor

from .conftest import OpenApp, pool_of


class Task(models.BaseModel):
    _name = "pool_task"
    _collection = "tasks"

    name = earnorm.String(required=True)


async def use(app: earnorm.App, count: int = 10) -> None:
    with app.activate():
        await asyncio.gather(*(Task.search([]) for _ in range(count)))


async def test_the_service_shows_the_connections_that_operations_used(open_app: OpenApp) -> None:
    app = await open_app(max_pool_size=5)
    await use(app)
    pool = pool_of(app)
    metrics = pool.get_metrics()
    infos = pool.get_connection_info()
    assert 1 <= metrics.total_connections == len(infos) <= 5
    assert metrics.active_connections == metrics.acquiring_connections == 0
    for info in infos:
        assert info.id.startswith(f"{info.address}#")
        assert info.created_at.tzinfo is UTC
        assert info.created_at <= info.last_used_at <= datetime.now(UTC)
        assert datetime.now(UTC) - info.created_at < timedelta(minutes=1)
        assert 0 <= info.idle_time <= info.lifetime
        assert info.is_available and not info.is_stale
    assert len({info.id for info in infos}) == len(infos)


async def test_a_used_pool_is_healthy(open_app: OpenApp) -> None:
    app = await open_app()
    await use(app)
    health = await pool_of(app).get_health_check()
    assert (health["status"], health["reasons"], health["cleanup"]) == ("healthy", [], "available")
    statistics = health["statistics"]
    assert statistics["connection_usage"] == 0
    assert statistics["stale_connections"] == 0
    assert 0 < statistics["average_idle_time"] <= statistics["average_lifetime"]
    assert (await app.health())["pool"]["status"] == "ok"


async def test_a_full_pool_is_degraded_and_says_why(open_app: OpenApp) -> None:
    app = await open_app(max_pool_size=1)
    await use(app, 1)
    admin = app.dangerous_raw("to look at the database itself").client.admin
    version = (await admin.command("hello"))["topologyVersion"]
    holder = asyncio.ensure_future(
        admin.command("hello", topologyVersion=version, maxAwaitTimeMS=500)
    )
    await asyncio.sleep(0.1)
    waiter = asyncio.create_task(use(app, 1))
    await asyncio.sleep(0.1)
    health = await pool_of(app).get_health_check()
    await asyncio.gather(holder, waiter)
    assert health["status"] == "degraded"
    assert health["reasons"] == ["100% of max_pool_size is in use, 1 operations wait"]
    assert health["statistics"]["connection_usage"] == 1
    assert (await pool_of(app).get_health_check())["status"] == "healthy"


async def test_an_operation_that_timed_out_waits_no_more_and_degrades_the_health(
    open_app: OpenApp,
) -> None:
    app = await open_app(max_pool_size=1, pool_timeout=0.1)
    await use(app, 1)
    admin = app.dangerous_raw("to look at the database itself").client.admin
    version = (await admin.command("hello"))["topologyVersion"]
    holder = asyncio.ensure_future(
        admin.command("hello", topologyVersion=version, maxAwaitTimeMS=2000)
    )
    await asyncio.sleep(0.1)
    with pytest.raises(earnorm.EarnORMError):
        await use(app, 1)
    metrics = pool_of(app).get_metrics()
    assert metrics.acquiring_connections == 0
    assert metrics.timeout_count >= 1
    await holder
    assert (await pool_of(app).get_health_check())["status"] == "degraded"


async def test_a_task_that_gives_up_and_lives_on_waits_no_more(open_app: OpenApp) -> None:
    app = await open_app(max_pool_size=1)
    await use(app, 1)
    admin = app.dangerous_raw("to look at the database itself").client.admin
    version = (await admin.command("hello"))["topologyVersion"]
    holder = asyncio.ensure_future(
        admin.command("hello", topologyVersion=version, maxAwaitTimeMS=400)
    )
    await asyncio.sleep(0.1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await use(app, 1)
    if app._backend.name == "pymongo":  # Motor's thread goes on waiting, and is counted
        assert pool_of(app).get_metrics().acquiring_connections == 0
    await holder


async def test_connections_past_their_lifetime_are_stale_and_closed_on_demand(
    open_app: OpenApp,
) -> None:
    app = await open_app(max_lifetime=2.0)
    await use(app)
    pool = pool_of(app)
    before = {info.id for info in pool.get_connection_info()}
    assert before
    assert await pool.cleanup_stale() == 0
    await asyncio.sleep(2.1)
    assert all(info.is_stale for info in pool.get_connection_info())
    assert (await pool.get_health_check())["statistics"]["stale_connections"] == len(before)
    assert await pool.cleanup_stale() == len(before)
    assert pool.get_metrics().total_connections == 0
    await use(app, 1)
    assert not before & {info.id for info in pool.get_connection_info()}


async def test_stale_connections_are_closed_in_the_background(
    open_app: OpenApp,
) -> None:
    app = await open_app(max_lifetime=0.2, pool={"cleanup_interval": 0.1})
    await use(app)
    await asyncio.sleep(0.7)
    assert pool_of(app).get_metrics().total_connections == 0


async def test_idle_connections_are_stale_after_idle_timeout(open_app: OpenApp) -> None:
    app = await open_app(idle_timeout=0.2)
    await use(app)
    await asyncio.sleep(0.3)
    assert all(info.is_stale for info in pool_of(app).get_connection_info())
    found = pool_of(app).get_metrics().total_connections
    assert await pool_of(app).cleanup_stale() == found > 0


async def test_a_changed_driver_is_reported_and_nothing_is_closed(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = await open_app(max_lifetime=0.1)
    await use(app, 1)
    await asyncio.sleep(0.2)
    monkeypatch.setattr(driver_internals, "POOL_ATTRIBUTES", ("no such attribute",))
    assert await pool_of(app).cleanup_stale() == 0
    assert (await pool_of(app).get_health_check())["cleanup"] == "not available"


async def test_two_apps_do_not_see_each_others_connections(open_app: OpenApp) -> None:
    one, other = await open_app(), await open_app()
    before = pool_of(other).get_metrics().checkout_count
    await use(one)
    assert pool_of(other).get_metrics().checkout_count == before


async def assert_unheard(app: earnorm.App) -> None:
    await use(app, 2)
    pool = app.services.of_type(Pool)
    assert pool.get_metrics().total_connections == 0
    assert pool.get_connection_info() == []
    assert await pool.cleanup_stale() == 0
    health = await pool.get_health_check()
    assert health["status"] == "unknown"
    assert "not heard" in health["reasons"][0]
    assert health["cleanup"] == "not available"


async def test_the_memory_backend_has_no_connections_and_says_so() -> None:
    async with earnorm.App("mongomock://", database="pool", plugins=[PoolPlugin]) as app:
        await assert_unheard(app)


async def test_a_client_that_was_handed_in_is_not_heard_and_the_pool_says_so(
    mongo_uri: str,
) -> None:
    client: AsyncMongoClient[Any] = AsyncMongoClient(mongo_uri)
    async with earnorm.App(client=client, database="pool_handed_in", plugins=[PoolPlugin]) as app:
        await assert_unheard(app)
    await client.drop_database("pool_handed_in")
    await client.close()


async def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(earnorm.ConfigurationError, match="cleanup_interval"):
        earnorm.App(
            "mongomock://", database="x", plugins=[PoolPlugin], pool={"cleanup_intervall": 1}
        )


async def test_a_server_that_is_not_reachable_is_unhealthy(open_app: OpenApp) -> None:
    app = await open_app()
    await use(app, 1)
    pool = pool_of(app)
    monitor = pool._monitor
    assert isinstance(monitor, ConnectionMonitor)
    for server in monitor._pools.values():
        server.is_ready = False
    health = await pool.get_health_check()
    assert health["status"] == "unhealthy"
    assert (await app.health())["pool"]["status"] == "failed"
