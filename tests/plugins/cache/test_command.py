"""The command, the figures of several processes together, a look into the levels, and warming up."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient

from earnorm import App, ConfigurationError, Int, ServerUnavailable, String, models
from earnorm_cache import CachePlugin, CacheSettings, cached, publishing
from earnorm_cache.command import _ratios, cache_command
from earnorm_cache.reporting import MOST, OTHERS, _busiest

SECRET = "do not show this"
Start = Callable[..., Awaitable[App]]


class Lamp(models.BaseModel):
    _name = "cache_cmd.lamp"

    title = String(default=SECRET)
    watts = Int(default=1)


class Bulb(models.BaseModel):
    _name = "cache_cmd.bulb"

    _id = Int()


@cached(Lamp)
async def lamps() -> int:
    return await Lamp.count()


@pytest.fixture
async def start(mongo_uri: str) -> AsyncIterator[Start]:
    database = f"cache_{uuid.uuid4().hex[:12]}"
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> App:
            settings.setdefault("redis_url", os.environ["EARNORM_TEST_REDIS_URL"])
            settings.setdefault("redis_timeout", 5.0)
            settings.setdefault("outside_writes", False)  # by which each write comes back later
            cache = CachePlugin(CacheSettings.model_validate(settings))
            app = App(mongo_uri, database=database, plugins=[cache])
            await app.start()
            stack.push_async_callback(app.stop)
            return app

        yield start
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        client.drop_database(database)


def service(app: App) -> Any:
    return app.services["cache"]


async def eventually(is_so: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(1_000):
        if await is_so():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError("it did not happen")


async def test_figures_by_model_and_level_are_metrics(start: Start) -> None:
    one, two = await start(), await start()
    with one.activate():
        lamp = await Lamp.create({})
        await Lamp.get(lamp.pk)
        await lamps()
    with two.activate():
        for _ in range(50):
            await Lamp.get(lamp.pk)
            await asyncio.sleep(0.01)
    text = await two.metrics()
    model, app = 'model="cache_cmd.lamp"', f'app="{two.name}"'
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines())
    hits = {
        level: int(lines[f'earnorm_cache_records_hits{{{app},level="{level}",{model}}}'])
        for level in ("memory", "redis", "database")
    }
    assert hits["memory"] > 0 and hits["redis"] > 0 and hits["database"] == 0
    assert sum(hits.values()) == 50
    assert int(lines[f"earnorm_cache_records_entries{{{app},{model}}}"]) == 1
    assert f"earnorm_cache_joined{{{app}}}" in lines
    name = f'function="{lamps.__module__}.lamps"'
    text = await one.metrics()
    assert f'earnorm_cache_functions_calls{{app="{one.name}",{name}}} 1' in text.splitlines()


def test_hit_ratios_are_said_by_model_and_level() -> None:
    by_level = {level: {"hits": n} for level, n in (("memory", 90), ("redis", 9), ("database", 1))}
    nobody = {level: {"hits": 0} for level in by_level}
    figures = {
        "records": {"by_model": {"lamp": {"by_level": by_level}, "shade": {"by_level": nobody}}},
        "queries": {"by_model": {"lamp": {"hits": 1, "misses": 3}}},
        "functions": {"by_function": {"sums": {"hits": 2, "calls": 2}}},
    }
    assert _ratios(figures) == [
        "hit ratio lamp  memory 90.0%  redis 9.0%  database 1.0%",
        "hit ratio queries lamp  25.0%",
        "hit ratio functions sums  50.0%",
    ]


def test_what_is_asked_for_least_has_one_line_together() -> None:
    from collections import Counter

    counts = Counter({f"m{n}": n for n in range(MOST + 10)})
    names = _busiest(counts, counts)
    assert len(names) == MOST + 1
    assert sorted(names[OTHERS]) == sorted(f"m{n}" for n in range(10))
    assert sorted(each for of in names.values() for each in of) == sorted(counts)


async def test_stats_are_those_of_all_processes(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(publishing, "EVERY", 0.1)
    one, two = await start(), await start()
    with one.activate():
        lamp = await Lamp.create({})
        await Lamp.get(lamp.pk)
    with two.activate():
        await Lamp.get(lamp.pk)
    looks = await start()

    async def is_told() -> bool:
        number, figures = await service(looks).everywhere()
        levels = figures["records"]["by_model"].get("cache_cmd.lamp", {}).get("by_level")
        return number == 2 and levels == {
            "memory": {"hits": 0},
            "redis": {"hits": 1},
            "database": {"hits": 1},
        }

    await eventually(is_told)
    await cache_command(looks, "stats")
    said = capsys.readouterr().out
    assert "other processes  2" in said and "records cache_cmd.lamp redis hits  1" in said
    await two.stop()
    await one.stop()

    async def is_alone() -> bool:
        number, _ = await service(looks).everywhere()
        return number == 0

    await eventually(is_alone)


async def test_inspect_says_what_each_level_has_and_never_what_is_in_it(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    app = await start()
    with app.activate():
        lamp = await Lamp.create({})
        assert await service(app).inspect(Lamp, lamp.pk) == []

        async def is_kept() -> bool:
            await Lamp.get(lamp.pk)
            is_trusted = service(app).levels.listener.is_trusted("cache_cmd_lamp")
            return is_trusted and len(await service(app).inspect(Lamp, lamp.pk)) == 2

        await eventually(is_kept)
        memory, redis = await service(app).inspect(Lamp, str(lamp.pk))
        assert (memory["level"], memory["state"], memory["read_as"]) == (
            *("memory", "kept"),
            "cache_cmd.lamp",
        )
        assert (redis["level"], redis["state"], redis["bytes"]) == (
            "redis",
            "kept",
            memory["bytes"],
        )
        assert 0 < memory["seconds_left"] <= 60 and 0 < redis["seconds_left"] <= 60
        await service(app).clear_everywhere()
        (row,) = await service(app).inspect(Lamp, lamp.pk)
        assert (row["level"], row["state"]) == ("redis", "void")
        await lamp.write({"watts": 2})
        assert await service(app).inspect(Lamp, lamp.pk) == []
        await eventually(is_kept)
        (row,) = await service(app).inspect(Lamp)
        assert row["collection"] == "cache_cmd_lamp" and row["entries"] == 1
        assert row["in_redis"] and row["messages"] == 3
        await Bulb.create({"_id": 7})
        await Bulb.get(7)
        assert await service(app).inspect(Bulb, "7")
        assert await service(app).inspect(Bulb, "seven") == []
    await cache_command(app, "inspect", "cache_cmd.lamp", str(lamp.pk))
    await cache_command(app, "inspect", "cache_cmd.lamp")
    await cache_command(app, "inspect", "cache_cmd.lamp", str(ObjectId()))
    said = capsys.readouterr().out
    assert "level=redis" in said and "collection=cache_cmd_lamp" in said
    assert "Nothing is kept" in said and SECRET not in said
    with pytest.raises(ConfigurationError, match="--model"):
        await cache_command(app, "inspect")


async def test_inspect_sees_a_lease_and_a_write_under_way(start: Start) -> None:
    app = await start()
    shared = service(app).levels.shared
    with app.activate():
        lamp = await Lamp.create({})
        await Lamp.get(lamp.pk)
        await service(app).clear_everywhere()
        loading: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        from earnorm_cache.shared import Place

        place = Place("cache_cmd_lamp", b"another_", 60.0)
        task = asyncio.ensure_future(
            shared.fetch(place, [lamp.pk], lambda ids: loading, lambda *_: None)
        )
        await asyncio.sleep(0.05)
        rows = await service(app).inspect(Lamp, lamp.pk)
        assert [row["state"] for row in rows if "lease_seconds_left" in row] == ["being loaded"]
        loading.set_result([])
        await task


async def test_watch_tells_what_any_process_writes(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = await start(), await start()
    task = asyncio.ensure_future(cache_command(two, "watch"))
    seen = ""

    async def is_seen() -> bool:
        nonlocal seen
        with one.activate():
            await Lamp.search([("id", "=", ObjectId())]).update({"watts": 3})
            await Lamp.create({})
        seen += capsys.readouterr().out
        if task.done():
            task.result()
        return "watts" in seen and "came or went" in seen

    try:
        await eventually(is_seen)
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert "cache_cmd_lamp" in seen and SECRET not in seen
    alone = await start(redis_url=None)
    with pytest.raises(ConfigurationError, match="redis_url"):
        await cache_command(alone, "watch")


async def test_a_redis_that_is_away_is_said_without_its_address(start: Start) -> None:
    app = await start(redis_url="redis://:hidden@127.0.0.1:1/0", redis_timeout=0.1)
    with pytest.raises(ServerUnavailable, match="does not answer") as refused:
        await service(app).inspect(Lamp, ObjectId())
    assert "hidden" not in str(refused.value)
    assert (await service(app).everywhere())[0] == 0


async def test_warming_reads_what_is_asked_for_into_every_level(start: Start) -> None:
    one, two = await start(), await start()
    with one.activate():
        made = await Lamp.create([{"watts": n % 2} for n in range(1_200)])
        steps: list[int] = []
        odd = [("watts", "=", 1)]
        assert await service(one).warm(Lamp, odd, progress=steps.append) == 600
        assert steps == [500, 600]
        assert await service(one).warm(Lamp, limit=700) == 700
    before = two.services["cache"].shared.hits  # type: ignore[attr-defined] # it is the service
    with two.activate():
        await Lamp.get(made[1].pk)
        await Lamp.get(made[1199].pk)
    assert two.services["cache"].shared.hits == before + 2  # type: ignore[attr-defined] # as above
