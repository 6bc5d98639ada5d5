"""App: one database, its plugins, its models as it sees them; start and stop."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Token
from dataclasses import dataclass, field, fields
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import pydantic

from earnorm.backends import Backend, ServerSettings, open_backend
from earnorm.concerns import Concerns, ReadConcern, ReadPreference, WriteConcern
from earnorm.domain import OPERATORS, Domain, DomainSource, Operator, matcher
from earnorm.domain.keyset import KEYSET_OPERATORS
from earnorm.exceptions import ConfigurationError, EarnORMError, PluginError, nearest
from earnorm.features import load_features
from earnorm.features.computed.dependencies import Dependencies
from earnorm.features.computed.recomputing import Progress, Recomputed, recompute
from earnorm.kernel import environment, registry
from earnorm.kernel.binding import BoundModel
from earnorm.kernel.environment import Env, current_env, use_env
from earnorm.kernel.operations import Operation
from earnorm.kernel.plugins import (
    CORE_DISTRIBUTION,
    LoadedPlugins,
    PluginInfo,
    Selection,
    installed,
    load,
    settled,
)
from earnorm.kernel.services import Services
from earnorm.model.base import BaseModel
from earnorm.model.extension import Extension, Origins, effective_class
from earnorm.model.reading.resolution import check, resolve
from earnorm.model.relations.prefetch import check_relations

if TYPE_CHECKING:
    from earnorm.features.indexes.catalog import IndexCatalog
    from earnorm.features.provenance.provenance import Part
    from earnorm.fields import Field

log = logging.getLogger("earnorm")

# The plugins of this house, so that a misspelt keyword finds its neighbour before they are installed.
_HOUSE_PLUGINS = ("audit", "cache", "pool", "security")


_OPERATORS: Mapping[str, Operator] = {**OPERATORS, **KEYSET_OPERATORS}


@dataclass(frozen=True, slots=True)
class AppSettings:
    """What an App was made with. Times are in seconds; None leaves the driver's own default.

    Attributes:
        database: The database's name.
        min_pool_size: Connections kept open.
        max_pool_size: Most connections to one server.
        pool_timeout: How long an operation waits for a connection.
        max_lifetime: Age at which a connection is retired (the pool plugin does it).
        idle_timeout: Idle time after which a connection is closed.
        server_timeout: How long to look for a server before giving up.
        client_options: Further options of the driver, in its own names.
        slow_query: Note operations that take so long or longer (``docs/indexes.md``); None notes none.
        slow_query_file: Where to write the shapes of slow operations when the App stops.
        create_indexes: Create declared collections and indexes on a model's first use.
        read_concern: How settled the data must be that is read, e.g. ``"majority"``.
        write_concern: How many members confirm a write: a number, ``"majority"``, or a mapping with
            ``w``, ``j`` and ``wtimeout`` (milliseconds).
        read_preference: Which members are read from, e.g. ``"secondaryPreferred"``.
        default_timeout: How long a read or a write may take that says nothing else.
    """

    database: str
    min_pool_size: int | None = None
    max_pool_size: int | None = None
    pool_timeout: float | None = None
    max_lifetime: float | None = None
    idle_timeout: float | None = None
    server_timeout: float = 5.0
    client_options: Mapping[str, object] = field(default_factory=dict[str, object])
    create_indexes: bool = True
    coalesce: bool = False
    slow_query: float | None = None
    slow_query_file: str | None = None
    read_concern: ReadConcern | None = None
    write_concern: WriteConcern | None = None
    read_preference: ReadPreference | None = None
    default_timeout: float | None = None

    @property
    def concerns(self) -> Concerns | None:
        """The three concerns, checked; None where none was given."""
        return Concerns.of(
            "App",
            read_concern=self.read_concern,
            write_concern=self.write_concern,
            read_preference=self.read_preference,
        )

    def driver_options(self) -> dict[str, object]:
        """These settings in the driver's names; times in milliseconds."""
        seconds = {
            "waitQueueTimeoutMS": self.pool_timeout,
            "maxIdleTimeMS": self.idle_timeout,
            "serverSelectionTimeoutMS": self.server_timeout,
        }
        options: dict[str, object] = {
            name: int(value * 1000) for name, value in seconds.items() if value is not None
        }
        sizes = {"minPoolSize": self.min_pool_size, "maxPoolSize": self.max_pool_size}
        options |= {name: size for name, size in sizes.items() if size is not None}
        return options | dict(self.client_options)


