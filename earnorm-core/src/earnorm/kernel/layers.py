"""The table of layers, and the composition of an operation's layers into one call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from earnorm.kernel.contract.checked_layers import checked

if TYPE_CHECKING:
    from earnorm.kernel.operations import Call, Operation


class Layer(IntEnum):
    """The places of layers around an operation, outermost first.

    Any integer between two of them is a place of your own. A layer outside of SECURITY may open a
    transaction or narrow the classes of a family; it must not look at records.
    """

    FAMILY = 20
    """Narrows an operation to some of the classes that share a collection (a family)."""
    TRANSACTION = 50
    """Opens a transaction if the consequences of a write must be atomic with it."""
    SECURITY = 100
    """Restricts the domain to the allowed records, or refuses. It is outside the cache, so a cache
    key contains the restriction.
    """
    ASK = 120
    """Resolves conditions about other records in the domain of a change, on behalf of the acting
    principal, before an inner layer looks at the domain as the system.
    """
    LINKS = 140
    """Checks that links which are handed in lead to records that who acts may read, or that exist."""
    MEMBERS = 160
    """Splits a change among the classes of a family, after the rules have checked the whole
    change."""
    STEPS = 180
    """Runs the document steps of a create or a write: fill in, compute, check, judge, guard."""
    AUDIT = 200
    """Records the operations that were done."""
    OBSERVE = 300
    """Calls the before and after hooks."""
    CONSEQUENCES = 450
    """Does the consequences of a deletion before the deletion itself."""
    DEFAULT = 500
    """The place for a plugin's layer that needs no particular place."""
    CONTENT = 850
    """Notes the stored files of records that are deleted."""
    CACHE = 900
    """Answers from a cache, without the database."""
    COALESCE = 950
    """Answers several searches by id with one query."""
    RESOLVE = 1000
    """Turns conditions about other records into conditions about this one. The innermost layer."""


class Middleware(Protocol):
    """A layer's function: it does its part, and calls ``call_next`` with the operation to do."""

    def __call__(self, op: Operation, call_next: Call, /) -> Awaitable[Any]:
        """Return the operation's result: its own, or the result of ``call_next``.

        Usually an async function. A plain function that returns the awaitable of ``call_next``
        costs less. An object may also have ``around(call_next)``, which returns the function that
        takes the operation. It is called once, when the layers are composed, and saves a call per
        operation.

        A layer that runs operations in transactions is an object with ``needs(op)``, which returns
        whether it does for this one, as ``in_transaction_if`` makes it: a ``bulk`` asks beforehand.
        An object may also have ``queues_for(op)``; see ``in_transaction_if``.
        """
        ...


class PlacedLayer(NamedTuple):
    """A middleware with its place and the name of its plugin.

    The results of those of plugins are checked (``is_checked``), of the core's own they are not.
    """

    layer: int
    plugin: str
    middleware: Middleware
    is_checked: bool = False


def for_program(layer: Middleware) -> Middleware:
    """Make a layer that an operation passes by unless the program itself asked for it.

    A budget counts so what the program does, and not what follows from that.

    Args:
        layer: The layer for operations with ``op.is_asked_for``.
    """

    def for_program_only(op: Operation, call_next: Call, /) -> Awaitable[Any]:
        return layer(op, call_next) if op.is_asked_for else call_next(op)

    for_program_only.__qualname__ = f"for_program({getattr(layer, '__qualname__', layer)})"
    return for_program_only


class Watch(Protocol):
    """Sees what each layer gets and what it passes on."""

    def entered(self, placed: PlacedLayer, op: Operation) -> None:
        """Note the operation that a layer gets."""
        ...

    def passed(self, placed: PlacedLayer, op: Operation) -> None:
        """Note the operation that a layer passes on."""
        ...


def watched(placed: PlacedLayer, watch: Watch) -> PlacedLayer:
    """Return a layer that does the same, and tells ``watch`` of it."""
    return PlacedLayer(placed.layer, placed.plugin, _Watched(placed, watch))


class _Watched:
    """The middleware of a layer that is watched."""

    def __init__(self, placed: PlacedLayer, watch: Watch) -> None:
        self._placed, self._watch = placed, watch

    def around(self, call_next: Call) -> Call:
        """Compose the layer between the two notes."""

        def inner(op: Operation) -> Awaitable[Any]:
            self._watch.passed(self._placed, op)
            return call_next(op)

        call = _wrap(self._placed, inner)

        def outer(op: Operation) -> Awaitable[Any]:
            self._watch.entered(self._placed, op)
            return call(op)

        return outer

    def __call__(self, op: Operation, call_next: Call, /) -> Awaitable[Any]:
        return self.around(call_next)(op)


def compose(core: Call, layers: Iterable[PlacedLayer]) -> Call:
    """Fold the layers around the core: the lowest layer outermost, equal ones by plugin name."""
    call = core
    for placed in sorted(layers, key=lambda p: (p.layer, p.plugin), reverse=True):
        call = _wrap(placed, call)
    return call


def outermost_first(layers: Iterable[PlacedLayer]) -> list[PlacedLayer]:
    """Return the layers in the order in which an operation passes them."""
    # As compose() folds them: of two equal ones the later one is outside.
    return sorted(layers, key=lambda p: (p.layer, p.plugin), reverse=True)[::-1]


def _wrap(placed: PlacedLayer, call_next: Call) -> Call:
    middleware = placed.middleware
    if placed.is_checked:
        return checked(placed.plugin, middleware, call_next)
    around: Callable[[Call], Call] | None = getattr(middleware, "around", None)
    if around is not None:
        return around(call_next)

    def call(op: Operation) -> Awaitable[Any]:
        return middleware(op, call_next)

    return call
