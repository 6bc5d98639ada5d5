"""An App per backend, on a database of its own that is dropped afterwards; and one that notes its commands."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pymongo.monitoring import CommandListener

import earnorm
from earnorm import App, hookimpl
from earnorm.kernel import registry

HERE = Path(__file__).parent
DRIVERS = ("pymongo", "motor")


@pytest.hookimpl(tryfirst=True)  # before -m is looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs with Motor: `-m "not motor"` is the core's tests with the default driver and in memory.

    tests/backends has all of both drivers, so of every three files here one is enough in a run of everything;
    the others are marked twice, and `nox -s motor` runs them all.
    """
    numbers = {path: n for n, path in enumerate(sorted({item.path for item in items}))}
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if HERE in item.path.parents and "motor" in parameters.values():
            item.add_marker("motor")
            if numbers[item.path] % 3:
                item.add_marker("more_motor")


@pytest.fixture
def database() -> str:
    return f"core_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def mongo_uri() -> str:
    return os.environ["EARNORM_TEST_MONGO_URI"]  # tests/conftest.py has set it


@contextmanager
def definitions(*, alone: bool = False) -> Iterator[None]:
    """Forget the models that are defined inside; ``alone`` hides those of other tests meanwhile."""
    before, earlier = dict(registry.definitions()), dict(registry._earlier)
    if alone:
        registry._definitions.clear()
        registry._earlier.clear()
        registry.touch()
    try:
        yield
    finally:
        registry._definitions.clear()
        registry._definitions.update(before)
        registry._earlier.clear()
        registry._earlier.update(earlier)
        registry.touch()


def is_test_file(module: str) -> bool:
    return module.rpartition(".")[2].startswith("test_")


def files_that_lend_to(file: ModuleType) -> set[str]:
    """Return the names of the test files from which ``file`` takes something, itself included."""
    found, waiting = {file.__name__}, [file]
    while waiting:
        for value in tuple(vars(waiting.pop()).values()):
            name = (
                value.__name__
                if isinstance(value, ModuleType)
                else getattr(value, "__module__", "")
            )
            if isinstance(name, str) and is_test_file(name) and name not in found:
                found.add(name)
                waiting.append(sys.modules[name])
    return found


@contextmanager
def without_other_files(file: ModuleType) -> Iterator[None]:
    """Hide the models of other test files while the tests of ``file`` run.

    A worker's process has imported all test files, and an App makes the collections of all models that the process
    knows before its first transaction: hundreds in each new database, for tests that need two. What is defined
    inside stays.
    """
    kept = files_that_lend_to(file)
    hidden: dict[str, tuple[Any, Any]] = {}
    for name, model in registry.definitions().items():
        if is_test_file(model.__module__) and model.__module__ not in kept:
            hidden[name] = model, registry._earlier.get(name)
    for name in hidden:
        del registry._definitions[name]
        registry._earlier.pop(name, None)
    registry.touch()
    try:
        yield
    finally:
        for name, (model, earlier) in hidden.items():
            if name not in registry._definitions:
                registry._definitions[name] = model
                if earlier is not None:
                    registry._earlier[name] = earlier
        registry.touch()


async def drop(app: App) -> None:
    """Drop the App's database; a coroutine with each driver."""
    await app.dangerous_raw("the test is over").client.drop_database(app.settings.database)


@asynccontextmanager
async def default_app(
    kind: str, database: str, plugins: Iterable[object] = (), **settings: Any
) -> AsyncIterator[App]:
    """The process's default App, so that fixtures and tests need not share a context."""
    if kind == "memory":
        where: dict[str, Any] = {"mongo_uri": "mongomock://"}
    else:
        where = {"mongo_uri": os.environ["EARNORM_TEST_MONGO_URI"], "driver": kind}
        settings = {"client_options": {"appName": database}, **settings}
    # What is counted here is what the tests do; test_owed has Apps that look for what others owe.
    settings.setdefault("recompute_interval", None)
    app = await earnorm.init(**where, database=database, plugins=list(plugins), **settings)
    try:
        yield app
    finally:
        if app.is_started:
            await drop(app)
        await earnorm.close()


@pytest.fixture(params=(*DRIVERS, "memory"))
async def app(request: pytest.FixtureRequest, database: str) -> AsyncIterator[App]:
    """All three backends."""
    async with default_app(request.param, database) as started:
        yield started


@pytest.fixture(params=DRIVERS)
async def server_app(request: pytest.FixtureRequest, database: str) -> AsyncIterator[App]:
    """The real server, for what an in-memory database has not."""
    async with default_app(request.param, database) as started:
        yield started


@pytest.fixture
async def memory_app(database: str) -> AsyncIterator[App]:
    """The in-memory database, for what it has to refuse."""
    async with default_app("memory", database) as started:
        yield started


class Keeping:
    """A layer that answers with what it got the first time.

    Args:
        operation: The operation that it is around, of every model.
    """

    api = 1
    name = "keeping"

    def __init__(self, operation: str) -> None:
        self.operation = operation

    @hookimpl
    def wrap_operation(self, app: App, model: type, operation: str) -> list[Any]:
        kept: list[Any] = []

        async def keep(op: Any, call_next: Any) -> Any:
            if not kept:
                kept.append(await call_next(op))
            return kept[0]

        return [(100, keep)] if operation == self.operation else []


class Commands(CommandListener):
    """The commands that went to the server, with their documents."""

    def __init__(self) -> None:
        self.all: list[tuple[str, dict[str, Any]]] = []

    def started(self, event: Any) -> None:
        self.all.append((event.command_name, dict(event.command)))

    def succeeded(self, event: Any) -> None:
        pass

    def failed(self, event: Any) -> None:
        pass

    def clear(self) -> None:
        self.all.clear()

    def named(self, name: str) -> list[dict[str, Any]]:
        return [command for each, command in self.all if each == name]

    def of(self, collection: str) -> list[str]:
        return [name for name, command in self.all if command.get(name) == collection]


class Watching:
    """A plugin that hands a listener to the driver."""

    api = 1
    name = "watcher"

    def __init__(self, listener: Commands) -> None:
        self.listener = listener

    @hookimpl
    def register_listeners(self, app: App) -> list[object]:
        return [self.listener]


@pytest.fixture(params=DRIVERS)
async def commands(request: pytest.FixtureRequest, database: str) -> AsyncIterator[Commands]:
    """An App on the real server, whose commands are noted."""
    listener = Commands()
    async with default_app(request.param, database, [Watching(listener)]):
        listener.clear()
        yield listener
