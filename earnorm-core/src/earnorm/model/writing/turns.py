"""Turns of writes and refreshes of one record: the second task waits until the first is done.

The server may do two writes in another order than they were sent in, and two saves at once would
carry out the same commands twice. So the second task waits, and then sends what is still pending.

Nobody waits inside a transaction: the write that is under way may itself wait for the end of that
transaction. A write that a step or a hook makes for another write does not wait either, because
two such writes could wait for each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Final

from earnorm.kernel.environment import find_env

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel


class Turn:
    """A write or a refresh, while it runs.

    Attributes:
        over: Set at the end; None while nobody waits.
        taken: The records that it has, by ``id()``. While it runs, they live.
        token: Ends the turn in its task; None when it is over, and in a transaction.
    """

    __slots__ = ("over", "taken", "token")

    def __init__(self) -> None:
        self.over: asyncio.Event | None = None
        self.taken: dict[int, BaseModel] = {}
        self.token: Token[Turn | None] | None = None


_own: ContextVar[Turn | None] = ContextVar("earnorm_turn", default=None)
"""The turn that this task works in, or was begun in."""

_running: Final[dict[int, Turn]] = {}
"""The turn that has a record, by the record's ``id()``.

A slot of each record would be nearly always empty, and asking such a slot takes 0.4 µs.
"""


def begin(records: Sequence[BaseModel]) -> Turn | None:
    """Begin a turn; return None if another task writes or refreshes one of the records.

    Pass the turn to :func:`end` when the write is done or has failed. Where nobody has to wait, no
    coroutine is made for it::

        turn = begin(records) or await wait(records)
    """
    turn = Turn()
    env = find_env()
    if env is not None and env.transaction is not None:
        return turn
    # All records are taken at once, so that two sets cannot wait for each other.
    if _running:
        own = _own.get()
        if own is None or own.token is None:
            for record in records:
                if id(record) in _running:
                    return None
    taken = turn.taken
    for record in records:
        key = id(record)
        if key not in _running:
            _running[key] = turn
            taken[key] = record
    turn.token = _own.set(turn)
    return turn


async def wait(records: Sequence[BaseModel]) -> Turn:
    """Wait until no other task writes or refreshes one of the records, and begin a turn."""
    while True:
        turn = begin(records)
        if turn is not None:
            return turn
        other = next(_running[id(record)] for record in records if id(record) in _running)
        if other.over is None:
            other.over = asyncio.Event()
        await other.over.wait()


def end(turn: Turn) -> None:
    """End a turn."""
    if turn.token is None:
        return
    for key in turn.taken:
        del _running[key]
    turn.taken.clear()  # a task that was begun in the turn may outlive it
    if turn.over is not None:
        turn.over.set()
    token, turn.token = turn.token, None
    _own.reset(token)
