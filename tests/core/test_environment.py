"""Who acts, and in which App: tasks, Apps and event loops that never mix."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

import earnorm
from earnorm import App, ConfigurationError, Principal, current_app, current_env
from earnorm.kernel import environment
from earnorm.kernel.environment import Env, find_env

from .conftest import drop
from .shop import Person


async def test_act_as_sets_who_acts_and_the_context_inside_the_block(memory_app: App) -> None:
    ann = Principal("ann", roles=["clerk"])
    with earnorm.act_as(ann, tenant="t1"), earnorm.act_as("bob", shift=2):
        env = current_env()
        assert env.principal == Principal("bob") and env.context == {"shift": 2}  # not Ann's tenant
        with earnorm.act_as("eve", keep_context=True) as env:
            assert env.context == {"shift": 2}
    assert current_env().principal is None and current_env().context == {}


async def test_system_needs_a_reason_keeps_who_acts_and_ends_with_act_as(memory_app: App) -> None:
    with pytest.raises(ConfigurationError, match="needs a reason"), earnorm.system(reason=" "):
        pytest.fail("the block was entered")
    with earnorm.act_as("ann"), earnorm.system(reason="import"):
        env = current_env()
        assert env.system and env.reason == "import" and str(env.principal) == "ann"
        with earnorm.act_as("bob"):
            assert not current_env().system and current_env().reason == ""
    assert not current_env().system


async def test_each_block_of_system_is_in_the_log_with_its_reason_and_who_acts(
    memory_app: App, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="earnorm"):
        with earnorm.system(reason="import"):
            await Person.count()
        with earnorm.act_as("ann"), earnorm.system(reason="repair"):
            pass
    name = memory_app.name
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.INFO, f"App {name}: access rules are off, nobody acts: import"),
        (logging.INFO, f"App {name}: access rules are off, ann acts: repair"),
    ]
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="earnorm"), earnorm.system(reason="quiet"):
        pass
    assert not caplog.records


async def test_tasks_do_not_see_each_other(memory_app: App) -> None:
    async def act(number: int) -> str:
        with earnorm.act_as(f"user{number}"):
            for _ in range(5):
                await asyncio.sleep(0)
                assert str(current_env().principal) == f"user{number}"
                await Person.create({"name": f"user{number}"})
            return str(current_env().principal)

    assert await asyncio.gather(*map(act, range(10))) == [f"user{n}" for n in range(10)]
    assert current_env().principal is None


@pytest.fixture
async def two(mongo_uri: str, database: str) -> AsyncIterator[tuple[App, App]]:
    apps = [App(mongo_uri, database=f"{database}_{n}", plugins=[]) for n in range(2)]
    for app in apps:
        await app.start()
    yield apps[0], apps[1]
    for app in apps:
        await drop(app)
        await app.stop()


async def test_two_apps_in_interleaved_tasks_keep_their_databases(two: tuple[App, App]) -> None:
    async def work(app: App, name: str) -> None:
        with app.activate():
            for n in range(10):
                assert current_app() is app
                await Person.create({"name": f"{name}{n}"})
                await asyncio.sleep(0)
            assert all(p.name.startswith(name) for p in await Person.search())
            assert await Person.count() == 10

    await asyncio.gather(work(two[0], "a"), work(two[1], "b"))


async def test_records_are_refused_under_another_app(two: tuple[App, App]) -> None:
    with two[0].activate():
        ann = await Person.create({"name": "Ann"})
        ann.age = 3
    with two[1].activate():
        for attempt in (ann.save, ann.unlink, ann.refresh, lambda: ann.write({"age": 4})):
            with pytest.raises(ConfigurationError, match=r"belongs to App.*app.activate\(\)"):
                await attempt()
    with two[0].activate():
        await ann.save()


async def test_an_app_as_a_context_manager_is_current_inside_and_stopped_after(
    database: str,
) -> None:
    async with App("mongomock://", database=database, plugins=[]) as app:
        assert current_app() is app and app.is_started
        async with App("mongomock://", database="inner", plugins=[]) as inner:
            assert current_app() is inner
        assert current_app() is app
    assert not app.is_started and earnorm.find_env() is None
    with app.activate(), pytest.raises(ConfigurationError, match="is not started"):
        await Person.search()


def test_an_app_refuses_another_event_loop(mongo_uri: str, database: str) -> None:
    async def use(app: App) -> int:
        with app.activate():
            return await Person.count()

    with asyncio.Runner() as runner:
        app = App(mongo_uri, database=database, plugins=[])
        runner.run(app.start())
        try:
            with pytest.raises(ConfigurationError, match="another event loop"):
                asyncio.run(use(app))
            assert runner.run(use(app)) == 0
        finally:
            runner.run(drop(app))
            runner.run(app.stop())


async def test_an_app_can_be_started_again_after_it_was_stopped(database: str) -> None:
    app = App("mongomock://", database=database, plugins=[])
    for _ in range(2):
        async with app:
            assert await Person.count() == 0
    await app.stop()


async def test_close_is_harmless_twice() -> None:
    await earnorm.close()
    await earnorm.close()


def test_apps_that_start_and_stop_in_other_threads_do_not_disturb_who_asks_for_the_current_one() -> (
    None
):
    envs = [Env(cast("Any", None)) for _ in range(40)]
    over = threading.Event()
    problems: list[BaseException] = []

    def start_and_stop() -> None:
        loop = asyncio.new_event_loop()
        try:
            while not over.is_set():
                for env in envs:
                    environment.started(env, loop)
                for env in envs:
                    environment.stopped(env)
        except BaseException as error:
            problems.append(error)
        finally:
            loop.close()

    async def ask() -> None:
        for _ in range(3_000):
            find_env()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=start_and_stop) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        asyncio.run(ask())
    finally:
        over.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
        for env in envs:
            environment.stopped(env)
    assert problems == []
