"""A record cannot stay closed for ever, nor a lease, a flight or a barrier stay, whatever was cancelled where."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any

import pytest
from redis import Redis

import earnorm
from earnorm import App, Int, String, models
from earnorm.exceptions import EarnORMError
from earnorm_cache import Cache, CachePlugin, CacheSettings
from tests.plugins.cache.probes import starting
from tests.plugins.cache.test_shared import Process, eventually

RECORDS = 120
"""More than are read without a pause."""


class Kettle(models.BaseModel):
    _name = "cache_kettle"
    _cache = Cache(queries=True)

    title = String(default="a")
    pieces = Int(default=0)


class Safe(models.BaseModel):
    _name = "cache_safe"
    _cache = Cache(strict=True, queries=True)

    title = String(default="a")
    pieces = Int(default=0)


Open = Callable[..., Awaitable[Process]]


@pytest.fixture
async def process(mongo_uri: str) -> AsyncIterator[Open]:
    shared = {"redis_url": os.environ["EARNORM_TEST_REDIS_URL"], "redis_timeout": 5.0}
    async with starting(mongo_uri) as start:

        async def process(*, redis: bool = True, driver: str = "pymongo") -> Process:
            return Process(*await start(driver=driver, **(shared if redis else {})))

        yield process


class CancelledAt:
    """Cancels its task when that waits for the n-th time, and perhaps a second time later."""

    def __init__(self, work: Awaitable[Any], *steps: int) -> None:
        self.work, self.steps, self.waits = work, steps, 0

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self.work.__await__()
        task = asyncio.current_task()
        assert task is not None
        error: BaseException | None = None
        while True:
            try:
                waiting = inner.send(None) if error is None else inner.throw(error)
            except StopIteration as end:
                return end.value
            self.waits += 1
            if self.waits in self.steps:
                task.cancel()
            error = None
            try:
                yield waiting
            except BaseException as raised:
                error = raised


async def nothing_is_left(process: Process) -> None:
    """Wait until nothing is under way, and see that nothing is left of it."""
    levels = process.plugin._levels
    shared, results = levels.shared, levels.results
    if shared is not None and results is not None:
        await eventually(lambda: not shared._at_work and not shared.is_owing)
        assert not shared._flights
        assert not shared._asking
        assert not results._flights
        assert not results._taking
        with Redis.from_url(os.environ["EARNORM_TEST_REDIS_URL"]) as client:
            for name in ("cache_kettle", "cache_safe"):
                assert not client.hlen(shared.key(name, b"b")), "a barrier"
    await eventually(lambda: not process.plugin._writer._late)
    assert not process.plugin._writer._open
    for shelf in levels.shelves._shelves.values():
        assert not shelf.closed
        assert not shelf.closed_whole
        assert not shelf.leases
        assert not shelf.writing
        assert not shelf.writing_all


async def is_kept_again(process: Process, model: type[Any], pk: object) -> None:
    async def work() -> None:
        await model.get(pk)
        before = process.probe.searches
        await model.get(pk)
        assert process.probe.searches == before

    await process.run(work)


async def several(model: type[Any], pks: list[Any]) -> None:
    """Two writes of a transaction, with callbacks that take their time before and after the cache's."""
    async with earnorm.transaction() as transaction:
        transaction.after_commit(lambda: asyncio.sleep(0.001))
        transaction.after_rollback(lambda: asyncio.sleep(0.001))
        await model.search([("_id", "=", pks[0])]).update({"pieces": 1})
        await model.search([("title", "=", "none")]).update({"pieces": 1})
        transaction.after_commit(lambda: asyncio.sleep(0.001))


async def refused(model: type[Any], pks: list[Any]) -> None:
    try:
        async with earnorm.transaction():
            await model.search([("_id", "in", pks[:3])]).update({"pieces": 1})
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass


WORK: dict[str, Callable[[type[Any], list[Any]], Awaitable[Any]]] = {
    "read": lambda model, pks: model.get(pks[0]),
    "read many": lambda model, pks: model.search([("_id", "in", pks)])._run(),
    "count": lambda model, pks: model.search([("pieces", ">", 0)]).count(),
    "search": lambda model, pks: model.search([("pieces", ">", 0)], limit=3)._run(),
    "write": lambda model, pks: model.search([("_id", "=", pks[0])]).update({"pieces": 1}),
    "write by a condition": lambda model, pks: model.search([("title", "=", "none")]).update(
        {"pieces": 1}
    ),
    "create": lambda model, pks: model.create({"title": "none"}),
    "delete": lambda model, pks: model.search([("title", "=", "none")]).delete(),
    "transaction": several,
    "rollback": refused,
}


