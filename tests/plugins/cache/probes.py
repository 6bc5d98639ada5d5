"""What the tests of the cache look through: a clock of their own, and a plugin below the cache."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import earnorm
from earnorm import App, Layer, Operation, hookimpl
from earnorm_cache import CacheService


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Probe:
    """A plugin between the cache and the database: what came so far, and a gate to hold it up."""

    api = 1
    name = "probe"

    def __init__(self) -> None:
        self.seen: list[Operation] = []
        self.before: Callable[[Operation], Awaitable[None]] | None = None
        self.after: Callable[[Operation], Awaitable[None]] | None = None

    @property
    def searches(self) -> int:
        return sum(op.name == "search" for op in self.seen)

    @hookimpl
    def wrap_operation(self, app: App, model: Any, operation: str) -> Iterable[tuple[int, Any]]:
        return [(Layer.CACHE + 50, self._pass)]

    async def _pass(self, op: Operation, call_next: Any) -> Any:
        self.seen.append(op)
        if self.before is not None:
            await self.before(op)
        result = await call_next(op)
        if self.after is not None:
            await self.after(op)
        return result


class Steps:
    """Holds tasks up before each of their steps, and lets one go on at a time."""

    def __init__(self) -> None:
        self.waiting: dict[str, asyncio.Future[None]] = {}
        self.is_open = False

    def open(self) -> None:
        """Hold nobody up any more."""
        self.is_open = True
        for gate in self.waiting.values():
            gate.set_result(None)
        self.waiting.clear()

    async def __call__(self, who: str) -> None:
        if self.is_open:
            return
        self.waiting[who] = asyncio.get_running_loop().create_future()
        await self.waiting[who]

    async def let(self, who: str, task: asyncio.Task[Any]) -> None:
        """Let one do its next step, and wait for its end."""
        for _ in range(2_000):
            if task.done() or who in self.waiting:
                break
            await asyncio.sleep(0.001)
        gate = self.waiting.pop(who, None)
        if gate is None:
            return
        gate.set_result(None)
        for _ in range(2_000):
            if task.done() or who in self.waiting:
                return
            await asyncio.sleep(0.001)
        raise TimeoutError(f"the step of the {who} did not end")


def cache_of(app: App | None = None) -> CacheService:
    return (app or earnorm.current_app()).services["cache"]  # type: ignore[return-value]
