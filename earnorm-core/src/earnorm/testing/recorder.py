"""Records what happens in an App: operations, the layers that they pass, hooks, calls of the database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from earnorm.kernel.environment import current_app
from earnorm.kernel.layers import Layer
from earnorm.kernel.observing.observers import (
    DatabaseCall,
    Observer,
    RunningOperation,
    is_housekeeping,
)
from earnorm.kernel.operations import Operation
from earnorm.kernel.views import name_of

if TYPE_CHECKING:
    from earnorm.application import App

EventKind = Literal["operation", "layer", "sent", "hook", "call"]

# A recording makes the App ask for these again, so they tell of the recording.
_ASKED_AGAIN = frozenset({"wrap_operation", "register_steps"})
_LAYERS: Mapping[int, str] = {layer.value: layer.name for layer in Layer}
_MARGINS: Mapping[EventKind, str] = {
    "operation": "",
    "layer": "  layer ",
    "sent": "  sent ",
    "hook": "  hook ",
    "call": "  call ",
}


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: ``operation`` (it was asked for), ``layer`` (a layer got it), ``sent`` (its layers are
            passed), ``hook`` (a hook was called) or ``call`` (the database was called).
        text: What happened, as the lists of a :class:`Recorder` have it.
        plugin: The plugin of a layer or hook, or the maker of an operation.
        model: The name of the model, or the collection of a call.
        operation: The operation at that moment.
    """

    kind: EventKind
    text: str
    plugin: str = ""
    model: str = ""
    operation: Operation | None = field(default=None, compare=False, repr=False)


class Recorder(Observer):
    """The events so far, in order.

    Attributes:
        events: Everything.
    """

    sees_layers = True

    def __init__(self, plugins: Sequence[str]) -> None:
        self.events: list[Event] = []
        self._plugins = frozenset(plugins)

    def filter(
        self, kind: EventKind | None = None, *, plugin: str | None = None, model: str | None = None
    ) -> list[Event]:
        """Return the events of a kind, of a plugin and about a model; None takes all."""
        return [
            event
            for event in self.events
            if kind in (None, event.kind)
            and plugin in (None, event.plugin)
            and model in (None, event.model)
        ]

    def _texts(self, kind: EventKind) -> list[str]:
        return [event.text for event in self.events if event.kind == kind]

    @property
    def operations(self) -> list[str]:
        """The operations that were asked for: ``"create note"``, ``"count note by stamp"``."""
        return self._texts("operation")

    @property
    def layers(self) -> list[str]:
        """The layers of plugins that operations passed: ``"stamp DEFAULT: create note"``."""
        return self._texts("layer")

    @property
    def sent(self) -> list[Operation]:
        """The operations that went to the database, as their layers have made them."""
        return [event.operation for event in self.filter("sent") if event.operation is not None]

    @property
    def hooks(self) -> list[str]:
        """The hooks of plugins that were called: ``"stamp.after_create note"``."""
        return self._texts("hook")

    @property
    def calls(self) -> list[str]:
        """The calls of the database: ``"insert notes"``."""
        return self._texts("call")

    def clear(self) -> None:
        """Forget the events so far."""
        self.events.clear()

    # -- what an observer hears ---------------------------------------------------------------

    def operation_begins(self, running: RunningOperation) -> None:
        """Add an operation."""
        self._add("operation", running.operation, running.operation.origin)

    def layer_begins(self, plugin: str, layer: int, operation: Operation) -> None:
        """Add a layer, if it is that of a plugin."""
        if plugin in self._plugins:
            place = _LAYERS.get(layer, str(layer))
            self._add("layer", operation, plugin, f"{plugin} {place}: ")

    def operation_sent(self, operation: Operation) -> None:
        """Add an operation that goes to the database."""
        self._add("sent", operation, operation.origin)

    def hook_begins(self, plugin: str, hook: str, arguments: Mapping[str, object]) -> None:
        """Add a hook."""
        if hook in _ASKED_AGAIN:
            return
        op = arguments.get("op")
        operation = op if isinstance(op, Operation) else None
        model = "" if operation is None else name_of(operation.model)
        text = f"{plugin}.{hook} {model}".rstrip()
        self.events.append(Event("hook", text, plugin, model, operation))

    def database_called(self, call: DatabaseCall) -> None:
        """Add a call of the database."""
        operation = None if call.running is None else call.running.operation
        if operation is not None and is_housekeeping(operation):
            return
        text = f"{call.kind} {call.collection}"
        self.events.append(Event("call", text, "", call.collection, operation))

    def _add(self, kind: EventKind, op: Operation, plugin: str, before: str = "") -> None:
        if is_housekeeping(op):
            return
        maker = "" if op.origin == "program" else f" by {op.origin}"
        text = f"{before}{op.name} {name_of(op.model)}{maker}"
        self.events.append(Event(kind, text, plugin, name_of(op.model), op))

    def __str__(self) -> str:
        return "\n".join(f"{_MARGINS[event.kind]}{event.text}" for event in self.events)

    def __repr__(self) -> str:
        return f"<Recorder: {len(self.events)} events>\n{self}"


@contextmanager
def recording(app: App | None = None) -> Iterator[Recorder]:
    """Record what happens in an App inside the block, in all of its tasks.

    The App asks its plugins for their layers again at both ends of the block, so what a layer keeps
    for itself begins anew. Left out is what plugins and features do in their own bookkeeping from
    time to time, not because of an operation: the look for owed recomputes, for example.

    Args:
        app: The App; None means the current one.

    Yields:
        The recorder, whose lists may be compared: ``seen.operations == ["create note"]``.

    Raises:
        ConfigurationError: No App is started.
    """
    app = current_app() if app is None else app
    names = [plugin.name for plugin in app.plugins if plugin.status == "active"]
    recorder = Recorder(names)
    with app.observing(recorder):
        yield recorder
