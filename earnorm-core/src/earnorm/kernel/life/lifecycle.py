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
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Final
from weakref import WeakSet

import pydantic

from earnorm.backends import Backend, ServerSettings, open_backend
from earnorm.backends.shielding import uncancelled
from earnorm.domain import OPERATORS, Operator
from earnorm.domain.keyset import KEYSET_OPERATORS
from earnorm.exceptions import ConfigurationError, PluginError
from earnorm.kernel import environment
from earnorm.kernel.contract.cancellations import delivered
from earnorm.kernel.contract.handed_in import (
    check_field_name,
    checked_commands,
    checked_field_types,
    checked_listeners,
    checked_operators,
    checked_services,
)
from earnorm.kernel.environment import use_env
from earnorm.kernel.life.in_flight import Stopped, in_hooks_of
from earnorm.kernel.plugins import tracing
from earnorm.kernel.plugins.loading import settled
from earnorm.kernel.plugins.selection import CORE_DISTRIBUTION
from earnorm.kernel.plugins.services import Services
from earnorm.kernel.transactions.held_records import HOLDERS

if TYPE_CHECKING:
    from earnorm.fields import Field
    from earnorm.kernel.app import App

log = logging.getLogger("earnorm")

ALL_OPERATORS: Final[Mapping[str, Operator]] = {**OPERATORS, **KEYSET_OPERATORS}
"""The operators that every App has."""


_ALL: Final[WeakSet[Lifecycle]] = WeakSet()
_OF_PARENT: Final[list[Backend]] = []


def _leave_all_to_parent() -> None:
    """Forget in a forked child what its parent has started: the child makes Apps of its own."""
    for lifecycle in list(_ALL):
        lifecycle.leave_to_parent()
    environment.set_default(None)
    environment.forget_started()
    environment._current.set(None)
    HOLDERS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_to_parent)


