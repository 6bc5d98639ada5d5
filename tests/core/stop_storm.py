"""Stops of an App under load, and what they leave on the server.

As a program, with servers (``python -m tests.servers -- python -m tests.core.stop_storm``)::

    --stops 50 --driver motor --seed 7

Each stop begins a new App, whose tasks read, stream, watch, write single documents, and write pairs of
documents in transactions. At a random time the App is stopped with a random grace, and the storm
looks at the server itself: nothing may be left of that App, and each write that was acknowledged is
there, as a whole. What a task may end with is known, too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from pymongo import MongoClient

import earnorm
from earnorm import App, AppStopping, Int, String, TransactionError, models
from earnorm.kernel.life.in_flight import GRACE, Stopped

WORKERS = 3  # tasks of each kind
SETTLE_SECONDS = 3.0  # until the server has noticed which connections are gone
HANG_SECONDS = 10.0
UNDER_WAY_SECONDS = 60.0
LONG_SECONDS = 8.0
GRACES = (0.0, 0.0, 0.01, 0.05, GRACE)


class StormItem(models.BaseModel):
    _name = "core.storm_item"
    key = String(required=True)
    number = Int(default=0)


class StormHot(models.BaseModel):
    """Records that transactions lock."""

    _name = "core.storm_hot"
    number = Int(default=0)


@dataclass
class Found:
    """What the stops have left or broken, by its kind, and what they have cut off."""

    stops: int = 0
    acknowledged: int = 0
    cut: Counter[str] = field(default_factory=Counter[str])
    clean: int = 0
    faults: Counter[str] = field(default_factory=Counter[str])
    longest: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.stops} stops, {self.clean} of them clean, the longest {self.longest:.1f} s over "
            f"its grace; cut off: {dict(self.cut)}; acknowledged writes: {self.acknowledged}; "
            f"faults: {dict(self.faults) or 'none'}"
        )


class Load:
    """The tasks of one App, and what was acknowledged to them."""

    def __init__(self, app: App, chance: random.Random) -> None:
        self.app = app
        self.chance = chance
        self.single: set[str] = set()
        self.pairs: set[str] = set()
        self.unknown: set[str] = set()
        self.numbers = iter(range(1, 1_000_000))
        self.not_begun = {"write", "write_pair", "read_in_session"}
        self.under_way = asyncio.Event()

    def key(self) -> str:
        return f"{next(self.numbers)}"

    async def pause(self) -> None:
        await asyncio.sleep(self.chance.random() * 0.01)

    async def write(self) -> None:
        key = f"s{self.key()}"
        await StormItem.create({"key": key})
        self.single.add(key)

    async def write_pair(self) -> None:
        key = f"p{self.key()}"
        running: earnorm.Transaction | None = None
        try:
            async with earnorm.transaction() as running:
                await StormItem.create({"key": key})
                await self.pause()
                hot = await StormHot.search(limit=1, offset=self.chance.randrange(8))
                await hot.write({"number": self.chance.randrange(100)})
                await self.pause()
                await StormItem.create({"key": key})
        finally:
            if running is not None and running.outcome.committed:
                self.pairs.add(key)
            elif running is None or not running.outcome.rolled_back:
                self.unknown.add(key)

    async def read(self) -> None:
        await StormItem.search()

    async def stream(self) -> None:
        async for _ in StormItem.search():
            if self.chance.random() < 0.003:
                await asyncio.sleep(0.001)

    async def read_in_session(self) -> None:
        async with earnorm.session():
            await StormItem.count()
            async for _ in StormItem.search():
                if self.chance.random() < 0.001:
                    await asyncio.sleep(0.001)

    async def watch(self) -> None:
        async for _ in StormHot.watch():
            pass

    async def forever(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work again and again, as requests of a server do, until the App takes no more."""
        with self.app.activate():
            while True:
                try:
                    await work()
                except TransactionError as error:
                    if not error.transient:
                        raise
                self.not_begun.discard(work.__name__)
                if not self.not_begun:
                    self.under_way.set()
                await self.pause()

    def begin(self) -> list[asyncio.Task[None]]:
        many = (self.write, self.write_pair, self.read, self.stream, self.read_in_session)
        works = [*many * WORKERS, self.watch]
        return [asyncio.create_task(self.forever(work), name=work.__name__) for work in works]


