"""The part of an App that looks for what is owed and works it off, one document at a time.

It is told at once of what its own App owes. What others owe, and have not worked off because they
died or were stopped, it finds by looking: soon after the start, and at intervals.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final
from weakref import ref

from earnorm.domain import Condition, Domain
from earnorm.exceptions import AppStopping, EarnORMError, TransactionError
from earnorm.features.computed.owed.chunks import Figures, Settlement
from earnorm.features.computed.owed.documents import (
    APART,
    WAITING,
    LeaseLost,
    Owed,
    claim,
    delete,
    owed_in,
    release,
)
from earnorm.kernel.environment import Env, current_env, find_env, use_env
from earnorm.kernel.time import now

if TYPE_CHECKING:
    from earnorm.features.computed.dependencies import Graph
    from earnorm.kernel.app import App

log = logging.getLogger("earnorm.recompute")

FIRST_LOOK: Final = 1.0
"""The seconds from the start of an App to its first look, when its plugins have started."""
_LOOKS_PER_RETRY: Final = (
    10  # at the default, records that were set apart are tried again after 5 min
)
_POLL: Final = 0.5  # seconds between two looks of somebody who waits for another process
_OLD: Final = 300.0  # seconds after which what is owed is a sign of trouble
_NAMED: Final = 10  # records that health names


@dataclass(frozen=True, slots=True)
class OwedPart:
    """One part of what is owed, for people.

    Attributes:
        model: The model's name.
        fields: The fields to compute.
        seconds: The time since the change.
        holder: The process that works it off, as ``host:pid``.
        ids: The ids of records that are set apart, as texts; empty for others.
        error: The error for which they are.
        foreign: True if this App lacks a field that is owed or that follows, and so leaves it alone.
    """

    model: str
    fields: tuple[str, ...]
    seconds: float
    holder: str | None
    ids: tuple[str, ...]
    error: str | None
    foreign: bool


class Worker:
    """Works off what is owed in the database of one App.

    Args:
        app: The App.
        graph: Returns its computed fields.
        interval: The seconds between two looks; None means that it does not look for what others owe.

    Attributes:
        figures: Counts what was done since the start of the App.
    """

    def __init__(self, app: App, graph: Callable[[], Graph], interval: float | None) -> None:
        self._app, self._graph, self._interval = app, graph, interval
        self.figures = Figures()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._held: Owed | None = None
        self._is_asked = False
        self._takes_over = self._retries = False
        self._looks = 0

    @property
    def _env(self) -> Env:
        return self._app.env.as_system("work off what is owed")

    # -- start and stop -----------------------------------------------------------------------

    def start(self) -> None:
        """Begin to look; a second call does nothing."""
        if self._timer is None and self._interval is not None:
            self._looks = 0
            self._look_in(min(FIRST_LOOK, self._interval))

    async def stop(self) -> None:
        """End the work, and hand back what is not done."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._release()
        self.figures = Figures()

    async def _release(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            with contextlib.suppress(EarnORMError):  # the lease ends by itself
                await release(self._env, held)

    # -- looking ------------------------------------------------------------------------------

    def _look_in(self, seconds: float) -> None:
        # An App that nobody stops is not kept alive by its timer.
        loop = asyncio.get_running_loop()
        itself: ref[Worker] = ref(self)
        # A timer that was cancelled stays in the loop with its context, where the App is the current one.
        self._timer = loop.call_later(seconds, _look, itself, context=Context())

    def look(self) -> None:
        """Look for what others owe, and for holders that are dead."""
        self._takes_over = True
        self._retries |= self._looks % _LOOKS_PER_RETRY == 0
        self._looks += 1
        self.wake()
        if self._interval is not None:
            self._look_in(self._interval)

    def wake(self) -> None:
        """Work off what is owed, in a task of the App."""
        self._is_asked = True
        if self._task is None or self._task.done():
            # A context of its own: the program's may have a principal, or a transaction.
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._run(), name="earnorm recompute", context=Context())

    async def _run(self) -> None:
        try:
            with use_env(self._env):
                while self._is_asked:
                    self._is_asked = False
                    takes_over, self._takes_over = self._takes_over, False
                    retries, self._retries = self._retries, False
                    await self._work_off_all(takes_over, retries)
        except AppStopping:
            pass  # stop() hands back what is held
        except Exception as error:
            # The next look tries again.
            log.warning("what is owed could not be worked off: %s", error)
            log.debug("the error", exc_info=error)

    async def _work_off_all(self, takes_over: bool, retries: bool) -> None:
        async for owed in owed_in(self._env, Domain.TRUE if retries else WAITING):
            if self._knows(owed):
                self._held = await claim(current_env(), owed, take_over=takes_over)
                if self._held is not None:
                    self.figures.taken_over += owed.alive_at is not None
                    await self._work_off(self._held)

    async def _work_off(self, owed: Owed) -> None:
        settlement = Settlement(self._graph(), owed, self.figures)
        try:
            await settlement.run()
        except LeaseLost:
            log.info("%s: another process has taken over", owed)
        except AppStopping:
            raise
        except Exception:
            await self._release()
            raise
        self._held = None

    def _knows(self, owed: Owed) -> bool:
        """Return whether this App has all the fields: another version of the program may have others."""
        return self._graph().has_all(owed.follows)

    # -- asking -------------------------------------------------------------------------------

    async def _is_settled(self) -> bool:
        async for row in owed_in(self._env, WAITING):
            if self._knows(row):
                return False
        return True

    async def settled(self) -> None:
        """Wait until nothing is owed that this App knows, but for what is set apart.

        Raises:
            TransactionError: A transaction is running, and what it owes is not there before its end.
        """
        env = find_env()
        if env is not None and env.app is self._app and env.transaction is not None:
            raise TransactionError(
                "settled(): a transaction is running, and what it owes is worked off after its "
                "commit; wait behind the block"
            )
        while not await self._is_settled():
            await self._work()
            if not await self._is_settled():  # another process is at it
                await asyncio.sleep(_POLL)

    async def listed(self) -> list[OwedPart]:
        """Return what is owed or set apart, the oldest first."""
        apart = {row.pk: row async for row in owed_in(self._env, APART, ids=True)}
        rows = [apart.get(row.pk, row) async for row in owed_in(self._env)]
        rows.sort(key=lambda row: row.owed_at)
        return [
            OwedPart(
                row.model,
                row.names,
                _age(row),
                row.holder if row.alive_at is not None else None,
                tuple(map(str, row.ids)),
                row.error,
                not self._knows(row),
            )
            for row in rows
        ]

    async def retry(self) -> None:
        """Work off what is owed, and what is set apart, too."""
        self._retries = self._takes_over = True
        await self._work()
        await self.settled()

    async def forget(self) -> None:
        """Delete what is owed for fields that this App does not have, or that follows in such fields."""
        foreign = [row.pk async for row in owed_in(self._env) if not self._knows(row)]
        await delete(self._env, Condition("_id", "in", foreign))

    async def _work(self) -> None:
        self.wake()
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def health(self) -> Mapping[str, object]:
        """Return the figures of what is owed, for ``app.health()``."""
        rows = [row async for row in owed_in(self._env, WAITING)]
        waiting = [row for row in rows if self._knows(row)]
        apart = [row.pk async for row in owed_in(self._env, APART) if self._knows(row)]
        of_named = Condition("_id", "in", apart[:_NAMED])
        oldest = max(map(_age, waiting), default=0.0)
        return {
            "status": "degraded" if apart or oldest > _OLD else "ok",
            "owed": len(waiting),
            "foreign": len(rows) - len(waiting),
            "oldest_seconds": oldest,
            "apart": len(apart),
            "apart_records": [
                {
                    "model": row.model,
                    "fields": list(row.names),
                    "ids": [str(pk) for pk in row.ids[:_NAMED]],
                    "error": row.error,
                }
                async for row in owed_in(self._env, of_named, ids=True)
            ],
            **asdict(self.figures),
        }


def _age(owed: Owed) -> float:
    moment = now().replace(tzinfo=None)
    return max(0.0, (moment - owed.owed_at).total_seconds())


def _look(reference: ref[Worker]) -> None:
    worker = reference()
    if worker is not None:
        worker.look()
