"""Writes that do not pass the cache: heard from the database's change stream, by one process for all."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import bson
import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from redis import Redis

import earnorm
from earnorm import App, Int, Many2one, models
from earnorm.testing import count_queries
from earnorm.testing.data_directories import data_directory
from earnorm.testing.servers import start_mongod, start_redis
from earnorm_cache import CachePlugin, CacheSettings
from earnorm_cache.outside import LEASE_SECONDS, Outside
from tests.plugins.cache.probes import Probe
from tests.plugins.cache.test_shared import Process, Stock, eventually, stock

Open = Callable[..., Awaitable[Process]]


@pytest.fixture
def database(mongo_uri: str) -> Iterator[Any]:
    """The database as a program without EarnORM sees it."""
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        name = f"cache_{uuid.uuid4().hex[:12]}"
        yield client[name]
        client.drop_database(name)


@pytest.fixture
async def process(mongo_uri: str, database: Any) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def start(
            *, redis: bool = True, driver: str | None = None, **settings: Any
        ) -> Process:
            if redis:
                settings.setdefault("redis_url", os.environ["EARNORM_TEST_REDIS_URL"])
                settings.setdefault("redis_timeout", 2.0)
            plugin, probe = CachePlugin(CacheSettings(**settings)), Probe()
            app = App(mongo_uri, database=database.name, driver=driver, plugins=[plugin, probe])
            await app.start()
            stack.push_async_callback(app.stop)
            return Process(app, plugin, probe)

        yield start


def outside(process: Process) -> Outside:
    found = process.plugin._levels.outside
    assert found is not None
    return found


async def follows(*processes: Process) -> Process:
    """Wait until one of the processes follows, and return it."""
    for _ in range(1_000):
        following = [each for each in processes if outside(each).is_following]
        if following:
            return following[0]
        await asyncio.sleep(0.01)
    raise TimeoutError("nobody follows")


async def sees(process: Process, pk: object, pieces: int, seconds: float = 5.0) -> float:
    """Wait until the process reads so many, and return the seconds that it took."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        if await process.pieces(pk) == pieces:
            return time.monotonic() - begun
        await asyncio.sleep(0.001)
    raise TimeoutError(f"it reads an old value after {seconds} s")


def write(database: Any, pk: object, pieces: int) -> None:
    database["cache_stock"].update_one({"_id": pk}, {"$set": {"pieces": pieces}})


@pytest.mark.parametrize("redis", [True, False], ids=["redis", "memory"])
@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_a_write_from_outside_is_seen(
    process: Open, database: Any, redis: bool, driver: str
) -> None:
    one, two = await process(redis=redis, driver=driver), await process(redis=redis)
    pk = await stock(one, pieces=1)
    await one.pieces(pk), await two.pieces(pk)
    await follows(one), await follows(two) if not redis else await follows(one, two)
    for pieces in range(2, 12):
        await sees(one, pk, pieces - 1), await sees(two, pk, pieces - 1)
        write(database, pk, pieces)
        await sees(one, pk, pieces), await sees(two, pk, pieces)
    before = one.probe.searches
    for _ in range(5):
        await one.pieces(pk)
    assert one.probe.searches == before  # it is kept again
    database["cache_stock"].delete_one({"_id": pk})
    await gone(one, pk)
    await gone(two, pk)


async def gone(process: Process, pk: object) -> None:
    for _ in range(2_000):
        try:
            await process.pieces(pk)
        except earnorm.NotFound:
            return
        await asyncio.sleep(0.002)
    raise TimeoutError("it reads a deleted record")


@pytest.mark.parametrize("way", ["replace", "drop", "rename", "drop the database"])
async def test_other_changes_from_outside_are_seen(process: Open, database: Any, way: str) -> None:
    one = await process()
    pk = await stock(one, pieces=1)
    await one.pieces(pk)
    await follows(one)
    await one.pieces(pk)
    collection = database["cache_stock"]
    if way == "replace":
        collection.replace_one({"_id": pk}, {"pieces": 2})
        await sees(one, pk, 2)
        return
    if way == "drop":
        collection.drop()
    elif way == "rename":
        collection.rename("cache_stock_of_old")
    else:
        database.client.drop_database(database.name)
    await gone(one, pk)
    collection.insert_one({"_id": pk, "pieces": 5})
    await follows(one)
    await sees(one, pk, 5)
    await follows(one)
    write(database, pk, 6)
    await sees(one, pk, 6)


async def test_one_process_follows_for_all_and_hands_over(process: Open, database: Any) -> None:
    processes = [await process() for _ in range(3)]
    pk = await stock(processes[0], pieces=1)
    for each in processes:
        await each.pieces(pk)
    first = await follows(*processes)
    await asyncio.sleep(1.2)
    assert [each for each in processes if outside(each).is_following] == [first]
    await outside(first).stop()
    write(database, pk, 2)  # while nobody follows
    others = [each for each in processes if each is not first]
    begun = time.monotonic()
    for each in processes:
        await sees(each, pk, 2)
    assert time.monotonic() - begun < LEASE_SECONDS + 2
    second = await follows(*others)
    assert not outside(first).is_following
    write(database, pk, 3)
    await sees(second, pk, 3)


