"""Stale reads after acknowledged writes: ``python -m benchmarks.cache_race [reads]``.

Four processes read and write the same few records through the cache. Each record has one writer, which notes a
version once its write was acknowledged; who reads an earlier version than the one noted before the read began has a
stale one. Loads take a random time, which is what makes a careless cache keep old values. One line for each mode:

- ``naive``: what most caches do, a read puts its value into Redis whatever was written meanwhile. It must fail here,
  or the run shows nothing;
- ``redis``: every read asks Redis: 0 stale;
- ``both``: with the memory of each process: 0 stale in the writer's process, elsewhere at most the window old;
- ``outage``: as ``both``, while Redis stands still for half a second in every second: no read and no write fails,
  0 stale in the writer's process, and nothing old is left when all is over.

It needs EARNORM_TEST_MONGO_URI and EARNORM_TEST_REDIS_URL, fills a database of its own and drops it.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import SecretStr
from pymongo import MongoClient

from earnorm import App, Int, Layer, hookimpl, models
from earnorm.testing.data_directories import data_directory
from earnorm.testing.servers import Server, start_redis
from earnorm_cache import CachePlugin, CacheSettings, shared

READS = 100_000
PROCESSES = 4
KEYS = 16
READERS = 12
TIMES = 4_096
"""The number of versions of a record whose moments are remembered."""

NAIVE_FILL = """
for i = 1, #KEYS do
  if ARGV[i + 4] ~= '' then
    local t = redis.call('TIME')
    local expires = t[1] * 1000 + tonumber(ARGV[4])
    redis.call('HSET', KEYS[i], ARGV[1],
      'V' .. ARGV[3] .. string.format('%014.0f', expires) .. ARGV[i + 4])
  end
end
return 0
"""


class Raced(models.BaseModel):
    """What is read and written."""

    _name = "benchmark.raced"

    _id = Int()
    version = Int(default=0)


@dataclass
class Result:
    """The figures of one mode.

    Attributes:
        mode: The mode.
        reads: Reads of all processes.
        writes: Acknowledged writes.
        own: Stale reads in the process that wrote.
        other: Stale reads in other processes.
        oldest: The seconds between the acknowledgement of what a stale read should have seen, and its begin.
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
    oldest: float = 0.0
    at_rest: int = 0
    memory: int = 0
    redis: int = 0
    failures: int = 0

    def add(self, other: Result) -> None:
        """Add the figures of one more process."""
        for name, value in asdict(other).items():
            if name == "oldest":
                self.oldest = max(self.oldest, value)
            elif name != "mode":
                setattr(self, name, getattr(self, name) + value)


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

    async def run(self) -> Result:
        """Read and write; return the figures."""
        plugin = CachePlugin(_settings(self.mode))
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
            self.result.redis, self.result.failures = figures.hits, figures.failures
            self.result.memory = self.cache.statistics().hits
        return self.result

    async def _read(self) -> None:
        for _ in range(self.reads // READERS):
            key = random.randrange(KEYS)
            if self.mode in ("naive", "redis"):
                self.cache.clear()
            least, begun = self.acked[key], time.time()
            version: int = (await Raced.get(key)).version
            self.result.reads += 1
            if version < least:
                is_own = key % PROCESSES == self.number
                self.result.own += is_own
                self.result.other += not is_own
                if least - version < TIMES:
                    since = self.times[key * TIMES + (version + 1) % TIMES]
                    self.result.oldest = max(self.result.oldest, begun - since)
            if random.random() < 0.1:
                await asyncio.sleep(random.random() * 0.005)

    async def _write(self) -> None:
        own = [key for key in range(KEYS) if key % PROCESSES == self.number]
        while True:
            key = random.choice(own)
            version = self.acked[key] + 1
            writing = Raced.search([("_id", "=", key)]).update({"version": version})
            await asyncio.shield(asyncio.ensure_future(writing))
            self.times[key * TIMES + version % TIMES] = time.time()
            self.acked[key] = version
            self.result.writes += 1
            await asyncio.sleep(random.random() * 0.01)


def _settings(mode: str) -> CacheSettings:
    url = os.environ["EARNORM_TEST_REDIS_URL"]
    timeout = 0.1 if mode == "outage" else 5.0
    return CacheSettings(redis_url=SecretStr(url), redis_timeout=timeout)


def _process(
    number: int, mode: str, database: str, reads: int, acked: Any, times: Any, results: Any
) -> None:
    random.seed(number)
    if mode == "naive":
        shared._FILL = NAIVE_FILL  # type: ignore[misc] # what a careless cache does
    result = asyncio.run(Process(number, mode, database, reads, acked, times).run())
    results.put(json.dumps(asdict(result)))


async def _make(database: str) -> None:
    async with App(os.environ["EARNORM_TEST_MONGO_URI"], database=database, plugins=[]):
        await Raced.create([{"_id": key} for key in range(KEYS)])


async def _at_rest(database: str) -> int:
    """Return the number of records that Redis has otherwise than the database."""
    plugin = CachePlugin(_settings("redis"))
    uri = os.environ["EARNORM_TEST_MONGO_URI"]
    async with App(uri, database=database, plugins=[plugin]):
        wrong = 0
        for key in range(KEYS):
            kept = (await Raced.get(key)).version
            stored = (await Raced.search([("_id", "=", key), ("version", ">=", 0)]))[0].version
            wrong += kept != stored
        return wrong


def race(mode: str, reads: int) -> Result:
    """Run one mode in processes of its own.

    Args:
        mode: ``naive``, ``redis``, ``both`` or ``outage``.
        reads: The reads of all processes together.
    """
    if mode != "outage":
        return _race(mode, reads)
    named = os.environ.get("EARNORM_TEST_REDIS_URL")
    with data_directory() as directory:
        server = start_redis(directory)
        os.environ["EARNORM_TEST_REDIS_URL"] = server.uri
        over = threading.Event()
        halting = threading.Thread(target=_halt, args=(server, over))
        try:
            return _race(mode, reads, [halting.start], [over.set, halting.join])
        finally:
            over.set()
            server.stop()
            if named is not None:
                os.environ["EARNORM_TEST_REDIS_URL"] = named


def _halt(server: Server, over: threading.Event) -> None:
    """Let the server stand still in every second half of a second, until all is over."""
    assert server.process is not None
    while not over.wait(0.5):
        server.process.send_signal(signal.SIGSTOP)
        over.wait(0.5)
        server.process.send_signal(signal.SIGCONT)


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
        total.at_rest = asyncio.run(_at_rest(database))
    finally:
        with MongoClient[dict[str, Any]](os.environ["EARNORM_TEST_MONGO_URI"]) as client:
            client.drop_database(database)
    return total


def main() -> None:
    """Print a line for each mode."""
    reads = int(sys.argv[1]) if len(sys.argv) > 1 else READS
    print(
        "| mode | reads | writes | stale, own | stale, other | oldest ms | at rest | memory | Redis "
        "| unanswered |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for mode in ("naive", "redis", "both", "outage"):
        r = race(mode, reads)
        print(
            f"| {mode} | {r.reads:,} | {r.writes:,} | {r.own} | {r.other} | {r.oldest * 1000:.1f} "
            f"| {r.at_rest} | {r.memory / r.reads:.0%} | {r.redis / r.reads:.0%} | {r.failures} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
