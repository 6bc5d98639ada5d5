"""Apps for tests: exactly the given plugins, and a database that is dropped at the end."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from typing_extensions import override

from earnorm.application import App
from earnorm.backends.conversions import settled
from earnorm.kernel.plugins.selection import Installed, Selection
from earnorm.models import BaseModel


class IsolatedApp(App):
    """An App that nothing outside of the program selects plugins for.

    Attributes:
        drops: Drop the database at the stop, when the plugins are shut down.
        is_alone: Take no model of the process as an own one before it is used. The start of any
            other App uses models: it looks at those with computed fields.
    """

    drops = False
    is_alone = False

    @override
    def _takes(self, model: type[BaseModel]) -> bool:
        return not self.is_alone

    @override
    def _select(
        self,
        plugins: Iterable[str | type | object] | None,
        disabled: Iterable[str],
        required: Iterable[str],
        known: Installed,
    ) -> Selection:
        return Selection.of(tuple(plugins or ()), disabled, required, {}, known)

    @override
    async def _disconnecting(self) -> None:
        if self.drops:
            client = self._backend.raw_database().client
            await settled(client.drop_database(self.settings.database))


def database_name() -> str:
    """Return the name of a database that nobody has."""
    return f"test_{uuid.uuid4().hex[:16]}"


@asynccontextmanager
async def app_with(
    *plugins: str | type | object,
    uri: str = "mongomock://",
    database: str | None = None,
    **settings: Any,
) -> AsyncIterator[App]:
    """Give a started App with exactly these plugins; it is the current App inside the block.

    The environment (``EARNORM_PLUGINS``, ``EARNORM_DISABLED_PLUGINS``), pyproject.toml and
    installed plugins that are not named select nothing. ``EARNORM_DRIVER`` still chooses the
    driver, so that the same tests can run with each.

    Args:
        *plugins: Classes, instances, or names of installed plugins.
        uri: The server. The default is a database in memory, a new one for each App.
        database: The database's name, which is kept at the end. None means a new one, which is
            dropped at the end.
        **settings: Further arguments of :class:`earnorm.App`, those of plugins included:
            ``audit={"keep": 30}``.

    Raises:
        ConfigurationError: A keyword is unknown or its value not valid.
        PluginError: A plugin is not installed, fails to load, or breaks the contract.
        ServerUnavailable: No server answered in time.
    """
    settings.setdefault("recompute_interval", None)  # a look would count as a query of the test
    app = IsolatedApp(uri, database=database or database_name(), plugins=plugins, **settings)
    app.drops = database is None
    async with app:
        yield app
