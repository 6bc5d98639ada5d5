"""The plugin contract: every hook that the kernel calls, with its exact signature.

A plugin is a class with ``api = 1`` and methods marked ``@hookimpl``. Each App makes its own
instance, with that plugin's validated settings. A method may leave out arguments that it does not
need. Nothing here is called on the way of an operation: what ``wrap_operation`` returns is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import pydantic

    from earnorm.application import App
    from earnorm.domain import Operator
    from earnorm.exceptions import AccessDenied
    from earnorm.fields import Field
    from earnorm.kernel.attributes import Attribute
    from earnorm.kernel.layers import Middleware
    from earnorm.kernel.operations import Operation, OperationName
    from earnorm.kernel.reading import Reading
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
    """Every hook. The documentation has a page for each."""

    @hookspec
    def settings(self) -> type[pydantic.BaseModel] | None:
        """The pydantic model of this plugin's keyword to ``init``; its instance is what the
        plugin's class is called with.

        A static method: it is asked before the plugin is instantiated. Without it the plugin
        takes no settings and its class is called without arguments.
        """

    @hookspec
    def startup(self, app: App) -> Awaitable[None] | None:
        """The App is connected and about to take its first operation: open resources. May be async."""

    @hookspec
    def shutdown(self, app: App) -> Awaitable[None] | None:
        """The App is about to close its connections: close resources. May be async.

        Called for every plugin, even where another one's shutdown failed.
        """

    @hookspec
    def register_listeners(self, app: App) -> Iterable[object]:
        """Driver event listeners, asked for before the client is made."""
        return ()

    @hookspec
    def register_fields(self, app: App) -> Mapping[str, type[Field[Any, Any]]]:
        """Field types that this plugin brings, by the name that ``app.field_types`` lists them under."""
        return {}

    @hookspec
    def model_attributes(self) -> Iterable[Attribute]:
        """Class attributes that models may declare something with for this plugin, as
        :class:`earnorm.plugin.Attribute`.

        A static method: it is asked once for each App, before any model. What an attribute declares joins the
        models that have it, in the Apps that selected this plugin.
        """
        return ()

    @hookspec
    def needed_by(self, model: ModelView) -> str | None:
        """What a model has that means nothing without this plugin, e.g. ``"the field 'number'"``; None where it
        has no such thing.

        A static method: it is asked where an App does without the plugin, though its class is at hand, and a
        model that needs it is then refused.
        """
        return None

    @hookspec
    def register_models(self, app: App) -> Iterable[type[BaseModel]]:
        """Models that this plugin brings.

        A class with ``_inherit = "user"`` extends the model ``user`` in the Apps that selected
        this plugin: its fields and methods join, and ``super()`` reaches the extended class.
        """
        return ()

    @hookspec
    def register_operators(self, app: App) -> Iterable[Operator]:
        """Domain operators that this plugin brings, in this App."""
        return ()

    @hookspec
    def register_services(self, app: App) -> Mapping[str, object]:
        """Objects that this plugin offers: ``app.services["pool"]``, and ``earnorm.pool``."""
        return {}

    @hookspec
    def register_commands(self) -> Mapping[str, Callable[..., object]]:
        """Commands of the ``earnorm`` command line by name; a typer-style function, may be async.

        A static method: commands are listed without an App. A parameter named ``app`` is given
        the App that the command line has opened.
        """
        return {}

    @hookspec
    def model_registered(self, app: App, model: type[BaseModel]) -> None:
        """The App sees this model for the first time, with all its extensions."""

    @hookspec
    def models_changed(self, app: App, models: Sequence[type[BaseModel]]) -> None:
        """There are models that the App did not have before: at its start, when ``app.is_started`` is still
        false, all of them, and afterwards each one that is defined, as it is defined.

        They are the definitions; ``app.extended(model)`` has the extensions as well.
        """

    @hookspec
    def prepare_model(self, app: App, model: ModelView) -> Awaitable[None] | None:
        """The App is about to send the model's first operation, or to begin a transaction: make ready what
        the model needs in the database. Called once per App and model, while its operations wait; an
        operation on the same model would wait for itself. May be async; an exception stops the operation.
        """

    @hookspec
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """The layers around one kind of operation on one model, as ``(layer, middleware)`` pairs.

        Asked once per model and operation. Returning nothing for a model that does not concern
        the plugin costs that model nothing.
        """
        return ()

    @hookspec
    def register_reading(self, app: App, model: ModelView) -> Reading | None:
        """What this plugin changes in how the documents of a model are read; see
        :class:`earnorm.plugin.Reading`.

        Asked when the App sees the model for the first time. A model for which nothing is returned pays
        nothing.
        """
        return None

    @hookspec
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        """This plugin's steps in the write path of a model; see :class:`earnorm.plugin.Step`.

        Asked when the App first writes to the model. A model for which nothing is returned has no step of
        this plugin and pays nothing.
        """
        return ()

    @hookspec
    def before_create(self, op: Operation) -> Awaitable[None] | None:
        """Documents are about to be created (``op.values``). May be async; an exception stops it."""

    @hookspec
    def after_create(self, op: Operation, result: Sequence[Any]) -> Awaitable[None] | None:
        """Documents were created; ``result`` is the list of their stored ids. May be async."""

    @hookspec
    def before_write(self, op: Operation) -> Awaitable[None] | None:
        """Records are about to be written. May be async; an exception stops it."""

    @hookspec
    def after_write(self, op: Operation, result: int) -> Awaitable[None] | None:
        """Records were written; ``result`` is how many. May be async."""

    @hookspec
    def before_unlink(self, op: Operation) -> Awaitable[None] | None:
        """Records are about to be deleted. May be async; an exception stops it."""

    @hookspec
    def after_unlink(self, op: Operation, result: int) -> Awaitable[None] | None:
        """Records were deleted; ``result`` is how many. May be async."""

    @hookspec
    def after_commit(self, app: App, operations: Sequence[Operation]) -> Awaitable[None] | None:
        """These writing operations are durable: their transaction was committed, or each was done
        outside of one. Called also for those that failed half-way outside a transaction, since
        part of them may have been done. May be async."""

    @hookspec
    def after_rollback(self, app: App, operations: Sequence[Operation]) -> Awaitable[None] | None:
        """The transaction of these writing operations was rolled back. May be async."""

    @hookspec
    def operation_failed(self, op: Operation, error: BaseException) -> None:
        """An error, or a cancellation, leaves an operation; it goes on afterwards.

        Not async: nothing can be awaited in a task that is being cancelled. Called in the task whose
        operation it was, also for those that a layer made itself. What it raises is logged. An operation
        that succeeds is not touched, unlike by a layer that waits for errors.
        """

    @hookspec
    def access_denied(self, op: Operation, error: AccessDenied) -> Awaitable[None] | None:
        """An access rule refused the operation. May be async; the error goes on afterwards."""

    @hookspec
    def health(self, app: App) -> Awaitable[Mapping[str, object]] | Mapping[str, object]:
        """This plugin's part of ``app.health()``: ``{"status": "ok" | "degraded" | "failed", …}``.

        May be async.
        """
        return {}
