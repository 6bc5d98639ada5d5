"""Apps with the cache, on a real server and in memory, each with a database of its own."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pymongo import MongoClient

from earnorm import App
from earnorm.kernel import environment
from earnorm_cache import CachePlugin, CacheSettings
from tests.plugins.cache.probes import Clock, Probe

URI_VARIABLE = "EARNORM_TEST_MONGO_URI"
Open = Callable[..., Awaitable[App]]


@pytest.fixture
def mongo_uri() -> str:
    uri = os.environ.get(URI_VARIABLE)
    if not uri:
        pytest.fail(
            f"{URI_VARIABLE} is not set: run python -m tests.servers -- python -m pytest "
            "tests/plugins/cache, or set it to a replica set"
        )
    return uri


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def probe() -> Probe:
    return Probe()


async def _opener(uri: str, clock: Clock) -> AsyncIterator[Open]:
    database = f"cache_{uuid.uuid4().hex[:12]}"
    async with AsyncExitStack() as stack:

        async def open_app(*plugins: object, **settings: Any) -> App:
            settings.setdefault("outside_writes", False)  # own writes come back
            cache = CachePlugin(CacheSettings(**settings), clock=clock)
            app = App(uri, database=database, plugins=[cache, *plugins])
            # Not "async with": a fixture's set-up and tear-down run in contexts of their own.
            await app.start()
            stack.push_async_callback(app.stop)
            environment.set_default(app.env)
            return app

        yield open_app
    environment.set_default(None)
    if not uri.startswith("mongomock:"):
        with MongoClient[dict[str, Any]](uri) as client:
            client.drop_database(database)


@pytest.fixture
async def open_on_server(mongo_uri: str, clock: Clock) -> AsyncIterator[Open]:
    """Opens Apps on one database of a real server."""
    async for opened in _opener(mongo_uri, clock):
        yield opened


@pytest.fixture(params=["server", "memory"])
async def open_app(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[Open]:
    """Opens Apps on one database, of a real server and in memory."""
    memory = request.param == "memory"
    uri = "mongomock://" if memory else request.getfixturevalue("mongo_uri")
    async for opened in _opener(uri, clock):
        yield opened
