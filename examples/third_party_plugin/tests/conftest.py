"""Every test runs in memory and on a real server; ``pytest --earnorm-memory`` needs no server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from earnorm import App
from earnorm.testing import mongod

from earnorm_slugs import SlugsPlugin

pytest_plugins = ["earnorm.testing.fixtures"]


@pytest.fixture(scope="session", params=["memory", "server"])
def mongo_uri(request: pytest.FixtureRequest) -> Iterator[str]:
    """The database of a test: a test that asks for it runs once on each."""
    config = request.config
    if request.param == "memory":
        yield "mongomock://"
    elif config.getoption("earnorm_memory") or config.getini("earnorm_backend") == "memory":
        pytest.skip("a run in memory")
    else:
        with mongod() as uri:
            yield uri


@pytest.fixture
def app(mongo_uri: str, earnorm_app: App) -> App:
    """A started App with the plugin, on a database of its own: once on each."""
    return earnorm_app


@pytest.fixture
def earnorm_app_options() -> dict[str, Any]:
    """The plugins of the fixture ``app``."""
    return {"plugins": [SlugsPlugin]}
