"""The start and the stop of an App, and the order in which they call its plugins.

A start asks for the driver's listeners, connects, calls the plugins' register hooks, and calls
``startup`` of each plugin. A stop calls ``shutdown`` in the reverse order, of every plugin whatever
another one does. If a start fails, the plugins that have started are shut down, and the connections
are closed.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import pydantic

from earnorm.backends import Backend, ServerSettings, open_backend
from earnorm.domain import OPERATORS, Operator
from earnorm.domain.keyset import KEYSET_OPERATORS
from earnorm.exceptions import ConfigurationError, PluginError
from earnorm.kernel import environment
from earnorm.kernel.contract import (
    checked_commands,
    checked_field_types,
    checked_items,
    checked_named,
    checked_operators,
    signature,
)
from earnorm.kernel.environment import use_env
from earnorm.kernel.loading import settled
from earnorm.kernel.plugins import CORE_DISTRIBUTION
from earnorm.kernel.services import Services

if TYPE_CHECKING:
    from earnorm.fields import Field
    from earnorm.kernel.app import App

log = logging.getLogger("earnorm")

ALL_OPERATORS: Final[Mapping[str, Operator]] = {**OPERATORS, **KEYSET_OPERATORS}
"""The operators that every App has."""


class Lifecycle:
    """Starts and stops one App.

    Args:
        app: The App.
        uri: The server's URI; empty if there is a client.
        client: A client that the application made itself.
        driver: The driver's name; None means the default.

    Attributes:
        backend: The driver adapter; None while the App is stopped.
        loop: The event loop on which the App takes operations; None while it takes none.
    """

    def __init__(self, app: App, uri: str, client: object | None, driver: str | None) -> None:
        self._app = app
        self.uri, self.client, self.driver = uri, client, driver
        self.backend: Backend | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._started: list[str] = []
        self._stopping = asyncio.Lock()
        self._stopper: asyncio.Task[Any] | None = None

    async def start(self) -> None:
        """Connect, call the plugins' register hooks, and take operations; see ``App.start``."""
        app = self._app
        if self.backend is not None:
            raise ConfigurationError(f"App {app.name!r} is started already")
        _load_validation()
        self.backend = self._open_backend()
        self._stopping = asyncio.Lock()
        try:
            await self.backend.connect()
            self._register()
            self.loop = asyncio.get_running_loop()
            startups = dict(app.loaded.implementations("startup"))
            with use_env(app.env):
                for plugin in app.loaded.start_order:
                    if plugin in startups:
                        await settled(startups[plugin](app=app), plugin, "startup")
                    self._started.append(plugin)
        except BaseException:
            # Nothing stays half open, and the first error is the one that is raised.
            failure = await self._shut_down()
            if failure is not None:
                log.error("App %r: also a shutdown failed", app.name, exc_info=failure)
            await self._drop_backend()
            raise

    def _open_backend(self) -> Backend:
        settings = self._app.settings
        listeners = [
            listener
            for plugin, offered in self._app.loaded.collect("register_listeners", app=self._app)
            for listener in checked_items(plugin, "register_listeners", offered, "event listeners")
        ]
        server = ServerSettings(
            uri=self.uri,
            database=settings.database,
            client=self.client,
            options=settings.driver_options() if self.client is None else {},
            event_listeners=listeners,
            concerns=settings.concerns,
        )
        return open_backend(server, self.driver)

    def _register(self) -> None:
        app = self._app
        app.services = Services()
        app.field_types = _field_types(app)
        app.operators = _operators(app)
        for plugin, services in app.loaded.collect("register_services", app=app):
            for name, service in checked_named(plugin, "register_services", services, "objects"):
                app.services.add(name, service, plugin)
        _check_commands(app)
        app.catalog.open()

    async def stop(self) -> None:
        """Shut the plugins down, then close the connections; see ``App.stop``."""
        if not self._is_open() or self._stopper is asyncio.current_task():
            return
        async with self._stopping:
            if not self._is_open():  # another task has stopped it
                return
            self._stopper = asyncio.current_task()
            try:
                failure = await self._shut_down()
            finally:
                self._stopper = None
                try:
                    await self._drop_backend()
                finally:
                    if environment.get_default() is self._app.env:
                        environment.set_default(None)
        if failure is not None:
            raise failure

    def _is_open(self) -> bool:
        return self.backend is not None

    async def _shut_down(self) -> BaseException | None:
        """Call the shutdown of each started plugin, the last one first, whatever one of them does.

        Returns:
            The cancellation of this task, or an interrupt, that came meanwhile; else the first
            failure of a plugin; else None. The other failures are logged.
        """
        started, self._started = self._started, []
        calls = dict(self._app.loaded.implementations("shutdown"))
        requests = _cancellations()
        interrupt: BaseException | None = None
        failure: PluginError | None = None
        with use_env(self._app.env):
            for plugin in reversed(started):
                before = _cancellations()
                try:
                    if plugin in calls:
                        await settled(calls[plugin](app=self._app), plugin, "shutdown")
                except BaseException as error:
                    if not isinstance(error, Exception) and (
                        not isinstance(error, asyncio.CancelledError) or _cancellations() > before
                    ):
                        interrupt = interrupt or error
                        continue
                    problem = _shutdown_failure(plugin, error)
                    if failure is not None:
                        log.error("App %r: %s", self._app.name, problem, exc_info=error)
                    failure = failure or problem
        if interrupt is None and _cancellations() > requests:
            interrupt = asyncio.CancelledError()  # a plugin caught it, and it is not the plugin's
        if interrupt is not None and failure is not None:
            log.error("App %r: %s", self._app.name, failure, exc_info=failure)
        return interrupt or failure

    async def _drop_backend(self) -> None:
        backend, self.backend, self.loop = self.backend, None, None
        self._app.catalog.close()
        if backend is None:
            return
        try:
            await backend.close()
        except asyncio.CancelledError:
            await backend.close()  # a cancelled stop leaves no connection open
            raise


