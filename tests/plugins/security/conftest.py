"""An App with the security plugin, on a database of its own that is dropped afterwards."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from earnorm import App
from earnorm_security import SecurityPlugin, SecuritySettings
from tests.plugins.security.guards import switch_off_named

switch_off_named()  # only where `nox -s mutation` names a guard

URI_VARIABLE = "EARNORM_TEST_MONGO_URI"

Opener = Callable[..., AbstractAsyncContextManager[App]]


@pytest.fixture(scope="session")
def opened() -> Opener:
    """``async with opened(default="closed", plugins=[...]) as app:``"""
    uri = os.environ.get(URI_VARIABLE)
    if not uri:
        pytest.fail(f"{URI_VARIABLE} is not set: run nox -s tests, or python -m tests.servers -- …")

    @asynccontextmanager
    async def opening(plugins: tuple[object, ...] = (), **settings: object) -> AsyncIterator[App]:
        name = f"security_{uuid.uuid4().hex[:12]}"
        security = SecurityPlugin(SecuritySettings.model_validate(settings))
        async with App(uri, database=name, plugins=[security, *plugins]) as app:
            try:
                yield app
            finally:
                await app.dangerous_raw("to look at the database itself").client.drop_database(name)

    return opening
