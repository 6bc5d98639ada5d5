"""Stale reads after acknowledged writes: ``python -m benchmarks.cache_race [reads] [mode …]``.

Four processes read and write the same few records through the cache. Each record has one writer, which notes a
version once its write was acknowledged; who reads an earlier version than the one noted before the read began has a
stale one. Loads take a random time, which is what makes a careless cache keep old values. One line for each mode:

- ``naive``: what most caches do, a read puts its value into Redis whatever was written meanwhile. It must fail here,
  or the run shows nothing;
- ``redis``: every read asks Redis: 0 stale;
- ``both``: with the memory of each process: 0 stale in the writer's process, elsewhere milliseconds, at most the window;
- ``queries``: as ``both``, by searches on another field, whose results are kept, as ids and as rows;
- ``queries redis``: the same without the memory: 0 stale;
- ``outage``: as ``both``, while Redis stands still for a part of every second: no read and no write fails,
  0 stale in the writer's process, and nothing old is left when all is over;
- ``restart``: as ``outage``, while Redis is killed and started empty;
- ``strict``: a strict model, while Redis stands still and is killed in turn: 0 stale everywhere; writes may be refused.

Then the loads of a stampede: 50 tasks of each of the 4 processes ask for one record at once that nobody has.

The change stream of the database is not followed, so that it mends nothing. It needs EARNORM_TEST_MONGO_URI and
EARNORM_TEST_REDIS_URL, fills a database of its own and drops it.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import multiprocessing
import os
import random
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import SecretStr
from pymongo import MongoClient

from benchmarks.cache_stampede import STAMPEDES, stampedes
from benchmarks.redis_outages import both_in_turn, outages, stand_still, start_empty
from earnorm import App, Int, Layer, ServerUnavailable, hookimpl, models
from earnorm_cache import Cache, CachePlugin, CacheSettings, shared
from earnorm_cache.connecting import Script

READS = 100_000
PROCESSES = 4
KEYS = 16
READERS = 12
TIMES = 4_096
"""The number of versions of a record whose moments are remembered."""

NAIVE_FILL = """
for i = 1, #KEYS do
  if ARGV[i + 5] ~= '' then
    local t = redis.call('TIME')
    local expires = t[1] * 1000 + tonumber(ARGV[4])
    redis.call('HSET', KEYS[i], ARGV[1],
      'V' .. ARGV[3] .. string.format('%014.0f', expires) .. ARGV[i + 5])
  end
