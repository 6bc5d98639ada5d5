"""The kernel's App: one database with its plugins and models, and the only way to the database."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from earnorm.domain import Domain, DomainSource, Operator, matcher
from earnorm.exceptions import ConfigurationError, EarnORMError
from earnorm.kernel import environment
from earnorm.kernel.attributes import brought_attributes
from earnorm.kernel.binding import BoundModel
from earnorm.kernel.built_in import BuiltIn
from earnorm.kernel.catalog import Catalog, Origins
from earnorm.kernel.environment import Env, use_env
from earnorm.kernel.lifecycle import ALL_OPERATORS, Lifecycle
from earnorm.kernel.loading import LoadedPlugins, load
from earnorm.kernel.operations import Operation
from earnorm.kernel.plugins import PluginInfo, Selection
from earnorm.kernel.project import project_selection
from earnorm.kernel.services import Services
from earnorm.kernel.settings import AppSettings, parameters_of

if TYPE_CHECKING:
    from earnorm import application
    from earnorm.backends import Backend
    from earnorm.fields import Field
    from earnorm.model.base import BaseModel

log = logging.getLogger("earnorm")


class App:
    """One database with a selection of plugins: the kernel's part of :class:`earnorm.App`.

    The public class documents the other arguments.

    Args:
        feature_settings: The arguments with which classes of features are made, by feature.
    """

    core_plugins: ClassVar[Mapping[str, str]] = {}
    """The class of each plugin that every App has, by its name, as ``"module:Class"``."""
    features: ClassVar[Mapping[str, str]] = {}
    """The features by name: the class of each, or the package of one without hooks."""
    left_out: ClassVar[Collection[str]] = ()
    """Names of features that the App leaves out, besides those in ``disabled=``. It refuses the
    models and the calls that need one of them."""
    built_in_attributes: ClassVar[Collection[str]] = ()
    """The class attributes of models that have a meaning in every App."""
    built_in_commands: ClassVar[Collection[str]] = ()
    """The names of the commands of ``earnorm`` that no plugin can have."""
    built_in_steps: ClassVar[Collection[str]] = ()
    """The names of the features' steps. A plugin's step may run after one on every model."""

    def __init__(
        self,
        settings: AppSettings,
        *,
        mongo_uri: str | None,
        client: object | None,
        driver: str | None,
        plugins: Iterable[str | type | object] | None,
        disabled: Iterable[str],
        required: Iterable[str],
        name: str | None,
        feature_settings: Mapping[str, Mapping[str, object]],
        plugin_settings: Mapping[str, object],
    ) -> None:
        if (mongo_uri is None) == (client is None):
            raise ConfigurationError(
                'give either a URI (mongo_uri="mongodb://localhost:27017") or a client='
            )
        self._settings = settings
        self.name = name or settings.database
        project = project_selection()
        selection = Selection.of(plugins, disabled, required, os.environ, project=project)
        built_in = BuiltIn(
            self.core_plugins,
            self.features,
            self.left_out,
            feature_settings,
            parameters_of(type(self)),
        )
        self.loaded: LoadedPlugins = load(selection, plugin_settings, built_in)
        self.attributes = brought_attributes(self.loaded, self.built_in_attributes)
        self.services = Services()
        self.field_types: Mapping[str, type[Field[Any, Any]]] = {}
        self.operators: Mapping[str, Operator] = ALL_OPERATORS
        # Every App is made from the public subclass, earnorm.App.
        self.env = Env(cast("application.App", self))
        self.hears_commits = self.loaded.implements("after_commit")
        self._failure_observers = self.loaded.implementations("operation_failed")
        self.catalog = Catalog(self)
        self._bound = self.catalog.bound
        driver = driver or os.environ.get("EARNORM_DRIVER") or None
        self._lifecycle = Lifecycle(self, mongo_uri or "", client, driver)
        self._token: Token[Env | None] | None = None

    # -- start and stop -----------------------------------------------------------------------

    @property
    def settings(self) -> AppSettings:
        """The settings of the connection and of all operations."""
        return self._settings

    @property
    def is_started(self) -> bool:
        """True if the App takes operations."""
        return self._lifecycle.loop is not None

    @property
    def plugins(self) -> Sequence[PluginInfo]:
        """Every installed or selected plugin; each entry tells if it is active in this App."""
        return tuple(self.loaded.infos)

    @property
    def capabilities(self) -> frozenset[str]:
        """The names of what the backend can do beyond plain reads and writes: ``"transactions"`` …

        Raises:
            ConfigurationError: The App is not started.
        """
        return frozenset(self._backend.capabilities)

    @property
    def unheard_listeners(self) -> Collection[object]:
        """The event listeners of plugins that the driver does not call: its client was there before.

        Raises:
            ConfigurationError: The App is not started.
        """
        return self._backend.unheard_listeners

    @property
    def _backend(self) -> Backend:
        """The driver adapter, which knows no layers: plugins and programs have ``dangerous_raw``."""
        backend = self._lifecycle.backend
        if backend is None:
            raise self._not_started()
        return backend

    def _not_started(self) -> ConfigurationError:
        return ConfigurationError(
            f"App {self.name!r} is not started: 'async with app:' or 'await app.start()' first"
        )

    async def start(self) -> Self:
        """Connect, call the plugins' register hooks, and take operations from then on.

        Raises:
            ConfigurationError: It is started already, or a relation names an unknown model.
            ServerUnavailable: No server answered in time.
            PluginError: A plugin failed.
        """
        await self._lifecycle.start()
        return self

    async def stop(self) -> None:
        """Shut the plugins down, then close the connections. A second call does nothing.

        Raises:
            PluginError: A plugin's shutdown failed; everything else was closed all the same.
        """
        await self._lifecycle.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        self._token = environment._current.set(self.env)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        token, self._token = self._token, None
        try:
            if token is not None:
                environment._current.reset(token)
        except ValueError:
            # The App was entered in another context, as in a test fixture: that context ends with
            # its own value, so there is nothing to reset here.
            pass
        finally:
            await self.stop()

    @contextmanager
    def activate(self) -> Iterator[Env]:
        """Make this the current App inside the block."""
        with use_env(self.env) as env:
            yield env

    # -- models -------------------------------------------------------------------------------

    def bind(self, model: type[BaseModel]) -> BoundModel:
        """Return the model as this App sees it; the first call makes the BoundModel."""
        bound = self._bound.get(model)
        return self.catalog.bind(model) if bound is None else bound

    def model(self, name: str) -> type[BaseModel]:
        """Return a model's class by its name, with the extensions of this App's plugins.

        Raises:
            ConfigurationError: There is no such model.
        """
        return self.bind(self.catalog.named(name)).model

    def known_models(self) -> list[type[BaseModel]]:
        """Return the App's own models: all except those of plugins that it did not select."""
        return self.catalog.known()

    def extended(self, model: type[BaseModel]) -> type[BaseModel]:
        """Return a model's class with the extensions of this App's plugins; it binds nothing."""
        return self.catalog.extended(model)

    def usable_models(self) -> Iterator[type[BaseModel]]:
        """Yield the classes of this App's own models, with all extensions; it binds nothing.

        A model that cannot be used is left out: it raises its error when it is used.
        """
        return self.catalog.usable()

    def described(self) -> AbstractContextManager[None]:
        """Make ``parts`` usable inside the block while the App is stopped, without a connection."""
        return self.catalog.described()

    @property
    def origins(self) -> Origins:
        """The table that tells which plugin or package a class comes from."""
        return self.catalog.origins()

    def recompose(self) -> None:
        """Ask the plugins for their layers again, after a change of what they depend on."""
        self.catalog.recompose()

    async def prepare_models(self) -> None:
        """Prepare the database for every model defined so far (e.g. its indexes), once per model.

        An operation does it when its model is first used. A transaction does it before it begins,
        because MongoDB returns a transient error if a collection appears during a transaction.
        """
        await self.catalog.prepare()

    def matcher(
        self, model: type[BaseModel], domain: DomainSource
    ) -> Callable[[Mapping[str, Any]], bool]:
        """Return a predicate that matches a document in stored form as the database would.

        Raises:
            DomainError: An unknown field or operator.
        """
        bound = self.bind(model)
        return matcher(Domain(domain), bound.schema, bound.operators)

    # -- operations ---------------------------------------------------------------------------

    async def execute(self, op: Operation) -> Any:
        """Send an operation through its layers to the database. There is no other way.

        Returns:
            The result that :class:`Operation` lists for its name.
        """
        # The common case needs neither a second call nor a lock.
        if asyncio.get_running_loop() is not self._lifecycle.loop:
            self._refuse_loop()
        bound = self._bound.get(op.model) or self.bind(op.model)
        try:
            if not bound.is_prepared:
                await bound.prepare()
            return await bound.call(op.name)(op)
        except BaseException as error:
            if self._failure_observers:
                self._report_failure(op, error)
            raise

    def _report_failure(self, op: Operation, error: BaseException) -> None:
        for plugin, observe in self._failure_observers:
            try:
                observe(op=op, error=error)
            except Exception:  # it must not replace the operation's error, or a cancellation
                log.exception("plugin %r failed when it heard of a failed %s", plugin, op.name)

    def _refuse_loop(self) -> None:
        if not self.is_started:
            raise self._not_started()
        raise ConfigurationError(
            f"App {self.name!r} was started on another event loop; start an App of its own on "
            f"each loop (one asyncio.run() for the whole program)"
        )

    async def committed(self, operations: Sequence[Operation]) -> None:
        """Tell the plugins that these writes are durable."""
        if operations and self.hears_commits:
            await self.loaded.broadcast("after_commit", self, operations)

    async def rolled_back(self, operations: Sequence[Operation]) -> None:
        """Tell the plugins that these writes were rolled back."""
        if operations:
            await self.loaded.broadcast("after_rollback", self, operations)

    def dangerous_raw(self, reason: str) -> Any:
        """Return the driver's own database object, which bypasses every layer.

        It has no access rules, no audit and no cache invalidation. Each use is logged as a warning.

        Args:
            reason: The reason why no other way works; it is logged.
        """
        if not reason.strip():
            raise ConfigurationError("dangerous_raw() needs a reason: it is logged")
        log.warning("App %s: raw access to the database: %s", self.name, reason)
        return self._backend.raw_database()

    async def health(self) -> dict[str, Mapping[str, object]]:
        """Return the server's health under ``database``, and each plugin's part under its name.

        Never raises: a failure is reported as ``{"status": "failed", "error": …}``.
        """
        report: dict[str, Mapping[str, object]] = {}
        try:
            answer = await self._backend.ping()
            report["database"] = {"status": "ok", "driver": self._backend.name, **answer}
        except EarnORMError as error:
            report["database"] = {"status": "failed", "error": str(error)}
        for name, call in self.loaded.implementations("health"):
            try:
                part = call(app=self)
                report[name] = part if isinstance(part, Mapping) else await part
            except Exception as error:
                report[name] = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        return report

    def __repr__(self) -> str:
        # The URI may hold a password.
        state = "started" if self.is_started else "not started"
        return f"<App {self.name!r} database={self._settings.database!r} {state}>"