@pytest.mark.parametrize("redis", [True, False], ids=["redis", "memory"])
@pytest.mark.parametrize("model", [Kettle, Safe])
@pytest.mark.parametrize("title", WORK)
async def test_nothing_is_left_of_what_is_cancelled_at_any_step(
    process: Open, redis: bool, model: type[Any], title: str
) -> None:
    one = await process(redis=redis)
    made = await one.run(lambda: model.create([{"pieces": n} for n in range(RECORDS)]))
    pks = [each.pk for each in made]
    await one.run(lambda: WORK[title](model, pks))  # the first time prepares
    for again in (0, 1, 2, 5):
        for step in itertools.count(1):
            one.forget()
            if step % 2 and one.plugin._levels.shared is not None:
                await one.plugin._levels.shared.clear([each._name for each in (Kettle, Safe)])
            work = CancelledAt(one.run(lambda: WORK[title](model, pks)), step, step + again)

            async def run(work: CancelledAt = work) -> None:
                await work

            task = asyncio.ensure_future(run())
            await asyncio.wait([task])
            await nothing_is_left(one)
            if work.waits < step:
                break
            assert (
                task.cancelled()
                or task.exception() is None
                or isinstance(task.exception(), EarnORMError)
            )
    if not (model is Safe and not redis):
        await is_kept_again(one, model, pks[0])


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_nothing_is_left_of_a_storm_of_cancellations(process: Open, driver: str) -> None:
    one, two = await process(driver=driver), await process(driver=driver)
    pks: dict[type[Any], list[Any]] = {}
    for model in (Kettle, Safe):
        made = await one.run(lambda model=model: model.create([{} for _ in range(RECORDS)]))
        pks[model] = [each.pk for each in made]
    chance = random.Random(driver)

    async def some() -> None:
        app = chance.choice((one, two))
        model = chance.choice((Kettle, Safe))
        chosen = chance.sample(pks[model], RECORDS)
        with contextlib.suppress(EarnORMError):  # of two transactions at once, say
            await app.run(lambda: chance.choice(list(WORK.values()))(model, chosen))

    async def cancelled_some() -> None:
        task = asyncio.ensure_future(some())
        for _ in range(chance.choice((0, 1, 1, 2))):
            await asyncio.sleep(chance.random() * 0.01)
            task.cancel()
        await asyncio.wait([task])

    for _ in range(15):
        await asyncio.gather(*(cancelled_some() for _ in range(20)))
    for process_ in (one, two):
        await nothing_is_left(process_)
    for model in (Kettle, Safe):
        for pk in pks[model][:10]:
            await is_kept_again(one, model, pk)


def ours() -> list[str]:
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    known = ("Outside.", "_Reader.", "Shared.", "SharedResults.", "Writer.", "Levels.")
    return [name for name in names if name.startswith(known)]


@pytest.mark.parametrize("redis", [True, False], ids=["redis", "memory"])
async def test_a_stop_that_is_cancelled_at_any_step_leaves_nothing(
    process: Open, redis: bool, mongo_uri: str
) -> None:
    settings: dict[str, Any] = {}
    if redis:
        settings = {"redis_url": os.environ["EARNORM_TEST_REDIS_URL"], "redis_timeout": 5.0}
    for step in itertools.count(1):
        plugin = CachePlugin(CacheSettings.model_validate(settings))
        app = App(mongo_uri, database=f"cache_stop_{uuid.uuid4().hex[:8]}", plugins=[plugin])
        await app.start()
        with app.activate():
            kettle = await Kettle.create({})
            await Kettle.get(kettle.id)
            await app.dangerous_raw("the test is over").client.drop_database(app.settings.database)
        stopping = CancelledAt(app.stop(grace=0.1), step)

        async def run(stopping: CancelledAt = stopping) -> None:
            await stopping

        task = asyncio.ensure_future(run())
        await asyncio.wait([task])
        await eventually(lambda: not ours())
        if stopping.waits < step:
            break
