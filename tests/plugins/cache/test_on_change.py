"""Whoever asks hears of changes in all processes, and security of edits of stored roles."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pymongo import MongoClient

import earnorm
from earnorm import AccessDenied, App, ConfigurationError, Int, models
from earnorm_cache import CachePlugin, CacheSettings
from earnorm_security import Access, SecurityPlugin, SecuritySettings
from earnorm_security.stored import RoleAssignment, knowing

Start = Callable[..., Awaitable[App]]


class Pump(models.BaseModel):
    _name = "cache_heard_pump"
    _cache = False

    level = Int(default=0)


class Note(models.BaseModel):
    _name = "cache_heard_note"
    _access = [Access("reader", read=True)]


@pytest.fixture
async def start(mongo_uri: str) -> AsyncIterator[Start]:
    database = f"cache_{uuid.uuid4().hex[:12]}"
    async with AsyncExitStack() as stack:

        async def start(*plugins: object, has_redis: bool = True) -> App:
            # The change stream would tell the own changes again.
            settings: dict[str, Any] = {"redis_timeout": 5.0, "outside_writes": False}
            if has_redis:
                settings["redis_url"] = os.environ["EARNORM_TEST_REDIS_URL"]
            cache = CachePlugin(CacheSettings.model_validate(settings))
            app = App(mongo_uri, database=database, plugins=[cache, *plugins])
            await app.start()
            stack.push_async_callback(app.stop)
            return app

        yield start
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        client.drop_database(database)


def hear(app: App) -> list[Any]:
    """Return a list to which each change of a pump is added."""
    heard: list[Any] = []
    app.services["cache"].on_change(Pump, heard.append)  # type: ignore[attr-defined] # it is the service
    return heard


async def eventually(is_so: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if is_so():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError("it did not happen")


async def test_a_change_is_heard_in_the_same_process_once_it_is_over(start: Start) -> None:
    app = await start(has_redis=False)
    heard = hear(app)
    with app.activate():
        one, two = await Pump.create([{}, {}])
        assert heard == [(one.pk, two.pk)]
        await one.write({"level": 1})
        assert heard[1:] == [(one.pk,)]
        async with earnorm.transaction():
            await two.write({"level": 1})
            assert len(heard) == 2
        assert heard[2:] == [(two.pk,)]
        await Pump.search([("level", "=", 1)]).delete()
        assert heard[3] is None or set(heard[3]) == {one.pk, two.pk}


async def test_a_change_is_heard_in_other_processes(start: Start) -> None:
    one, two = await start(), await start()
    hear(one)
    heard = hear(two)
    await eventually(lambda: heard == [None])  # it may have missed something before
    with one.activate():
        pump = await Pump.create({})
        await eventually(lambda: heard[1:] == [(pump.pk,)])
        await pump.write({"level": 1})
        await eventually(lambda: heard[2:] == [(pump.pk,)])


async def test_one_that_fails_is_logged_and_the_others_hear(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    app = await start(has_redis=False)

    def fail(ids: object) -> None:
        raise ZeroDivisionError

    cache: Any = app.services["cache"]
    end = cache.on_change(Pump, fail)
    heard = hear(app)
    with app.activate():
        await Pump.create({})
        assert len(heard) == 1 and "ZeroDivisionError" in caplog.text
        end()
        end()
        caplog.clear()
        await Pump.create({})
        assert len(heard) == 2 and not caplog.text


async def test_who_asks_too_late_is_told_so(start: Start) -> None:
    app = await start(has_redis=False)
    with app.activate():
        await Pump.create({})
    with pytest.raises(ConfigurationError, match="in use already"):
        hear(app)


async def test_what_is_no_model_or_no_function_is_told_so(start: Start) -> None:
    cache: Any = (await start()).services["cache"]
    with pytest.raises(TypeError, match="takes the class of a model, not 'cache_heard_pump'"):
        cache.on_change("cache_heard_pump", print)
    with pytest.raises(TypeError, match="takes a function to call, not 3"):
        cache.on_change(Pump, 3)


async def test_an_edit_of_stored_roles_counts_at_once_in_other_processes(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knowing, "FRESH", 600.0)  # nobody asks the database by the clock
    monkeypatch.setattr(knowing, "TRUSTED", 600.0)
    stored = {"stored_roles": True}
    one, two = [
        await start(SecurityPlugin(SecuritySettings.model_validate(stored))) for _ in range(2)
    ]

    async def may_read() -> bool:
        with two.activate(), earnorm.act_as("ann"):
            try:
                await Note.count()
            except AccessDenied:
                return False
        return True

    async def edited(is_so: bool) -> None:
        for _ in range(1_000):
            if await may_read() is is_so:
                return
            await asyncio.sleep(0.01)
        raise TimeoutError("it did not hear")

    for _ in range(3):
        await edited(False)
        with one.activate(), earnorm.system(reason="test"):
            await RoleAssignment.create({"principal": "ann", "role": "reader"})
        await edited(True)
        with one.activate(), earnorm.system(reason="test"):
            await RoleAssignment.search([("principal", "=", "ann")]).delete()