_SYNONYMS = {"pool_max_lifetime": "max_lifetime", "pool_idle_timeout": "idle_timeout"}
_SETTINGS = frozenset(f.name for f in fields(AppSettings)) - {"database"}


def _split(database: object, keywords: Mapping[str, Any]) -> tuple[AppSettings, dict[str, Any]]:
    """The App's own settings, and the keywords that belong to plugins."""
    if not isinstance(database, str) or not database:
        raise ConfigurationError('database= names the database: database="example"')
    own: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for keyword, value in keywords.items():
        name = _SYNONYMS.get(keyword, keyword)
        if name in _SETTINGS:
            if name in own:
                raise ConfigurationError(f"{keyword!r} and {name!r} mean the same; give one")
            own[name] = value
        elif isinstance(value, Mapping) or hasattr(value, "model_fields_set"):
            others[keyword] = value
        else:
            known = {*_SETTINGS, *_SYNONYMS, *_ARGUMENTS, *installed(), *_HOUSE_PLUGINS}
            raise ConfigurationError(f"unknown keyword {keyword!r}{nearest(keyword, known)}")
    for name in ("min_pool_size", "max_pool_size"):
        size = own.get(name)
        if size is not None and (type(size) is not int or size < 0):
            raise ConfigurationError(f"{name} is a number of connections, not {size!r}")
    for name in _TIMES:
        time = own.get(name)
        if time is not None and (not isinstance(time, int | float) or not time > 0):
            raise ConfigurationError(f"{name} is a time in seconds above 0, not {time!r}")
    settings = AppSettings(database, **own)
    _ = settings.concerns  # an unknown value is an error of the App's maker
    return settings, others


_TIMES = (
    "pool_timeout",
    "max_lifetime",
    "idle_timeout",
    "server_timeout",
    "default_timeout",
    "slow_query",
)
_ARGUMENTS = (
    "mongo_uri",
    "database",
    "client",
    "driver",
    "plugins",
    "disabled",
    "required",
    "name",
)


