"""Distributions of third parties: one installed by pip, and small ones written by hand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from earnorm import App
from tests.cli.distributions import write_distribution

URI_VARIABLE = "EARNORM_TEST_MONGO_URI"
PROJECT = Path(__file__).parent / "hello"

Opener = Callable[..., AbstractAsyncContextManager[App]]
Distribute = Callable[..., str]


@pytest.fixture(scope="session")
def hello_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that pip installed the plugin's project into, without a network."""
    root = tmp_path_factory.mktemp("hello")
    shutil.copytree(PROJECT, root / "project", ignore=shutil.ignore_patterns("__pycache__"))
    command = (sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps")
    build = ("--no-build-isolation", "--target", str(root / "site"), str(root / "project"))
    done = subprocess.run((*command, *build), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return root / "site"


@pytest.fixture
def hello(hello_site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The plugin ``hello`` is installed in this process."""
    monkeypatch.syspath_prepend(str(hello_site))
    yield hello_site
    sys.modules.pop("earnorm_hello", None)


@pytest.fixture
def distribute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Distribute]:
    """``distribute("bad", source)`` installs a distribution earnorm-bad with a plugin ``bad``."""
    modules: list[str] = []

    def writing(name: str, source: str) -> str:
        site, module = write_distribution(tmp_path, name, source)
        monkeypatch.syspath_prepend(str(site))
        modules.append(module)
        return module

    yield writing
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture(scope="session")
def uri() -> str:
    """The real server."""
    found = os.environ.get(URI_VARIABLE)
    if not found:
        pytest.fail(f"{URI_VARIABLE} is not set: run nox -s tests, or python -m tests.servers -- …")
    return found


@pytest.fixture(scope="session")
def opened(uri: str) -> Opener:
    """``async with opened(plugins=[…]) as app:`` on a database of its own."""

    @asynccontextmanager
    async def opening(**keywords: object) -> AsyncIterator[App]:
        name = f"contract_{uuid.uuid4().hex[:12]}"
        async with App(uri, database=name, **keywords) as app:
            try:
                yield app
            finally:
                await app.dangerous_raw("to look at the database itself").client.drop_database(name)

    return opening
