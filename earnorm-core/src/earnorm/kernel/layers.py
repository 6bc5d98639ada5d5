"""The table of layers, the composing of layers around an operation, and its core's own places in the table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from earnorm.kernel.operations import Call, Operation


class Layer(IntEnum):
    """The places of wrappers around an operation, outermost first. Any integer between two is a place of your own.

    A layer outside of SECURITY may open a transaction or narrow the classes of a family, and looks at no record.
    """

    FAMILY = 20
    """Narrows an operation to the classes that it is about, where several share a collection."""
    TRANSACTION = 50
    """Opens a transaction where what follows has to be one with the write."""
    SECURITY = 100
    """Narrows the domain and refuses; a cache builds its key from what is allowed."""
    ASK = 120
    """Answers what the domain of a change asks of other records, for who asks, before a layer behind it looks at
    that domain as the system."""
    MEMBERS = 140
    """Hands the parts of a change to the classes of a family, after the rules have seen the whole."""
    STEPS = 160
    """Runs the document steps of a create or a write: fills in, computes, checks, judges, guards."""
    AUDIT = 200
    """Records what was done."""
    OBSERVE = 300
    """Sees operations go by; the before and after hooks run here."""
    CONSEQUENCES = 450
    """Does what follows from a deletion before the deletion itself."""
    DEFAULT = 500
    """Has no meaning of its own: a plugin's layer that has to sit nowhere else."""
    CONTENT = 850
    """Notes the stored files of records that are deleted."""
    CACHE = 900
    """Answers without the database."""
    COALESCE = 950
    """Answers several searches by id with one."""
    RESOLVE = 1000
    """Turns conditions about other records into conditions about this one; innermost."""


class Middleware(Protocol):
    """A layer's wrapper: does its part, and calls ``call_next`` with the operation it wants done."""

    def __call__(self, op: Operation, call_next: Call, /) -> Awaitable[Any]:
        """Return the operation's result, its own or the one of ``call_next``. An async function,
        as a rule; a plain one may hand on what ``call_next`` returns, which costs less.

        An object may have ``around(call_next)`` as well. It gives the call that takes the operation, once, when
        the layers are composed: one call less for each operation."""
        ...


@dataclass(frozen=True, slots=True)
class PlacedLayer:
    """A middleware with its place and its plugin."""

    layer: int
    plugin: str
    middleware: Middleware


def compose(core: Call, layers: Iterable[PlacedLayer]) -> Call:
    """Fold the layers around the core, the lowest layer outermost, equal ones by plugin name."""
    call = core
    for placed in sorted(layers, key=lambda p: (p.layer, p.plugin), reverse=True):
        call = _wrap(placed.middleware, call)
    return call


def _wrap(middleware: Middleware, call_next: Call) -> Call:
    around: Callable[[Call], Call] | None = getattr(middleware, "around", None)
    if around is not None:
        return around(call_next)

    def call(op: Operation) -> Awaitable[Any]:
        return middleware(op, call_next)

    return call
