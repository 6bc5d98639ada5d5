"""The App of a command: from a function of the program (``--app``), or from a URI and settings.

``options`` gives a command the options; here they become an App.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

from earnorm.application import App
from earnorm.cli.settings_file import read_settings
from earnorm.exceptions import ConfigurationError
from earnorm.kernel.plugins.project import project_selection
from earnorm.kernel.plugins.selection import Selection

Result = TypeVar("Result")

NO_DATABASE: Final = (
    "this command needs a database: --uri and --database, or EARNORM_URI and EARNORM_DATABASE; "
    "or --settings FILE with mongo_uri and database; or the program's own App, --app module:function"
)
_NO_SERVER: Final = "mongodb://localhost:27017"  # nobody connects to it
NO_MODEL: Final = (
    "no model is defined: name the modules that define them, --models shop.models or EARNORM_MODELS"
)


@dataclass(frozen=True)
class AppSource:
    """The place that a command has its App from; each part may be left out.

    Attributes:
        factory: ``module:attribute``, an App or a function that makes one. It stands alone: the
            other parts, ``models`` excepted, are empty then.
        uri: The server; it wins over the file's.
        database: The database; it wins over the file's.
        models: Modules to import that define models.
        file: The file with the settings.
    """

    factory: str | None = None
    uri: str | None = None
    database: str | None = None
    models: Sequence[str] = ()
    file: Path | None = None

    @cached_property
    def keywords(self) -> dict[str, Any]:
        """The keywords of the App that is made of these parts.

        Raises:
            ConfigurationError: The file cannot be read, or a key or a value is not one of an App.
        """
        keywords = {} if self.file is None else read_settings(self.file)
        given = {"mongo_uri": self.uri, "database": self.database}
        return keywords | {name: value for name, value in given.items() if value}

    def selection(self) -> Selection:
        """Return the plugins that an App of these parts selects; no plugin is imported.

        Raises:
            ConfigurationError: The settings or the project's file cannot be read.
        """
        said = self.keywords
        return Selection.of(
            said.get("plugins"),
            said.get("disabled", ()),
            said.get("required", ()),
            os.environ,
            project=project_selection(),
        )

    def import_models(self) -> None:
        """Import the modules that define the models.

        Raises:
            ConfigurationError: One cannot be imported.
        """
        import_modules(self.models)

    # -- making it ----------------------------------------------------------------------------

    async def make(self) -> App:
        """Make the App, or let the program's function make it; the models are imported before.

        Returns:
            An App that is not started, unless the program's function has started it.

        Raises:
            ConfigurationError: There is nothing to make it of, or what there is makes no App.
        """
        self.import_models()
        if self.factory is not None:
            return await _made_by(self.factory)
        if not self.keywords.get("mongo_uri") or not self.keywords.get("database"):
            raise ConfigurationError(NO_DATABASE)
        return App(**self.keywords)

    @asynccontextmanager
    async def made(self) -> AsyncIterator[App]:
        """Make an App for a block that only reads what it is made of: it is not started.

        Without a URI it is an App of no server. One that the program's function has started is
        stopped after the block.

        Raises:
            ConfigurationError: As ``make``.
        """
        if self.factory is not None:
            app = await self.make()
        else:
            self.import_models()
            app = App(**{"mongo_uri": _NO_SERVER, "database": "models", **self.keywords})
        try:
            yield app
        finally:
            await app.stop()

    @asynccontextmanager
    async def opened(self, *, creates_indexes: bool = True) -> AsyncIterator[App]:
        """Start the App for a block in which it is the current one, and stop it.

        Args:
            creates_indexes: False for a command that only looks: the App creates nothing then.
        """
        app = await self.make()
        if not creates_indexes:
            app._leave_indexes()
        try:
            if not app.is_started:  # else the program's function has started it, for this command
                await app.start()
            with app.activate():
                yield app
        finally:
            await app.stop()

    def run(self, act: Callable[[App], Awaitable[Result]]) -> Result:
        """Run a command of the core that is about models; the App creates no index.

        Raises:
            ConfigurationError: No model is defined.
        """

        async def run() -> Result:
            async with self.opened(creates_indexes=False) as app:
                if not app.known_models():
                    raise ConfigurationError(NO_MODEL)
                return await act(app)

        return asyncio.run(run())


# -- modules of the program -----------------------------------------------------------------------


def import_modules(modules: Iterable[str], option: str = "--models") -> list[Any]:
    """Import modules of a program, also from the current directory, and return them.

    Raises:
        ConfigurationError: One cannot be imported.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    imported: list[Any] = []
    for name in modules:
        try:
            imported.append(importlib.import_module(name))
        except Exception as error:
            raise ConfigurationError(
                f"{option} {name}: the module cannot be imported: {type(error).__name__}: {error}"
            ) from error
    return imported


async def _made_by(factory: str) -> App:
    name, _, path = factory.partition(":")
    (value,) = import_modules([name], "--app")
    for part in path.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            raise ConfigurationError(f"--app {factory}: {name} has no {part!r}").coded(
                "command_app"
            ) from None
    if callable(value) and not isinstance(value, App):
        value = _called(factory, value)
        if isinstance(value, Awaitable):
            value = await value
    if not isinstance(value, App):
        raise ConfigurationError(
            f"--app {factory} is an App, or a function that returns one; it gave "
            f"a {type(value).__name__}"
        ).coded("command_app")
    return value


def _called(factory: str, function: Callable[[], object]) -> object:
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise ConfigurationError(f"--app {factory} is called without arguments: {error}").coded(
            "command_app"
        ) from None
    except ValueError:  # a function of C says nothing of its arguments
        pass
    return function()
