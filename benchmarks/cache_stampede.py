"""The loads of a stampede: tasks of several processes ask at once for a record that nobody has in the cache."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import uuid
from collections.abc import Iterable
from typing import Any

from pydantic import SecretStr
from pymongo import MongoClient

from earnorm import App, Int, Layer, hookimpl, models
from earnorm_cache import CachePlugin, CacheSettings

STAMPEDES = 20
PROCESSES = 4
TASKS = 50
LOAD_SECONDS = 0.05


class Wanted(models.BaseModel):
    """What all ask for."""

    _name = "benchmark.wanted"

    _id = Int()


class Counting:
    """A plugin below the cache: counts the searches, each of which takes a while."""

    api = 1
    name = "counting"

    def __init__(self) -> None:
        self.searches = 0

    @hookimpl
    def wrap_operation(self, app: App, model: Any, operation: str) -> Iterable[tuple[int, Any]]:
        """Wrap the searches."""

        async def search(op: Any, call_next: Any, /) -> Any:
            self.searches += 1
            await asyncio.sleep(LOAD_SECONDS)
            return await call_next(op)

        return [(Layer.CACHE + 50, search)] if operation == "search" else ()


async def _ask(database: str, number: int, together: Any) -> list[int]:
    """Ask for each record when all processes are ready; return the searches that it took here."""
    url = SecretStr(os.environ["EARNORM_TEST_REDIS_URL"])
    settings = CacheSettings(redis_url=url, redis_timeout=5.0, outside_writes=False)
    counting, loads = Counting(), list[int]()
    uri, plugins = os.environ["EARNORM_TEST_MONGO_URI"], [CachePlugin(settings), counting]
    loop = asyncio.get_running_loop()
    async with App(uri, database=database, plugins=plugins):
        for key in range(number):
            await loop.run_in_executor(None, together.wait, 60)
            before = counting.searches
            await asyncio.gather(*(Wanted.get(key) for _ in range(TASKS)))
            loads.append(counting.searches - before)
    return loads


def _process(database: str, number: int, together: Any, results: Any) -> None:
    results.put(asyncio.run(_ask(database, number, together)))


async def _make(database: str, number: int) -> None:
    async with App(os.environ["EARNORM_TEST_MONGO_URI"], database=database, plugins=[]):
        await Wanted.create([{"_id": key} for key in range(number)])


def stampedes(number: int) -> list[int]:
    """Return the loads of each stampede, of all processes together.

    Args:
        number: The number of stampedes, each on a record of its own.
    """
    spawn = multiprocessing.get_context("spawn")
    database = f"cache_stampede_{uuid.uuid4().hex[:8]}"
    asyncio.run(_make(database, number))
    try:
        together, results = spawn.Barrier(PROCESSES), spawn.Queue()
        processes = [
            spawn.Process(target=_process, args=(database, number, together, results))
            for _ in range(PROCESSES)
        ]
        for process in processes:
            process.start()
        loads = [results.get(timeout=120) for _ in processes]
        for process in processes:
            process.join()
    finally:
        with MongoClient[dict[str, Any]](os.environ["EARNORM_TEST_MONGO_URI"]) as client:
            client.drop_database(database)
    return [sum(each) for each in zip(*loads, strict=True)]