async def test_a_lost_history_makes_everything_void(process: Open, database: Any) -> None:
    one = await process()
    pk = await stock(one, pieces=1)
    await one.pieces(pk)
    await follows(one)
    await eventually(lambda: outside(one)._place is not None)
    await one.pieces(pk)
    await outside(one).stop()
    write(database, pk, 2)
    assert await one.pieces(pk) == 1
    (place,) = one.shared.own_keys(b"place")
    with Redis.from_url(os.environ["EARNORM_TEST_REDIS_URL"]) as client:
        assert client.exists(place)
        # A token of long ago, as a real one is written.
        client.set(place, forgotten())
    outside(one).begin()
    await sees(one, pk, 2)


def forgotten() -> str:
    data = "8200000001000000012B0229296E04"
    return base64.urlsafe_b64encode(bson.encode({"_data": data})).decode()


async def test_a_collection_that_another_program_keeps_is_followed(
    process: Open, database: Any
) -> None:
    """The one that follows has never read it."""
    one = await process()
    await one.run(lambda: Other.search([("_id", "=", "x")]))  # only of another model
    await follows(one)
    two = await process()
    pk = await stock(two, pieces=1)
    assert await two.pieces(pk) == 1
    write(database, pk, 2)  # before the other one knows
    await sees(two, pk, 2)
    write(database, pk, 3)
    await sees(two, pk, 3)
    assert outside(one).is_following
    assert not outside(two).is_following


class Other(earnorm.BaseModel):
    _name = "cache_other"
    _id = earnorm.String()


async def test_redis_that_was_away_loses_no_write_from_outside(
    process: Open, database: Any, redis_of_its_own: Any
) -> None:
    server = redis_of_its_own
    settings = {"redis_url": server.uri, "redis_timeout": 0.1}
    one, two = await process(**settings), await process(**settings)
    pk = await stock(one, pieces=1)
    await one.pieces(pk), await two.pieces(pk)
    await follows(one, two)
    server.process.send_signal(signal.SIGSTOP)
    write(database, pk, 2)
    await asyncio.sleep(LEASE_SECONDS + 1)
    server.process.send_signal(signal.SIGCONT)
    await sees(one, pk, 2), await sees(two, pk, 2)
    write(database, pk, 3)
    await sees(one, pk, 3), await sees(two, pk, 3)


@pytest.fixture
def redis_of_its_own() -> Iterator[Any]:
    with data_directory() as directory:
        server = start_redis(Path(directory))
        assert server.process is not None
        try:
            yield server
        finally:
            server.process.send_signal(signal.SIGCONT)
            server.stop()


async def test_it_is_no_operation_of_the_program(process: Open, database: Any) -> None:
    one = await process(redis=False)
    pk = await stock(one, pieces=1)
    with count_queries(app=one.app) as queries:
        await one.pieces(pk)
        await follows(one)
        write(database, pk, 2)
        await asyncio.sleep(0.3)
        assert len(queries) == 1
    assert [op.name for op in one.probe.seen] == ["create", "search"]
    assert one.app.traffic.under_way == 0


@pytest.mark.parametrize("redis", [True, False], ids=["redis", "memory"])
@pytest.mark.parametrize("moment", [0.0, 0.001, 0.02, 0.3])
async def test_a_stop_is_clean_and_quick_at_any_moment(
    process: Open, database: Any, redis: bool, moment: float
) -> None:
    one = await process(redis=redis)
    pk = await stock(one, pieces=1)
    await one.pieces(pk)
    await asyncio.sleep(moment)
    begun = time.monotonic()
    await one.app.stop()
    assert time.monotonic() - begun < 3
    ours = [task for task in asyncio.all_tasks() if "outside" in repr(task.get_coro())]
    assert not ours
    # Another process has no lease to wait for.
    if redis:
        two = await process()
        await two.pieces(pk)
        begun = time.monotonic()
        await follows(two)
        assert time.monotonic() - begun < LEASE_SECONDS / 2


async def test_an_app_that_starts_again_follows_again(process: Open, database: Any) -> None:
    one = await process(redis=False)
    pk = await stock(one, pieces=1)
    await one.pieces(pk)
    await follows(one)
    await one.app.stop()
    await one.app.start()
    assert await one.pieces(pk) == 1
    await follows(one)
    write(database, pk, 2)
    await sees(one, pk, 2)


async def test_who_says_that_nobody_else_writes_follows_nothing(process: Open) -> None:
    one = await process(outside_writes=False)
    pk = await stock(one, pieces=1)
    await one.pieces(pk)
    assert one.plugin._levels.outside is None


async def test_a_database_without_change_streams_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for settings, number in (({}, 1), ({"outside_writes": False}, 0)):
        caplog.clear()
        plugin = CachePlugin(CacheSettings(**settings))  # type: ignore[arg-type] # of two types
        async with App("mongomock://", database="x", plugins=[plugin]):
            made = await Stock.create({})
            await Stock.get(made.id)
        warned = [each for each in caplog.records if "writes from outside" in each.message]
        assert len(warned) == number


