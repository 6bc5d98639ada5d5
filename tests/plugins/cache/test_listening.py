"""The reader of the streams: what comes while it is at work."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable

from pydantic import SecretStr

from earnorm_cache import CacheSettings
from earnorm_cache.change import Change
from earnorm_cache.listening import Listener
from earnorm_cache.shared import Shared


async def test_a_collection_that_is_added_during_a_look_does_not_make_redis_seem_away() -> None:
    url = SecretStr(os.environ["EARNORM_TEST_REDIS_URL"])
    shared = Shared(CacheSettings(redis_url=url, redis_timeout=5.0), uuid.uuid4().hex)
    listener: Listener

    def hear(collection: str, change: Change) -> None:
        if collection == "first":  # heard in a look, when the task that reads is not at its end
            listener.add("second")

    listener = Listener(shared, hear, window=5.0)
    listener.add("first")
    listener.start()
    try:
        await eventually(lambda: listener.is_trusted("second"))
        assert listener.is_trusted("first")
        assert shared.figures.failures == 0
    finally:
        await listener.stop()
        await shared.close()


async def eventually(is_so: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if is_so():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError("it did not happen")
