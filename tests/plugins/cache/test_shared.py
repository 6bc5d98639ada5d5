"""Two Apps that share a real Redis: what one writes, the other reads."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from redis import Redis

import earnorm
from earnorm import App, Int, String, models
from earnorm.exceptions import ConfigurationError, ServerUnavailable
from earnorm.testing.data_directories import data_directory
from earnorm.testing.servers import Server, start_redis
from earnorm_cache import CachePlugin, CacheService, CacheSettings
from earnorm_cache.command import cache_command
from earnorm_cache.shared import _FILL, Shared
from tests.plugins.cache.probes import Probe, Steps, starting


class Stock(models.BaseModel):
    _name = "cache_stock"

    title = String()
    pieces = Int(default=0)


class Process:
    """An App with the cache and a probe below it, as another process has one."""

    def __init__(self, app: App, plugin: CachePlugin, probe: Probe) -> None:
        self.app, self.plugin, self.probe = app, plugin, probe

    @property
    def shared(self) -> Shared:
        assert self.plugin._levels.shared is not None
        return self.plugin._levels.shared

    async def run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        with self.app.activate():
            return await work()

    async def pieces(self, pk: object) -> int:
        stock: Stock = await self.run(lambda: Stock.get(pk))
        return stock.pieces

    async def write(self, pk: object, pieces: int) -> None:
        async def work() -> None:
            await Stock.search([("_id", "=", pk)]).update({"pieces": pieces})

        await self.run(work)

    async def trusted(self) -> None:
        """Wait until it trusts its memory."""
        listener = self.plugin._levels.listener
        assert listener is not None
        for _ in range(500):
            if listener.is_trusted("cache_stock"):
                return
            await asyncio.sleep(0.01)
        raise TimeoutError("it never trusted its memory")

    def forget(self) -> None:
        """Empty its memory, so that the next read asks Redis."""
        self.plugin.cache.clear()


Open = Callable[..., Awaitable[Process]]


@pytest.fixture
async def process(mongo_uri: str) -> AsyncIterator[Open]:
    url = os.environ["EARNORM_TEST_REDIS_URL"]
    # It is busy with the other tests, not away.
    async with starting(mongo_uri, redis_url=url, redis_timeout=2.0) as start:

        async def process(**settings: Any) -> Process:
            return Process(*await start(**settings))

        yield process


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Server]:
    """A Redis of the test's own, which it may stop."""
    with data_directory() as directory:
        server = start_redis(Path(directory))
        try:
            yield server
        finally:
            process_of(server).send_signal(signal.SIGCONT)
            server.stop()


async def reads(process: Process, pk: object, pieces: int) -> None:
    """Wait until the process reads so many."""
    for _ in range(2_000):
        if await process.pieces(pk) == pieces:
            return
        await asyncio.sleep(0.002)
    raise TimeoutError("it reads an old value")


async def stock(process: Process, **values: Any) -> Any:
    made: Stock = await process.run(lambda: Stock.create({"title": "pen", **values}))
    return made.pk


async def test_what_one_has_read_the_other_gets_from_redis(process: Open) -> None:
    one, two = await process(), await process()
    pk = await stock(one, pieces=3)
    assert await one.pieces(pk) == 3
    assert await two.pieces(pk) == 3
    assert (one.probe.searches, two.probe.searches) == (1, 0)
    assert two.shared.figures.hits == 1
    cache = two.app.services.of_type(CacheService)
    assert cache.shared is two.shared.figures


async def test_a_write_is_seen_at_once_through_redis(process: Open) -> None:
    one, two = await process(), await process()
    pk = await stock(one, pieces=3)
    for pieces in (4, 5, 6):
        await one.pieces(pk)
        await two.write(pk, pieces)
        one.forget()
        assert await one.pieces(pk) == pieces
        assert await two.pieces(pk) == pieces


async def test_a_write_by_another_condition_is_seen_as_well(process: Open) -> None:
    one, two = await process(), await process()
    pk = await stock(one, pieces=3)
    await one.pieces(pk)
    await two.run(lambda: Stock.search([("title", "=", "pen")]).update({"pieces": 9}))
    one.forget()
    assert await one.pieces(pk) == 9


