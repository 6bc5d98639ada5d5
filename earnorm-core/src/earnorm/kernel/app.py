"""The kernel's App: one database with its plugins and models, and the only way to the database."""

from __future__ import annotations

import asyncio
import logging
import os
from asyncio import current_task, get_running_loop
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import Token
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from earnorm.domain import Domain, DomainSource, Operator, matcher
from earnorm.exceptions import AccessDenied, AppStopping, ConfigurationError, EarnORMError
from earnorm.kernel import acting, environment
from earnorm.kernel.binding import BoundModel
from earnorm.kernel.catalog import Catalog, Origins
from earnorm.kernel.contract.attributes import brought_attributes
from earnorm.kernel.contract.handed_in import checked_health
from earnorm.kernel.environment import (
    PROGRAM,
    Env,
    app_of_parent,
    find_env,
    use_env,
    with_current_origin,
)
from earnorm.kernel.life.in_flight import GRACE, UNIT, InFlight, Stopped, was_in_flight
from earnorm.kernel.life.lifecycle import ALL_OPERATORS, Lifecycle
from earnorm.kernel.life.settings import AppSettings, parameters_of
from earnorm.kernel.observing.denials import announce_denial
from earnorm.kernel.observing.observers import Observer, observing
from earnorm.kernel.operations import Operation
from earnorm.kernel.plugins import tracing
from earnorm.kernel.plugins.built_in import BuiltIn
from earnorm.kernel.plugins.loading import LoadedPlugins, load, settled
from earnorm.kernel.plugins.project import project_selection
from earnorm.kernel.plugins.selection import Installed, PluginInfo, Selection, installed
from earnorm.kernel.plugins.services import Services
from earnorm.kernel.transactions.missing_collections import make_missing
from earnorm.kernel.transactions.queue import Contention, Queue
from earnorm.kernel.views import ModelView