SCRIPT = """
import asyncio, sys
from earnorm import App, Int, Many2one, models
from tests.plugins.cache.test_shared import Stock
from bson import ObjectId

async def main():
    uri, database, redis, pk = sys.argv[1:]
    app = App(uri, database=database, plugins=["cache"], cache={"redis_url": redis, "redis_timeout": 2.0})
    async with app:
        await Stock.get(ObjectId(pk))
        plugin = next(p for p in [app.loaded.manager.get_plugin("cache")])
        while not plugin._levels.outside.is_following:
            await asyncio.sleep(0.01)
        print("follows", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_another_process_takes_over_from_one_that_was_killed(
    process: Open, database: Any, mongo_uri: str
) -> None:
    one = await process()
    pk = await stock(one, pieces=1)
    redis = os.environ["EARNORM_TEST_REDIS_URL"]
    arguments = [mongo_uri, database.name, redis, str(pk)]
    command = [sys.executable, "-c", SCRIPT, *arguments]
    other = await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert await asyncio.to_thread(other.stdout.readline) == "follows\n"
        await one.pieces(pk)
        write(database, pk, 2)
        await sees(one, pk, 2)
        assert not outside(one).is_following
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    write(database, pk, 3)  # while nobody follows
    begun = time.monotonic()
    await follows(one)
    assert time.monotonic() - begun < LEASE_SECONDS + 2
    await sees(one, pk, 3)


def test_the_law_of_the_time_until_it_is_seen() -> None:
    """The figure is measured by ``python -m benchmarks.cache_outside``; here is only a generous bound."""
    script = "benchmarks.cache_outside"
    ran = subprocess.run(
        [sys.executable, "-m", script, "40", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    figures = json.loads(ran.stdout)
    assert figures["writes"] == 40
    assert figures["p99"] < 1.0


async def test_a_primary_that_steps_down_loses_no_write_from_outside() -> None:
    with data_directory() as directory:
        server = await asyncio.to_thread(start_mongod, Path(directory))
        try:
            await steps_down(server.uri)
        finally:
            await asyncio.to_thread(server.stop)


async def steps_down(uri: str) -> None:
    plugin, probe = CachePlugin(CacheSettings()), Probe()
    with MongoClient[dict[str, Any]](uri) as client:
        database = client["stepping"]
        async with App(uri, database="stepping", plugins=[plugin, probe]) as app:
            one = Process(app, plugin, probe)
            pk = await stock(one, pieces=1)
            await one.pieces(pk)
            await follows(one)
            for pieces in (2, 3):
                await one.pieces(pk)
                with contextlib.suppress(PyMongoError):
                    client.admin.command({"replSetStepDown": 1, "force": True})
                for _ in range(200):
                    try:
                        write(database, pk, pieces)
                        break
                    except PyMongoError:
                        await asyncio.sleep(0.1)
                await sees(one, pk, pieces, 20)


async def test_a_client_that_takes_a_cancellation_for_a_timeout_keeps_no_stop(
    process: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await process()
    await one.run(lambda: Stock.search([("pieces", "=", 1)]))
    await follows(one)
    connection, taken = one.shared.connection, 0
    run = connection.run

    async def asked(*arguments: Any) -> Any:
        nonlocal taken
        try:
            await asyncio.sleep(1.0)  # so that a cancellation comes while it is asked
        except asyncio.CancelledError:
            taken += 1
            raise TimeoutError from None
        return await run(*arguments)

    monkeypatch.setattr(connection, "run", asked)
    await asyncio.sleep(0.7)  # the next renewal of the lease is under way
    await asyncio.wait_for(one.app.stop(), 30)
    assert taken


async def test_what_a_new_process_warms_stays_in_its_memory(process: Open) -> None:
    first = await process()
    with first.app.activate():
        made = await Stock.create([{"pieces": n} for n in range(5)])
        await Stock.search()
    await follows(first)
    await asyncio.sleep(0.5)  # until the own writes have come back on the stream
    other = await process()
    with other.app.activate():
        assert await other.app.services["cache"].warm(Stock) == 5
        await asyncio.sleep(1.0)
        before = other.app.services["cache"].statistics().hits
        for pk in made.pks:
            await Stock.get(pk)
        assert other.app.services["cache"].statistics().hits == before + 5


async def test_what_is_computed_from_an_old_memory_is_not_stored(process: Open) -> None:
    one, two = await process(redis=False), await process(redis=False)
    pk = await one.run(lambda: stock(one, pieces=0))
    for pieces in range(1, 11):
        await two.pieces(pk)  # it is in its memory
        await one.write(pk, pieces)
        made = await two.run(lambda: Shelved.create({"stock_id": pk}))
        assert made.pieces == pieces


class Shelved(models.BaseModel):
    _name = "cache_outside_shelved"

    stock_id = Many2one(Stock)
    pieces = Int(related="stock_id.pieces", store=True)
