"""Guards that the other tests would not miss: what a heard write does to loads, an old word of Redis, a Redis that is away."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from earnorm import App, Int, models
from earnorm.plugin import ModelView, to_bson
from earnorm.testing.servers import start_redis
from earnorm_cache import CachePlugin, CacheSettings
from earnorm_cache.change import Change
from earnorm_cache.closing import Shelves
from earnorm_cache.memory import Memory
from earnorm_cache.options import kept_as


class Guarded(models.BaseModel):
    _name = "cache_guarded"

    pieces = Int(default=0)


@pytest.fixture
async def database(mongo_uri: str) -> AsyncIterator[str]:
    name = f"cache_{uuid.uuid4().hex[:12]}"
    yield name
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        client.drop_database(name)


def plugin(url: str, **settings: Any) -> CachePlugin:
    given = {"redis_url": url, "outside_writes": False, **settings}
    return CachePlugin(CacheSettings.model_validate(given))


def test_a_heard_write_takes_the_lease_of_a_load_that_is_under_way() -> None:
    memory = Memory(10, ttl=60.0)
    shelves = Shelves(memory)
    shelf = shelves.shelf("books", "book")
    kept = kept_as(ModelView(Guarded), CacheSettings())
    assert kept is not None
    lease = shelves.lease(shelf, "book", [1, 2], kept)
    shelves.hear("books", Change((1,), frozenset({"n"}), False))
    for pk in (1, 2):
        lease.keep("book", pk, to_bson({"_id": pk}))
    lease.end()
    assert (memory.get(("book", 1)), memory.get(("book", 2)) is not None) == (None, True)


async def test_a_memory_that_has_heard_nothing_for_a_while_is_not_asked(
    mongo_uri: str, database: str
) -> None:
    cache = plugin(os.environ["EARNORM_TEST_REDIS_URL"], redis_timeout=5.0)
    async with App(mongo_uri, database=database, plugins=[cache]):
        made = await Guarded.create({})
        listener = cache._levels.listener
        assert listener is not None
        for _ in range(500):
            await Guarded.get(made.pk)
            if cache.cache.statistics().hits:
                break
            await asyncio.sleep(0.01)
        assert listener.is_trusted("cache_guarded")
        (reader,) = listener._readers.values()
        await reader.stop()
        reader.beat = time.monotonic() - cache._settings.window - 0.01
        before = cache.cache.statistics().hits
        await Guarded.get(made.pk)
        assert cache.cache.statistics().hits == before


async def test_a_redis_that_does_not_answer_is_left_alone_for_a_while(
    mongo_uri: str, database: str, tmp_path: Path
) -> None:
    redis = start_redis(tmp_path)
    assert redis.process is not None
    try:
        cache = plugin(redis.uri, redis_timeout=0.2)
        async with App(mongo_uri, database=database, plugins=[cache]):
            made = await Guarded.create({})
            shared = cache._levels.shared
            assert shared is not None
            redis.process.send_signal(signal.SIGSTOP)
            try:
                asked = shared.figures.failures
                for _ in range(200):
                    await Guarded.get(made.pk)
                assert 0 < shared.figures.failures - asked < 40
            finally:
                redis.process.send_signal(signal.SIGCONT)
    finally:
        redis.stop()


async def test_a_loop_of_hits_lets_the_listener_hear(mongo_uri: str, database: str) -> None:
    # With so long a window nothing else but a pause of the hits lets the listener run.
    settings: dict[str, Any] = {"redis_timeout": 5.0, "window": 60.0}
    one, two = (plugin(os.environ["EARNORM_TEST_REDIS_URL"], **settings) for _ in range(2))
    async with (
        App(mongo_uri, database=database, plugins=[two]) as other,
        App(mongo_uri, database=database, plugins=[one]) as app,
    ):
        with app.activate():
            made = await Guarded.create({})
            for _ in range(500):
                await Guarded.get(made.pk)
                if one.cache.statistics().hits:
                    break
                await asyncio.sleep(0.01)

        async def write() -> None:
            with other.activate():
                await Guarded.search([("id", "=", made.pk)]).update({"pieces": 2})

        with app.activate():
            writing = asyncio.ensure_future(write())
            end = time.monotonic() + 10
            while time.monotonic() < end:
                if (await Guarded.get(made.pk)).pieces == 2:
                    break
            else:
                pytest.fail("the hits let nobody else run")
            await writing


async def test_more_writes_than_are_remembered_while_redis_is_away_void_the_collection(
    mongo_uri: str, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("earnorm_cache.change.MOST_IDS", 3)
    redis = start_redis(tmp_path)
    assert redis.process is not None
    try:
        one, two = (plugin(redis.uri, redis_timeout=0.5) for _ in range(2))
        async with (
            App(mongo_uri, database=database, plugins=[two]) as other,
            App(mongo_uri, database=database, plugins=[one]) as app,
        ):
            with app.activate():
                made = await Guarded.create([{} for _ in range(6)])
            with other.activate():
                assert [(await Guarded.get(each.pk)).pieces for each in made] == [0] * 6
            shared = one._levels.shared
            assert shared is not None
            redis.process.send_signal(signal.SIGSTOP)
            try:
                with app.activate():
                    for each in made[:5]:
                        await Guarded.search([("id", "=", each.pk)]).update({"pieces": 1})
                # It remembers no more ids than that, however long Redis is away.
                assert shared._owed["cache_guarded"].changes.together.ids is None
            finally:
                redis.process.send_signal(signal.SIGCONT)
            reads_from = two._levels.shared
            assert reads_from is not None
            for _ in range(500):
                if not shared.is_owing and not reads_from.is_settling(b""):
                    break
                await asyncio.sleep(0.01)
            two.cache.clear()
            before = reads_from.figures.hits + reads_from.figures.loads
            with other.activate():
                read = [(await Guarded.get(each.pk)).pieces for each in made]
            assert read == [1, 1, 1, 1, 1, 0]
            assert reads_from.figures.hits + reads_from.figures.loads == before + 6  # by Redis
    finally:
        redis.stop()


async def test_after_an_outage_nobody_reads_from_redis_until_those_who_wrote_have_told_it(
    mongo_uri: str, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("earnorm_cache.shared.SETTLE_SECONDS", 1.5)
    redis = start_redis(tmp_path)
    assert redis.process is not None
    try:
        one, two = (plugin(redis.uri, redis_timeout=0.1) for _ in range(2))
        async with (
            App(mongo_uri, database=database, plugins=[two]) as other,
            App(mongo_uri, database=database, plugins=[one]) as app,
        ):
            with app.activate():
                made = await Guarded.create({})
            shared, reads_from = one._levels.shared, two._levels.shared
            assert shared is not None and reads_from is not None
            with other.activate():
                for _ in range(500):
                    await Guarded.get(made.pk)
                    if two.cache.statistics().hits:
                        break
                    await asyncio.sleep(0.01)
            removed, is_cut_off = shared._removed, True

            # A command that was sent before the server stood still is carried out when it goes on; this one is lost.
            async def lost(*arguments: Any, **options: Any) -> bool:
                return not is_cut_off and await removed(*arguments, **options)

            monkeypatch.setattr(shared, "_removed", lost)
            redis.process.send_signal(signal.SIGSTOP)
            try:
                with app.activate():
                    await Guarded.search([("id", "=", made.pk)]).update({"pieces": 1})
                with other.activate():  # its memory is trusted for a quarter of a second more
                    begun = time.monotonic()
                    while (await Guarded.get(made.pk)).pieces == 0:
                        assert time.monotonic() - begun < 5
                        await asyncio.sleep(0.01)
                assert shared.is_owing
            finally:
                redis.process.send_signal(signal.SIGCONT)
            with other.activate():
                begun = time.monotonic()
                while shared.is_owing:
                    assert (await Guarded.get(made.pk)).pieces == 1
                    await asyncio.sleep(0.005)
                    is_cut_off = time.monotonic() - begun < 0.5
                for _ in range(1_000):
                    hits = two.cache.statistics().hits
                    assert (await Guarded.get(made.pk)).pieces == 1
                    if two.cache.statistics().hits > hits:
                        break
                    await asyncio.sleep(0.01)
                else:
                    pytest.fail("the memory is never trusted again")
    finally:
        redis.stop()
