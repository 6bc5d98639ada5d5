"""The App of applications: the kernel's App with the built-in features, and the default App.

Each method calls the package that does the work.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

from earnorm.domain import Domain
from earnorm.domain.relational import asks_others
from earnorm.exceptions import ConfigurationError
from earnorm.features import ATTRIBUTES, FEATURES, SETTINGS, STEPS
from earnorm.features.computed.limits import INTERVAL, LIMIT
from earnorm.features.computed.plugin import RecomputePlugin, graph_of, worker_of
from earnorm.features.locking.holding import hold
from earnorm.kernel import app as kernel
from earnorm.kernel.environment import (
    current_env,
    find_env,
    get_default,
    set_default,
    started_on,
    use_env,
)
from earnorm.kernel.life import settings as kernel_settings
from earnorm.kernel.life.in_flight import GRACE, Stopped
from earnorm.kernel.life.settings import either, refuse_unknown
from earnorm.model.misspelt import CORE_ATTRIBUTES
from earnorm.model.reading.resolution import asks_itself, check, resolve

if TYPE_CHECKING:
    import pydantic

    from earnorm.concerns import ReadConcern, ReadPreference, WriteConcern
    from earnorm.domain import DomainSource
    from earnorm.features.computed.whole_models import Progress, Recomputed
    from earnorm.features.indexes.catalog import IndexCatalog
    from earnorm.features.provenance.provenance import Part
    from earnorm.kernel.environment import Env
    from earnorm.model.base import BaseModel

__all__ = ["App", "AppSettings", "close", "init"]

T = TypeVar("T")
_Arguments = ParamSpec("_Arguments")


@dataclass(frozen=True, slots=True)
class AppSettings(kernel_settings.AppSettings):
    """The settings of an App: the kernel's, which its class lists, and those of features.

    Attributes:
        recompute_limit: The number of records up to which a recompute of stored fields is part of the
            transaction of a change; beyond it, it is owed (``docs/computed.md``). None means any
            number.
        recompute_interval: The seconds between two looks for recomputes that others owe; None means
            that the App does not look.
        coalesce: Read ids that are asked for at the same time with one query.
        slow_query: Record operations that take this time or longer (``docs/indexes.md``); None
            records none.
        slow_query_file: The file for the shapes of slow operations, written when the App stops.
    """

    recompute_limit: int | None = LIMIT
    recompute_interval: float | None = INTERVAL
    coalesce: bool = False
    slow_query: float | None = None
    slow_query_file: str | None = None


class App(kernel.App):
    """One database plus a selection of plugins.

    Use it as a context manager, or through :func:`earnorm.init` and :func:`earnorm.close`::

        async with earnorm.App("mongodb://localhost:27017", database="shop") as app:
            ...

    Times are in seconds; None leaves the driver's own default.

    Args:
        mongo_uri: ``mongodb://``, ``mongodb+srv://``, or ``mongomock://`` for an in-memory database.
        database: The database's name.
        client: A client that the application made itself, instead of a URI. The App never closes it.
        driver: ``"pymongo"`` (the default) or ``"motor"``; also ``EARNORM_DRIVER``.
        plugins: Names, classes and instances; the default is ``EARNORM_PLUGINS``, else those of
            the project (``[tool.earnorm]`` of pyproject.toml), else all that are installed.
        disabled: Names of plugins that are never loaded, and of features that the App does without;
            ``EARNORM_DISABLED_PLUGINS`` adds to it.
        required: Names of plugins that must be active; nothing outside can switch them off.
        name: The name of this App in messages (default: the database's name).
        min_pool_size: The number of connections that are kept open.
        max_pool_size: The highest number of connections to one server.
        pool_timeout: The longest time that an operation waits for a connection.
        max_lifetime: The age at which the pool plugin closes a connection.
        pool_max_lifetime: Another name of ``max_lifetime``.
        idle_timeout: The idle time after which a connection is closed.
        pool_idle_timeout: Another name of ``idle_timeout``.
        server_timeout: The longest time to look for a server.
        default_timeout: The longest time of a read or a write that has no ``timeout`` of its own.
        retry_timeout: The longest time during which a transaction is tried again that has no
            number of retries of its own; at most 120.
        client_options: Further options of the driver, by the driver's names.
        create_indexes: Create declared collections and indexes on a model's first use.
        recompute_limit: The number of records up to which a recompute of stored fields is part of the
            transaction of a change, at most 10,000; beyond it, it is owed, and worked off after the
            commit. None means any number.
        recompute_interval: The seconds between two looks for recomputes that others owe and have not
            worked off, because they died; None means that the App does not look.
        coalesce: Read ids that are asked for at the same time with one query.
        slow_query: Record operations that take this time or longer (``docs/indexes.md``); None
            records none.
        slow_query_file: The file for the shapes of slow operations, written when the App stops.
        read_concern: The read concern, e.g. ``"majority"``: only data that most members have.
        write_concern: The members that confirm a write: a number, ``"majority"``, or a mapping
            with ``w``, ``j`` and ``wtimeout`` (milliseconds).
        read_preference: The members to read from, e.g. ``"secondaryPreferred"``.
        **plugin_settings: One keyword per plugin with that plugin's settings, as a mapping or as
            an instance of its pydantic model: ``cache={"max_entries": 1000}``.

    Raises:
        ConfigurationError: A keyword is unknown or its value not valid.
        PluginError: A plugin is not installed, fails to load, or breaks the contract.
    """

    core_plugins: ClassVar[Mapping[str, str]] = {"model": "earnorm.model.plugin:ModelPlugin"}
    features: ClassVar[Mapping[str, str]] = FEATURES
    built_in_attributes: ClassVar[Collection[str]] = ATTRIBUTES.keys() | CORE_ATTRIBUTES.keys()
    built_in_commands: ClassVar[Collection[str]] = (
        "doctor",
        "indexes",
        "models",
        "new",
        "plugins",
        "recompute",
        "version",
    )
    built_in_steps: ClassVar[Collection[str]] = STEPS

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
        retry_timeout: float = 30.0,
        client_options: Mapping[str, object] | None = None,
        create_indexes: bool = True,
        recompute_limit: int | None = LIMIT,
        recompute_interval: float | None = INTERVAL,
        coalesce: bool = False,
        slow_query: float | None = None,
        slow_query_file: str | None = None,
        read_concern: ReadConcern | None = None,
        write_concern: WriteConcern | None = None,
        read_preference: ReadPreference | None = None,
        **plugin_settings: Mapping[str, Any] | pydantic.BaseModel,
    ) -> None:
        refuse_unknown(plugin_settings, App)
        self._app_settings = AppSettings(
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
            retry_timeout=retry_timeout,
            client_options=client_options or {},
            create_indexes=create_indexes,
            read_concern=read_concern,
            write_concern=write_concern,
            read_preference=read_preference,
            recompute_limit=recompute_limit,
            recompute_interval=recompute_interval,
            coalesce=coalesce,
            slow_query=slow_query,
            slow_query_file=slow_query_file,
        )
        super().__init__(
            self._app_settings,
            mongo_uri=mongo_uri,
            client=client,
            driver=driver,
            plugins=plugins,
            disabled=disabled,
            required=required,
            name=name,
            feature_settings={
                feature: {keyword: getattr(self._app_settings, keyword) for keyword in keywords}
                for feature, keywords in SETTINGS.items()
            },
            plugin_settings=plugin_settings,
        )

    @property
    def settings(self) -> AppSettings:
        """The settings, those of features included."""
        return self._app_settings

    def _leave_indexes(self) -> None:
        """Create no collection and no index from now on, as with ``create_indexes=False``."""
        self._app_settings = replace(self._app_settings, create_indexes=False)

    @property
    def indexes(self) -> IndexCatalog:
        """The declared indexes against the database's: ``diff``, ``sync``, ``drop_unused``."""
        from earnorm.features.indexes.catalog import IndexCatalog

        return IndexCatalog(self)

    def parts(self, name: str | None = None) -> list[Part]:
        """Return the fields, indexes, rules and declarations of a model, each with its package.

        Args:
            name: The model's name; None means every model of this App.

        Raises:
            ConfigurationError: There is no such model.
        """
        from earnorm.features.provenance.provenance import parts_of

        models = self.known_models() if name is None else [self.catalog.named(name)]
        return [part for model in models for part in parts_of(self, self.extended(model))]

    def check(self, model: type[BaseModel], domain: DomainSource) -> None:
        """Refuse a domain that no search of the model could use; the database is not asked.

        Conditions about other records are checked as far as their models are defined already.

        Raises:
            DomainError: An unknown field or operator, or a value that doesn't fit.
        """
        check(self.bind(model), Domain(domain))

    async def resolve(
        self, model: type[BaseModel], domain: DomainSource, *, env: Env | None = None
    ) -> Domain:
        """Return an equivalent domain without conditions about other records.

        Use it to match single documents, or to search on behalf of another principal. The
        sub-queries are operations of the other models, with their access rules, for the acting
        principal. A layer that resolves its own domain passes ``env.as_system(reason)``.

        Args:
            model: The model that the domain is about.
            domain: The domain; one without conditions about other records is returned unchanged.
            env: The Env of the sub-queries (default: the current Env).

        Raises:
            DomainError: An unknown field or operator.
            NotSupported: More related records fulfil it than a filter can name.
        """
        return await resolve(self.bind(model), Domain(domain), env or current_env())

    def asks_others(self, model: type[BaseModel], domain: DomainSource) -> bool:
        """Return whether a domain has conditions about other records.

        Raises:
            DomainError: An unknown field or operator.
        """
        bound = self.bind(model)
        return asks_others(Domain(domain), bound.schema, bound.operators)

    def asks_itself(self, model: type[BaseModel], domain: DomainSource) -> bool:
        """Return whether a write of a model can change what a domain asks of other records.

        That is so where the domain leads back to the model (``child_of`` in a tree of its own, say),
        or to records that point at it. Then it may be true of a record after the write and not
        before it, or the other way round, whatever the values of the record.

        Raises:
            DomainError: An unknown field or operator.
        """
        return asks_itself(self.bind(model), Domain(domain))

    async def hold(
        self,
        model: type[BaseModel],
        domain: DomainSource,
        ids: Iterable[Any],
        *,
        env: Env | None = None,
    ) -> None:
        """Lock the other records that a domain about these records looks at, for the transaction.

        Whoever changes one of them at the same time conflicts with this transaction, so that what
        the domain says of these records still holds when it is committed. Locked are those to which
        the records lead, in the order of their ids; nothing keeps others from being created.

        Args:
            model: The model that the domain is about.
            domain: The domain, with conditions about other records.
            ids: The stored ids of the records.
            env: The Env with the transaction (default: the current Env). A layer that holds what its
                own domain looks at passes ``env.as_system(reason)``.

        Raises:
            AccessDenied: The principal may not lock one of them.
            NotSupported: No transaction is running.
            TransactionError: Another transaction has changed one of them since this one began; it
                is transient.
        """
        await hold(self.bind(model), Domain(domain), ids, env or current_env())

    async def recompute(
        self,
        model: type[BaseModel],
        *,
        fields: Iterable[str] | None = None,
        domain: DomainSource = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Recomputed:
        """Compute stored fields again, e.g. after a formula changed, and write values that differ.

        It reads in batches, each in its own transaction if the backend has transactions.

        Args:
            model: The model.
            fields: Names of stored computed fields; None means all.
            domain: The records; None means all.
            dry_run: Only count the values that differ. Changes that would follow elsewhere are not
                counted.
            progress: A function that gets the result so far after each batch; may be async.

        Raises:
            AccessDenied: Access rules restrict the model, and not ``system`` calls it.
            ConfigurationError: A name is not that of a stored computed field.
        """
        from earnorm.features.computed.whole_models import recompute

        env = find_env()
        with use_env(self.env if env is None or env.app is not self else env):
            return await recompute(
                self.bind(model),
                graph_of(self),
                fields,
                Domain(domain),
                dry_run=dry_run,
                progress=progress,
            )

    def may_lag(self, model: str, path: str) -> str | None:
        """Return the stored computed field at a path that may be recomputed after a change.

        A plugin that learns too late for :meth:`rely_on` what it reads refuses such a field.

        Args:
            model: The name of the model from which the path leads.
            path: The name of a field, or names joined with dots, also across relations.

        Returns:
            The field, as ``model.name``; None if every value at the path is always up to date.
        """
        plugin = self.loaded.of_type(RecomputePlugin)
        return None if plugin is None else plugin.graph().lagging(model, path)

    def follows_from(self, model: str, names: Iterable[str] | None) -> Collection[str]:
        """Return the stored computed fields of a model that may change after a write of it.

        They follow from the changed fields by way of other records, so that their values are known
        only when those are recomputed, too.

        Args:
            model: The name of the model.
            names: The names of the changed fields; None for the creation of a record.
        """
        plugin = self.loaded.of_type(RecomputePlugin)
        return () if plugin is None else plugin.graph().by_way_of_others(model, names)

    async def settled(self) -> None:
        """Wait until no recompute is owed any more, by any process (``docs/computed.md``).

        It waits neither for records whose formula failed, which are set apart, nor for fields that
        this App does not have. This App works as well on what others owe.

        Raises:
            TransactionError: A transaction is running, and what it owes is worked off after its
                commit.
        """
        self.admit()
        worker = worker_of(self)
        if worker is not None:
            await worker.settled()


def _taking_arguments_of(
    make: Callable[_Arguments, object],
) -> Callable[[Callable[..., T]], Callable[_Arguments, T]]:
    """Give a function the parameters of another, for type checkers and for ``help()``."""

    def decorate(function: Callable[..., T]) -> Callable[_Arguments, T]:
        function.__signature__ = inspect.signature(make)  # type: ignore[attr-defined]
        return function

    return decorate


_asked: dict[str, object] = {}
"""The arguments with which the default App was started."""


@_taking_arguments_of(App)
async def init(*arguments: Any, **keywords: Any) -> App:
    """Start the process's default App, with the arguments of :class:`App`.

    A second call with the same arguments, as when a cell of a notebook is run again, returns the App
    that is started.

    Raises:
        ConfigurationError: The default App is started with other arguments or on another event loop,
            or an argument is not valid.
        PluginError: A plugin is not installed or failed.
        ServerUnavailable: No server answered in time.
    """
    given = _by_name(arguments, keywords)
    running = get_default()
    if running is not None and running.app.is_started:
        if running not in started_on(asyncio.get_running_loop()):
            raise ConfigurationError(
                f"init() was called on another event loop already (App {running.app.name!r}), and an "
                f"App works on the loop that it was started on: 'await earnorm.close()' there first"
            )
        if given != _asked:
            raise _other_arguments(running.app.name, given)
        return running.app
    app = App(*arguments, **keywords)
    await app.start()
    set_default(app.env)
    _asked.clear()
    _asked.update(given)
    return app


def _by_name(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> dict[str, object]:
    """Return the arguments of an App by their names, as far as they fit."""
    try:
        bound = inspect.signature(App).bind(*arguments, **keywords).arguments
    except TypeError:
        return {}  # App() itself says what is wrong
    return {**bound, **bound.pop("plugin_settings", {})}


def _other_arguments(name: str, given: Mapping[str, object]) -> ConfigurationError:
    # Names only: a value may be a secret.
    differ = sorted(key for key in given.keys() | _asked.keys() if not _same(key, given))
    return ConfigurationError(
        f"init() was called already (App {name!r}), with another {' and '.join(differ) or 'value'}: "
        f"'await earnorm.close()' first, and the next init() replaces it; or use earnorm.App for a "
        f"second database"
    )


def _same(key: str, given: Mapping[str, object]) -> bool:
    return key in given and key in _asked and bool(given[key] == _asked[key])


async def close(*, grace: float = GRACE) -> Stopped:
    """Stop the default App; it does nothing if none is started.

    Args:
        grace: The seconds that what is in flight has to end; see :meth:`App.stop`.

    Returns:
        What had to be cut off.
    """
    env = get_default()
    if env is None:
        return Stopped()
    try:
        return await env.app.stop(grace=grace)
    finally:
        set_default(None)
        _asked.clear()
