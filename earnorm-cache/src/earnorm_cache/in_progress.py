"""Notes for what is read: in a write that stores what it computes of that, or in a function whose result is kept."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from earnorm.plugin import ModelView, name_of

if TYPE_CHECKING:
    from earnorm.plugin import Call, Operation

IN_WRITE: Final[ContextVar[bool]] = ContextVar("earnorm_cache_in_write", default=False)
"""True inside of a write. What it computes of other records is stored for good, so the memory of this process, which may
be old for a moment, must not say what they are."""


async def note_write(op: Operation, call_next: Call, /) -> Any:
    """Note the write for what is read inside of it: a layer outside of the steps that compute."""
    token = IN_WRITE.set(True)
    try:
        return await call_next(op)
    finally:
        IN_WRITE.reset(token)


@dataclass(slots=True)
class Reads:
    """The reads of a function whose result is to be kept.

    Attributes:
        known: The collections that it says it depends on.
        unknown: The name of another model that was read though the program did not ask for it: an access rule leads
            there, or a relation. Its changes would not be noticed.
    """

    known: frozenset[str]
    unknown: str | None = None


IN_FUNCTION: Final[ContextVar[Reads | None]] = ContextVar("earnorm_cache_function", default=None)
"""The reads of the cached function that runs; None outside of one."""


def note_read(op: Operation) -> None:
    """Note a search, count or group for the cached function in which it is done."""
    reads = IN_FUNCTION.get()
    if reads is None or reads.unknown is not None:
        return
    if ModelView(op.model).collection not in reads.known and not op.is_asked_for:
        reads.unknown = name_of(op.model)
    elif (
        not op.env.system
        and op.app.bind(op.model).is_restricted
        and op.app.asks_others(op.model, op.domain)
    ):
        reads.unknown = "those that a rule asks about"


async def noting(op: Operation, call_next: Call, /) -> Any:
    """Note it; the layer of the reads of a model that is not cached, in a program with cached functions."""
    note_read(op)
    return await call_next(op)
