"""A workload of every way to write in two processes, each of whose reads is compared with the database.

    python -m tests.servers -- python -m tests.plugins.cache.workload --every 1 --storms 20 --seed 7

One process is this one, with PyMongo, the other has Motor; they share a Redis. Two parts:

- the writes of tests/core/golden_writes.py, one after the other in either process. Before each, both read all
  that there is in many ways, so that every level of the cache has it; after each, both read it again;
- storms: both write and read the same records in many tasks at once, in transactions, rolled back, cancelled, refused
  and tried again; after each storm both read everything.

In the process that has written each read must be right at once, in the other one after the window of its memory at the
latest. It prints what it did as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import uuid
from collections import Counter
from contextlib import suppress
from typing import Any

from tests.plugins.cache.workload.faults import FAULTS
from tests.plugins.cache.workload.worker import ENOUGH, WAYS, Told, Worker

WINDOW = 0.25
"""The seconds for which the memory of another process may be old."""
LATE = 3.0
"""The seconds that a busy machine may take beyond that, after which a read counts as wrong."""


class Remote:
    """The worker in the other process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, database: str, driver: str, fault: str) -> Remote:
        """Start the process."""
        module = "tests.plugins.cache.workload.worker"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, "--database", database, "--driver", driver),
            *("--fault", fault),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**26,
        )
        return cls(process)

    async def do(self, order: Told) -> Told:
        """Do something there."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the other process has ended")
        told: Told = json.loads(line)
        return told

    async def stop(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


class Enough(Exception):
    """So many reads differ that more would show nothing."""


class Workload:
    """Both processes, and what was seen.

    Args:
        seed: What is done depends on it.
    """

    def __init__(self, here: Worker, there: Remote, seed: int) -> None:
        self._here, self._there, self._seed = here, there, seed
        self.told: Counter[str] = Counter()
        self.differ: list[str] = []
        self.slowest = 0.0

    async def compare(self, what: str, *, here: float, there: float) -> None:
        """Compare what both read, each with its patience."""
        for worker, patience in ((self._here, here), (self._there, there)):
            told = await worker.do({"do": "compare", "patience": patience})
            self.told["reads"] += told["reads"]
            self.slowest = max(self.slowest, told["slowest"])
            where = "here" if worker is self._here else "there"
            self.differ += [f"{where} after {what}: {each}" for each in told["differ"]]
            if len(self.differ) >= ENOUGH:
                raise Enough

    async def writes(self, every: int, only: str = "") -> None:
        """Do each so manieth of the generated writes, of one way if it is named."""
        named = [way for way in WAYS.values() if only in ("", way.name)]
        listed = [(way.name, n) for way in named for n in range(way.count)]
        for number, (way, n) in enumerate(listed[::every]):
            is_here = number % 2 == 0
            writer = self._here if is_here else self._there
            await self._there.do({"do": "clear", "everywhere": False})
            await self._here.do({"do": "clear", "everywhere": True})
            await writer.do({"do": "prepare", "way": way, "n": n, "seed": self._seed})
            own, other = 0.0, WINDOW + LATE
            patience = {"here": own if is_here else other, "there": other if is_here else own}
            await self.compare(f"the preparation of {way} {n}", **patience)
            told = await writer.do({"do": "write"})
            self.told["writes"] += 1
            self.told["refused"] += "refused" in told
            await self.compare(f"{way} {n}", **patience)

    async def storms(self, number: int, actions: int, tasks: int) -> None:
        """Write at once in both processes, so often."""
        await self._there.do({"do": "clear", "everywhere": False})
        await self._here.do({"do": "clear", "everywhere": True})
        await self._here.do({"do": "fill", "seed": self._seed})
        for n in range(number):
            storm: dict[str, Any] = {"do": "storm", "actions": actions, "tasks": tasks}
            seeds = random.Random(f"{self._seed} {n}")
            for told in await asyncio.gather(
                self._here.do({**storm, "seed": seeds.randrange(10**9)}),
                self._there.do({**storm, "seed": seeds.randrange(10**9)}),
            ):
                self.told.update(told)
            self.told["storms"] += 1
            await self.compare(f"storm {n}", here=WINDOW + LATE, there=WINDOW + LATE)

    async def hits(self) -> Told:
        """Tell what both processes had from each level."""
        found: Counter[str] = Counter(await self._here.do({"do": "hits"}))
        found.update(await self._there.do({"do": "hits"}))
        return dict(found)


async def run(asked: argparse.Namespace) -> Told:
    """Do all of it; return what was seen."""
    database = f"cache_workload_{uuid.uuid4().hex[:8]}"
    here = Worker(database, "pymongo")
    await here.start()
    try:
        there = await Remote.start(database, "motor", asked.fault)
        work = Workload(here, there, asked.seed)
        try:
            with suppress(Enough):
                await work.writes(asked.every, asked.way)
                await work.storms(asked.storms, asked.actions, asked.tasks)
            hits = await work.hits()
        finally:
            await there.stop()
    finally:
        await here.drop()
        await here.stop()
    return {
        "hits": hits,
        "slowest_ms": round(work.slowest * 1000, 1),
        "differ": len(work.differ),
        "shown": work.differ[:5],
        **dict(sorted(work.told.items())),
    }


def main() -> None:
    """Print what was seen."""
    parser = argparse.ArgumentParser(prog="python -m tests.plugins.cache.workload")
    parser.add_argument("--every", type=int, default=1, help="do each so manieth write")
    parser.add_argument(
        "--way", choices=("", *WAYS), default="", help="do the writes of one way alone"
    )
    parser.add_argument("--storms", type=int, default=20)
    parser.add_argument("--actions", type=int, default=200, help="of each process in a storm")
    parser.add_argument("--tasks", type=int, default=8, help="of each process")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--fault", choices=("", *FAULTS), default="")
    asked = parser.parse_args()
    if asked.fault:
        FAULTS[asked.fault]()
    print(json.dumps(asyncio.run(run(asked)), indent=1))


if __name__ == "__main__":
    main()
