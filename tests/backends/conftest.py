"""A backend of each kind on a database of its own, dropped afterwards."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from earnorm.backends import Backend, ServerSettings, open_backend
from earnorm.backends.base import Collection

URI_VARIABLE = "EARNORM_TEST_MONGO_URI"
DRIVERS = ("pymongo", "motor")


@pytest.fixture(scope="session")
def mongo_uri() -> str:
    uri = os.environ.get(URI_VARIABLE)
    if not uri:
        pytest.fail(
            f"{URI_VARIABLE} is not set: run python -m tests.servers -- python -m pytest tests/backends, "
            "or set it to a replica set started with --setParameter enableTestCommands=1"
        )
    return uri


@pytest.fixture
def database() -> str:
    return f"backends_{uuid.uuid4().hex[:12]}"


async def _opened(uri: str, driver: str | None, database: str) -> AsyncIterator[Backend]:
    backend = open_backend(
        ServerSettings(uri, database, options={"appName": database, "retryWrites": True}), driver
    )
    await backend.connect()
    try:
        yield backend
    finally:
        await backend.raw_database().client.drop_database(database)
        await backend.close()


@pytest.fixture(params=DRIVERS)
async def server_backend(
    request: pytest.FixtureRequest, mongo_uri: str, database: str
) -> AsyncIterator[Backend]:
    """PyMongo and Motor on the real server."""
    async for backend in _opened(mongo_uri, request.param, database):
        yield backend


@pytest.fixture(params=(*DRIVERS, "memory"))
async def backend(request: pytest.FixtureRequest, database: str) -> AsyncIterator[Backend]:
    """All three."""
    if request.param == "memory":
        uri, driver = "mongomock://", None
    else:
        uri, driver = request.getfixturevalue("mongo_uri"), request.param
    async for opened in _opened(uri, driver, database):
        yield opened


@pytest.fixture
def users(backend: Backend) -> Collection:
    return backend.collection("users")


class FailPoint(Protocol):
    """Makes commands of this test's client fail on the server."""

    def __call__(
        self, *commands: str, mode: str | Mapping[str, int] = ..., **data: Any
    ) -> AbstractContextManager[None]: ...


@pytest.fixture
def fail_point(mongo_uri: str, database: str) -> Iterator[FailPoint]:
    """https://github.com/mongodb/mongo/wiki/The-failCommand-fail-point"""
    with MongoClient[dict[str, Any]](mongo_uri) as client:

        @contextmanager
        def failing(
            *commands: str, mode: str | Mapping[str, int] = "alwaysOn", **data: Any
        ) -> Iterator[None]:
            # By application name, so that tests that run beside this one are left alone.
            data = {"failCommands": list(commands), "appName": database, **data}
            try:
                client.admin.command("configureFailPoint", "failCommand", mode=mode, data=data)
            except OperationFailure as error:
                pytest.fail(f"the test server knows no fail points (enableTestCommands=1): {error}")
            try:
                yield
            finally:
                client.admin.command("configureFailPoint", "failCommand", mode="off")

        yield failing
