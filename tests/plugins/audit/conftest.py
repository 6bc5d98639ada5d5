"""An App with the audit plugin on a database of its own, dropped afterwards; server and memory."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

import earnorm
from earnorm_audit import AuditPlugin

URI_VARIABLE = "EARNORM_TEST_MONGO_URI"
MEMORY = "mongomock://"
Opening = Callable[..., AbstractAsyncContextManager[earnorm.App]]


def server_uri() -> str:
    uri = os.environ.get(URI_VARIABLE)
    if not uri:
        pytest.fail(
            f"{URI_VARIABLE} is not set: run python -m tests.servers -- python -m pytest tests/plugins"
        )
    return uri


@asynccontextmanager
async def opened(uri: str, **settings: Any) -> AsyncIterator[earnorm.App]:
    settings.setdefault("plugins", [AuditPlugin])
    name = f"audit_{uuid.uuid4().hex[:12]}"
    async with earnorm.App(uri, database=name, **settings) as app:
        try:
            yield app
        finally:
            await app.dangerous_raw("the test is over").client.drop_database(name)


@pytest.fixture
def server() -> Opening:
    """Opens an App on the real server, with the settings that the test asks for."""
    return lambda **settings: opened(server_uri(), **settings)


@pytest.fixture(params=["server", "memory"])
def either(request: pytest.FixtureRequest) -> Opening:
    """Opens an App on each of the two."""
    uri = server_uri() if request.param == "server" else MEMORY
    return lambda **settings: opened(uri, **settings)


@pytest.fixture
async def app(either: Opening) -> AsyncIterator[earnorm.App]:
    async with either() as app:
        yield app


@pytest.fixture
async def server_app(server: Opening) -> AsyncIterator[earnorm.App]:
    async with server() as app:
        yield app
