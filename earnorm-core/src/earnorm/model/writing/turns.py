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
from typing import TYPE_CHECKING

from earnorm.kernel.environment import find_env
from earnorm.model.slots import clear_turn, set_turn

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel


class Turn:
    """A write or a refresh, while it runs.

    Attributes:
        over: Set at the end; None while nobody waits.
        token: Ends the turn in its task; None when it is over, and in a transaction.
    """

    __slots__ = ("over", "token")

    over: asyncio.Event | None
    token: Token[Turn | None] | None


_own: ContextVar[Turn | None] = ContextVar("earnorm_turn", default=None)
"""The turn that this task works in, or was begun in."""


async def take(records: Sequence[BaseModel]) -> Turn:
    """Wait until no other task writes or refreshes one of the records, and begin a turn.

    Pass it to :func:`end` when the write is done or has failed.
    """
    turn = Turn()
    turn.over = turn.token = None
    env = find_env()
    if env is not None and env.transaction is not None:
        return turn
    # All records are taken at once, so that two sets cannot wait for each other.
    own = _own.get()
    free = own is not None and own.token is not None
    while not free:
        free = True
        for record in records:
            other: Turn | None = getattr(record, "_turn", None)
            if other is not None:
                if other.over is None:
                    other.over = asyncio.Event()
                await other.over.wait()
                free = False
                break
    for record in records:
        if getattr(record, "_turn", None) is None:
            set_turn(record, turn)
    turn.token = _own.set(turn)
    return turn


def end(turn: Turn, records: Sequence[BaseModel]) -> None:
    """End a turn."""
    if turn.token is None:
        return
    _own.reset(turn.token)
    turn.token = None
    for record in records:
        if getattr(record, "_turn", None) is turn:
            clear_turn(record)
    if turn.over is not None:
        turn.over.set()
