"""Fixtures for pytest, with pytest-asyncio in each mode or anyio, and with pytest-xdist.

``pytest_plugins = ["earnorm.testing.fixtures"]`` in the root ``conftest.py`` loads them. They are no
entry point of the group ``pytest11`` on purpose: pytest would import EarnORM in every run of every
project of the environment, and before a coverage tool starts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import pytest

from earnorm.application import App
from earnorm.kernel.environment import Env, current_env, get_default, set_default
from earnorm.testing.apps import app_with, database_name
from earnorm.testing.chosen import chosen_memory, memory_chosen
from earnorm.testing.rollbacks import rolled_back
from earnorm.testing.servers import drop_database, mongod, redis_server

# A project may have anyio instead.
HAS_ASYNCIO: Final = find_spec("pytest_asyncio") is not None

if TYPE_CHECKING or not HAS_ASYNCIO:
    _of_asyncio = pytest.fixture
else:
    from pytest_asyncio import fixture as _of_asyncio

MEMORY: Final = "mongomock://"
BACKENDS: Final = ("server", "memory")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--earnorm-memory`` and the setting ``earnorm_backend``."""
    parser.getgroup("earnorm").addoption(
        "--earnorm-memory",
        action="store_true",
        help="run the tests on a database in memory (mongomock://), without a server",
    )
    parser.addini(
        "earnorm_backend",
        "the database of the fixture mongo_uri: server (the default) or memory",
        default="server",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse an unknown ``earnorm_backend``; tell the other parts of the kit of the choice."""
    backend = config.getini("earnorm_backend")
    if backend not in BACKENDS:
        raise pytest.UsageError(
            f"earnorm_backend is one of {' and '.join(BACKENDS)}, not {backend!r}"
        )
    if config.getoption("earnorm_memory"):
        said = "--earnorm-memory"
    else:
        said = "earnorm_backend = memory" if backend == "memory" else ""
    until_the_end = ExitStack()
    until_the_end.enter_context(chosen_memory(said))
    config.add_cleanup(until_the_end.close)


@pytest.fixture(scope="session")
def mongo_uri() -> Iterator[str]:
    """The server of the run: named by ``EARNORM_TEST_MONGO_URI``, or found and started.

    Each worker of pytest-xdist starts its own, unless the environment names one.
    """
    if memory_chosen():
        yield MEMORY
        return
    with mongod() as uri:
        yield uri


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The Redis of the run: named by ``EARNORM_TEST_REDIS_URL``, or found and started."""
    with redis_server() as url:
        yield url


@pytest.fixture
def earnorm_app_options() -> dict[str, Any]:
    """The plugins and settings of ``earnorm_app`` and ``earnorm_rollback``; override it.

    ``{"plugins": [MyPlugin, "audit"], "audit": {…}}``: the list of plugins, and any other argument
    of :func:`earnorm.testing.app_with`. Without it there are no plugins.
    """
    return {}


@pytest.fixture
def earnorm_app(request: pytest.FixtureRequest) -> App:
    """A started App on a database of its own, which is dropped afterwards.

    It is the current and the default App, as after ``earnorm.init()``.
    """
    return _of_runner(request, "_earnorm_app")


@pytest.fixture
def earnorm_rollback(request: pytest.FixtureRequest) -> App:
    """A started App in a transaction that is rolled back at the end of the test.

    All tests with this fixture share the database ``earnorm_database``. See
    :func:`earnorm.testing.rolled_back` for what a transaction that never commits means.
    """
    return _of_runner(request, "_earnorm_rollback")


@pytest.fixture(scope="session")
def earnorm_database(mongo_uri: str) -> Iterator[str]:
    """The name of the database that the tests with ``earnorm_rollback`` share, dropped at the end."""
    name = database_name()
    yield name
    if mongo_uri != MEMORY:
        drop_database(mongo_uri, name)


def _of_runner(request: pytest.FixtureRequest, name: str) -> App:
    """Return the fixture that runs on the event loop of the test."""
    if "anyio_backend" in request.fixturenames:
        runner = "anyio"
    elif HAS_ASYNCIO:
        runner = "asyncio"
    else:
        raise pytest.UsageError(
            f"the fixture {request.fixturename} runs on the event loop of an async test: "
            f"pip install pytest-asyncio, or mark the test with pytest.mark.anyio"
        )
    app: App = request.getfixturevalue(f"{name}_of_{runner}")
    return app


@contextmanager
def _default(env: Env) -> Iterator[None]:
    """Make an Env the default: not every runner gives the context of a fixture to the test."""
    before = get_default()
    set_default(env)
    try:
        yield
    finally:
        set_default(before)


@asynccontextmanager
async def _app(uri: str, options: Mapping[str, Any]) -> AsyncIterator[App]:
    settings = {"uri": uri, **options}
    async with app_with(*settings.pop("plugins", ()), **settings) as app:
        with _default(app.env):
            yield app


@asynccontextmanager
async def _rollback(uri: str, database: str, options: Mapping[str, Any]) -> AsyncIterator[App]:
    async with _app(uri, {"database": database, **options}) as app, rolled_back():
        with _default(current_env()):
            yield app


# One for each runner of async tests: a fixture that pytest-asyncio runs in its strict mode carries a
# mark, which anyio must not see.


@_of_asyncio
async def _earnorm_app_of_asyncio(
    mongo_uri: str, earnorm_app_options: Mapping[str, Any]
) -> AsyncIterator[App]:
    async with _app(mongo_uri, earnorm_app_options) as app:
        yield app


@pytest.fixture
async def _earnorm_app_of_anyio(
    mongo_uri: str, earnorm_app_options: Mapping[str, Any]
) -> AsyncIterator[App]:
    async with _app(mongo_uri, earnorm_app_options) as app:
        yield app


@_of_asyncio
async def _earnorm_rollback_of_asyncio(
    mongo_uri: str, earnorm_database: str, earnorm_app_options: Mapping[str, Any]
) -> AsyncIterator[App]:
    async with _rollback(mongo_uri, earnorm_database, earnorm_app_options) as app:
        yield app


@pytest.fixture
async def _earnorm_rollback_of_anyio(
    mongo_uri: str, earnorm_database: str, earnorm_app_options: Mapping[str, Any]
) -> AsyncIterator[App]:
    async with _rollback(mongo_uri, earnorm_database, earnorm_app_options) as app:
        yield app
