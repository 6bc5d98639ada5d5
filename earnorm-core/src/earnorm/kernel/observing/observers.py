"""Observers of an App: they are told of operations, layers, hooks and calls of the database.

An App that nobody observes pays nothing: what observers need is put into its place when the first
one comes, and taken out when the last one goes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from earnorm.kernel.environment import PROGRAM
from earnorm.kernel.observing.asking import OBSERVED, CodeLine, caller_line

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.layers import Middleware, Watch
    from earnorm.kernel.operations import Call, Operation


@dataclass(frozen=True, slots=True, eq=False)
class RunningOperation:
    """An operation that was given to ``App.execute``.

    Attributes:
        operation: The operation, before its layers.
        outer: The operation that was running when this one was asked for.
        caller: The line outside of EarnORM that asked for it, or for the outer operation if a
            plugin or a feature made this one; None if there is no such line.
    """

    operation: Operation
    outer: RunningOperation | None
    caller: CodeLine | None


@dataclass(frozen=True, slots=True)
class DatabaseCall:
    """A call of the database that reads or writes documents.

    Attributes:
        kind: ``find``, ``count``, ``aggregate``, ``insert``, ``update``, ``find_and_update``,
            ``bulk_write`` or ``delete``. The batches of a cursor are one call.
        collection: The name of the collection.
        running: The innermost operation that runs; None for the contents of files.
        caller: The line outside of EarnORM that asked for it, if there is one.
    """

    kind: str
    collection: str
    running: RunningOperation | None
    caller: CodeLine | None


class Observer:
    """Base of observers: each method is told of one thing, and does nothing here.

    The methods are called in the task of the operation. They return at once and raise nothing.

    Attributes:
        sees_layers: Also tell of layers and hooks. The App asks its plugins for their layers again
            when the observation begins and when it ends.
    """

    sees_layers: ClassVar[bool] = False

    def operation_begins(self, running: RunningOperation) -> None:
        """Hear of an operation, before its layers."""

    def layer_begins(self, plugin: str, layer: int, operation: Operation) -> None:
        """Hear of the operation that a layer of a plugin or of the core (``""``) gets."""

    def operation_sent(self, operation: Operation) -> None:
        """Hear of an operation as its layers have made it, before it goes to the database.

        An operation that a layer answers by itself is not sent.
        """

    def hook_begins(self, plugin: str, hook: str, arguments: Mapping[str, object]) -> None:
        """Hear of a hook of a plugin, before it is called."""

    def database_called(self, call: DatabaseCall) -> None:
        """Hear of a call of the database, before it is made."""


_running: ContextVar[RunningOperation | None] = ContextVar("earnorm_running", default=None)


@contextmanager
def observing(app: App, observer: Observer) -> Iterator[None]:
    """Tell an observer of the App inside the block; see ``App.observing``."""
    with ExitStack() as stack:
        stack.enter_context(app._backend.hearing(lambda *call: _hear(observer, *call)))
        if not app.observers:
            # On the object, where it goes before the method of its class.
            vars(app)["execute"] = _observed_execute(app, app.observers)
            OBSERVED.add(app)
        app.observers.append(observer)
        if observer.sees_layers:
            app.retrace()
        try:
            yield
        finally:
            app.observers.remove(observer)
            if observer.sees_layers:
                app.retrace()
            if not app.observers:
                del vars(app)["execute"]
                OBSERVED.discard(app)


def _hear(observer: Observer, kind: str, collection: str) -> None:
    running = _running.get()
    caller = caller_line() if running is None else running.caller
    observer.database_called(DatabaseCall(kind, collection, running, caller))


def _observed_execute(
    app: App, observers: list[Observer]
) -> Callable[..., Coroutine[Any, Any, Any]]:
    execute = type(app).execute

    def observed(op: Operation, watch: Watch | None = None) -> Coroutine[Any, Any, Any]:
        outer = _running.get()
        # What the program itself asks for inside of an operation, as a method that computes a value
        # does, is asked for by that line.
        is_own = outer is None or op.origin == "program"
        caller = (caller_line() if is_own else None) or (outer.caller if outer else None)
        running = RunningOperation(op, outer, caller)
        for observer in tuple(observers):
            observer.operation_begins(running)
        return run(running, watch)

    async def run(running: RunningOperation, watch: Watch | None) -> Any:
        token = _running.set(running)
        try:
            return await execute(app, running.operation, watch)
        finally:
            _running.reset(token)

    return observed


def tell_sent(app: App, op: Operation, call_next: Call) -> Awaitable[Any]:
    """Tell the observers which operation goes to the database, as the innermost layer."""
    for observer in tuple(app.observers):
        if observer.sees_layers:
            observer.operation_sent(op)
    return call_next(op)


def tell_layer(app: App, plugin: str, layer: int) -> Middleware:
    """Return a middleware that tells the observers which operation the next layer gets."""

    def tell(op: Operation, call_next: Call) -> Awaitable[Any]:
        for observer in tuple(app.observers):
            if observer.sees_layers:
                observer.layer_begins(plugin, layer, op)
        return call_next(op)

    return tell


def is_housekeeping(op: Operation) -> bool:
    """Return whether a plugin or feature does this from time to time, in its own bookkeeping.

    It may come at any moment, so a test that counts or compares what happens leaves it out.
    """
    own = op.model._bookkeeping is not None
    return own and op.parent is None and op.origin != PROGRAM