class Storm:
    """A number of stops.

    Args:
        uri: The server.
        driver: The driver.
        seed: Of the random times.
        graces: The graces of the stops, one after the other.
        until: The kind of fault with which it ends.
    """

    def __init__(
        self,
        uri: str,
        driver: str,
        seed: int = 1,
        graces: tuple[float, ...] = GRACES,
        until: str | None = None,
    ) -> None:
        self.uri, self.driver = uri, driver
        self.chance = random.Random(seed)
        self.graces, self.until = graces, until
        self.name = f"core_storm_{uuid.uuid4().hex[:10]}"
        self.found = Found()

    def app(self) -> App:
        options = {"appName": self.name}
        return App(
            self.uri, database=self.name, driver=self.driver, plugins=[], client_options=options
        )

    async def run(self, stops: int) -> Found:
        """Stop so many Apps."""
        with MongoClient[dict[str, Any]](self.uri) as self.server:
            try:
                async with self.app() as app:
                    await app.prepare_models()
                    await StormHot.create([{} for _ in range(8)])
                    await StormItem.create_many({"key": f"old{n}"} for n in range(3_000))
                for _ in range(stops):
                    await self.stop_once()
                    if self.until in self.found.faults:
                        break
            finally:
                self.kill()
                self.server.drop_database(self.name)
        return self.found

    async def stop_once(self) -> None:
        app = self.app()
        await app.start()
        await app.prepare_models()  # a process with many models needs a while for it
        load = Load(app, self.chance)
        tasks = load.begin()
        await asyncio.wait_for(load.under_way.wait(), UNDER_WAY_SECONDS)
        await asyncio.sleep(self.chance.random() * 0.15)
        grace = self.graces[self.found.stops % len(self.graces)]
        begin = time.monotonic()
        stopped = await app.stop(grace=grace)
        self.note(stopped, time.monotonic() - begin - grace)
        _, late = await asyncio.wait(tasks, timeout=HANG_SECONDS)
        for task in tasks:
            if task in late:
                self.fault("a task that hangs", task.get_name())
                task.cancel()
            else:
                self.look_at_end(task)
        await self.look_at_server()
        await asyncio.to_thread(self.look_at_writes, load)

    def note(self, stopped: Stopped, over: float) -> None:
        self.found.stops += 1
        self.found.clean += stopped.is_clean
        self.found.longest = max(self.found.longest, over)
        for name in ("operations", "transactions", "sessions", "streams"):
            self.found.cut[name] += getattr(stopped, name)
        if over > LONG_SECONDS:
            self.fault("a stop that takes too long", f"{over:.1f} s")

    def fault(self, kind: str, what: object) -> None:
        self.found.faults[kind] += 1
        print(f"stop {self.found.stops}: {kind}: {what}", file=sys.stderr)

    def look_at_end(self, task: asyncio.Task[None]) -> None:
        """A task ends with the one error, or with that of its transaction."""
        if task.cancelled():
            self.fault("a wrong end", f"{task.get_name()} was cancelled")
            return
        error = task.exception()
        known = isinstance(error, AppStopping | TransactionError) or (
            # It came after the stop was over.
            isinstance(error, earnorm.ConfigurationError) and "is not started" in str(error)
        )
        if not known:
            self.fault("a wrong end", f"{task.get_name()}: {error!r}")

    async def look_at_server(self) -> None:
        until = time.monotonic() + SETTLE_SECONDS
        while any((held := await asyncio.to_thread(self.held)).values()):
            if time.monotonic() > until:
                break
            await asyncio.sleep(0.05)
        for kind, number in held.items():
            if number:
                self.fault(kind, number)

    def held(self) -> dict[str, int]:
        """Count what the server holds of the Apps of this storm."""
        every = {
            "allUsers": True,
            "idleConnections": True,
            "idleCursors": True,
            "idleSessions": True,
        }
        held = list(self.server.admin.aggregate([{"$currentOp": every}]))
        mine = [operation for operation in held if operation.get("appName") == self.name]
        cursors = [
            operation
            for operation in held
            if operation.get("type") == "idleCursor" and operation["ns"].startswith(f"{self.name}.")
        ]
        return {
            "open transactions": sum("transaction" in operation for operation in mine),
            "open cursors": len(cursors),
            "open connections": sum("connectionId" in operation for operation in mine),
        }

    def look_at_writes(self, load: Load) -> None:
        """Each acknowledged write is there, no pair is half, and no record is locked."""
        database = self.server[self.name]
        items = database["core_storm_item"]
        there = Counter(item["key"] for item in items.find({"key": {"$regex": "^[sp]"}}))
        for key in load.single:
            if there[key] != 1:
                self.fault("a lost write", key)
        for key in load.pairs:
            if there[key] != 2:
                self.fault("a lost transaction", key)
        for key, number in there.items():
            if key.startswith("p") and number != 2:
                self.fault("half a transaction", key)
            if key.startswith("p") and key not in load.pairs | load.unknown:
                self.fault("a transaction told as rolled back", key)
        self.found.acknowledged += len(load.single) + len(load.pairs)
        items.delete_many({"key": {"$regex": "^[sp]"}})
        with MongoClient[dict[str, Any]](self.uri, timeoutMS=1500) as next_program:
            try:
                next_program[self.name]["core_storm_hot"].update_many({}, {"$inc": {"number": 1}})
            except Exception as error:
                self.fault("locked records", type(error).__name__)

    def kill(self) -> None:
        """End what a planted fault has left, so that the database can be dropped."""
        every = {"$currentOp": {"allUsers": True, "idleSessions": True}}
        match = {"$match": {"appName": self.name, "transaction": {"$exists": True}}}
        for operation in list(self.server.admin.aggregate([every, match])):
            self.server.admin.command("killSessions", [{"id": operation["lsid"]["id"]}])


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stops", type=int, default=50)
    parser.add_argument("--driver", default="pymongo", choices=("pymongo", "motor"))
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    storm = Storm(os.environ["EARNORM_TEST_MONGO_URI"], asked.driver, asked.seed)
    found = await storm.run(asked.stops)
    print(f"{asked.driver}: {found}")
    sys.exit(bool(found.faults))


if __name__ == "__main__":
    asyncio.run(main())
