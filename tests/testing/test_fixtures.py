"""The fixtures of the kit, in projects that use them with each runner of async tests."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from pymongo import MongoClient

from tests.testing.projects import CONFTEST, run_pytest

MODEL = """
import asyncio
import contextvars
import os

import pytest
import earnorm
from earnorm import String, Int, models
from earnorm.exceptions import ConfigurationError, NotSupported
from earnorm.plugin import hookimpl


class Note(models.BaseModel):
    _name = "kit.note"
    text = String(required=True, unique=True)
    stars = Int(default=0)
"""

ON_A_SERVER = """
names = []


def active(app):
    return [plugin.name for plugin in app.plugins if plugin.status == "active"]


@pytest.mark.asyncio
@pytest.mark.parametrize("n", [1, 2])
async def test_a_database_for_each_test(earnorm_app, n):
    assert earnorm.current_app() is earnorm_app
    assert "transactions" in earnorm_app.capabilities
    assert contextvars.Context().run(earnorm.current_app) is earnorm_app
    assert active(earnorm_app) == []
    names.append(earnorm_app.settings.database)
    assert len(set(names)) == n
    await Note.create({"text": "one"})
    assert await Note.count() == 1


kept = []


@pytest.mark.asyncio
@pytest.mark.parametrize("n", [1, 2])
async def test_a_transaction_that_is_rolled_back(earnorm_rollback, earnorm_database, n):
    assert earnorm_rollback.settings.database == earnorm_database
    assert contextvars.Context().run(earnorm.current_env).transaction is not None
    assert await Note.count() == 0
    note = Note(text="one")
    await note.save()
    assert await Note.count() == 1
    async with earnorm.transaction():
        await Note.create({"text": "two"})
    kept.append(note)


def test_records_are_as_before():
    assert [note.is_stored for note in kept] == [False, False]


class Plugin:
    api = 1
    name = "mine"


class TestOptions:
    @pytest.fixture
    def earnorm_app_options(self):
        return {"plugins": [Plugin()], "coalesce": True}

    @pytest.mark.asyncio
    async def test_the_test_says_which_plugins(self, earnorm_app):
        assert active(earnorm_app) == ["mine"]
        assert earnorm_app.settings.coalesce
"""


def passed(output: str) -> int:
    """Return how many tests passed; none may have failed."""
    assert "failed" not in output and "error" not in output, output
    found = re.search(r"(\d+) passed", output)
    assert found, output
    return int(found[1])


def test_the_strict_mode_of_pytest_asyncio_and_databases_are_dropped(tmp_path: Path) -> None:
    with MongoClient[dict[str, object]](os.environ["EARNORM_TEST_MONGO_URI"]) as client:
        before = client.list_database_names()
        done = run_pytest(tmp_path, MODEL + ON_A_SERVER, settings="asyncio_mode = strict")
        assert passed(done.stdout) == 6
        assert client.list_database_names() == before


def test_the_auto_mode_beside_xdist(tmp_path: Path) -> None:
    tests = (MODEL + ON_A_SERVER).replace("    @pytest.mark.asyncio\n", "")
    tests = tests.replace("@pytest.mark.asyncio\n", "")
    done = run_pytest(tmp_path, tests, "-n", "1", settings="asyncio_mode = auto")
    assert passed(done.stdout) == 6


BOTH = ("-p", "anyio.pytest_plugin", "-p", "pytest_asyncio.plugin")


@pytest.mark.parametrize("plugins", [BOTH, (*BOTH[2:], *BOTH[:2]), BOTH[:2]])
def test_anyio_alone_and_beside_pytest_asyncio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugins: tuple[str, ...]
) -> None:
    monkeypatch.setenv(
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1"
    )  # the order decides who sees a fixture
    tests = (MODEL + ON_A_SERVER).replace("pytest.mark.asyncio", "pytest.mark.anyio")
    conftest = CONFTEST + (
        "import pytest\n\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
    )
    done = run_pytest(tmp_path, tests, *plugins, conftest=conftest)
    assert passed(done.stdout) == 6


def test_memory_by_setting(tmp_path: Path) -> None:
    tests = (
        MODEL
        + """
async def test_memory(earnorm_app, mongo_uri):
    assert mongo_uri == "mongomock://"
    assert "transactions" not in earnorm_app.capabilities
    await Note.create({"text": "one"})
    assert await Note.count() == 1


async def test_that_there_is_no_rollback(earnorm_rollback):
    pass
"""
    )
    done = run_pytest(tmp_path, tests, settings="asyncio_mode = auto\nearnorm_backend = memory")
    assert "1 passed, 1 error" in done.stdout
    assert "NotSupported" in done.stdout
    done = run_pytest(tmp_path, tests, settings="earnorm_backend = memroy")
    assert "earnorm_backend is one of server and memory, not 'memroy'" in done.stderr


def test_where_no_server_is_found_the_error_says_what_to_install_and_memory_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EARNORM_TEST_MONGO_URI")
    monkeypatch.setenv("EARNORM_TEST_MONGOD", "/nowhere/mongod")
    tests = MODEL + "\nasync def test_it(earnorm_app):\n    pass\n"
    done = run_pytest(tmp_path, tests, settings="asyncio_mode = auto")
    assert "EARNORM_TEST_MONGOD names '/nowhere/mongod', which is no executable file" in done.stdout
    assert "1 error" in done.stdout and "skipped" not in done.stdout
    done = run_pytest(tmp_path, tests, "--earnorm-memory", settings="asyncio_mode = auto")
    assert passed(done.stdout) == 1
