"""What a model says about how it is cached, and what follows from it."""

from __future__ import annotations

import asyncio
import datetime
import os
from typing import Any

import pytest

from earnorm import (
    App,
    ConfigurationError,
    DateTime,
    Index,
    String,
    models,
)
from earnorm_cache import Cache
from tests.plugins.cache.conftest import Open
from tests.plugins.cache.probes import Clock, Probe, cache_of


class Plain(models.BaseModel):
    _name = "cache_options_plain"
    title = String()


class Short(models.BaseModel):
    _name = "cache_options_short"
    _cache = Cache(ttl=5)
    title = String()


class Here(models.BaseModel):
    _name = "cache_options_here"
    _cache = Cache(level="memory")
    title = String()


class There(models.BaseModel):
    _name = "cache_options_there"
    _cache = Cache(level="redis")
    title = String()


class InheritedShort(Short):
    _name = "cache_options_inherited"
    _collection = "cache_options_inherited"


class Session(models.BaseModel):
    _name = "cache_options_session"
    _cache = True
    _indexes = [Index("until", expire_after=0)]
    until = DateTime()


class RawSession(models.BaseModel):
    _name = "cache_options_raw_session"
    _indexes = [{"keys": [("until", 1)], "expireAfterSeconds": 60}]
    until = DateTime()


class Nearest(models.BaseModel):
    _name = "cache_options_nearest"
    _cache = True
    _read_preference = "nearest"
    title = String()


