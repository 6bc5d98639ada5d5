"""``earnorm.pool`` in an App on a real server, with both drivers."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo import AsyncMongoClient

import earnorm
from earnorm import models
from earnorm.backends import left_reads
from earnorm_pool import Pool, PoolPlugin, driver_internals
from earnorm_pool.monitor import ConnectionMonitor

from .conftest import OpenApp, pool_of


class Task(models.BaseModel):
    _name = "pool_task"
    _collection = "tasks"

    name = earnorm.String(required=True)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it did not come to this within half a minute")


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


async def test_a_task_that_gives_up_and_lives_on_waits_no_more(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(left_reads, "LEFT_SECONDS", 60)  # for a read that was sent
    app = await open_app(max_pool_size=1)
    await use(app, 1)
    admin = app.dangerous_raw("to look at the database itself").client.admin
    version = (await admin.command("hello"))["topologyVersion"]
    holder = asyncio.ensure_future(
        admin.command("hello", topologyVersion=version, maxAwaitTimeMS=2000)
    )
    pool = pool_of(app)
    await until(lambda: pool.get_metrics().active_connections == 1)
    task = asyncio.ensure_future(use(app, 1))
    await until(lambda: pool.get_metrics().acquiring_connections == 1)
    task.cancel()
    await asyncio.wait({task})
    await until(lambda: pool.get_metrics().acquiring_connections == 0)
    assert not holder.done(), "it waited until the connection was free"
    await holder


async def test_operations_that_wait_are_counted_and_judged(open_app: OpenApp) -> None:
    app = await open_app(max_pool_size=4)
    await use(app, 1)
    pool, database = pool_of(app), app.dangerous_raw("to keep connections busy")
    slow = {"$where": "sleep(300) || true"}
    with app.activate():
        await Task.create({"name": "one"})  # a slow read is slow for each document
        reads = [asyncio.ensure_future(database["tasks"].find_one(slow)) for _ in range(15)]
        await until(lambda: pool.get_metrics().active_connections == 4)
        own = [asyncio.ensure_future(Task.search([]).count()) for _ in range(5)]
        # An App may look for owed recomputes meanwhile, which waits, too.
        await until(lambda: pool.get_metrics().acquiring_connections >= 16)
        health = await pool.get_health_check()
        await asyncio.gather(*reads, *own)
    assert health["status"] == "degraded"
    (reason,) = health["reasons"]
    assert re.fullmatch(r"100% of max_pool_size is in use, 1[67] operations wait", reason)
    assert health["statistics"]["acquiring_connections"] in (16, 17)
    await until(lambda: pool.get_metrics().acquiring_connections == 0)
    assert pool.get_metrics().threads == (5 if app._backend.name == "motor" else None)


async def test_operations_that_wait_for_a_transaction_are_judged_though_a_connection_is_free(
    open_app: OpenApp,
) -> None:
    app = await open_app(max_pool_size=4, pool_timeout=1.0)
    pool = pool_of(app)
    with app.activate():
        task = await Task.create({"name": "hot"})

        async def write(name: str) -> None:
            with app.activate():
                await Task.search([("id", "=", task.id)]).update({"name": name})

        async with earnorm.transaction():
            await task.write({"name": "first"})
            writes = [asyncio.create_task(write(f"{n}")) for n in range(6)]
            await until(lambda: pool.get_metrics().active_connections == 3)
            health = await pool.get_health_check()
            (reason,) = health["reasons"]
            assert re.fullmatch(r"75% of max_pool_size is in use, [34] operations wait", reason)
            told = (await app.health())["operations"]
            assert (told["under_way"], told["transactions"]) == (3, 1)
            assert told["waiting"] in (3, 4)
            await until(lambda: pool.get_metrics().acquiring_connections == 0)
        await asyncio.wait(writes)
        failed = [error for write in writes if (error := write.exception())]
    assert len(failed) == 3
    assert all(isinstance(error, earnorm.ServerUnavailable) for error in failed)
    assert pool.get_metrics().failed_checkout_count == pool.get_metrics().timeout_count >= 3
    health = await pool.get_health_check()
    assert health["status"] == "degraded"
    assert health["reasons"][0].startswith("an operation got no connection")


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


async def test_a_connection_past_its_lifetime_is_not_handed_out(open_app: OpenApp) -> None:
    app = await open_app(max_lifetime=1000, pool={"cleanup_interval": None})
    await use(app)
    before = grow_old(app)
    assert before
    await use(app, 1)
    infos = pool_of(app).get_connection_info()
    assert len(infos) == 1
    assert infos[0].id not in before


async def test_a_connection_past_its_lifetime_is_closed_when_it_comes_back(
    open_app: OpenApp,
) -> None:
    app = await open_app(max_pool_size=1, max_lifetime=1000, pool={"cleanup_interval": None})
    await use(app, 1)
    pool, pools = pool_of(app), pools_of(app)
    (connection,) = [each for p in pools for each in p.conns]
    admin = app.dangerous_raw("to look at the database itself").client.admin
    version = (await admin.command("hello"))["topologyVersion"]
    holder = asyncio.ensure_future(
        admin.command("hello", topologyVersion=version, maxAwaitTimeMS=500)
    )
    await until(lambda: pool.get_metrics().active_connections == 1)
    connection.creation_time -= 2000
    await holder
    await until(lambda: pool.get_metrics().closed_count == 1)
    assert pool.get_connection_info() == []
    await use(app, 1)


@pytest.mark.parametrize("tasks", [2, 4, 12])
async def test_no_operation_takes_a_connection_that_is_older_than_the_lifetime(
    open_app: OpenApp, tasks: int
) -> None:
    app = await open_app(max_pool_size=6, max_lifetime=0.3, pool={"cleanup_interval": 0.1})
    monitor = pool_of(app)._monitor
    taken: list[float] = []
    longest = opening = 0.0

    def checked_out(event: Any) -> None:
        server = monitor._pools[event.address]
        taken.append(time.monotonic() - server.connections[event.connection_id].created)
        ConnectionMonitor.connection_checked_out(monitor, event)

    def ready(event: Any) -> None:
        nonlocal opening
        opening = max(opening, event.duration)
        ConnectionMonitor.connection_ready(monitor, event)

    monitor.connection_checked_out = checked_out  # type: ignore[method-assign]
    monitor.connection_ready = ready  # type: ignore[method-assign]

    async def work() -> None:
        nonlocal longest
        while monitor._counts["closed"] < 12:
            begin = time.monotonic()
            await Task.search([]).count()
            longest = max(longest, time.monotonic() - begin)

    with app.activate():
        async with asyncio.timeout(60):
            await asyncio.gather(*(work() for _ in range(tasks)))
    # The age begins with the opening, and the event comes a moment after the connection is taken.
    assert len(taken) > 12
    assert max(taken) <= 0.3 + opening + longest


async def test_servers_that_are_found_later_keep_the_lifetime_too(open_app: OpenApp) -> None:
    app = await open_app(max_lifetime=1000, pool={"cleanup_interval": None})
    await use(app)
    pools = pools_of(app)
    for pool in pools:
        for name in driver_internals.MOMENTS:
            delattr(pool, name)
        # The driver notices again that the server answers.
        resetting = pool.reset()
        if resetting is not None:
            await resetting
    await use(app)
    assert all(vars(pool).keys() >= set(driver_internals.MOMENTS) for pool in pools)


def pools_of(app: earnorm.App) -> list[Any]:
    """The driver's own pools."""
    found = pool_of(app)._driver_pools()
    assert found is not None
    return list(found.by_address.values())


def grow_old(app: earnorm.App) -> set[str]:
    """Make the idle connections older than any lifetime; return their ids."""
    for pool in pools_of(app):
        for connection in pool.conns:
            connection.creation_time -= 2000
    return {info.id for info in pool_of(app).get_connection_info()}


async def test_apps_that_share_a_plugin_keep_their_own_figures(mongo_uri: str, driver: str) -> None:
    plugin = PoolPlugin()
    async with (
        earnorm.App(mongo_uri, database="pool_one", driver=driver, plugins=[plugin]) as one,
        earnorm.App(mongo_uri, database="pool_other", driver=driver, plugins=[plugin]) as other,
    ):
        await use(one, 5)
        figures: Any = (await one.health())["pool"]
        statistics = pool_of(one).get_metrics()
        assert figures["statistics"]["total_connections"] == statistics.total_connections
        assert pool_of(other).get_metrics().checkout_count < statistics.checkout_count


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