end
return 0
"""


class Raced(models.BaseModel):
    """What is read and written."""

    _name = "benchmark.raced"

    _id = Int()
    version = Int(default=0)
    number = Int()


class StrictlyRaced(models.BaseModel):
    """The same, of which no process may ever read an old value."""

    _name = "benchmark.strictly_raced"
    _cache = Cache(strict=True)

    _id = Int()
    version = Int(default=0)
    number = Int()


@dataclass
class Result:
    """The figures of one mode.

    Attributes:
        mode: The mode.
        reads: Reads of all processes.
        writes: Acknowledged writes.
        own: Stale reads in the process that wrote.
        other: Stale reads in other processes.
        ages: The seconds between the acknowledgement of what a stale read should have seen, and its begin.
        failed: Reads that raised an error.
        refused: Writes that were refused, because Redis could not be told of them before.
        at_rest: Records that the cache has otherwise than the database when all is over.
        memory: Reads that were answered from memory.
        redis: Reads that were answered from Redis.
        failures: Commands that Redis did not answer.
    """

    mode: str
    reads: int = 0
    writes: int = 0
    own: int = 0
    other: int = 0
    ages: list[float] = field(default_factory=list[float])
    failed: int = 0
    refused: int = 0
    at_rest: int = 0
    memory: int = 0
    redis: int = 0
    failures: int = 0

    def add(self, other: Result) -> None:
        """Add the figures of one more process."""
        for name, value in asdict(other).items():
            if name != "mode":
                setattr(self, name, getattr(self, name) + value)

    def age(self, share: float) -> float:
        """Return the age that a share of the stale reads do not exceed, in seconds; 0 if there are none."""
        ages = sorted(self.ages)
        return ages[min(len(ages) - 1, int(share * len(ages)))] if ages else 0.0


class Slow:
    """A plugin below the cache: what was read takes a while to arrive."""

    api = 1
    name = "slow"

    @hookimpl
    def wrap_operation(self, app: App, model: Any, operation: str) -> Iterable[tuple[int, Any]]:
        """Wrap the searches."""

        async def search(op: Any, call_next: Any, /) -> Any:
            result = await call_next(op)
            await asyncio.sleep(random.random() * 0.01)
            return result

        return [(Layer.CACHE + 50, search)] if operation == "search" else ()


class Process:
    """One of the processes."""

    def __init__(
        self, number: int, mode: str, database: str, reads: int, acked: Any, times: Any
    ) -> None:
        self.number, self.mode, self.reads = number, mode, reads
        self.acked, self.times, self.database = acked, times, database
        self.result = Result(mode)

    @property
    def is_query(self) -> bool:
        """True where the records are found by another field."""
        return self.mode.startswith("queries")

    async def _version(self, key: int) -> int:
        if not self.is_query:
            version: int = (await self.model.get(key)).version
            return version
        query = self.model.search([("number", "=", key)])
        (record,) = await (query.only("version") if random.random() < 0.5 else query)
        found: int = record.version
        return found

    async def run(self) -> Result:
        """Read and write; return the figures."""
        plugin = CachePlugin(_settings(self.mode))
        self.model: Any = StrictlyRaced if self.mode == "strict" else Raced
        async with App(
            os.environ["EARNORM_TEST_MONGO_URI"],
            database=self.database,
            plugins=[plugin, Slow()],
        ) as app:
            self.cache = plugin.cache
            with app.activate():
                readers = [asyncio.ensure_future(self._read()) for _ in range(READERS)]
                writer = asyncio.ensure_future(self._write())
                await asyncio.gather(*readers)
                writer.cancel()
                await asyncio.wait([writer])
            figures = self.cache.shared
            assert figures is not None
            known = self.cache.statistics()
            self.result.redis = figures.query_hits if self.is_query else figures.hits
            self.result.failures = figures.failures
            self.result.memory = known.hits
            if self.is_query:  # in memory, or else in Redis
                self.result.memory = known.query_hits - figures.query_hits
        return self.result

    async def _read(self) -> None:
        for _ in range(self.reads // READERS):
            key = random.randrange(KEYS)
            if self.mode in ("naive", "redis", "queries redis"):
                self.cache.clear()
            least, begun = self.acked[key], time.time()
            try:
                version = await self._version(key)
            except Exception:
                self.result.failed += 1
                continue
            self.result.reads += 1
            if version < least:
                is_own = key % PROCESSES == self.number
                self.result.own += is_own
                self.result.other += not is_own
                if least - version < TIMES:
                    since = self.times[key * TIMES + (version + 1) % TIMES]
                    self.result.ages.append(begun - since)
            if random.random() < 0.1:
                await asyncio.sleep(random.random() * 0.005)

    async def _write(self) -> None:
        own = [key for key in range(KEYS) if key % PROCESSES == self.number]
        while True:
            key = random.choice(own)
            version = self.acked[key] + 1
            writing = self.model.search([("_id", "=", key)]).update({"version": version})
            try:
                await asyncio.shield(asyncio.ensure_future(writing))
            except ServerUnavailable:
                self.result.refused += 1
                await asyncio.sleep(0.02)
                continue
            self.times[key * TIMES + version % TIMES] = time.time()
            self.acked[key] = version
            self.result.writes += 1
            await asyncio.sleep(random.random() * 0.01)


AWAY = {"outage": stand_still, "restart": start_empty, "strict": both_in_turn()}
"""The modes in which Redis is away from time to time."""
MODES = ("naive", "redis", "both", "queries", "queries redis", *AWAY)


def _settings(mode: str) -> CacheSettings:
    url = os.environ["EARNORM_TEST_REDIS_URL"]
    return CacheSettings(
        redis_url=SecretStr(url),
        redis_timeout=0.1 if mode in AWAY else 5.0,
        queries=mode.startswith("queries"),
        outside_writes=False,
    )


def _process(
    number: int, mode: str, database: str, reads: int, acked: Any, times: Any, results: Any
) -> None:
    random.seed(number)
    if mode == "naive":
        shared._FILL = Script(NAIVE_FILL)  # type: ignore[misc] # what a careless cache does
    result = asyncio.run(Process(number, mode, database, reads, acked, times).run())
    results.put(json.dumps(asdict(result)))


async def _make(database: str) -> None:
    async with App(os.environ["EARNORM_TEST_MONGO_URI"], database=database, plugins=[]):
        for model in (Raced, StrictlyRaced):
            await model.create([{"_id": key, "number": key} for key in range(KEYS)])


async def _at_rest(database: str, mode: str) -> int:
    """Return the number of records that Redis has otherwise than the database."""
    plugin = CachePlugin(_settings(mode))
    uri = os.environ["EARNORM_TEST_MONGO_URI"]
    process = Process(0, mode, database, 0, None, None)
    process.model = StrictlyRaced if mode == "strict" else Raced
    async with (
        App(uri, database=database, plugins=[plugin], name="kept") as kept,
        App(uri, database=database, plugins=[], name="stored") as stored,
    ):
        wrong = 0
        for key in range(KEYS):
            for _ in range(4 if process.is_query else 1):  # as ids and as rows
                with kept.activate():
                    found = await process._version(key)
                with stored.activate():
                    wrong += found != (await process.model.get(key)).version
        return wrong


def race(mode: str, reads: int) -> Result:
    """Run one mode in processes of its own.

    Args:
        mode: One of ``MODES``.
        reads: The reads of all processes together.
    """
    if mode not in AWAY:
        return _race(mode, reads)
    with outages(AWAY[mode]) as server:
        return _race(mode, reads, [server.begin], [server.end])


def _race(
    mode: str,
    reads: int,
    begin: Sequence[Callable[[], object]] = (),
    end: Sequence[Callable[[], object]] = (),
) -> Result:
    spawn = multiprocessing.get_context("spawn")
    database = f"cache_race_{uuid.uuid4().hex[:8]}"
    total = Result(mode)
    asyncio.run(_make(database))
    try:
        acked = spawn.Array(ctypes.c_longlong, KEYS)
        times = spawn.Array(ctypes.c_double, KEYS * TIMES)
        results: Any = spawn.Queue()
        processes = [
            spawn.Process(
                target=_process,
                args=(n, mode, database, reads // PROCESSES, acked, times, results),
            )
            for n in range(PROCESSES)
        ]
        for process in processes:
            process.start()
        for call in begin:
            call()
        for _ in processes:
            total.add(Result(**json.loads(results.get(timeout=600))))
        for call in end:
            call()
        for process in processes:
            process.join()
        total.at_rest = asyncio.run(_at_rest(database, mode))
    finally:
        with MongoClient[dict[str, Any]](os.environ["EARNORM_TEST_MONGO_URI"]) as client:
            client.drop_database(database)
    return total


def main() -> None:
    """Print a line for each mode, and one for the stampedes."""
    reads = int(sys.argv[1]) if len(sys.argv) > 1 else READS
    modes = sys.argv[2:] or [*MODES, "stampede"]
    print(
        "| mode | reads | writes | stale, own | stale, other | p50 ms | p99 ms | max ms | failed | refused | at rest "
        "| memory | Redis | unanswered |"
    )
    print("|---" * 14 + "|")
    for mode in modes:
        if mode == "stampede":
            continue
        r = race(mode, reads)
        ages = " | ".join(f"{r.age(share) * 1000:.1f}" for share in (0.5, 0.99, 1.0))
        print(
            f"| {mode} | {r.reads:,} | {r.writes:,} | {r.own} | {r.other} | {ages} | {r.failed} | {r.refused} "
            f"| {r.at_rest} | {r.memory / r.reads:.0%} | {r.redis / r.reads:.0%} | {r.failures} |",
            flush=True,
        )
    if "stampede" in modes:
        loads = stampedes(STAMPEDES)
        print(f"\nloads of {len(loads)} stampedes of {PROCESSES} × 50 tasks: at most {max(loads)}")


if __name__ == "__main__":
    main()
