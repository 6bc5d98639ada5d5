"""Strict models: no process reads an old value after an acknowledged write, whatever becomes of Redis."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pymongo import MongoClient

import earnorm
from earnorm import App, Int, String, models
from earnorm.exceptions import EarnORMError, ServerUnavailable
from earnorm_cache import Cache, CachePlugin, CacheSettings
from earnorm_cache.change import Change
from tests.plugins.cache.probes import Probe
from tests.plugins.cache.test_shared import Process, Steps, eventually
from tests.redis_servers import Node, lone_redis

TTL = 0.6


class Vault(models.BaseModel):
    _name = "cache_vault"
    _cache = Cache(strict=True, ttl=TTL, queries=True)

    title = String()
    pieces = Int(default=0)


Open = Callable[..., Awaitable[Process]]


@pytest.fixture(scope="module")
def redis() -> Iterator[Node]:
    with lone_redis() as node:
        yield node


@pytest.fixture
async def process(mongo_uri: str, redis: Node) -> AsyncIterator[Open]:
    database = f"cache_{uuid.uuid4().hex[:12]}"
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> Process:
            given = {"redis_url": redis.url, "redis_timeout": 0.1, "outside_writes": False}
            plugin, probe = CachePlugin(CacheSettings.model_validate(given | settings)), Probe()
            app = App(mongo_uri, database=database, plugins=[plugin, probe])
            await app.start()
            stack.push_async_callback(app.stop)
            return Process(app, plugin, probe)

        yield start
    redis.go_on()
    if redis.process.poll() is not None:
        redis.restart()
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        client.drop_database(database)


async def vault(process: Process, **values: Any) -> Any:
    made: Vault = await process.run(lambda: Vault.create({"title": "a", **values}))
    return made.pk


async def pieces(process: Process, pk: object) -> int:
    found: Vault = await process.run(lambda: Vault.get(pk))
    return found.pieces


async def counted(process: Process, number: int) -> int:
    count: int = await process.run(lambda: Vault.search([("pieces", "=", number)]).count())
    return count


async def write(process: Process, pk: object, number: int) -> None:
    async def work() -> None:
        await Vault.search([("_id", "=", pk)]).update({"pieces": number})

    await process.run(work)


def barriers(process: Process, redis: Node) -> dict[Any, Any]:
    found = redis.ask("HLEN", process.shared.key("cache_vault", b"b"))
    return {} if not found else {"barriers": found}


async def test_a_strict_model_is_read_from_redis_and_never_from_memory(
    process: Open, redis: Node
) -> None:
    one, two = await process(), await process()
    pk = await vault(one, pieces=1)
    for _ in range(3):
        assert await pieces(one, pk) == await pieces(two, pk) == 1
    assert one.probe.searches + two.probe.searches == 1
    assert one.plugin.cache.statistics().entries == 0
    for number in range(2, 8):
        await write(one, pk, number)
        assert await pieces(two, pk) == number
        assert await counted(two, number) == 1
        assert await counted(two, number - 1) == 0
    assert not barriers(one, redis)


# -- Redis away -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["stop", "kill"])
async def test_a_write_is_refused_while_redis_is_away(process: Open, redis: Node, way: str) -> None:
    one, two = await process(), await process()
    pk = await vault(one, pieces=1)
    await pieces(two, pk)
    redis.stop() if way == "stop" else redis.kill()
    for _ in range(3):
        with pytest.raises(ServerUnavailable, match="nothing was written") as refused:
            await write(one, pk, 2)
        assert refused.value.code == "no_redis"
        with pytest.raises(ServerUnavailable):
            await vault(one, pieces=5)
        await asyncio.sleep(0.3)
    assert await pieces(one, pk) == await pieces(two, pk) == 1

    async def work() -> None:
        async with earnorm.transaction():
            await Loose.create({"title": "b"})
            with pytest.raises(ServerUnavailable):
                await Vault.search([("_id", "=", pk)]).update({"pieces": 2})

    with pytest.raises(EarnORMError):
        await one.run(work)
    assert not await one.run(lambda: Loose.search().count())
    redis.go_on() if way == "stop" else redis.restart()
    await eventually(lambda: not one.shared.is_down and not one.shared.is_owing)
    assert await pieces(two, pk) == 1
    await write(one, pk, 2)
    assert await pieces(two, pk) == 2
    await eventually(lambda: not barriers(one, redis))
    assert await one.run(lambda: Vault.search().count()) == 1


class Loose(models.BaseModel):
    _name = "cache_vault_loose"
    _cache = False

    title = String()


@pytest.mark.parametrize("way", ["stop", "kill", "restart", "stop and go"])
async def test_an_acknowledged_write_is_seen_whatever_becomes_of_redis_meanwhile(
    process: Open, redis: Node, way: str
) -> None:
    """Redis goes between the barrier and the end of the write, and another process reads all the time."""
    one, two = await process(), await process()
    pk = await vault(one, pieces=1)
    await pieces(two, pk)

    async def meanwhile(op: Any) -> None:
        if op.name != "write":
            return
        one.probe.before = None
        if way in ("kill", "restart"):
            redis.kill()
        else:
            redis.stop()
        if way == "restart":
            redis.restart()
            for _ in range(100):  # without the barrier the old value is put there
                await pieces(two, pk)
                if two.shared.figures.hits > 2:
                    break
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)

    one.probe.before = meanwhile
    acknowledged = stale = 0
    writing = asyncio.ensure_future(write(one, pk, 2))
    for turn in range(400):
        least = acknowledged
        stale += await pieces(two, pk) < least
        if writing.done():
            acknowledged = 2
        if turn == 100 and way == "stop and go":
            redis.go_on()
        await asyncio.sleep(0.01)
    await asyncio.wait_for(writing, 30)
    assert await pieces(two, pk) == 2
    redis.go_on()
    if redis.process.poll() is not None:
        redis.restart()
    for _ in range(100):
        stale += await pieces(two, pk) < 2
        await asyncio.sleep(0.01)
    assert stale == 0
    await eventually(lambda: not one.shared.is_owing)
    await eventually(lambda: not barriers(one, redis))


async def test_a_barrier_that_redis_lost_while_only_the_writer_is_cut_off_makes_no_read_old(
    process: Open, redis: Node
) -> None:
    """The write is acknowledged only when what others read before it cannot be kept any more."""
    one, two = await process(), await process()
    pk = await vault(one, pieces=1)
    run = one.shared.connection.run

    async def cut_off(*arguments: Any, **options: Any) -> Any:
        raise TimeoutError

    async def meanwhile(op: Any) -> None:
        if op.name == "write":
            redis.ask("FLUSHALL")
            one.shared.connection.run = cut_off  # type: ignore[method-assign] # as a broken network does
            assert await pieces(two, pk) == await pieces(two, pk) == 1  # it is put there

    one.probe.before = meanwhile
    writing = asyncio.ensure_future(write(one, pk, 2))
    old = 0
    while not writing.done():
        old += await pieces(two, pk) == 1
        await asyncio.sleep(0.002)
    assert old > 10  # before the acknowledgement
    for _ in range(100):
        assert await pieces(two, pk) == 2
        await asyncio.sleep(0.002)
    one.shared.connection.run = run  # type: ignore[method-assign] # it is there again
    await eventually(lambda: not one.shared.is_owing)
    assert not barriers(one, redis)


# -- every order of the steps, and Redis emptied at each of them ----------------------------------

ORDERS = sorted(set(itertools.permutations("rrrwwww")))


@pytest.mark.parametrize("emptied", [None, *range(7)])
async def test_no_order_of_the_steps_gives_an_old_document(
    process: Open, redis: Node, emptied: int | None
) -> None:
    reader, writer, third = await process(), await process(), await process()
    number = 1
    pk = await vault(reader, pieces=number)
    steps = Steps()

    steps.hold("reader", reader)
    steps.hold("writer", writer)
    for order in ORDERS:
        number += 1
        redis.ask("FLUSHALL")
        reading = asyncio.ensure_future(pieces(reader, pk))
        writing = asyncio.ensure_future(write(writer, pk, number))
        tasks = {"r": ("reader", reading), "w": ("writer", writing)}
        for step, letter in enumerate(order):
            await steps.let(*tasks[letter])
            if step == emptied:
                redis.ask("FLUSHALL")
            if writing.done():
                assert await pieces(third, pk) == number, order
                assert await counted(third, number) == 1, order
        for _ in range(10):
            for who, task in tasks.values():
                await steps.let(who, task)
        await asyncio.wait_for(asyncio.gather(reading, writing), 10)
        assert await pieces(third, pk) == number, order
        assert await counted(third, number) == 1, order
        assert not barriers(third, redis)


# -- several writers, cancelled ones and dead ones -------------------------------------------------


async def test_two_writers_of_one_record_have_a_barrier_each(process: Open, redis: Node) -> None:
    one, two, three = [await process() for _ in range(3)]
    pk = await vault(one, pieces=1)
    gates = {each: asyncio.Event() for each in (one, two)}

    def hold(each: Process) -> Callable[[Any], Awaitable[None]]:
        async def before(op: Any) -> None:
            if op.name == "write":
                await gates[each].wait()

        return before

    for each in (one, two):
        each.probe.before = hold(each)
    tasks = [asyncio.ensure_future(write(each, pk, n)) for n, each in enumerate((one, two), 2)]
    await eventually(lambda: barriers(one, redis) == {"barriers": 2})
    before = three.probe.searches
    await pieces(three, pk), await pieces(three, pk)
    assert three.probe.searches == before + 2  # nothing is kept
    gates[one].set()
    await tasks[0]
    assert barriers(one, redis) == {"barriers": 1}
    await pieces(three, pk), await pieces(three, pk)
    assert three.probe.searches == before + 4
    gates[two].set()
    await tasks[1]
    assert await pieces(three, pk) == await pieces(three, pk) == 3
    assert three.probe.searches == before + 5
    assert not barriers(one, redis)


async def test_a_writer_that_died_leaves_a_barrier_that_ends_by_itself(
    process: Open, redis: Node, mongo_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("earnorm_cache.barriers.BARRIER_SECONDS", 1.0)
    # On a busy machine a tenth of a second is an outage, after which reads go to the database for a while.
    one, two = await process(redis_timeout=2.0), await process(redis_timeout=2.0)
    pk = await vault(one, pieces=1)
    await pieces(two, pk)
    # It has raised its barrier, has written, and is not there any more.
    await one.shared.bar("cache_vault", Change((pk,), frozenset({"pieces"}), False))
    assert await pieces(two, pk) == 1
    assert await counted(two, 2) == 0  # before it has written: neither is kept
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        client[one.app.settings.database]["cache_vault"].update_one(
            {"_id": pk}, {"$set": {"pieces": 2}}
        )
    before = two.probe.searches
    for _ in range(5):
        assert await pieces(two, pk) == 2
        assert await counted(two, 2) == 1
    assert two.probe.searches == before + 5
    await asyncio.sleep(1.1)
    for _ in range(5):
        assert await pieces(two, pk) == 2
        assert await counted(two, 2) == 1
    assert two.probe.searches == before + 6
    assert not barriers(one, redis)


@pytest.mark.parametrize("many", [False, True])
async def test_a_write_by_a_condition_is_strict_as_well(
    process: Open, redis: Node, many: bool
) -> None:
    one, two = await process(), await process()
    pks = [await vault(one, pieces=n) for n in range(150 if many else 3)]
    await two.run(lambda: Vault.search([("_id", "in", pks)]))

    async def meanwhile(op: Any) -> None:
        assert op.name != "write" or barriers(one, redis)

    one.probe.before = meanwhile

    async def work() -> None:
        await Vault.search([("title", "=", "a")]).update({"pieces": 900})

    await one.run(work)
    found = await two.run(lambda: Vault.search([("_id", "in", pks)]))
    assert {each.pieces for each in found} == {900}
    await one.run(lambda: Vault.search([("title", "=", "a")]).delete())
    assert not await two.run(lambda: Vault.search([("_id", "in", pks)]))
    assert not barriers(one, redis)


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_a_transaction_keeps_its_barriers_to_its_end(
    process: Open, redis: Node, end: str
) -> None:
    one, two = await process(), await process()
    pk = await vault(one, pieces=1)

    async def work() -> None:
        async with earnorm.transaction():
            await Vault.search([("_id", "=", pk)]).update({"pieces": 2})
            assert barriers(one, redis)
            assert await pieces(two, pk) == await pieces(two, pk) == 1
            if end == "rollback":
                raise ZeroDivisionError

    if end == "rollback":
        with pytest.raises(ZeroDivisionError):
            await one.run(work)
    else:
        await one.run(work)
    assert not barriers(one, redis)
    assert await pieces(two, pk) == await pieces(two, pk) == (2 if end == "commit" else 1)
