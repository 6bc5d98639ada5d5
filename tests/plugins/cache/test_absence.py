"""It is remembered that an id has no record, until a record with that id is made, whoever makes it."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

import earnorm
from earnorm import App, Int, NotFound, String, models
from earnorm.plugin import Operation
from earnorm_cache import Cache
from tests.plugins.cache.conftest import Open
from tests.plugins.cache.probes import Clock, Probe, cache_of


class Seat(models.BaseModel):
    _name = "cache_seat"
    _cache = Cache(negative_ttl=10)

    _id = Int()
    guest = String()


class OtherSeat(models.BaseModel):
    _name = "cache_other_seat"
    _collection = "cache_seat"

    _id = Int()
    guest = String()


class Stool(models.BaseModel):
    _name = "cache_stool"

    _id = Int()
    guest = String()


class OddStool(models.BaseModel):
    _name = "cache_odd_stool"
    _collection = "cache_odd_stool"
    _cache = Cache(negative_ttl=10)

    _id = Int()


def with_redis(**settings: Any) -> dict[str, Any]:
    return {"redis_url": os.environ["EARNORM_TEST_REDIS_URL"], "redis_timeout": 2.0, **settings}


async def is_there(pk: int, model: Any = Seat) -> bool:
    try:
        await model.get(pk)
    except NotFound:
        return False
    return True


async def test_absence_is_not_remembered_unless_somebody_asks_for_it(
    open_app: Open, probe: Probe
) -> None:
    await open_app(probe)
    for _ in range(2):
        assert not await is_there(1, Stool)
    assert probe.searches == 2


async def test_the_settings_may_ask_for_it(open_app: Open, probe: Probe) -> None:
    await open_app(probe, negative_ttl=5.0)
    for _ in range(2):
        assert not await is_there(1, Stool)
    assert probe.searches == 1


async def test_it_is_remembered_for_its_time_and_counts_as_a_hit(
    open_app: Open, probe: Probe, clock: Clock
) -> None:
    app = await open_app(probe)
    await Seat.create({"_id": 2})
    probe.seen.clear()
    for _ in range(3):
        assert [seat.pk for seat in await Seat.search([("id", "in", [1, 2, 3])])] == [2]
    assert probe.searches == 1
    figures = cache_of(app).statistics()
    assert (figures.hits, figures.misses, figures.entries) == (6, 3, 3)
    clock.now += 10.0
    assert [seat.pk for seat in await Seat.search([("id", "in", [1, 2, 3])])] == [2]
    assert probe.searches == 2


async def create(pk: int) -> None:
    await Seat.create({"_id": pk})


async def create_many(pk: int) -> None:
    await Seat.create([{"_id": pk}, {"_id": pk + 1000}])


async def upsert(pk: int) -> None:
    await Seat.upsert({"_id": pk, "guest": "ann"}, on=["_id"])


async def create_in_a_transaction(pk: int) -> None:
    async with earnorm.transaction():
        await Seat.create({"_id": pk})
        assert await is_there(pk)


async def create_by_another_model(pk: int) -> None:
    await OtherSeat.create({"_id": pk})


async def create_after_another(pk: int) -> None:
    """One of the two is refused, which does not undo the other."""
    await Seat.create({"_id": pk + 2000})
    with pytest.raises(earnorm.EarnORMError):
        await Seat.create_many([{"_id": pk}, {"_id": pk + 2000}])


WAYS = [
    create,
    create_many,
    upsert,
    create_in_a_transaction,
    create_by_another_model,
    create_after_another,
]


@pytest.mark.parametrize("make", WAYS)
async def test_a_record_that_is_made_is_there_at_once_in_this_process(
    open_on_server: Open, make: Any
) -> None:
    await open_on_server()
    assert not await is_there(1)
    await make(1)
    assert await is_there(1)
    await Seat.search([("id", "=", 1)]).delete()
    assert not await is_there(1)
    await Seat.create({"_id": 1})
    assert await is_there(1)


@pytest.mark.parametrize("make", WAYS)
async def test_a_record_that_another_process_made_is_there_through_redis(
    open_on_server: Open, probe: Probe, make: Any
) -> None:
    one, two = [await open_on_server(*extra, **with_redis()) for extra in ((probe,), ())]
    with one.activate():
        assert not await is_there(1)
        cache_of(one).clear()
        probe.seen.clear()
        assert not await is_there(1)
        assert probe.searches == 0  # Redis remembers it
    with two.activate():
        await make(1)
    with one.activate():
        cache_of(one).clear()
        assert await is_there(1)


async def test_the_memory_of_another_process_hears_that_a_record_was_made(
    open_on_server: Open,
) -> None:
    one, two = [await open_on_server(**with_redis()) for _ in range(2)]
    with one.activate():
        for _ in range(1_000):  # until it trusts its memory
            assert not await is_there(1)
            if cache_of(one).statistics().hits:
                break
            await asyncio.sleep(0.01)
        assert cache_of(one).statistics().hits
    with two.activate():
        await Seat.create({"_id": 1})
    with one.activate():
        seen = [await is_there(1)]
        while not seen[-1] and len(seen) < 1_000:
            await asyncio.sleep(0.005)
            seen.append(await is_there(1))
        assert seen[-1]


@pytest.mark.parametrize("redis", [False, True], ids=["memory", "redis"])
async def test_a_look_that_found_nothing_before_a_record_was_made_is_not_remembered(
    open_on_server: Open, probe: Probe, redis: bool
) -> None:
    settings = with_redis() if redis else {}
    one = await open_on_server(probe, **settings)
    two = await open_on_server(**settings) if redis else one
    looked, made = asyncio.Event(), asyncio.Event()

    async def hold(op: Operation) -> None:
        if op.name == "search":
            looked.set()
            await made.wait()

    probe.after = hold
    with one.activate():
        look = asyncio.ensure_future(is_there(1))
        await looked.wait()
    probe.after = None
    with two.activate():
        await Seat.create({"_id": 1})
    made.set()
    await look
    with one.activate():
        if redis:
            cache_of(one).clear()
        assert await is_there(1)


async def test_a_rolled_back_creation_leaves_no_record(open_on_server: Open) -> None:
    await open_on_server()
    assert not await is_there(1)
    with pytest.raises(ZeroDivisionError):
        async with earnorm.transaction():
            await Seat.create({"_id": 1})
            raise ZeroDivisionError
    assert not await is_there(1)


async def test_an_id_that_equals_that_of_a_record_is_not_remembered_as_absent(
    open_on_server: Open,
) -> None:
    app: App = await open_on_server()
    raw = app.dangerous_raw("a record of another program")
    await raw["cache_odd_stool"].insert_one({"_id": 1.0})
    for _ in range(3):
        assert len(await OddStool.search([("id", "=", 1)])) == 1
