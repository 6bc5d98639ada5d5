"""Units of work without a transaction: they end as a whole, and are alone at their records.

Where the backend has transactions, they make a unit of several operations. Where it has none, these two
do what one process can do by itself: a unit is not ended in the middle, and two units do not write the
same records at once. What another process does meanwhile, or the end of this one, they cannot help.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Self, TypeVar

from earnorm.kernel.environment import current_env
from earnorm.kernel.transactions.queue import LONGEST_WAIT, Key, keys_of

if TYPE_CHECKING:
    from earnorm.kernel.operations import Operation

R = TypeVar("R")


async def unbroken(work: Callable[[], Awaitable[R]]) -> R:
    """Carry out work to its end, although this task is cancelled or the App stops meanwhile.

    It is for what belongs together and has no transaction: a change, and what a plugin stores about it.
    The work runs in a task of its own, with a copy of this one's context.

    Args:
        work: An async function without arguments.

    Raises:
        CancelledError: This task was cancelled; it is raised when the work is over. After ten
            seconds the work is cancelled, too, which is logged.
    """
    return await current_env().app.in_flight.unbroken(work)


Check = Callable[[], Awaitable[None]]
"""A check at the end of a unit of work; it raises where what the unit has stored may not stay."""


class UnitOfCall:
    """The operations of one call that writes several, e.g. records with others created along.

    Used as a context manager; inside of another one it belongs to that.
    """

    __slots__ = ("_checks", "_token", "created", "is_over")

    def __init__(self) -> None:
        self.created: list[Operation] = []
        """The creates that are done."""
        self.is_over = False
        """True at the end; a task that outlives the call is alone."""
        self._checks: list[Check] = []
        self._token: Token[UnitOfCall | None] | None = None

    def __enter__(self) -> Self:
        if unit_of_call() is None:
            self._token = _unit.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over = True
        if self._token is not None:
            _unit.reset(self._token)

    def add(self, check: Check) -> None:
        """Add a check for the end."""
        self._checks.append(check)

    async def check(self) -> None:
        """Carry out the checks."""
        while self._checks:
            await self._checks.pop(0)()


_unit: ContextVar[UnitOfCall | None] = ContextVar("earnorm_unit", default=None)


def unit_of_call() -> UnitOfCall | None:
    """Return the operations to which the one that runs belongs; None where it is alone."""
    unit = _unit.get()
    return None if unit is None or unit.is_over else unit


def is_in_unit() -> bool:
    """Return whether the operation that runs is one of several that a call carries out."""
    return unit_of_call() is not None


async def at_end_of_call(check: Check) -> None:
    """Carry out a check when a call has written all that belongs together; now if it writes nothing else.

    A record with others created along is stored by several operations, and the values that are
    computed from the others are right after the last one. In a transaction what the check raises
    undoes all of it.

    Args:
        check: An async function without arguments.
    """
    unit = unit_of_call()
    if unit is None:
        await check()
    else:
        unit.add(check)


class _Held:
    """The records that a block has for itself; those of the blocks around it count, too."""

    __slots__ = ("keys", "outer")

    def __init__(self, keys: Collection[Key], outer: _Held | None) -> None:
        self.keys = keys
        self.outer = outer

    def holds(self, key: Key) -> bool:
        return key in self.keys or (self.outer is not None and self.outer.holds(key))

    def is_waited_for(self) -> bool:
        return bool(self.keys) or (self.outer is not None and self.outer.is_waited_for())


_held: ContextVar[_Held | None] = ContextVar("earnorm_held", default=None)
"""The innermost block of this task, or of the one that began it."""


@asynccontextmanager
async def alone_at(records: Iterable[tuple[str, Any]]) -> AsyncIterator[bool]:
    """Keep these records from every other such block of this App while this one runs.

    It waits for its turn until the App's ``retry_timeout``; inside another block, whose records it
    shares, for two seconds, because two of them could wait for each other. Other processes do not
    see it.

    Args:
        records: The records, each as the name of its model and its stored id.

    Yields:
        False if it has waited for too long, and goes on beside the others.

    Raises:
        PluginError: ``records`` gives anything else.
    """
    app, outer = current_env().app, _held.get()
    keys = keys_of(app, records, most=None)
    patience, is_inside = app.settings.retry_timeout, False
    if outer is not None and outer.is_waited_for():
        keys = [key for key in keys if not outer.holds(key)]
        patience, is_inside = min(LONGEST_WAIT, patience), True
    place = await app.queue.take(keys, patience, most=None, is_next=is_inside)
    held = _Held(keys if place is not None else (), outer)
    token = _held.set(held)
    try:
        yield place is not None or not keys
    finally:
        _held.reset(token)
        if place is not None:
            held.keys = ()  # a task that outlives the block has them no longer
            place.leave()