class Primary(models.BaseModel):
    _name = "cache_options_primary"
    _read_preference = "primary"
    title = String()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ttl": 0}, "Cache(ttl=0): ttl is a time in seconds, at least 0.001"),
        ({"ttl": True}, "Cache(ttl=True): ttl is a time in seconds, at least 0.001"),
        ({"ttl": "5"}, "Cache(ttl='5'): ttl is a time in seconds, at least 0.001"),
        ({"ttl": float("nan")}, "Cache(ttl=nan): ttl is a time in seconds, at least 0.001"),
        ({"ttl": float("inf")}, "Cache(ttl=inf): ttl is a time in seconds, at least 0.001"),
        ({"negative_ttl": -1}, "Cache(negative_ttl=-1): negative_ttl is a time in seconds, or 0"),
        (
            {"negative_ttl": False},
            "Cache(negative_ttl=False): negative_ttl is a time in seconds, or 0",
        ),
        ({"level": "disk"}, 'Cache(level=\'disk\'): level is "memory", "redis" or "both"'),
        ({"level": []}, 'Cache(level=[]): level is "memory", "redis" or "both"'),
        ({"queries": 1}, "Cache(queries=1): queries is True or False"),
        ({"strict": None}, "Cache(strict=None): strict is True or False"),
        (
            {"strict": True, "level": "both"},
            "Cache(level='both'): level is \"redis\" where strict=True",
        ),
    ],
)
def test_each_wrong_value_has_one_clear_error(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Cache(**given)
    assert str(caught.value) == said


def test_right_values_are_taken_and_cannot_be_changed() -> None:
    chosen = Cache(ttl=0.5, level="redis", queries=True, strict=True, negative_ttl=0)
    with pytest.raises(AttributeError):
        chosen.ttl = 2.0  # type: ignore[misc]


@pytest.mark.parametrize("value", ["yes", 60, Cache, {"ttl": 5}])
async def test_a_model_with_a_wrong_value_is_named_with_what_it_may_be(
    open_app: Open, value: object
) -> None:
    class Wrong(models.BaseModel):
        _name = "cache_options_wrong"
        _cache = value

    await open_app()
    with pytest.raises(ConfigurationError) as caught:
        await Wrong.count()
    assert str(caught.value) == f"Wrong._cache is of the type bool | Cache, which {value!r} is not"


async def searches_of_two_gets(model: Any, probe: Probe, **options: Any) -> int:
    pk = (await model.create({})).pk
    probe.seen.clear()
    for _ in range(2):
        assert len(await model.search([("id", "=", pk)], **options)) == 1
    return probe.searches


@pytest.mark.parametrize("model", [Short, InheritedShort])
async def test_the_time_of_the_model_goes_before_that_of_the_settings(
    open_app: Open, probe: Probe, clock: Clock, model: Any
) -> None:
    await open_app(probe, default_ttl=100.0)
    plain, short = await Plain.create({}), await model.create({})
    await Plain.get(plain.id), await model.get(short.id)
    clock.now += 5.0
    probe.seen.clear()
    await Plain.get(plain.id)
    assert probe.searches == 0
    await model.get(short.id)
    assert probe.searches == 1


@pytest.mark.parametrize("model", [Session, RawSession])
async def test_records_that_expire_in_the_database_are_not_cached(
    open_app: Open, probe: Probe, model: Any
) -> None:
    await open_app(probe)
    assert await searches_of_two_gets(model, probe) == 2


async def test_a_class_that_lets_records_expire_takes_its_collection_out_of_the_cache(
    open_on_server: Open, probe: Probe
) -> None:
    class Event(models.BaseModel):
        _name = "cache_options_event"
        _discriminator = "kind"
        title = String()

    await open_on_server(probe)
    assert await searches_of_two_gets(Event, probe) == 1

    class Passing(Event):
        _name = "cache_options_passing"
        _indexes = [Index("until", expire_after=datetime.timedelta(seconds=1))]
        until = DateTime()

    assert await searches_of_two_gets(Event, probe) == 2


# -- levels ---------------------------------------------------------------------------------------


def with_redis() -> dict[str, Any]:
    return {"redis_url": os.environ["EARNORM_TEST_REDIS_URL"], "redis_timeout": 2.0}


async def test_a_model_of_redis_alone_is_in_no_memory(open_on_server: Open, probe: Probe) -> None:
    app = await open_on_server(probe, **with_redis())
    assert await searches_of_two_gets(There, probe) == 1
    shared = cache_of(app).shared
    assert shared is not None
    assert (cache_of(app).statistics().entries, shared.hits) == (0, 1)


async def test_a_model_of_redis_alone_is_not_cached_without_redis(
    open_on_server: Open, probe: Probe
) -> None:
    await open_on_server(probe)
    assert await searches_of_two_gets(There, probe) == 2


async def test_a_model_of_the_memory_alone_is_not_in_redis_but_others_hear_of_its_writes(
    open_on_server: Open, probe: Probe
) -> None:
    one, two = [await open_on_server(**with_redis()) for _ in range(2)]
    with one.activate():
        note = await Here.create({"title": "old"})
    for app in (one, two):
        with app.activate():
            for _ in range(1_000):  # until it trusts its memory
                await Here.get(note.pk)
                if cache_of(app).statistics().hits:
                    break
                await asyncio.sleep(0.01)
            assert cache_of(app).statistics().hits == 1
        shared = cache_of(app).shared
        assert shared is not None
        assert (shared.hits, shared.loads) == (0, 0)
    with one.activate():
        await Here.search([("id", "=", note.pk)]).update({"title": "new"})
        assert (await Here.get(note.pk)).title == "new"
    with two.activate():
        seen = list[str | None]()
        while "new" not in seen and len(seen) < 1_000:
            seen.append((await Here.get(note.pk)).title)
            await asyncio.sleep(0.005)
        assert set(seen) <= {"old", "new"} and seen[-1] == "new"


# -- what another member of the replica set says may be old ---------------------------------------


async def test_a_query_of_another_member_neither_hits_nor_fills(
    open_on_server: Open, probe: Probe
) -> None:
    app = await open_on_server(probe)
    note = await Plain.create({})
    probe.seen.clear()
    for _ in range(2):
        await Plain.search([("id", "=", note.id)], read_preference="nearest")
    assert (probe.searches, cache_of(app).statistics().entries) == (2, 0)
    await Plain.get(note.id)
    for _ in range(2):
        await Plain.search([("id", "=", note.id)]).read_preference("secondaryPreferred")
    assert probe.searches == 5


async def test_a_model_that_reads_from_another_member_is_not_cached(
    open_on_server: Open, probe: Probe
) -> None:
    app = await open_on_server(probe)
    assert app.reads_from(Nearest) == "nearest"
    assert await searches_of_two_gets(Nearest, probe) == 2
    assert await searches_of_two_gets(Primary, probe) == 1


@pytest.mark.parametrize("where", ["App", "client", "URI", "URI in capitals"])
async def test_an_app_that_reads_from_other_members_caches_what_comes_from_the_primary(
    mongo_uri: str, probe: Probe, where: str
) -> None:
    uri, options = mongo_uri, dict[str, Any]()
    if where == "App":
        options = {"read_preference": "secondaryPreferred"}
    elif where == "client":
        options = {"client_options": {"readPreference": "secondaryPreferred"}}
    else:
        name = "readPreference" if where == "URI" else "READPREFERENCE"
        joint = "&" if "?" in uri else ("?" if uri.count("/") > 2 else "/?")
        uri = f"{uri}{joint}{name}=secondaryPreferred"
    app = App(uri, database=f"cache_options_{os.getpid()}", plugins=["cache", probe], **options)
    async with app:
        assert app.reads_from(Plain) == "secondaryPreferred"
        assert app.reads_from(Primary) == "primary"
        assert await searches_of_two_gets(Plain, probe) == 2
        assert await searches_of_two_gets(Primary, probe) == 1
        raw = app.dangerous_raw("the end of the test")
        await raw.client.drop_database(raw.name)


async def test_a_model_of_the_settings_that_there_is_not_stops_the_start() -> None:
    settings = {"models": ["cache_options_plain", "cache_options_shrot"]}
    app = App("mongomock://", database="x", plugins=["cache"], cache=settings)
    with pytest.raises(
        ConfigurationError, match=r"setting models .*did you mean 'cache_options_short'"
    ):
        await app.start()
