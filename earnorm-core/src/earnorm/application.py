"""The App of applications: the kernel's App with the built-in features, and the default App.

Each method calls the package that does the work.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

from earnorm.domain import Domain
from earnorm.exceptions import ConfigurationError
from earnorm.features import ATTRIBUTES, FEATURES, SETTINGS, STEPS
from earnorm.features.computed.plugin import graph_of
from earnorm.features.computed.recomputing import recompute
from earnorm.kernel import app as kernel
from earnorm.kernel import settings as kernel_settings
from earnorm.kernel.environment import current_env, find_env, get_default, set_default, use_env
from earnorm.kernel.settings import either, refuse_unknown
from earnorm.model.reading.resolution import check, resolve

if TYPE_CHECKING:
    import pydantic

    from earnorm.concerns import ReadConcern, ReadPreference, WriteConcern
    from earnorm.domain import DomainSource
    from earnorm.features.computed.recomputing import Progress, Recomputed
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
        coalesce: Read ids that are asked for at the same time with one query.
        slow_query: Record operations that take this time or longer (``docs/indexes.md``); None
            records none.
        slow_query_file: The file for the shapes of slow operations, written when the App stops.
    """

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
        client_options: Further options of the driver, by the driver's names.
        create_indexes: Create declared collections and indexes on a model's first use.
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
    built_in_attributes: ClassVar[Collection[str]] = ATTRIBUTES.keys()
    built_in_commands: ClassVar[Collection[str]] = (
        "doctor",
        "indexes",
        "models",
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
            client_options=client_options or {},
            create_indexes=create_indexes,
            read_concern=read_concern,
            write_concern=write_concern,
            read_preference=read_preference,
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
        principal. A layer that resolves its own domain passes ``env.replace(system=True, …)``.

        Args:
            model: The model that the domain is about.
            domain: The domain; one without conditions about other records is returned unchanged.
            env: The Env of the sub-queries (default: the current Env).

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
            ConfigurationError: A name is not that of a stored computed field.
        """
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


def _taking_arguments_of(
    make: Callable[_Arguments, object],
) -> Callable[[Callable[..., T]], Callable[_Arguments, T]]:
    """Give a function the parameters of another, for type checkers and for ``help()``."""

    def decorate(function: Callable[..., T]) -> Callable[_Arguments, T]:
        function.__signature__ = inspect.signature(make)  # type: ignore[attr-defined]
        return function

    return decorate


@_taking_arguments_of(App)
async def init(*arguments: Any, **keywords: Any) -> App:
    """Start the process's default App, with the arguments of :class:`App`.

    Raises:
        ConfigurationError: The default App is started already, or an argument is not valid.
        PluginError: A plugin is not installed or failed.
        ServerUnavailable: No server answered in time.
    """
    running = get_default()
    if running is not None and running.app.is_started:
        raise ConfigurationError(
            f"init() was called already (App {running.app.name!r}): 'await earnorm.close()' first, "
            f"or use earnorm.App for a second database"
        )
    app = App(*arguments, **keywords)
    await app.start()
    set_default(app.env)
    return app


async def close() -> None:
    """Stop the default App; it does nothing if none is started."""
    env = get_default()
    if env is not None:
        await env.app.stop()
        set_default(None)
