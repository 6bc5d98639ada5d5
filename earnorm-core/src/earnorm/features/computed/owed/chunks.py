"""Works off one owed document, in chunks that are a transaction each.

A chunk computes from what is stored then. Its size is halved where it met another transaction, or
where a formula failed, and grows again afterwards: a write waits for no more than one chunk, and a
single record whose formula fails is found and set apart. It grows only as long as a chunk is quick,
so that slow formulas outlive neither the server's patience with a transaction nor the lease.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from earnorm.domain import Condition
from earnorm.domain.keyset import AFTER
from earnorm.exceptions import (
    AppStopping,
    EarnORMError,
    OperationTimeout,
    ServerUnavailable,
    TransactionError,
)
from earnorm.features.computed.owed.documents import (
    APART,
    LeaseLost,
    Owed,
    advance,
    count,
    drop_the_same,
    finish,
    forget_apart,
    release,
    set_apart,
)
from earnorm.features.computed.recomputing import Recomputation, of_own_class
from earnorm.kernel.environment import current_env
from earnorm.kernel.operations import Operation, Options, made_by
from earnorm.kernel.transactions.blocks import atomic, transaction

if TYPE_CHECKING:
    from earnorm.features.computed.dependencies import Graph

log = logging.getLogger("earnorm.recompute")

CHUNK: Final = 500
"""The most records of one chunk."""
_FIRST: Final = 10
"""The most records of the first chunk, which tells how long they take."""
_SECONDS: Final = 2.0
"""The time that a chunk should take at most."""
_WINDOW: Final = 10_000
"""The number of ids that are read at a time."""
_MOST_HOPS: Final = 1_000
"""The number of recomputations in a row, owed because of each other, that count as a circle."""
_PASSING: Final = (ServerUnavailable, OperationTimeout, AppStopping, TransactionError)
"""Errors that are no record's fault."""


@dataclass(slots=True)
class Figures:
    """Counts what an App has worked off since its start.

    Attributes:
        chunks: The transactions.
        changed: The records that had another value.
        again: The chunks that met another transaction and were tried again.
        set_apart: The records whose formula failed.
        taken_over: The documents whose holder gave no sign of life.
    """

    chunks: int = 0
    changed: int = 0
    again: int = 0
    set_apart: int = 0
    taken_over: int = 0


class Settlement:
    """The work on one owed document that this process holds.

    Args:
        graph: The computed fields of the App.
        owed: The document, with its ids.
        figures: Counts what is done.
    """

    def __init__(self, graph: Graph, owed: Owed, figures: Figures) -> None:
        self._graph, self.owed, self._figures = graph, owed, figures
        self._size = min(CHUNK, _FIRST)
        self._changed = 0
        self._are_some_apart = False

    async def run(self) -> None:
        """Work it off to its end.

        Raises:
            LeaseLost: Another process has taken over.
            EarnORMError: The database cannot be used; the rest is still owed.
        """
        if self.owed.hops > _MOST_HOPS:
            await self._refuse_circle()
            return
        of_model = APART & Condition("model", "=", self.owed.model)
        self._are_some_apart = bool(await count(current_env(), of_model))
        while True:
            pks = await self._window()
            is_last = len(pks) < _WINDOW
            if not pks:
                await finish(current_env(), self.owed)
                return
            while pks:
                done = await self._try(pks[: self._size], is_last and len(pks) <= self._size)
                pks = pks[done:]
            if is_last:
                return

    async def _window(self) -> Sequence[Any]:
        """Return the ids of the next records, in order."""
        owed, env = self.owed, current_env()
        bound = env.app.bind(env.app.model(owed.model))
        domain = of_own_class(bound, owed.domain)
        if owed.after is not None:
            domain &= Condition("_id", AFTER, owed.after)
        options = Options(fields=frozenset({"_id"}), order=(("_id", 1),), limit=_WINDOW)
        op = Operation("search", bound.model, env, domain, None, options, made_by("owed"))
        return [document["_id"] for document in await env.app.execute(op)]

    async def _try(self, pks: Sequence[Any], is_last: bool) -> int:
        """Work off these records, or learn that they are too many; return the number of done ones."""
        chunk, begin = partial(self._chunk, pks, is_last), monotonic()
        try:
            if len(pks) == 1:
                self.owed = await atomic(chunk)
            else:
                self.owed = await _once(chunk)
        except LeaseLost:
            raise
        except Exception as error:
            is_conflict = isinstance(error, TransactionError) and error.transient
            if (isinstance(error, _PASSING) and not is_conflict) or (is_conflict and len(pks) == 1):
                raise
            self._figures.again += is_conflict
            if len(pks) > 1:
                self._size = len(pks) // 2
                return 0
            await self._set_apart(pks[0], error, is_last)
        else:
            self._figures.chunks += 1
            self._figures.changed += self._changed
            in_time = int(len(pks) * _SECONDS / max(monotonic() - begin, 1e-6))
            self._size = max(1, min(CHUNK, 2 * self._size, in_time))
        return len(pks)

    async def _chunk(self, pks: Sequence[Any], is_last: bool) -> Owed:
        env, owed = current_env(), self.owed
        if owed.after is None and owed.error is None:
            # What is read from here on is newer than those, which are seen already.
            await drop_the_same(env, owed)
        follow = Recomputation(self._graph, env, limit=0, hops=owed.hops + 1)
        self._changed = await follow.compute(owed.model, owed.names, pks)
        if self._are_some_apart:
            await forget_apart(env, owed, pks)
        if not is_last:
            return await advance(env, owed, pks[-1])
        await finish(env, owed)
        return owed

    async def _set_apart(self, pk: Any, error: Exception, is_last: bool) -> None:
        """Owe one record by itself."""
        # An error that is not ours may show values, which whoever reads a log must not see.
        text = str(error) if isinstance(error, EarnORMError) else type(error).__name__
        if self.owed.error is not None:
            await release(current_env(), self.owed, text)
            return

        async def replace() -> Owed:
            await set_apart(current_env(), self.owed, pk, text)
            self._are_some_apart = True
            if not is_last:
                return await advance(current_env(), self.owed, pk)
            await finish(current_env(), self.owed)
            return self.owed

        self.owed = await atomic(replace)
        self._figures.set_apart += 1
        log.error("%s of the record %s is set apart, the others go on: %s", self.owed, pk, text)

    async def _refuse_circle(self) -> None:
        text = f"the records depend on each other in a circle: {_MOST_HOPS} levels, and no end"
        await release(current_env(), self.owed, text)
        self._figures.set_apart += 1
        log.error("%s is set apart: %s", self.owed, text)


async def _once(work: Callable[[], Awaitable[Owed]]) -> Owed:
    if "transactions" not in current_env().app.capabilities:
        return await work()
    async with transaction():
        return await work()
