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
