"""Two Apps on two databases and many tasks, each with a principal and a transaction: nothing crosses."""

from __future__ import annotations

import asyncio
import uuid

import pytest

import earnorm
from earnorm import App, Principal

from .conftest import DRIVERS, drop
from .shop import Person

TASKS = 50  # of each App


@pytest.mark.parametrize("drivers", [DRIVERS, ("pymongo", "pymongo"), ("motor", "motor")])
async def test_tasks_of_two_apps_that_meet_at_every_step_keep_apart(
    drivers: tuple[str, str], mongo_uri: str
) -> None:
    databases = [f"core_{uuid.uuid4().hex[:12]}" for _ in drivers]
    apps = [
        App(mongo_uri, database=name, driver=driver, plugins=[], max_pool_size=TASKS * 2)
        for name, driver in zip(databases, drivers, strict=True)
    ]
    for app in apps:
        await app.start()
    try:
        for app in apps:
            with app.activate():
                await app.prepare_models()
                await Person.count()
        meet = asyncio.Barrier(TASKS * len(apps))

        async def work(app: App, number: int) -> None:
            who = Principal(f"{app.name}-{number}", roles=[f"r{number}"])
            fails = number % 5 == 0

            def check() -> None:
                env = earnorm.current_env()
                assert env.app is app and env.principal is who
                assert env.context["number"] == number

            with app.activate(), earnorm.act_as(who, number=number):
                await meet.wait()
                try:
                    async with earnorm.transaction() as running:
                        await meet.wait()
                        check()
                        mine = await Person.create({"name": f"{app.name} {number}", "age": number})
                        await meet.wait()
                        check()
                        assert earnorm.current_env().transaction is running
                        # Of everybody's records it sees its own alone.
                        assert (await Person.search()).ids == [mine.id]
                        await meet.wait()
                        await mine.write({"age": number + 1000})
                        await meet.wait()
                        check()
                        assert (await Person.get(mine.id)).age == number + 1000
                        if fails:
                            raise ZeroDivisionError
                except ZeroDivisionError:
                    assert fails and not mine.is_stored
                await meet.wait()
                check()
                assert earnorm.current_env().transaction is None
                kept = await Person.search([("name", "=", f"{app.name} {number}")])
                assert kept.mapped("age") == ([] if fails else [number + 1000])

        async with asyncio.TaskGroup() as group:
            for app in apps:
                for number in range(TASKS):
                    group.create_task(work(app, number))

        for app in apps:
            with app.activate():
                names = set((await Person.search()).mapped("name"))
                assert names == {f"{app.name} {n}" for n in range(TASKS) if n % 5}
    finally:
        for app in apps:
            await drop(app)
            await app.stop()
