"""What the tests of the cache look through: a clock of their own, and a plugin below the cache."""

from __future__ import annotations

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


def cache_of(app: App | None = None) -> CacheService:
    return (app or earnorm.current_app()).services["cache"]  # type: ignore[return-value]
