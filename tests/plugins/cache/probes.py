"""What the tests of the cache look through: a clock of their own, and a plugin below the cache."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from pymongo import MongoClient

import earnorm
from earnorm import App, Layer, Operation, hookimpl
from earnorm_cache import CachePlugin, CacheService, CacheSettings


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
        self._shared: dict[str, Any] = {}

    def open(self) -> None:
        """Hold nobody up any more."""
        self.is_open = True
        for gate in self.waiting.values():
            gate.set_result(None)
        self.waiting.clear()

    async def __call__(self, who: str) -> None:
        if self.is_open:
            return
        assert who not in self.waiting, f"two steps of the {who} at once"
        self.waiting[who] = asyncio.get_running_loop().create_future()
        await self.waiting[who]

    async def let(self, who: str, task: asyncio.Task[Any]) -> None:
        """Let one do its next step, and wait for its end."""
        await self._until_held(who, task)
        gate = self.waiting.pop(who, None)
        if gate is not None:
            gate.set_result(None)
            await self._until_held(who, task)

    async def _until_held(self, who: str, task: asyncio.Task[Any]) -> None:
        """Wait until one is before its next step, or has none: neither its task nor what it has left to others."""
        shared = self._shared[who]
        for _ in range(2_000):
            if who in self.waiting or (task.done() and not shared._at_work):
                return
            await asyncio.sleep(0.001)
        raise TimeoutError(f"the step of the {who} did not end")

    def hold(self, who: str, each: Any) -> Callable[[], None]:
        """Hold up each command to Redis and each operation of a process; return the function that ends that."""
        ask, shared = each.shared._ask, each.shared

        async def in_steps(*arguments: Any, **options: Any) -> Any:
            await self(who)
            return await ask(*arguments, **options)

        async def before(op: Any) -> None:
            await self(who)

        shared._ask, each.probe.before = in_steps, before
        self._shared[who] = shared

        def end() -> None:
            del shared._ask
            each.probe.before = None

        return end


Started = tuple[App, CachePlugin, Probe]


@asynccontextmanager
async def starting(
    mongo_uri: str, **defaults: Any
) -> AsyncIterator[Callable[..., Awaitable[Started]]]:
    """Give a function that starts Apps on one database, each as a process of its own has one.

    Args:
        mongo_uri: The server; the database is dropped at the end.
        defaults: Settings of the cache that a start may say otherwise.
    """
    database = f"cache_{uuid.uuid4().hex[:12]}"
    async with AsyncExitStack() as stack:

        async def start(
            *plugins: object, clock: Any = None, driver: str | None = None, **settings: Any
        ) -> Started:
            # What a process wrote itself comes back on the change stream some time later.
            given = {"outside_writes": False, **defaults, **settings}
            more = {} if clock is None else {"clock": clock}
            plugin, probe = CachePlugin(CacheSettings.model_validate(given), **more), Probe()
            app = App(
                mongo_uri, database=database, driver=driver, plugins=[plugin, probe, *plugins]
            )
            await app.start()
            stack.push_async_callback(app.stop)
            return app, plugin, probe

        yield start
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        client.drop_database(database)


def cache_of(app: App | None = None) -> CacheService:
    return (app or earnorm.current_app()).services["cache"]  # type: ignore[return-value]
