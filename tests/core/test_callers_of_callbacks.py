"""A callback of a transaction acts as who acted where it was registered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

import earnorm
from earnorm import App, act_as, current_env, system

from .conftest import DRIVERS, default_app
from .shop import Person

WAYS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "nobody else": nullcontext,
    "bob": lambda: act_as("bob"),
    "system": lambda: system(reason="cleaning up"),
}


@pytest.fixture(params=DRIVERS)
async def app(request: pytest.FixtureRequest, database: str) -> AsyncIterator[App]:
    async with default_app(request.param, database) as app:
        yield app


def note(actors: list[object]) -> None:
    env = current_env()
    assert env.transaction is None
    actors.append((str(env.actor), env.reason))


@pytest.mark.parametrize("way", WAYS)
async def test_a_callback_acts_alike_with_and_without_a_transaction(app: App, way: str) -> None:
    actors: list[object] = []

    async def change() -> None:
        with WAYS[way]():
            await Person.create({"name": "Ann"})
            await earnorm.after_commit(lambda: note(actors))

    with act_as("ann"):
        await change()
        async with earnorm.transaction():
            await change()
    assert actors[0] == actors[1]


async def test_a_callback_of_a_rollback_acts_as_who_registered_it(app: App) -> None:
    actors: list[object] = []
    with system(reason="an import"), pytest.raises(KeyError):
        async with earnorm.transaction() as running:
            with act_as("bob"):
                running.after_rollback(lambda: note(actors))
                raise KeyError
    assert actors == [("bob", "")]


async def test_a_callback_of_a_transaction_in_a_session_reads_in_the_session(app: App) -> None:
    async with earnorm.session(snapshot=False):
        sessions: list[object] = [current_env()._session]
        async with earnorm.transaction():
            await Person.create({"name": "Ann"})
            await earnorm.after_commit(lambda: sessions.append(current_env()._session))
    assert len(sessions) == 2 and sessions[0] is sessions[1]


async def test_a_callback_that_another_app_registered_acts_in_that_app(
    app: App, database: str
) -> None:
    apps: list[App] = []
    async with earnorm.App("mongomock://", database=database, plugins=[]) as other:
        with app.activate():
            async with earnorm.transaction() as running:
                with other.activate():
                    running.after_commit(lambda: apps.append(earnorm.current_app()))
                await Person.create({"name": "Ann"})
    assert apps == [other]
