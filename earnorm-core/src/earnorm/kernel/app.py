"""App: one database, its plugins, its models as it sees them; the one way of operations to the database."""

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
from earnorm.kernel.catalog import Catalog, Origins
from earnorm.kernel.environment import Env, use_env
from earnorm.kernel.lifecycle import ALL_OPERATORS, Lifecycle
from earnorm.kernel.loading import LoadedPlugins, load
from earnorm.kernel.operations import Operation
from earnorm.kernel.plugins import PluginInfo, Selection
from earnorm.kernel.services import Services
from earnorm.kernel.settings import AppSettings, either, refuse_unknown

if TYPE_CHECKING:
    import pydantic

    from earnorm import application
    from earnorm.backends import Backend
    from earnorm.concerns import ReadConcern, ReadPreference, WriteConcern
    from earnorm.fields import Field
    from earnorm.model.base import BaseModel

log = logging.getLogger("earnorm")


class App:
    """One database plus a selection of plugins: the kernel's part of :class:`earnorm.App`, which says what
    the arguments are."""

    features: ClassVar[Mapping[str, str]] = {}
    """Plugins that are part of every App: each one's name, and its class as ``"module:Class"``."""
    left_out: ClassVar[Collection[str]] = ()
    """Names of features that the App does without; a model that needs one is refused."""
    built_in_attributes: ClassVar[Collection[str]] = ()
    """The class attributes of models that have a meaning in every App."""

    def __init__(
        self,
        mongo_uri: str | None = None,
        *,
        database: str,
        client: object | None = None,
        driver: str | None = None,
        plugins: Iterable[str | type | object] | None = None,
        disabled: Iterable[str] = (),
        required: Iterable[str] = (),
        name: str | None = None,
        min_pool_size: int | None = None,
        max_pool_size: int | None = None,
        pool_timeout: float | None = None,
        max_lifetime: float | None = None,
        pool_max_lifetime: float | None = None,
        idle_timeout: float | None = None,
        pool_idle_timeout: float | None = None,
        server_timeout: float | None = 5.0,
        default_timeout: float | None = None,
        client_options: Mapping[str, object] | None = None,
        create_indexes: bool = True,
        coalesce: bool = False,
        slow_query: float | None = None,
        slow_query_file: str | None = None,
        read_concern: ReadConcern | None = None,
        write_concern: WriteConcern | None = None,
        read_preference: ReadPreference | None = None,
        **plugin_settings: Mapping[str, Any] | pydantic.BaseModel,
    ) -> None:
        if (mongo_uri is None) == (client is None):
            raise ConfigurationError(
                'give either a URI (mongo_uri="mongodb://localhost:27017") or a client='
            )
        refuse_unknown(plugin_settings, App)
        self.settings = AppSettings(
            database,
            min_pool_size=min_pool_size,
            max_pool_size=max_pool_size,
            pool_timeout=pool_timeout,
            max_lifetime=either(
                "max_lifetime", max_lifetime, "pool_max_lifetime", pool_max_lifetime
            ),
            idle_timeout=either(
                "idle_timeout", idle_timeout, "pool_idle_timeout", pool_idle_timeout
            ),
            server_timeout=server_timeout,
            default_timeout=default_timeout,
            client_options=client_options or {},
            create_indexes=create_indexes,
            coalesce=coalesce,
            slow_query=slow_query,
            slow_query_file=slow_query_file,
            read_concern=read_concern,
            write_concern=write_concern,
            read_preference=read_preference,
        )
        self.name = name or database
        selection = Selection.of(plugins, disabled, required, os.environ)
        self.loaded: LoadedPlugins = load(selection, plugin_settings, self.features, self.left_out)
        self.attributes = brought_attributes(self.loaded, self.built_in_attributes)
        self.services = Services()
        self.field_types: Mapping[str, type[Field[Any, Any]]] = {}
        self.operators: Mapping[str, Operator] = ALL_OPERATORS
        # The App that everybody sees is the face's, which adds to this one.
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
    def is_started(self) -> bool:
        """Whether the App takes operations."""
        return self._lifecycle.loop is not None

    @property
    def plugins(self) -> Sequence[PluginInfo]:
        """Every installed or selected plugin, and whether it is active here."""
        return tuple(self.loaded.infos)

    @property
    def backend(self) -> Backend:
        """The driver adapter.

        Raises:
            ConfigurationError: The App is not started.
        """
        backend = self._lifecycle.backend
        if backend is None:
            raise self._not_started()
        return backend

    def _not_started(self) -> ConfigurationError:
        return ConfigurationError(
            f"App {self.name!r} is not started: 'async with app:' or 'await app.start()' first"
        )

    async def start(self) -> Self:
        """Connect, let the plugins register what they bring, and take operations.

        Raises:
            ConfigurationError: It is started already, or a relation names an unknown model.
            ServerUnavailable: No server answered in time.
            PluginError: A plugin failed.
        """
        await self._lifecycle.start()
        return self

    async def stop(self) -> None:
        """Let the plugins close what they opened, then close the connections. Harmless twice.

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
            # Left in another context than it was entered in, as test fixtures are: that context
            # ends with its own value, and there is nothing to take back here.
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
        """The model as this App sees it; made on its first use."""
        found = self._bound.get(model)
        return self.catalog.bind(model) if found is None else found

    def model(self, name: str) -> type[BaseModel]:
        """A model's class by its name, with the extensions that this App's plugins bring.

        Raises:
            ConfigurationError: No such model.
        """
        return self.bind(self.catalog.named(name)).model

    def find_model(self, name: str) -> type[BaseModel] | None:
        """The definition of a model by its name, or None."""
        return self.catalog.find(name)

    def known_models(self) -> list[type[BaseModel]]:
        """The models that are this App's own: all but those of plugins that it did not select."""
        return self.catalog.known()

    def extended(self, model: type[BaseModel]) -> type[BaseModel]:
        """A model's class with the extensions that this App's plugins bring; nothing is made ready."""
        return self.catalog.extended(model)

    def usable_models(self) -> Iterator[type[BaseModel]]:
        """The classes of this App's own models, with all extensions; nothing is made ready. One that cannot be
        used is left out: it says so when it is."""
        return self.catalog.usable()

    def described(self) -> AbstractContextManager[None]:
        """Inside the block ``parts`` can be asked of an App that is not started; nothing is connected."""
        return self.catalog.described()

    @property
    def origins(self) -> Origins:
        """Whose class a class is: which plugin brings it, or which package."""
        return self.catalog.origins()

    def recompose(self) -> None:
        """Ask the plugins for their layers again, where what they depend on has changed."""
        self.catalog.recompose()

    async def prepare_models(self) -> None:
        """Create the declared indexes of every model defined so far; done once per model.

        An operation does it on its model's first use. A transaction does it before it begins:
        MongoDB answers with a transient error where a collection appears while one runs.
        """
        await self.catalog.prepare()

    def matcher(
        self, model: type[BaseModel], domain: DomainSource
    ) -> Callable[[Mapping[str, Any]], bool]:
        """A predicate that tells, as the database would, whether a document in stored form matches.

        Raises:
            DomainError: An unknown field or operator.
        """
        bound = self.bind(model)
        return matcher(Domain(domain), bound.schema, bound.operators)

    # -- operations ---------------------------------------------------------------------------

    async def execute(self, op: Operation) -> Any:
        """Send an operation through its layers to the database: the only way there is.

        Returns:
            What :class:`Operation` says for its name.
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
                self._failed(op, error)
            raise

    def _failed(self, op: Operation, error: BaseException) -> None:
        for plugin, hear in self._failure_observers:
            try:
                hear(op=op, error=error)
            except Exception:  # nothing may take the place of the error, or of a cancellation
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
        """Tell the plugins that these writes never were."""
        if operations:
            await self.loaded.broadcast("after_rollback", self, operations)

    def dangerous_raw(self, reason: str) -> Any:
        """The driver's own database object, past every layer: no access rules, no audit, no cache
        invalidation. Logged as a warning.

        Args:
            reason: Why nothing else will do; it is logged.
        """
        if not reason.strip():
            raise ConfigurationError("dangerous_raw() needs a reason: it is logged")
        log.warning("App %s: raw access to the database: %s", self.name, reason)
        return self.backend.raw_database()

    async def health(self) -> dict[str, Mapping[str, object]]:
        """The server's health under ``database``, and each plugin's own part under its name.

        Never raises: what fails is reported as ``{"status": "failed", "error": …}``.
        """
        report: dict[str, Mapping[str, object]] = {}
        try:
            answer = await self.backend.ping()
            report["database"] = {"status": "ok", "driver": self.backend.name, **answer}
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
        return f"<App {self.name!r} database={self.settings.database!r} {state}>"