class Lifecycle:
    """Starts and stops one App.

    Args:
        app: The App.
        uri: The server's URI; empty if there is a client.
        client: A client that the application made itself.
        driver: The driver's name; None means the default.

    Attributes:
        backend: The driver adapter; None while the App is stopped.
        loop: The event loop that the App was started on; None while it is stopped.
        taking: The loop of which it takes every operation; None while it is stopped, and while it
            stops.
        is_of_parent: True in a forked child of the process that has started it, until it is started
            there.
    """

    def __init__(self, app: App, uri: str, client: object | None, driver: str | None) -> None:
        self._app = app
        self.uri, self.client, self.driver = uri, client, driver
        self.backend: Backend | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.taking: asyncio.AbstractEventLoop | None = None
        self.is_of_parent = False
        self._started: list[str] = []
        self._stopping = asyncio.Lock()
        self._stopper: asyncio.Task[Any] | None = None
        _ALL.add(self)

    def leave_to_parent(self) -> None:
        """Be stopped in a forked child; the connections and the plugins are the parent's.

        The Backend stays alive, so that no finalizer touches connections that the parent uses.
        """
        if self.backend is None:
            return
        _OF_PARENT.append(self.backend)
        self.backend = self.loop = self.taking = self._stopper = None
        self.is_of_parent = True
        self._started = []
        self._app.in_flight.reset()
        self._app.catalog.close()

    async def start(self) -> None:
        """Connect, call the plugins' register hooks, and take operations; see ``App.start``."""
        app = self._app
        if self.backend is not None:
            raise ConfigurationError(f"App {app.name!r} is started already")
        if app.loaded.times is not None:
            tracing.tell_selection(app)
        start = perf_counter()
        _load_validation()
        self.backend = self._open_backend()
        self.is_of_parent = False
        self._stopping = asyncio.Lock()
        try:
            await self.backend.connect()
            self._register()
            app.in_flight.reset()
            app.reset_contention()
            self.loop = self.taking = asyncio.get_running_loop()
            startups = dict(app.loaded.implementations("startup"))
            with use_env(app.env), in_hooks_of(app):
                for plugin in app.loaded.start_order:
                    if plugin in startups:
                        await settled(startups[plugin](app=app), plugin, "startup")
                    self._started.append(plugin)
                app.catalog.check_brought()
            self._trace("started", start, self._started)
            environment.started(app.env, self.loop)
        except BaseException:
            self._trace("failed to start", start, self._started)
            # Nothing stays half open, and the first error is the one that is raised.
            failure = await self._shut_down()
            if failure is not None:
                log.error("App %r: also a shutdown failed", app.name, exc_info=failure)
            await self._drop_backend()
            raise

    def _trace(self, done: str, start: float, order: Sequence[str]) -> None:
        """Tell how long the hooks took, if anybody sees the trace of plugins."""
        if self._app.loaded.times is not None:
            tracing.tell_times(self._app, done, perf_counter() - start, order)

    def _open_backend(self) -> Backend:
        settings = self._app.settings
        listeners = [
            listener
            for plugin, offered in self._app.loaded.collect("register_listeners", app=self._app)
            for listener in checked_listeners(plugin, offered)
        ]
        server = ServerSettings(
            uri=self.uri,
            database=settings.database,
            client=self.client,
            options=settings.driver_options() if self.client is None else {},
            event_listeners=listeners,
            concerns=settings.concerns,
            is_part=self._is_in_transaction,
        )
        return open_backend(server, self.driver)

    def _is_in_transaction(self) -> bool:
        """Return whether the running code is in the block of a transaction of this App."""
        env = environment.find_env()
        return env is not None and env.app is self._app and env.transaction is not None

    def _register(self) -> None:
        app = self._app
        app.services = Services()
        app.field_types = _field_types(app)
        app.operators = _operators(app)
        for plugin, services in app.loaded.collect("register_services", app=app):
            for name, service in checked_services(plugin, services):
                app.services.add(name, service, plugin)
        check_commands(app)
        app.catalog.open()

    @asynccontextmanager
    async def described(self) -> AsyncIterator[None]:
        """Call the register hooks for a block that reads what they gave; nothing is connected."""
        self.backend = self._open_backend()
        try:
            self._register()
            yield
        finally:
            await self._drop_backend()

    async def stop(self, grace: float) -> Stopped:
        """End what is in flight, then what the start began; see ``App.stop``."""
        if not self._is_open() or self._stopper is asyncio.current_task():
            return Stopped()
        async with self._stopping:
            if not self._is_open():  # another task has stopped it
                return Stopped()
            self._stopper = asyncio.current_task()
            try:
                cut, interrupt = await self._end_work(grace)
                failure = await self._shut_down()
            finally:
                self._stopper = None
                try:
                    await self._drop_backend()
                finally:
                    if environment.get_default() is self._app.env:
                        environment.set_default(None)
        if interrupt is not None and failure is not None:
            log.error("App %r: also a shutdown failed", self._app.name, exc_info=failure)
        if interrupt is not None or failure is not None:
            raise interrupt or failure  # type: ignore[misc]  # one of them is there
        return cut

    async def _end_work(self, grace: float) -> tuple[Stopped, asyncio.CancelledError | None]:
        """Refuse new work, wait for what is in flight, and cut off what is not over then.

        Returns:
            What was cut off, and the first cancellation of this task, which ends the grace.
        """
        work, interrupt = self._app.in_flight, None
        self.taking = None
        if self.loop is not asyncio.get_running_loop():
            return Stopped(), None  # the tasks of another loop cannot be waited for
        try:
            await work.drain(grace)
        except asyncio.CancelledError as error:
            interrupt = error
        work.refuse_all()
        if work.is_over():
            return Stopped(), interrupt
        cutting = asyncio.ensure_future(work.abort())
        interrupt = await uncancelled(cutting) or interrupt
        cut = cutting.result()
        if not cut.is_clean:
            log.warning(
                "App %r was stopped while work was in flight; cut off after %g s: %s",
                *(self._app.name, grace, cut),
            )
        return cut, interrupt

    def _is_open(self) -> bool:
        return self.backend is not None

    async def _shut_down(self) -> BaseException | None:
        """Call the shutdown of each started plugin, the last one first, whatever one of them does.

        Returns:
            The cancellation of this task, or an interrupt, that came meanwhile; else the first
            failure of a plugin; else None. The other failures are logged.
        """
        start = perf_counter()
        started, self._started = self._started, []
        calls = dict(self._app.loaded.implementations("shutdown"))
        requests = delivered()
        interrupt: BaseException | None = None
        failure: PluginError | None = None
        with use_env(self._app.env), in_hooks_of(self._app):
            for plugin in reversed(started):
                try:
                    if plugin in calls:
                        await settled(calls[plugin](app=self._app), plugin, "shutdown")
                except BaseException as error:
                    if not isinstance(error, Exception):
                        interrupt = interrupt or error
                        continue
                    problem = _shutdown_failure(plugin, error)
                    if failure is not None:
                        log.error("App %r: %s", self._app.name, problem, exc_info=error)
                    failure = failure or problem
        self._trace("stopped", start, started[::-1])
        if interrupt is None and delivered() > requests:
            interrupt = asyncio.CancelledError()  # a plugin caught it, and it is not the plugin's
        if interrupt is not None and failure is not None:
            log.error("App %r: %s", self._app.name, failure, exc_info=failure)
        return interrupt or failure

    async def _drop_backend(self) -> None:
        try:
            if self.loop is not None:  # it was connected
                await self._app._disconnecting()
        finally:
            await self._disconnect()

    async def _disconnect(self) -> None:
        backend, self.backend, self.loop, self.taking = self.backend, None, None, None
        environment.stopped(self._app.env)
        self._app.catalog.close()
        if backend is None:
            return
        try:
            await backend.close()
        except asyncio.CancelledError:
            await backend.close()  # a cancelled stop leaves no connection open
            raise


def _shutdown_failure(plugin: str, error: Exception) -> PluginError:
    """Return the error that a plugin's failed shutdown is reported as."""
    if isinstance(error, PluginError):
        return error
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
    for name, kind in merged.items():
        check_field_name(owners[name], name, kind)
    return merged


def check_commands(app: App) -> None:
    """Refuse a command of a plugin that EarnORM or another plugin has.

    Raises:
        PluginError: Two have a command of one name, or a hook gives no commands.
    """
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