class App:
    """One database plus a selection of plugins.

    Use it as a context manager, or through :func:`init` and :func:`close`::

        async with earnorm.App("mongodb://localhost:27017", database="shop") as app:
            ...

    Args:
        mongo_uri: ``mongodb://``, ``mongodb+srv://``, or ``mongomock://`` for an in-memory database.
        database: The database's name.
        client: A client that the application made itself, instead of a URI; it is never closed.
        driver: ``"pymongo"`` (the default) or ``"motor"``; also ``EARNORM_DRIVER``.
        plugins: Names, classes and instances; without it ``EARNORM_PLUGINS``, else all installed.
        disabled: Names of plugins that are never loaded; ``EARNORM_DISABLED_PLUGINS`` adds to it.
        required: Names of plugins that must be active, and cannot be switched off from outside.
        name: How messages call this App (default: the database's name).
        **keywords: The pool and timeout settings of :class:`AppSettings`, and one keyword per
            plugin with that plugin's settings.

    Raises:
        ConfigurationError: A keyword is unknown or its value not valid.
        PluginError: A plugin is not installed, fails to load, or breaks the contract.
    """

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
        **keywords: Any,
    ) -> None:
        if (mongo_uri is None) == (client is None):
            raise ConfigurationError(
                'give either a URI (mongo_uri="mongodb://localhost:27017") or a client='
            )
        self.settings, plugin_settings = _split(database, keywords)
        self.name = name or database
        self._uri = mongo_uri or ""
        self._client = client
        self._driver = driver or os.environ.get("EARNORM_DRIVER") or None
        selection = Selection.of(plugins, disabled, required, os.environ)
        self.loaded: LoadedPlugins = load(selection, plugin_settings, load_features())
        self.services = Services()
        self.field_types: Mapping[str, type[Field[Any, Any]]] = {}
        self.operators: Mapping[str, Operator] = _OPERATORS
        self.env = Env(self)
        self.dependencies = Dependencies(self)
        self.hears_commits = self.loaded.implements("after_commit")
        self._failure_observers = self.loaded.implementations("operation_failed")
        self._backend: Backend | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bound: dict[type[BaseModel], BoundModel] = {}
        self._by_name: dict[str, type[BaseModel]] = {}
        self._extensions: dict[str, list[Extension]] = {}
        self._effective: dict[type[BaseModel], type[BaseModel]] = {}
        self._brought: dict[type[BaseModel], str] = {}
        self._plugin_packages = {point.module.partition(".")[0] for point in installed().values()}
        self._prepared = -1
        self._token: Token[Env | None] | None = None

    # -- start and stop -----------------------------------------------------------------------

    @property
    def is_started(self) -> bool:
        """Whether the App takes operations."""
        return self._loop is not None

    @property
    def plugins(self) -> Sequence[PluginInfo]:
        """Every installed or selected plugin, and whether it is active here."""
        return tuple(self.loaded.infos)

    @property
    def indexes(self) -> IndexCatalog:
        """What the models declare against what the database has: ``diff``, ``sync``, ``drop_unused``."""
        from earnorm.features.indexes.catalog import IndexCatalog

        return IndexCatalog(self)

    @property
    def backend(self) -> Backend:
        """The driver adapter.

        Raises:
            ConfigurationError: The App is not started.
        """
        if self._backend is None:
            raise ConfigurationError(
                f"App {self.name!r} is not started: 'async with app:' or 'await app.start()' first"
            )
        return self._backend

    async def start(self) -> Self:
        """Connect, let the plugins register what they bring, and take operations.

        Raises:
            ConfigurationError: It is started already, or a relation names an unknown model.
            ServerUnavailable: No server answered in time.
            PluginError: A plugin failed.
        """
        if self._backend is not None:
            raise ConfigurationError(f"App {self.name!r} is started already")
        _load_validation()
        listeners = [
            listener
            for _, found in self.loaded.collect("register_listeners", app=self)
            for listener in found or ()
        ]
        server = ServerSettings(
            uri=self._uri,
            database=self.settings.database,
            client=self._client,
            options=self.settings.driver_options() if self._client is None else {},
            event_listeners=listeners,
            concerns=self.settings.concerns,
        )
        self._backend = open_backend(server, self._driver)
        started: set[str] = set()
        try:
            await self._backend.connect()
            self._register()
            self._loop = asyncio.get_running_loop()
            with use_env(self.env):
                for plugin, call in self.loaded.implementations("startup"):
                    await settled(call(app=self), plugin, "startup")
                    started.add(plugin)
        except BaseException:
            # Nothing stays half open: who has started is shut down, and the first error is the one told.
            await self._shut_down(started)
            await self._drop_backend()
            raise
        return self

    def _register(self) -> None:
        self.services = Services()
        self.field_types = self._merged("register_fields", {})
        owners = dict.fromkeys(_OPERATORS, CORE_DISTRIBUTION)
        operators: dict[str, Operator] = {}
        for plugin, found in self.loaded.collect("register_operators", app=self):
            for op in found or ():
                if op.name in owners:
                    raise PluginError(
                        f"plugin {plugin!r} brings an operator {op.name!r}, "
                        f"which {owners[op.name]!r} brings already"
                    )
                owners[op.name] = plugin
                operators[op.name] = op
        self.operators = {**_OPERATORS, **operators} if operators else _OPERATORS
        for plugin, services in self.loaded.collect("register_services", app=self):
            for name, service in (services or {}).items():
                self.services.add(name, service, plugin)
        self._register_models()

    def _register_models(self) -> None:
        for plugin, models in self.loaded.collect("register_models", app=self):
            for model in models or ():
                other = self._brought.setdefault(model, plugin)
                if model._inherit is not None:
                    self._extensions.setdefault(model._inherit, []).append(Extension(plugin, model))
                    continue
                first = self._by_name.setdefault(model._name, model)
                if first is not model or other != plugin:
                    raise PluginError(
                        f"plugins {self._brought[first]!r} and {plugin!r} both bring a model named "
                        f"{model._name!r}; give one another _name, or extend it with _inherit"
                    )
        for target in self._extensions:
            base = self._by_name.get(target) or registry.definitions().get(target)
            if base is None:
                log.info("a plugin extends the model %r, which nobody has defined yet", target)
            else:
                self._effective_class(base)  # what clashes stops the start
        self._check_relations()

    def _effective_class(self, base: type[BaseModel]) -> type[BaseModel]:
        found = self._effective.get(base)
        if found is None:
            found = effective_class(base, self._extensions.get(base._name, ()))
            self._effective[base] = found
        return found

    @contextmanager
    def described(self) -> Iterator[None]:
        """Inside the block ``parts`` can be asked of an App that is not started; nothing is connected."""
        self._register_models()
        try:
            yield
        finally:
            self._forget_models()

    def parts(self, name: str | None = None) -> list[Part]:
        """The fields, indexes, rules and declarations of a model, each with the package that it is of.

        Args:
            name: The model's name; None means every model of this App.

        Raises:
            ConfigurationError: No such model.
        """
        from earnorm.features.provenance.provenance import parts_of

        found = self.known_models() if name is None else [self._named(name)]
        return [part for each in found for part in parts_of(self, self._effective_class(each))]

    @property
    def origins(self) -> Origins:
        """Whose class a class is: which plugin brings it, or which package."""
        return Origins(self, self._brought)

    def _check_relations(self) -> None:
        known: dict[str, dict[str, Field[Any, Any]]] = {
            name: dict(model._schema.fields)
            for name, model in {**registry.definitions(), **self._by_name}.items()
        }
        for name, extensions in self._extensions.items():
            for extension in extensions:
                known.setdefault(name, {}).update(extension.model._schema.fields)
        check_relations(self.known_models(), known)

    def _merged(self, hook: str, start: dict[str, Any]) -> dict[str, Any]:
        owners: dict[str, str] = {}
        for plugin, found in self.loaded.collect(hook, app=self):
            for name, value in (found or {}).items():
                if name in owners:
                    raise PluginError(
                        f"plugins {owners[name]!r} and {plugin!r} both register {name!r} ({hook})"
                    )
                owners[name] = plugin
                start[name] = value
        return start

    async def stop(self) -> None:
        """Let the plugins close what they opened, then close the connections. Harmless twice.

        Raises:
            PluginError: A plugin's shutdown failed; everything else was closed all the same.
        """
        if self._backend is None:
            return
        # Of the core's own plugins as well, which names() leaves out.
        every = {plugin for plugin, _ in self.loaded.implementations("shutdown")}
        failure = await self._shut_down(every)
        await self._drop_backend()
        if environment.get_default() is self.env:
            environment.set_default(None)
        if failure is not None:
            raise failure

    async def _shut_down(self, plugins: Collection[str]) -> PluginError | None:
        """The shutdown of each of these plugins, whatever another's does; gives the first failure."""
        failure: PluginError | None = None
        with use_env(self.env):
            for plugin, call in self.loaded.implementations("shutdown"):
                if plugin not in plugins:
                    continue
                try:
                    await settled(call(app=self), plugin, "shutdown")
                except PluginError as error:
                    failure = failure or error
                except EarnORMError as error:
                    failure = failure or PluginError(f"plugin {plugin!r} in shutdown: {error}")
                    failure.__cause__ = failure.__cause__ or error
        return failure

    async def _drop_backend(self) -> None:
        backend, self._backend, self._loop = self._backend, None, None
        self._forget_models()
        if backend is not None:
            await backend.close()

    def _forget_models(self) -> None:
        self._prepared = -1
        self.dependencies.forget()
        for known in (
            self._bound,
            self._by_name,
            self._extensions,
            self._effective,
            self._brought,
        ):
            known.clear()

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
        return self._bind(model) if found is None else found

    def _bind(self, model: type[BaseModel]) -> BoundModel:
        if model._inherit is not None:
            return self._bind_extension(model, model._inherit)
        base = model._base or model
        if base._abstract:
            raise ConfigurationError(f"{base.__name__} is abstract; use a model that inherits it")
        effective = self._effective_class(base)
        bound = BoundModel(self, effective)
        names = {base, effective, model}
        self._bound |= dict.fromkeys(names, bound)
        try:
            self.loaded.collect("model_registered", app=self, model=effective)
        except BaseException:
            for name in names:  # a model that a plugin refuses is refused again next time
                del self._bound[name]
            raise
        return bound

    def _bind_extension(self, model: type[BaseModel], target: str) -> BoundModel:
        """An extension stands for the model that it is a part of, in the Apps where it is."""
        if model not in self._brought:
            raise ConfigurationError(
                f"{model.__name__} extends {target!r}, and no plugin of App {self.name!r} brings it; "
                f"use the model itself (app.model({target!r}))"
            )
        bound = self._bound[model] = self.bind(self.model(target))
        return bound

    def model(self, name: str) -> type[BaseModel]:
        """A model's class by its name, with the extensions that this App's plugins bring.

        Raises:
            ConfigurationError: No such model.
        """
        return self.bind(self._named(name)).model

    def find_model(self, name: str) -> type[BaseModel] | None:
        """The definition of a model by its name, or None."""
        return self._by_name.get(name) or registry.definitions().get(name)

    def _named(self, name: str) -> type[BaseModel]:
        found = self.find_model(name)
        if found is None:
            known = {*self._by_name, *registry.definitions()}
            raise ConfigurationError(f"no model is named {name!r}{nearest(name, known)}")
        return found

    def matcher(
        self, model: type[BaseModel], domain: DomainSource
    ) -> Callable[[Mapping[str, Any]], bool]:
        """A predicate that tells, as the database would, whether a document in stored form matches.

        Raises:
            DomainError: An unknown field or operator.
        """
        bound = self.bind(model)
        return matcher(Domain(domain), bound.schema, bound.operators)

    def check(self, model: type[BaseModel], domain: DomainSource) -> None:
        """Refuse a domain that no search of the model could use; nothing is asked of the database.

        The part about other records is checked as far as their models are defined already.

        Raises:
            DomainError: An unknown field or operator, or a value that doesn't fit.
        """
        check(self.bind(model), Domain(domain))

    async def resolve(
        self, model: type[BaseModel], domain: DomainSource, *, env: Env | None = None
    ) -> Domain:
        """An equivalent domain without conditions about other records, for whoever matches single
        documents, or asks on behalf of somebody else.

        The sub-queries are operations of the other models, with their access rules, for the acting
        principal; a layer that resolves a domain of its own hands in ``env.replace(system=True, …)``.

        Args:
            model: What the domain is about.
            domain: The domain; one that asks about no other records is given back as it is.
            env: Who asks (default: the current Env).

        Raises:
            DomainError: An unknown field or operator.
            NotSupported: More related records fulfil it than a filter can name.
        """
        return await resolve(self.bind(model), Domain(domain), env or current_env())

    async def recompute(
        self,
        model: type[BaseModel],
        *,
        fields: Iterable[str] | None = None,
        domain: DomainSource = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Recomputed:
        """Compute stored fields anew, as where a formula was changed, and write the values that differ.

        Reads in batches, each in a transaction of its own where the backend has them.

        Args:
            model: The model.
            fields: Names of stored computed fields; None means all.
            domain: Which records; None means all.
            dry_run: Only count what differs. What would follow from it elsewhere is not counted.
            progress: Called after each batch with the result so far; may be async.

        Raises:
            ConfigurationError: A name is none of a stored computed field.
        """
        env = environment.find_env()
        with use_env(self.env if env is None or env.app is not self else env):
            return await recompute(
                self.bind(model),
                self.dependencies.graph(),
                fields,
                Domain(domain),
                dry_run=dry_run,
                progress=progress,
            )

    async def prepare_models(self) -> None:
        """Create the declared indexes of every model defined so far; done once per model.

        An operation does it on its model's first use. A transaction does it before it begins:
        MongoDB answers with a transient error where a collection appears while one runs.
        """
        version = registry.version()
        if self._prepared == version:
            return
        for model in self.known_models():
            if model not in self._bound or not self._bound[model].is_prepared:
                try:
                    bound = self.bind(model)
                except EarnORMError:
                    continue  # a model that cannot be used here says so when it is used
                await bound.prepare()
        # Nothing to look through again, at each transaction, until another model is defined.
        self._prepared = version

    def recompose(self) -> None:
        """Ask the plugins for their layers again, where what they depend on has changed."""
        for bound in self._bound.values():
            bound.recompose()

    def known_models(self) -> list[type[BaseModel]]:
        """The models that are this App's own: all but those of plugins that it did not select."""
        # The models of a plugin that this App did not select are none of its own.
        foreign = self._plugin_packages
        every = {**registry.definitions(), **self._by_name}
        return [
            model
            for name, model in every.items()
            if not model._abstract
            and (name in self._by_name or model.__module__.partition(".")[0] not in foreign)
        ]

    def extended(self, model: type[BaseModel]) -> type[BaseModel]:
        """A model's class with the extensions that this App's plugins bring; nothing is made ready."""
        return self._effective_class(model)

    # -- operations ---------------------------------------------------------------------------

    async def execute(self, op: Operation) -> Any:
        """Send an operation through its layers to the database: the only way there is.

        Returns:
            What :class:`Operation` says for its name.
        """
        # The common case needs neither a second call nor a lock.
        if asyncio.get_running_loop() is not self._loop:
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
        if self._loop is None:
            raise ConfigurationError(
                f"App {self.name!r} is not started: 'async with app:' or 'await app.start()' first"
            )
        raise ConfigurationError(
            f"App {self.name!r} was started on another event loop; start an App of its own on "
            f"each loop (one asyncio.run() for the whole program)"
        )

    async def committed(self, operations: Sequence[Operation]) -> None:
        """Tell the plugins that these writes are durable."""
        if operations and self.hears_commits:
            await self.loaded.broadcast("after_commit", app=self, operations=operations)

    async def rolled_back(self, operations: Sequence[Operation]) -> None:
        """Tell the plugins that these writes never were."""
        if operations:
            await self.loaded.broadcast("after_rollback", app=self, operations=operations)

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


@functools.cache
def _load_validation() -> None:
    """Load what pydantic puts off until the first validator is made: 40 ms, which would hold up the event
    loop in the middle of the first write."""
    pydantic.TypeAdapter(Annotated[str, pydantic.StringConstraints(max_length=1)])


async def init(
    mongo_uri: str | None = None,
    *,
    database: str,
    client: object | None = None,
    driver: str | None = None,
    plugins: Iterable[str | type | object] | None = None,
    disabled: Iterable[str] = (),
    required: Iterable[str] = (),
    name: str | None = None,
    **keywords: Any,
) -> App:
    """Start the process's default App. The arguments are those of :class:`App`.

    Raises:
        ConfigurationError: The default App is started already, or an argument is not valid.
        PluginError: A plugin is not installed or failed.
        ServerUnavailable: No server answered in time.
    """
    running = environment.get_default()
    if running is not None and running.app.is_started:
        raise ConfigurationError(
            f"init() was called already (App {running.app.name!r}): 'await earnorm.close()' first, "
            f"or use earnorm.App for a second database"
        )
    app = App(
        mongo_uri,
        database=database,
        client=client,
        driver=driver,
        plugins=plugins,
        disabled=disabled,
        required=required,
        name=name,
        **keywords,
    )
    await app.start()
    environment.set_default(app.env)
    return app


async def close() -> None:
    """Stop the default App; harmless where none is started."""
    env = environment.get_default()
    if env is not None:
        await env.app.stop()
        environment.set_default(None)
