"""One process of the workload: an App with the cache, and one without that says what is true.

As a program it does what the lines on stdin say, and answers each with a line on stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

from earnorm import App, act_as
from earnorm.plugin import ModelView
from earnorm_cache import CachePlugin, CacheSettings
from tests.core import golden_writes
from tests.plugins.cache.workload import together
from tests.plugins.cache.workload.faults import FAULTS
from tests.plugins.cache.workload.reads import MOST, reads_of

Told = dict[str, Any]
WAYS = {way.name: way for way in golden_writes.WAYS}
ENOUGH = 3
"""The number of reads that differ after which nothing more is compared."""
KEPT = 30
"""The ids of one model that are remembered after their records are gone."""


class Worker:
    """Writes in an App with the cache, and compares what it reads with what is stored.

    Args:
        database: The database.
        driver: ``pymongo`` or ``motor``, of both Apps.
    """

    def __init__(self, database: str, driver: str) -> None:
        uri, redis_url = os.environ["EARNORM_TEST_MONGO_URI"], os.environ["EARNORM_TEST_REDIS_URL"]
        # The change stream would repair what a fault leaves.
        options = {
            "redis_url": redis_url,
            "redis_timeout": 5.0,
            "outside_writes": False,
            "queries": True,
        }
        settings = CacheSettings.model_validate(options)
        self.plugin = CachePlugin(settings)
        common: Any = {"database": database, "driver": driver, "recompute_interval": None}
        self.app = App(uri, plugins=[self.plugin], name="cached", **common)
        self.plain = App(uri, plugins=[], name="plain", **common)
        self._known: dict[str, dict[Any, None]] = {}
        self._stack = AsyncExitStack()
        self._write: golden_writes.Write | None = None

    async def start(self) -> None:
        """Start both Apps."""
        for app in (self.app, self.plain):
            await self._stack.enter_async_context(app)
        self._raw = self.plain.dangerous_raw("each write begins with an empty database")

    async def drop(self) -> None:
        """Drop the database."""
        await self._raw.client.drop_database(self._raw.name)

    async def stop(self) -> None:
        """Stop both Apps."""
        await self._stack.aclose()

    async def do(self, order: Told) -> Told:
        """Do what a line says."""
        name = order.pop("do")
        told: Told = await getattr(self, name)(**order)
        return told

    # -- one write at a time -------------------------------------------------------------------

    async def clear(self, everywhere: bool) -> Told:
        """Empty the database and the caches."""
        self._known.clear()
        if everywhere:
            for name in await self._raw.list_collection_names():
                await self._raw[name].delete_many({})
            await self.plugin.cache.clear_everywhere()
        return {}

    async def prepare(self, way: str, n: int, seed: int) -> Told:
        """Make ready a write, through the cache."""
        with self.app.activate(), act_as("eve"):
            r = random.Random(f"{seed} {way} {n}")
            self._write = await WAYS[way].make(r, n)
        return {}

    async def write(self) -> Told:
        """Do the write that was made ready, which may be refused."""
        assert self._write is not None
        with self.app.activate(), act_as("ann"):
            try:
                await self._write.run()
            except Exception as error:
                return {"refused": type(error).__name__}
        return {}

    # -- many at once --------------------------------------------------------------------------

    async def fill(self, seed: int) -> Told:
        """Create what the actions are about."""
        with self.app.activate(), act_as("eve"):
            await together.fill(random.Random(seed))
        return {}

    async def storm(self, actions: int, tasks: int, seed: int) -> Told:
        """Write and read in many tasks at once; tell what was done and what was refused."""
        ends: Counter[str] = Counter()
        with self.app.activate(), act_as("ann"):
            work = (
                together.storm(random.Random(f"{seed} {task}"), actions // tasks)
                for task in range(tasks)
            )
            for part in await asyncio.gather(*work):
                ends += part
        return dict(ends)

    # -- comparing -----------------------------------------------------------------------------

    async def compare(self, patience: float) -> Told:
        """Read in many ways with and without the cache.

        Args:
            patience: The seconds in which a read that differs must agree.
        """
        reads, slowest, differ = 0, 0.0, list[str]()
        with self.plain.activate():
            models = [model for model in self.plain.usable_models() if await self._look(model)]
        for model in models:
            view = ModelView(model)
            for name, read in reads_of(model, self._known[view.name]).items():
                if len(differ) >= ENOUGH:
                    break
                reads += 1
                begun = time.monotonic()
                while True:
                    with self.app.activate():
                        found = await read()
                    with self.plain.activate():
                        stored = await read()
                    if found == stored:
                        break
                    if (waited := time.monotonic() - begun) > patience:
                        differ.append(f"{view.name}: {name}: {found!r} is stored as {stored!r}")
                        break
                    slowest = max(slowest, waited)
                    await asyncio.sleep(0.002)
        return {"reads": reads, "slowest": slowest, "differ": differ}

    async def _look(self, model: Any) -> bool:
        """Note the ids of what is stored of a model; say whether there is anything to read."""
        known = self._known.setdefault(ModelView(model).name, {})
        for record in await model.search(order="id", limit=MOST).only("id"):
            known.pop(record.pk, None)
            known[record.pk] = None
        for pk in [*known][:-KEPT]:
            del known[pk]
        return bool(known)

    async def hits(self) -> Told:
        """Tell what was answered by which level."""
        cache = self.plugin.cache
        assert cache.shared is not None
        figures, shared = cache.statistics(), cache.shared
        return {
            "records in memory": figures.hits,
            "records in redis": shared.hits,
            "results": figures.query_hits,
            "results in redis": shared.query_hits,
        }


async def main() -> None:
    """Do what the lines on stdin say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--database", required=True)
    parser.add_argument("--driver", required=True)
    parser.add_argument("--fault", choices=("", *FAULTS), default="")
    asked = parser.parse_args()
    if asked.fault:
        FAULTS[asked.fault]()
    worker = Worker(asked.database, asked.driver)
    await worker.start()
    loop = asyncio.get_running_loop()
    try:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(json.dumps(await worker.do(json.loads(line))), flush=True)
    finally:
        await worker.stop()


if __name__ == "__main__":
    asyncio.run(main())
