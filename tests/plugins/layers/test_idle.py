"""Plugins that have no work on a model put nothing into its way."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator

import pytest

from earnorm import App, BaseModel, Int, String
from earnorm.kernel.operations import OPERATIONS
from earnorm_audit import AuditPlugin
from earnorm_cache import CachePlugin
from earnorm_pool import PoolPlugin
from earnorm_security import SecurityPlugin


class Quiet(BaseModel):
    """Nobody records it, keeps it, or guards it."""

    _name = "layers.quiet"
    _audit = False
    _cache = False
    text = String()
    number = Int()


class Busy(BaseModel):
    """Recorded and kept."""

    _name = "layers.busy"
    text = String()


@pytest.fixture
async def app() -> AsyncIterator[App]:
    uri, database = os.environ["EARNORM_TEST_MONGO_URI"], f"idle_{uuid.uuid4().hex[:12]}"
    plugins = [AuditPlugin, CachePlugin, PoolPlugin, SecurityPlugin]
    async with App(uri, database=database, plugins=plugins) as app:
        yield app
        await app.dangerous_raw("to look at the database itself").client.drop_database(database)


def layers_of(app: App, model: type[BaseModel]) -> set[tuple[str, str]]:
    """The plugins with a layer around an operation of the model, and the operation."""
    return {
        (plugin, operation)
        for operation in OPERATIONS
        for plugin, layers in app.loaded.collect(
            "wrap_operation", app=app, model=app.bind(model).model, operation=operation
        )
        if plugin in app.loaded.names() and layers
    }


async def test_a_model_without_work_for_the_plugins_has_none_of_their_layers(app: App) -> None:
    assert layers_of(app, Quiet) == set()
    assert {plugin for plugin, _ in layers_of(app, Busy)} == {"audit", "cache"}


@pytest.mark.parametrize("operation", ["create", "write", "unlink"])
async def test_no_plugin_of_ours_is_called_around_every_write(app: App, operation: str) -> None:
    around = (f"before_{operation}", f"after_{operation}", "after_commit")
    assert [hook for hook in around if app.loaded.implements(hook)] == []