async def test_the_memory_of_another_process_hears_of_a_write(process: Open) -> None:
    one, two = await process(), await process()
    pk = await stock(one, pieces=3)
    await one.pieces(pk)
    await one.trusted()
    await one.pieces(pk)
    before = one.plugin.cache.statistics().hits
    assert await one.pieces(pk) == 3
    assert one.plugin.cache.statistics().hits == before + 1  # from memory
    for pieces in (4, 5):
        await two.write(pk, pieces)
        await reads(one, pk, pieces)
    assert one.plugin.cache.statistics().invalidations >= 2


async def test_a_transaction_is_seen_once_it_is_committed(process: Open) -> None:
    one, two = await process(), await process()
    pk = await stock(one, pieces=3)
    await one.pieces(pk)

    async def work() -> None:
        async with earnorm.transaction():
            await Stock.search([("_id", "=", pk)]).update({"pieces": 4})
            one.forget()
            assert await one.pieces(pk) == 3
            assert (await Stock.get(pk)).pieces == 4

    await two.run(work)
    one.forget()
    assert await one.pieces(pk) == 4


async def test_a_rolled_back_transaction_leaves_what_was_stored(process: Open) -> None:
    one, two = await process(), await process()
    pk = await stock(one, pieces=3)

    async def work() -> None:
        with pytest.raises(ZeroDivisionError):
            async with earnorm.transaction():
                await Stock.search([("_id", "=", pk)]).update({"pieces": 4})
                raise ZeroDivisionError

    await two.run(work)
    assert await one.pieces(pk) == await two.pieces(pk) == 3


async def test_a_deleted_record_is_gone_everywhere(process: Open) -> None:
    one, two = await process(), await process()
    pk = await stock(one)
    await one.pieces(pk)
    await two.run(lambda: Stock.search([("_id", "=", pk)]).delete())
    one.forget()
    with pytest.raises(earnorm.NotFound):
        await one.pieces(pk)


async def test_many_readers_at_once_load_once(process: Open) -> None:
    processes = [await process() for _ in range(4)]
    pk = await stock(processes[0], pieces=3)

    async def slow(op: Any) -> None:
        await asyncio.sleep(0.03)

    for each in processes:
        each.probe.before = slow
    read = await asyncio.gather(*(each.pieces(pk) for each in processes for _ in range(50)))
    assert set(read) == {3}
    assert sum(each.probe.searches for each in processes) == 1
    figures = [each.shared.figures for each in processes]
    assert sum(each.loads for each in figures) == 1
    assert sum(each.joined for each in figures) > 100


async def test_of_many_ids_only_those_that_nobody_has_are_loaded(process: Open) -> None:
    one, two = await process(), await process()
    pks = [await stock(one, pieces=n) for n in range(250)]
    await one.run(lambda: Stock.search([("_id", "in", pks[:100])]))
    two.probe.seen.clear()
    found = await two.run(lambda: Stock.search([("_id", "in", pks)]))
    assert [each.pieces for each in found] == list(range(250))
    (op,) = [op for op in two.probe.seen if op.name == "search"]
    assert len(next(op.domain.conditions()).value) == 150  # type: ignore[arg-type] # a list of ids


class StockOfTomorrow(models.BaseModel):
    """The same collection as the next release reads it."""

    _name = "cache_stock_of_tomorrow"
    _collection = "cache_stock"

    title = String()
    pieces = Int(default=0)
    shelf = String(default="A")


async def test_two_ways_to_read_a_collection_do_not_mix(process: Open) -> None:
    one, two = await process(), await process()
    pk = await stock(one, pieces=3)
    await one.pieces(pk)
    again = await two.run(lambda: StockOfTomorrow.get(pk))
    assert (again.pieces, again.shelf, two.probe.searches) == (3, "A", 1)
    await two.run(lambda: StockOfTomorrow.search([("_id", "=", pk)]).update({"pieces": 4}))
    one.forget()
    assert await one.pieces(pk) == 4


