"""The plugin contract: every hook that the kernel calls, with its exact signature.

A plugin is a class with ``api = 1`` and methods marked ``@hookimpl``. Each App makes its own
instance with that plugin's validated settings. A method may leave out arguments that it does not
need. An operation calls no hook for its layers: it calls what ``wrap_operation`` returned.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import pydantic

    from earnorm.application import App
    from earnorm.domain import Operator
    from earnorm.exceptions import AccessDenied, TransactionOutcomeUnknown
    from earnorm.fields import Field
    from earnorm.kernel.contract.attributes import Attribute
    from earnorm.kernel.contract.findings import Finding
    from earnorm.kernel.environment import Env, Principal
    from earnorm.kernel.layers import Middleware
    from earnorm.kernel.observing.verdicts import Verdict
    from earnorm.kernel.operations import Operation, OperationName
    from earnorm.kernel.serving.reading import Reading
    from earnorm.kernel.steps import Step
    from earnorm.kernel.views import ModelView
    from earnorm.model.base import BaseModel

API = 1
"""The version of this contract. A plugin states the one that it was written for."""
PROJECT = "earnorm"
GROUP = "earnorm.plugins"
"""The entry-point group that a plugin's distribution registers its class in."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Hooks:
    """Every hook. ``docs/plugins.md`` has the same list, and examples.

    ``May be async`` means that the method may be an ``async def``: the kernel awaits its result.
    """

    @hookspec
    def settings(self) -> type[pydantic.BaseModel] | None:
        """Return the pydantic model of this plugin's keyword argument to ``init``.

        The kernel validates the keyword with it and calls the plugin's class with the instance. A
        static method: the kernel calls it before it makes the plugin. A plugin that has no such
        hook takes no settings, and its class is called without arguments.
        """

    @hookspec
    def startup(self, app: App) -> Awaitable[None] | None:
        """Open this plugin's resources. May be async.

        Called at the start of the App, when it is connected and before its first operation; after
        the plugins that this one requires, else in the order of names.
        """

    @hookspec
    def shutdown(self, app: App) -> Awaitable[None] | None:
        """Close this plugin's resources. May be async.

        Called before the App closes its connections, in the reverse order of the start, for every
        plugin that was started, even if the shutdown of another one fails or is cancelled.
        """

    @hookspec
    def register_listeners(self, app: App) -> Iterable[object]:
        """Return driver event listeners. Called before the driver's client is made."""
        return ()

    @hookspec
    def register_fields(self, app: App) -> Mapping[str, type[Field[Any, Any]]]:
        """Return this plugin's field types by name; ``app.field_types`` lists them."""
        return {}

    @hookspec
    def model_attributes(self) -> Iterable[Attribute]:
        """Return the class attributes with which models may declare something for this plugin.

        A static method: the kernel calls it once for each App, before any model. Fields and indexes
        that an attribute declares join the models that have the attribute, only in the Apps that
        selected this plugin.
        """
        return ()

    @hookspec
    def needed_by(self, model: ModelView) -> str | None:
        """Return the part of a model that has no meaning without this plugin, or None.

        For example ``"the field 'number'"``. A static method: the kernel calls it if ``plugins=``
        gives the plugin's class or instance and the App has it disabled. The App refuses a model
        for which it returns a text. A plugin that is left out otherwise is not imported.
        """
        return None

    @hookspec
    def register_models(self, app: App) -> Iterable[type[BaseModel]]:
        """Return this plugin's models.

        A class with ``_inherit = "user"`` extends the model ``user`` in the Apps that selected this
        plugin: its fields and methods join the model, and ``super()`` reaches the extended class.
        """
        return ()

    @hookspec
    def register_operators(self, app: App) -> Iterable[Operator]:
        """Return the domain operators that this plugin adds to this App."""
        return ()

    @hookspec
    def register_services(self, app: App) -> Mapping[str, object]:
        """Return the objects that this plugin offers, by name, e.g. ``app.services["pool"]``.

        ``earnorm.pool`` is the same object of the current App.
        """
        return {}

    @hookspec
    def resolve_principal(self, app: App, user: object) -> Principal | None:
        """Return the principal that an object of the application stands for; None to leave it.

        Asked by ``act_as(user)`` for what is neither a Principal nor an id. The first plugin that
        answers, in the order of names, decides; else the object's own ``id`` and ``roles`` do.
        """
        return None

    @hookspec
    def register_commands(self) -> Mapping[str, Callable[..., object]]:
        """Return this plugin's commands of the ``earnorm`` command line, by name.

        A command is a function with parameters as typer takes them, and may be async. A static
        method: commands are listed without an App. A command that has a parameter named ``app``
        gets the App that the command line has opened.
        """
        return {}

    @hookspec
    def model_registered(self, app: App, model: type[BaseModel]) -> None:
        """Look at a model, with all its extensions, when the App first uses it."""

    @hookspec
    def models_changed(self, app: App, models: Sequence[type[BaseModel]]) -> None:
        """Look at models that the App did not have before.

        Called at the start of the App with all models, while ``app.is_started`` is still false, and
        later with each model as it is defined. ``models`` are the definitions;
        ``app.extended(model)`` returns the class with its extensions.
        """

    @hookspec
    def model_forgotten(self, app: App, model: type[BaseModel]) -> None:
        """Drop what is kept of a model that ``earnorm.forget`` drops from a running App.

        Called with the definition, e.g. to delete what the plugin keeps by class.
        """

    @hookspec
    def prepare_model(self, app: App, model: ModelView) -> Awaitable[None] | None:
        """Prepare the database for a model. May be async; an exception stops the operation.

        Called once per App and model, before the App sends the model's first operation or begins a
        transaction. The operations of the model wait until all plugins are done, so this hook must
        send no operation of the same model: that operation would wait for itself.
        """

    @hookspec
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Return the layers around one kind of operation on one model, as ``(layer, middleware)``.

        Called once per model and operation. A model for which a plugin returns no layer pays
        nothing for the plugin.
        """
        return ()

    @hookspec
    def register_reading(self, app: App, model: ModelView) -> Reading | None:
        """Return this plugin's changes of how the documents of a model are read, or None.

        See :class:`earnorm.plugin.Reading`. Called when the App first uses the model. A model for
        which it returns None pays nothing.
        """
        return None

    @hookspec
    def hides_records(self, app: App, model: ModelView) -> Callable[[Env], bool] | None:
        """Return a function that tells whether records of a model may be hidden from who acts.

        Where it returns True for an Env, each link that is handed in must lead to a record that a
        search in this Env finds. None if no record is ever hidden; such a model pays nothing. Called
        when a link to the model is first written, and the function on each write of one.
        """
        return None

    @hookspec
    def unnamed_fields(self, app: App, model: ModelView) -> Callable[[Env], frozenset[str]] | None:
        """Return a function that tells which fields of a model no error may name to who acts.

        An error about an unknown name suggests none of them, and tells no name inside of them. The
        function is asked when there is such an error, and not for ``system``. None if every field may
        be named.
        """
        return None

    @hookspec
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        """Return this plugin's steps in the write path of a model.

        See :class:`earnorm.plugin.Step`. Called when the App first writes to the model. A model for
        which it returns nothing has no step of this plugin and pays nothing.
        """
        return ()

    @hookspec
    def before_create(self, op: Operation) -> Awaitable[None] | None:
        """Observe documents (``op.values``) before they are created.

        May be async; an exception stops the operation.
        """

    @hookspec
    def after_create(self, op: Operation, result: Sequence[Any]) -> Awaitable[None] | None:
        """Observe documents after they were created. May be async.

        ``result`` is the list of their stored ids. An exception is logged, because the write is done; only a
        transient error of the database in a running transaction is raised.
        """

    @hookspec
    def before_write(self, op: Operation) -> Awaitable[None] | None:
        """Observe a change of records before it is written.

        May be async; an exception stops the operation.
        """

    @hookspec
    def after_write(self, op: Operation, result: int) -> Awaitable[None] | None:
        """Observe a change of records after it was written. May be async.

        ``result`` is the number of records. An exception is logged, because the write is done; only a
        transient error of the database in a running transaction is raised.
        """

    @hookspec
    def before_unlink(self, op: Operation) -> Awaitable[None] | None:
        """Observe a deletion of records before it is done.

        May be async; an exception stops the operation.
        """

    @hookspec
    def after_unlink(self, op: Operation, result: int) -> Awaitable[None] | None:
        """Observe a deletion of records after it was done. May be async.

        ``result`` is the number of records. An exception is logged, because the write is done; only a
        transient error of the database in a running transaction is raised.
        """

    @hookspec
    def after_commit(self, app: App, operations: Sequence[Operation]) -> Awaitable[None] | None:
        """Observe writing operations that are durable. May be async.

        Called once, when their transaction was committed, or after each operation outside of a
        transaction, when the records in memory know that they are written. Of a batch of which the
        database has refused a part, outside of a transaction, the operation has the other part. What
        has stored nothing, or may have (its answer was lost), is left out; ``operation_failed`` tells
        of it. An exception is logged.
        """

    @hookspec
    def after_rollback(self, app: App, operations: Sequence[Operation]) -> Awaitable[None] | None:
        """Observe writing operations whose transaction was rolled back. May be async.

        An exception is logged.
        """

    @hookspec
    def transaction_unknown(
        self, app: App, operations: Sequence[Operation], error: TransactionOutcomeUnknown
    ) -> Awaitable[None] | None:
        """Observe writing operations of a transaction whose outcome nobody knows. May be async.

        Its commit was sent, and all of it is in the database or nothing. Neither ``after_commit``
        nor ``after_rollback`` is called. ``error`` says why it is unknown. An exception is logged.
        """

    @hookspec
    def operation_failed(self, op: Operation, error: BaseException) -> None:
        """Observe an error or a cancellation that ends an operation.

        The error is raised to the caller afterwards. Not async: a task that is being cancelled can
        await nothing. Called in the task of the operation, also for one that a layer made. An
        exception of this hook is logged. Unlike a layer that catches errors, this hook costs an
        operation that succeeds nothing.
        """

    @hookspec
    def access_denied(
        self, op: Operation, error: AccessDenied, why: Verdict | None
    ) -> Awaitable[None] | None:
        """Observe an operation that an access rule refused. May be async.

        ``why`` is what the plugin that refused it has noted with ``because``: the roles, the rights and
        rules, the filter; None if it noted nothing. It is not for the one who was refused. The error
        is raised to the caller afterwards. An exception of this hook is logged.
        """

    @hookspec
    def explain_access(self, op: Operation) -> Awaitable[Verdict | None] | Verdict | None:
        """Return why this plugin allows or refuses an operation, which is not done. May be async.

        Only ``system`` asks, for ``query.why()``; ``op.env`` is the Env of the one whose rights count.
        Where the domain names one record (``ids_of``), the verdict is about this record. None if the
        plugin has no say in operations of the model.
        """
        return None

    @hookspec
    def diagnose(self, app: App) -> Iterable[Finding]:
        """Return what ``earnorm doctor`` has to tell of the App for this plugin.

        Called where doctor knows the models of an App (``--app``, ``--models``). The App may not be
        started: ``app.known_models()`` and services are there, the database is not.
        """
        return ()

    @hookspec
    def health(self, app: App) -> Awaitable[Mapping[str, object]] | Mapping[str, object]:
        """Return this plugin's part of ``app.health()``. May be async.

        A mapping with ``"status"``, which is ``"ok"``, ``"degraded"`` or ``"failed"``, and any
        details.
        """
        return {}
