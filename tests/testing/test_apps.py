"""`app_with`: exactly the given plugins, whatever the environment says, and nothing left behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

import earnorm
from earnorm import String, models
from earnorm.exceptions import ConfigurationError, ServerUnavailable
from earnorm.plugin import hookimpl
from earnorm.testing import app_with


class Note(models.BaseModel):
    _name = "testing.apps.note"
    text = String()


class Counting:
    """Counts the creates that it hears of."""

    api = 1
    name = "counting"

    def __init__(self) -> None:
        self.created = 0

    @hookimpl
    def after_create(self, op: Any, result: Any) -> None:
        self.created += len(result)


def databases(uri: str) -> list[str]:
    with MongoClient[dict[str, Any]](uri) as client:
        return client.list_database_names()


def active(app: earnorm.App) -> set[str]:
    return {plugin.name for plugin in app.plugins if plugin.status == "active"}


async def test_an_app_has_the_given_plugins_and_is_current() -> None:
    counting = Counting()
    async with app_with(counting) as app:
        assert earnorm.current_app() is app
        assert active(app) == {"counting"}
        await Note.create([{"text": "a"}, {"text": "b"}])
        assert counting.created == 2
    async with app_with():
        assert await Note.count() == 0  # a database in memory is new each time


async def test_neither_the_environment_nor_the_project_selects_plugins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EARNORM_PLUGINS", "nobody")
    monkeypatch.setenv("EARNORM_DISABLED_PLUGINS", "counting")
    (tmp_path / "pyproject.toml").write_text('[tool.earnorm]\nplugins = ["nobody"]\n')
    monkeypatch.chdir(tmp_path)
    async with app_with(Counting) as app:
        assert active(app) == {"counting"}


async def test_a_database_on_a_server_is_dropped_after_the_shutdown_of_plugins(
    mongo_uri: str,
) -> None:
    class Late:
        api = 1
        name = "late"

        @hookimpl
        async def shutdown(self, app: earnorm.App) -> None:
            await Note.create({"text": "written at the shutdown"})

    async with app_with(Late, uri=mongo_uri) as app:
        name = app.settings.database
        await Note.create({"text": "a"})
        assert name in databases(mongo_uri)
    assert name not in databases(mongo_uri)


async def test_a_named_database_is_kept(mongo_uri: str) -> None:
    async with app_with(uri=mongo_uri) as app:
        name = app.settings.database
        async with app_with(uri=mongo_uri, database=name):
            await Note.create({"text": "a"})
        assert await Note.count() == 1


async def test_a_database_is_dropped_when_the_block_fails(mongo_uri: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with app_with(uri=mongo_uri) as app:
            await Note.create({"text": "a"})
            _ = 1 / 0
    assert app.settings.database not in databases(mongo_uri)


async def test_settings_are_those_of_an_app() -> None:
    async with app_with(coalesce=True) as app:
        assert app.settings.coalesce
    with pytest.raises(ConfigurationError, match="coalesse"):
        async with app_with(coalesse=True):
            pass


async def test_a_server_that_does_not_answer_is_the_only_error() -> None:
    with pytest.raises(ServerUnavailable):
        async with app_with(uri="mongodb://127.0.0.1:1", server_timeout=0.2):
            pass


@pytest.fixture
def mongo_uri() -> str:
    return os.environ["EARNORM_TEST_MONGO_URI"]  # tests/conftest.py has set it