@pytest.mark.parametrize("moment", [0.0, 0.02])
async def test_a_cancelled_reader_leaves_nothing_that_others_wait_for(
    process: Open, moment: float
) -> None:
    one, two = await process(), await process()
    pk = await stock(one, pieces=3)

    async def slow(op: Any) -> None:
        await asyncio.sleep(0.3)

    one.probe.before = slow
    readers = [asyncio.ensure_future(one.pieces(pk)) for _ in range(5)]
    await asyncio.sleep(moment)
    for reader in readers:
        reader.cancel()
    await asyncio.wait(readers)
    begun = time.monotonic()
    assert await two.pieces(pk) == 3
    assert time.monotonic() - begun < 1
    await eventually(lambda: not one.shared._flights and not one.shared._at_work)


async def test_no_read_waits_for_its_fill_while_few_are_under_way(
    process: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("earnorm_cache.shared.MOST_AT_WORK", 3)
    one = await process()
    made = [await stock(one, pieces=number) for number in range(4)]
    ask, gate = one.shared._ask, asyncio.Event()

    async def held(script: Any, *arguments: Any, **options: Any) -> Any:
        if script is _FILL:
            await gate.wait()
        return await ask(script, *arguments, **options)

    monkeypatch.setattr(one.shared, "_ask", held)
    assert [await one.pieces(pk) for pk in made[:3]] == [0, 1, 2]
    last = asyncio.ensure_future(one.pieces(made[3]))
    done, _ = await asyncio.wait([last], timeout=0.3)
    assert (
        not done
    )  # else a program that reads faster than Redis fills would hold ever more documents
    gate.set()
    assert await last == 3
    await eventually(lambda: not one.shared._at_work)


# -- every order of a reader's and a writer's steps -----------------------------------------------


READER = ("take the lease", "load", "fill")
WRITER = ("write", "remove")
BY_CONDITION = ("look for the ids", *WRITER)
ORDERS = [
    (by, order)
    for by, writer in (("id", WRITER), ("condition", BY_CONDITION))
    for order in sorted(set(itertools.permutations("r" * len(READER) + "w" * len(writer))))
]


@pytest.mark.parametrize(("by", "order"), ORDERS, ids=lambda part: "".join(part))
async def test_no_order_of_the_steps_leaves_an_old_document_in_redis(
    process: Open, order: tuple[str, ...], by: str
) -> None:
    reader, writer, third = await process(), await process(), await process()
    pk = await stock(reader, pieces=1)
    steps = Steps()

    steps.hold("reader", reader)
    steps.hold("writer", writer)

    async def write() -> None:
        condition = ("_id", "=", pk) if by == "id" else ("title", "=", "pen")
        await writer.run(lambda: Stock.search([condition]).update({"pieces": 2}))

    tasks = {"reader": asyncio.ensure_future(reader.pieces(pk))}
    tasks["writer"] = asyncio.ensure_future(write())
    acknowledged = False
    for letter in order:
        who = "reader" if letter == "r" else "writer"
        await steps.let(who, tasks[who])
        if tasks["writer"].done() and not acknowledged:
            acknowledged = True
            third.forget()
            assert await third.pieces(pk) == 2
    await asyncio.wait_for(asyncio.gather(*tasks.values()), 10)
    assert not steps.waiting
    third.forget()
    assert await third.pieces(pk) == 2
    assert await third.pieces(pk) == 2


# -- Redis away -----------------------------------------------------------------------------------


async def eventually(is_so: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if is_so():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError("it did not happen")


def process_of(server: Server) -> Any:
    assert server.process is not None
    return server.process


@pytest.mark.parametrize("away", ["stopped", "killed"])
async def test_no_read_fails_while_redis_is_away_and_none_is_old_afterwards(
    process: Open, redis: Server, away: str
) -> None:
    settings = {"redis_url": redis.uri, "redis_timeout": 0.1}
    one, two = await process(**settings), await process(**settings)
    pk = await stock(one, pieces=1)
    assert await one.pieces(pk) == await two.pieces(pk) == 1
    await two.trusted()
    if away == "stopped":
        process_of(redis).send_signal(signal.SIGSTOP)
    else:
        process_of(redis).kill()
    await one.write(pk, 2)
    assert await one.pieces(pk) == 2  # in the process of the writer at once
    begun = time.monotonic()
    await reads(two, pk, 2)  # when it does not trust its memory any more
    assert time.monotonic() - begun < 2
    health: Any = (await one.app.health())["cache"]
    assert (health["status"], health["redis"]) == ("degraded", "away")
    if away == "stopped":
        process_of(redis).send_signal(signal.SIGCONT)
        await eventually(lambda: not one.shared.is_owing)
        two.forget()
        assert await two.pieces(pk) == 2
        await two.trusted()
        await one.write(pk, 3)
        two.forget()
        assert await two.pieces(pk) == 3
        await eventually(lambda: not one.shared.is_down and not one.shared.is_owing)
        assert (await one.app.health())["cache"]["status"] == "ok"  # type: ignore[index] # a mapping


async def test_what_the_memory_missed_is_forgotten(process: Open) -> None:
    one, two = await process(), await process()
    pk = await stock(one, pieces=1)
    await two.pieces(pk)
    await two.trusted()
    await two.pieces(pk)
    listener = two.plugin._levels.listener
    assert listener is not None
    await listener.stop()
    await one.write(pk, 2)
    with Redis.from_url(os.environ["EARNORM_TEST_REDIS_URL"]) as client:
        client.delete(one.shared.stream("cache_stock"))
    listener.start()
    await two.trusted()
    assert await two.pieces(pk) == 2


async def test_redis_that_lost_everything_has_no_old_document(process: Open) -> None:
    one, two = await process(), await process()
    pk = await stock(one, pieces=1)
    await one.pieces(pk)
    with Redis.from_url(os.environ["EARNORM_TEST_REDIS_URL"]) as client:
        for key in client.scan_iter(f"earnorm:{{{one.app.settings.database}.*"):
            client.delete(key)
    await two.write(pk, 2)
    one.forget()
    assert await one.pieces(pk) == 2


async def test_a_change_from_outside_is_seen_when_the_cache_is_cleared_everywhere(
    process: Open, mongo_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = await process(), await process()
    pk = await stock(one, pieces=1)
    assert await one.pieces(pk) == await two.pieces(pk) == 1
    await two.trusted()
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        collection = client[one.app.settings.database]["cache_stock"]
        for pieces, clear in (
            (2, one.plugin.cache.clear_everywhere),
            (3, lambda: cache_command(one.app, "clear")),
        ):
            collection.update_one({"_id": pk}, {"$set": {"pieces": pieces}})
            await clear()
            assert await one.pieces(pk) == pieces
            await reads(two, pk, pieces)
    await cache_command(one.app, "stats")
    assert "ok" in capsys.readouterr().out
    with pytest.raises(ConfigurationError, match="none of"):
        await cache_command(one.app, "statistics")
    alone = await process(redis_url=None)
    with pytest.raises(ConfigurationError, match="needs redis_url"):
        await alone.plugin.cache.clear_everywhere()


async def test_an_app_starts_while_redis_is_away_unless_it_is_required(
    process: Open, caplog: pytest.LogCaptureFixture
) -> None:
    away = "redis://:secret@127.0.0.1:1/0"
    one = await process(redis_url=away)
    pk = await stock(one, pieces=1)
    await one.write(pk, 2)
    assert await one.pieces(pk) == 2
    assert (await one.app.health())["cache"]["status"] == "degraded"  # type: ignore[index] # a mapping
    with pytest.raises(ServerUnavailable, match="Redis does not answer"):
        await one.plugin.cache.clear_everywhere()
    with pytest.raises(ServerUnavailable, match="Redis does not answer") as refused:
        await process(redis_url=away, required=True)
    assert refused.value.code == "no_redis"
    assert "Redis does not answer" in caplog.text
    assert "secret" not in caplog.text + str(refused.value) + repr(one.plugin._settings)


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "redis:/x", ""])
def test_an_address_of_another_kind_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="redis://") as refused:
        CacheSettings(redis_url=url)  # type: ignore[arg-type] # pydantic makes a secret of it
    assert not url or url not in str(refused.value)


async def test_a_cancelled_write_is_removed_all_the_same(process: Open) -> None:
    one, two = await process(), await process()
    pk = await stock(one, pieces=1)
    await two.pieces(pk)

    async def written(op: Any) -> None:
        if op.name == "write":
            await asyncio.sleep(30)

    one.probe.after = written
    task = asyncio.ensure_future(one.write(pk, 2))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    two.forget()
    assert await two.pieces(pk) == 2
    one.probe.after = None
    assert await one.pieces(pk) == 2
