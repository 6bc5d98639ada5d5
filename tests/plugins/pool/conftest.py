"""Apps with the pool plugin on a real server, one for each driver, on a database of their own."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

import earnorm
from earnorm_pool import Pool, PoolPlugin

URI_VARIABLE = "EARNORM_TEST_MONGO_URI"
DRIVERS = ("pymongo", "motor")
OpenApp = Callable[..., Awaitable[earnorm.App]]


@pytest.fixture(scope="session")
def mongo_uri() -> str:
    uri = os.environ.get(URI_VARIABLE)
    if not uri:
        pytest.fail(
            f"{URI_VARIABLE} is not set: run python -m tests.servers -- python -m pytest tests"
        )
    return uri


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def open_app(mongo_uri: str, driver: str) -> AsyncIterator[OpenApp]:
    """Starts an App with the pool plugin; its database is dropped at the end of the test."""
    async with AsyncExitStack() as stack:

        async def opened(**keywords: Any) -> earnorm.App:
            app = earnorm.App(
                mongo_uri,
                database=f"pool_{uuid.uuid4().hex[:12]}",
                driver=driver,
                plugins=[PoolPlugin],
                **keywords,
            )
            # Not "async with": a test and the end of its fixtures run in different contexts.
            await app.start()
            stack.push_async_callback(app.stop)
            database = app.dangerous_raw("to look at the database itself")
            stack.push_async_callback(database.client.drop_database, database.name)
            return app

        yield opened


def pool_of(app: earnorm.App) -> Pool:
    return app.services.of_type(Pool)