def _cancellations() -> int:
    """Return how many cancellations of this task were requested."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _shutdown_failure(plugin: str, error: BaseException) -> PluginError:
    """Return the error that a plugin's failed shutdown is reported as."""
    if isinstance(error, PluginError):
        return error
    if isinstance(error, asyncio.CancelledError):
        # Nobody cancelled the stop, so it is the usual "task.cancel(); await task".
        text = "CancelledError: a task that it awaited was cancelled; it has to catch that error"
        failure = PluginError(
            f"plugin {plugin!r} failed in its hook {signature('shutdown')}: {text}"
        ).coded("plugin_failed")
    else:
        failure = PluginError(f"plugin {plugin!r} in shutdown: {error}").coded("plugin_failed")
    failure.__cause__ = error
    return failure


def _field_types(app: App) -> Mapping[str, type[Field[Any, Any]]]:
    """Merge the field types of plugins; refuse a name that two of them have."""
    merged: dict[str, type[Field[Any, Any]]] = {}
    owners: dict[str, str] = {}
    for plugin, given in app.loaded.collect("register_fields", app=app):
        for name, kind in checked_field_types(plugin, given):
            if name in owners:
                raise PluginError(
                    f"plugins {owners[name]!r} and {plugin!r} both register {name!r} "
                    f"(register_fields)"
                ).coded("name_taken")
            owners[name] = plugin
            merged[name] = kind
    return merged


def _check_commands(app: App) -> None:
    """Refuse a command of a plugin that EarnORM or another plugin has."""
    owners = dict.fromkeys(app.built_in_commands, "EarnORM")
    for plugin, given in app.loaded.collect("register_commands"):
        for name, _ in checked_commands(plugin, given):
            if name in owners:
                raise PluginError(
                    f"plugin {plugin!r} brings a command {name!r}, which {owners[name]} has already; "
                    f"give it another name"
                ).coded("name_taken")
            owners[name] = f"plugin {plugin!r}"


def _operators(app: App) -> Mapping[str, Operator]:
    owners = dict.fromkeys(ALL_OPERATORS, CORE_DISTRIBUTION)
    operators: dict[str, Operator] = {}
    for plugin, offered in app.loaded.collect("register_operators", app=app):
        for op in checked_operators(plugin, offered):
            if op.name in owners:
                raise PluginError(
                    f"plugin {plugin!r} brings an operator {op.name!r}, "
                    f"which {owners[op.name]!r} brings already"
                )
            owners[op.name] = plugin
            operators[op.name] = op
    return {**ALL_OPERATORS, **operators} if operators else ALL_OPERATORS


@functools.cache
def _load_validation() -> None:
    """Load the part of pydantic that it delays until the first validator is made.

    That takes 40 ms, which would otherwise block the event loop during the first write.
    """
    pydantic.TypeAdapter(Annotated[str, pydantic.StringConstraints(max_length=1)])
