"""The App that applications make: the kernel's App with the built-in features, and the default one of a process.

Each method here hands over to the room that does the work.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

from earnorm.domain import Domain
from earnorm.exceptions import ConfigurationError
from earnorm.features import ATTRIBUTES, FEATURES
from earnorm.features.computed.plugin import graph_of
from earnorm.features.computed.recomputing import recompute
from earnorm.kernel import app as kernel
from earnorm.kernel.environment import current_env, find_env, get_default, set_default, use_env
from earnorm.kernel.settings import AppSettings
from earnorm.model.reading.resolution import check, resolve

if TYPE_CHECKING:
    from earnorm.domain import DomainSource
    from earnorm.features.computed.recomputing import Progress, Recomputed
    from earnorm.features.indexes.catalog import IndexCatalog
    from earnorm.features.provenance.provenance import Part
    from earnorm.kernel.environment import Env
    from earnorm.model.base import BaseModel

__all__ = ["App", "AppSettings", "close", "init"]

T = TypeVar("T")
_Arguments = ParamSpec("_Arguments")


class App(kernel.App):
    """One database plus a selection of plugins.

    Use it as a context manager, or through :func:`earnorm.init` and :func:`earnorm.close`::

        async with earnorm.App("mongodb://localhost:27017", database="shop") as app:
            ...

    Times are in seconds; None leaves the driver's own default.

    Args:
        mongo_uri: ``mongodb://``, ``mongodb+srv://``, or ``mongomock://`` for an in-memory database.
        database: The database's name.
        client: A client that the application made itself, instead of a URI; it is never closed.
        driver: ``"pymongo"`` (the default) or ``"motor"``; also ``EARNORM_DRIVER``.
        plugins: Names, classes and instances; without it ``EARNORM_PLUGINS``, else all installed.
        disabled: Names of plugins that are never loaded; ``EARNORM_DISABLED_PLUGINS`` adds to it.
        required: Names of plugins that must be active, and cannot be switched off from outside.
        name: How messages call this App (default: the database's name).
        min_pool_size: Connections kept open.
        max_pool_size: Most connections to one server.
        pool_timeout: How long an operation waits for a connection.
        max_lifetime: Age at which a connection is retired (the pool plugin does it).
        pool_max_lifetime: Another name of ``max_lifetime``.
        idle_timeout: Idle time after which a connection is closed.
        pool_idle_timeout: Another name of ``idle_timeout``.
        server_timeout: How long to look for a server before giving up.
        default_timeout: How long a read or a write may take that says nothing else.
        client_options: Further options of the driver, in its own names.
        create_indexes: Create declared collections and indexes on a model's first use.
        coalesce: Let reads by id that wait at the same time share one query.
        slow_query: Note operations that take so long or longer (``docs/indexes.md``); None notes none.
        slow_query_file: The file that the shapes of slow operations are written to when the App stops.
        read_concern: How settled the data must be that is read, e.g. ``"majority"``.
        write_concern: How many members confirm a write: a number, ``"majority"``, or a mapping with
            ``w``, ``j`` and ``wtimeout`` (milliseconds).
        read_preference: Which members are read from, e.g. ``"secondaryPreferred"``.
        **plugin_settings: One keyword per plugin with that plugin's settings, a mapping or its own
            pydantic model: ``cache={"max_records": 1000}``.

    Raises:
        ConfigurationError: A keyword is unknown or its value not valid.
        PluginError: A plugin is not installed, fails to load, or breaks the contract.
    """

    # The feature of models themselves comes with the list: nobody can do without it.
    features: ClassVar[Mapping[str, str]] = {
        "model": "earnorm.model.plugin:ModelPlugin",
        **FEATURES,
    }
    built_in_attributes: ClassVar[Collection[str]] = ATTRIBUTES.keys()

    @property
    def indexes(self) -> IndexCatalog:
        """What the models declare against what the database has: ``diff``, ``sync``, ``drop_unused``."""
        from earnorm.features.indexes.catalog import IndexCatalog

        return IndexCatalog(self)

    def parts(self, name: str | None = None) -> list[Part]:
        """The fields, indexes, rules and declarations of a model, each with the package that it is of.

        Args:
            name: The model's name; None means every model of this App.

        Raises:
            ConfigurationError: No such model.
        """
        from earnorm.features.provenance.provenance import parts_of

        found = self.known_models() if name is None else [self.catalog.named(name)]
        return [part for model in found for part in parts_of(self, self.extended(model))]

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
    """Give a function the parameters of what it makes, for type checkers and for ``help()``."""

    def decorate(function: Callable[..., T]) -> Callable[_Arguments, T]:
        function.__signature__ = inspect.signature(make)  # type: ignore[attr-defined]
        return function

    return decorate


@_taking_arguments_of(App)
async def init(*arguments: Any, **keywords: Any) -> App:
    """Start the process's default App. The arguments are those of :class:`App`.

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
    """Stop the default App; harmless where none is started."""
    env = get_default()
    if env is not None:
        await env.app.stop()
        set_default(None)