if TYPE_CHECKING:
    from earnorm import application
    from earnorm.backends import Backend
    from earnorm.exceptions import TransactionOutcomeUnknown
    from earnorm.fields import Field
    from earnorm.kernel.layers import Watch
    from earnorm.model.base import BaseModel
    from earnorm.traffic import Traffic

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
        known = installed()
        selection = self._select(plugins, disabled, required, known)
        built_in = BuiltIn(
            self.core_plugins,
            self.features,
            self.left_out,
            feature_settings,
            parameters_of(type(self)),
        )
        self.loaded: LoadedPlugins = load(selection, plugin_settings, built_in, known=known)
        tracing.follow_environment()
        if tracing.is_on():
            self.loaded.times = tracing.HookTimes()
        self.attributes = brought_attributes(self.loaded, self.built_in_attributes)
        self.services = Services()
        self.field_types: Mapping[str, type[Field[Any, Any]]] = {}
        self.operators: Mapping[str, Operator] = ALL_OPERATORS
        # Every App is made from the public subclass, earnorm.App.
        self.env = Env(cast("application.App", self))
        self.hears_commits = self.loaded.implements("after_commit")
        self._failure_observers = self.loaded.implementations("operation_failed")
        self.denial_observers = self.loaded.implementations("access_denied")
        self.catalog = Catalog(self)
        self._bound = self.catalog.bound
        driver = driver or os.environ.get("EARNORM_DRIVER") or None
        self.in_flight = InFlight(self.env.app)
        self._at_work = self.in_flight.operations
        self._lifecycle = Lifecycle(self, mongo_uri or "", client, driver)
        self._token: Token[Env | None] | None = None
        self.observers: list[Observer] = []
        self.reset_contention()

    def _select(
        self,
        plugins: Iterable[str | type | object] | None,
        disabled: Iterable[str],
        required: Iterable[str],
        known: Installed,
    ) -> Selection:
        """Return the selection of plugins; the App of tests leaves out what is outside of it."""
        project = project_selection()
        return Selection.of(plugins, disabled, required, os.environ, known, project)

    # -- start and stop -----------------------------------------------------------------------

    @property
    def settings(self) -> AppSettings:
        """The settings of the connection and of all operations."""
        return self._settings

    @property
    def is_started(self) -> bool:
        """True from the start of the App to the end of its stop."""
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
    def traffic(self) -> Traffic:
        """The numbers of operations that are under way, and that wait for a connection.

        Raises:
            ConfigurationError: The App is not started.
        """
        return self._backend.traffic()

    @property
    def _backend(self) -> Backend:
        """The driver adapter, which knows no layers: plugins and programs have ``dangerous_raw``."""
        backend = self._lifecycle.backend
        if backend is None:
            raise self._not_started()
        return backend

    def _not_started(self) -> ConfigurationError | AppStopping:
        env = find_env()
        if env is not None and env.app is self.env.app and env.is_in_session:
            return self.in_flight.refusal()  # the block was in flight when the App stopped
        if self._lifecycle.is_of_parent:
            return app_of_parent((repr(self.name),))
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

    def reset_contention(self) -> None:
        """Begin with an empty queue and with new figures: a loop that was closed ends no wait."""
        self.contention = Contention()
        self.queue = Queue(self.contention)

    async def stop(self, *, grace: float = GRACE) -> Stopped:
        """End what is in flight, shut the plugins down, then close the connections.

        New work is refused from now on. What is in flight has ``grace`` seconds to end: operations,
        open transactions and sessions with all their operations, streams. Then transactions are
        aborted, cursors closed and operations cut off. A second call does nothing.

        Args:
            grace: The seconds; 0 waits for nothing.

        Returns:
            What had to be cut off, which is also logged.

        Raises:
            PluginError: A plugin's shutdown failed; everything else was closed all the same.
            CancelledError: This task was cancelled, which ends the grace; the rest is done.
        """
        return await self._lifecycle.stop(grace)

    def _takes(self, model: type[BaseModel]) -> bool:
        """Return whether a model that no plugin brings is the App's own; an App of tests may say no."""
        return True

    async def _disconnecting(self) -> None:
        """Do the last thing before the connections are closed; the App of tests has one to do."""

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
        acting.refuse_lost_block("activate()")
        with use_env(with_current_origin(self.env)) as env:
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

    def view(self, name: str) -> ModelView:
        """Return a model's declarations by its name, with the extensions of this App's plugins.

        It binds nothing, so a hook about one model may ask for others, whose hooks ask for this one.

        Raises:
            ConfigurationError: There is no such model.
        """
        return ModelView(self.extended(self.catalog.named(name)))

    def reads_from(self, model: type[BaseModel]) -> str:
        """Return the members that a search of a model asks, unless it says so itself; it binds nothing.

        That is a mode such as ``"primary"`` or ``"secondaryPreferred"``, whether the model, the App, the URI or the
        driver's client says so.
        """
        own = model._read_preference
        return self._backend.read_preference if own is None else own

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

    def rely_on(self, model: str, path: str, reason: str) -> None:
        """Say that a plugin needs the stored value at a path to be right in every moment.

        Such a computed value is never recomputed later than the change that it follows. A plugin
        says it in its hook ``model_registered``.

        Args:
            model: The name of the model from which the path leads.
            path: The name of a field, or names joined with dots, also across relations.
            reason: What relies on it, for people: ``"the rule 'own' reads it"``.
        """
        self.catalog.rely_on(model, path, reason)

    def relied_on(self, models: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Yield the paths from these models on whose values a plugin relies, each with the reason."""
        return self.catalog.relied_on(models)

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

    async def execute(self, op: Operation, watch: Watch | None = None) -> Any:
        """Send an operation through its layers to the database. There is no other way.

        Args:
            op: The operation.
            watch: Is told what each layer makes of it. Its layers are put together for it alone.

        Returns:
            The result that :class:`Operation` lists for its name.
        """
        # The common case needs neither a second call nor a lock.
        loop = get_running_loop()
        if loop is not self._lifecycle.taking:
            self.admit(op)
        env = op.env
        if env.system and op.domain.is_untrusted and op.origin == PROGRAM:
            # What the layers ask for belongs to the operation, and has the same rights.
            with use_env(env.as_principal()) as acting:
                return await self.execute(op.replace(env=acting), watch)
        key, outer = object(), UNIT.get()
        bound = self._bound.get(op.model) or self.catalog.bind(op.model, key)
        self._at_work[key] = current_task(loop)
        UNIT.set(key)
        try:
            if env.transaction is not None or env._session is not None:
                return await self._execute_inside(op, bound, watch)
            if not bound.is_prepared:
                await bound.prepare()
            if watch is None and op.name in bound.composed:
                return await bound.composed[op.name](op)
            return await bound.call(op.name, watch)(op)
        except BaseException as error:
            if self.denial_observers and isinstance(error, AccessDenied):
                await announce_denial(bound, op, error, self.denial_observers)
            told = self.in_flight.told(error) if self.in_flight.interrupted else error
            if self._failure_observers:
                self._report_failure(op, told)
            if told is error:
                raise
            raise told from None
        finally:
            UNIT.set(outer)
            self._at_work.pop(key, None)

    async def execute_beneath(self, op: Operation, layer: int) -> Any:
        """Send a search, count or group through the layers inside of a place only, for a layer at that place.

        The layer decides from it about the operation that it has in its hands, whose rights were checked further
        out. A write is an operation of its own: ``execute``.

        Args:
            op: The operation, in the Env of the one that the layer has.
            layer: The place of the layer.

        Returns:
            The result that :class:`Operation` lists for its name.
        """
        return await self.bind(op.model).beneath(op.name, layer)(op)

    async def _execute_inside(self, op: Operation, bound: BoundModel, watch: Watch | None) -> Any:
        """Execute an operation in the transaction or the session of its Env."""
        running = op.env.transaction
        if running is None:
            assert op.env._session is not None
            op.env._session.refuse()
        else:
            running.enter()
        try:
            if not bound.is_prepared:
                await bound.prepare()
            if running is not None and running.is_unsent:
                running.is_unsent = False
                if op.name == "create" and not bound.has_collection:
                    await make_missing(bound)
            result = await bound.call(op.name, watch)(op)
        except asyncio.CancelledError:
            if running is not None:
                running.doom(
                    "an operation in it was cancelled (the end of a time limit of asyncio cancels, "
                    "too), and a part of it may be missing",
                    at_once=True,
                )
            raise
        finally:
            if running is not None:
                running.leave()
        if running is not None:
            running.refuse_result()
        return result

    def observing(self, observer: Observer) -> AbstractContextManager[None]:
        """Tell an observer of operations and calls of the database inside the block.

        It is told of all tasks of the App. An App that nobody observes pays nothing.

        Args:
            observer: See :class:`earnorm.plugin.Observer`.

        Raises:
            ConfigurationError: The App is not started.
        """
        return observing(self, observer)

    def retrace(self) -> None:
        """Compose layers and hooks again, because an observer of them comes or goes."""
        told = [observer for observer in self.observers if observer.sees_layers]
        self.loaded.tell_hooks(told)
        self._failure_observers = self.loaded.implementations("operation_failed")
        self.denial_observers = self.loaded.implementations("access_denied")
        self.recompose()

    def _report_failure(self, op: Operation, error: BaseException) -> None:
        for plugin, observe in self._failure_observers:
            try:
                observe(op=op, error=error)
            except Exception:  # it must not replace the operation's error, or a cancellation
                log.exception("plugin %r failed when it heard of a failed %s", plugin, op.name)

    def admit(self, op: Operation | None = None) -> None:
        """Raise if the App takes no work of this event loop, or none but what is in flight.

        Args:
            op: The operation; None for a block of a transaction or a session, or for a stream of
                changes.

        Raises:
            ConfigurationError: It is not started, or was started on another loop.
            AppStopping: It stops, and this is new; or it has stopped, and this goes on with what was
                in flight.
        """
        if not self.is_started:
            if op is not None and was_in_flight(op):
                raise self.in_flight.refusal()
            raise self._not_started()
        if asyncio.get_running_loop() is not self._lifecycle.loop:
            raise ConfigurationError(
                f"App {self.name!r} was started on another event loop; start an App of its own on "
                f"each loop (one asyncio.run() for the whole program)"
            )
        if self._lifecycle.taking is None:
            self.in_flight.admit(op)

    async def committed(self, operations: Sequence[Operation]) -> None:
        """Tell the plugins that these writes are durable."""
        if operations and self.hears_commits:
            await self.loaded.broadcast("after_commit", self, operations)

    async def rolled_back(self, operations: Sequence[Operation]) -> None:
        """Tell the plugins that these writes were rolled back."""
        if operations:
            await self.loaded.broadcast("after_rollback", self, operations)

    async def unknown(
        self, operations: Sequence[Operation], error: TransactionOutcomeUnknown
    ) -> None:
        """Tell the plugins that nobody can say whether these writes were committed."""
        await self.loaded.broadcast("transaction_unknown", self, operations, error=error)

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

    async def health(self) -> dict[str, Mapping[str, Any]]:
        """Return the server's health, the figures of operations and transactions, and plugins' parts.

        They stand under ``database``, ``operations``, ``transactions`` and the plugins' names.

        Never raises: a failure is reported as ``{"status": "failed", "error": …}``.
        """
        report: dict[str, Mapping[str, object]] = {}
        try:
            self.admit()
            answer = await self._backend.ping()
            report["database"] = {"status": "ok", "driver": self._backend.name, **answer}
        except EarnORMError as error:
            report["database"] = {"status": "failed", "error": str(error)}
        except Exception as error:  # of the driver itself
            failure = f"{type(error).__name__}: {error}"
            report["database"] = {"status": "failed", "error": failure}
        if self._lifecycle.backend is not None:
            report["operations"] = {"status": "ok", **asdict(self.traffic)}
        report["transactions"] = {"status": "ok", **asdict(self.contention)}
        for name, call in self.loaded.implementations("health"):
            try:
                part = await settled(call(app=self), name, "health")
                report[name] = checked_health(name, part)
            except EarnORMError as error:
                report[name] = {"status": "failed", "error": str(error)}
            except Exception as error:
                report[name] = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        return report

    async def metrics(self) -> str:
        """Return the numbers of ``health()`` in the text format of Prometheus.

        Each is called ``earnorm_<part>_<name>``, as in ``earnorm_transactions_retries``, and has the
        label ``app``. ``earnorm_status`` is 0 for a part that is ok, 1 if degraded, 2 if failed.
        """
        from earnorm.kernel.observing.metrics import metrics_text

        return metrics_text(self.name, await self.health())

    def __repr__(self) -> str:
        # The URI may hold a password.
        state = "started" if self.is_started else "not started"
        return f"<App {self.name!r} database={self._settings.database!r} {state}>"
