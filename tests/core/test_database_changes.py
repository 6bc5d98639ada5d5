"""``DatabaseChanges``: what anybody writes to an App's database, for plugins."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from earnorm import App, BaseModel, Int, NotSupported, String, ValidationError
from earnorm.plugin import DatabaseChange, DatabaseChanges
from earnorm.testing import count_queries


class Sack(BaseModel):
    _name = "core.sack"

    code = String()
    weight = Int(db_name="w")


async def take(changes: DatabaseChanges, number: int) -> list[DatabaseChange]:
    taken: list[DatabaseChange] = []
    async with asyncio.timeout(20):
        while len(taken) < number:
            change = await changes.next()
            if change is not None:
                taken.append(change)
    return taken


def raw(app: App) -> Any:
    return app.dangerous_raw("a test writes from outside")


async def test_it_tells_ids_and_keys_of_every_change(server_app: App) -> None:
    collection = raw(server_app)["core_sack"]
    async with DatabaseChanges(server_app) as changes:
        sack = await Sack.create({"code": "a", "weight": 1})
        await sack.write({"weight": 2})
        await collection.update_one({"_id": sack.pk}, {"$set": {"x.y": 1}, "$unset": {"code": ""}})
        await collection.replace_one({"_id": sack.pk}, {"code": "b"})
        await sack.unlink()
        told = await take(changes, 5)
    assert [change.kind for change in told] == ["create", "write", "write", "write", "unlink"]
    assert {change.collections for change in told} == {("core_sack",)}
    assert {change.pk for change in told} == {sack.pk}
    assert [change.keys for change in told] == [None, {"w"}, {"x", "code"}, None, None]
    assert str(sack.pk) not in repr(told)


async def test_it_goes_on_after_a_token(server_app: App) -> None:
    async with DatabaseChanges(server_app, max_await=0.05) as changes:
        begin = changes.token
        first = await Sack.create({"code": "a"})
        await take(changes, 1)
        assert await changes.next() is None
        after = changes.token
    second = await Sack.create({"code": "b"})
    async with DatabaseChanges(server_app, token=after) as changes:
        assert [change.pk for change in await take(changes, 1)] == [second.pk]
    async with DatabaseChanges(server_app, token=begin) as changes:
        assert [change.pk for change in await take(changes, 2)] == [first.pk, second.pk]
    with pytest.raises(ValidationError, match="token"):
        async with DatabaseChanges(server_app, token="none"):
            raise AssertionError("it was opened")


async def test_a_cancelled_wait_misses_nothing(server_app: App) -> None:
    async with DatabaseChanges(server_app, max_await=0.5) as changes:
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(changes.next(), 0.02)
        sack = await Sack.create({"code": "a"})
        assert [change.pk for change in await take(changes, 1)] == [sack.pk]


async def test_collections_and_the_database_may_go(server_app: App) -> None:
    database = raw(server_app)
    await Sack.create({"code": "a"})
    async with DatabaseChanges(server_app) as changes:
        await database["core_sack"].rename("core_sack_of_old")
        await database.drop_collection("core_sack_of_old")
        renamed, dropped = await take(changes, 2)
        assert (renamed.kind, renamed.collections) == ("drop", ("core_sack", "core_sack_of_old"))
        assert (dropped.kind, dropped.collections) == ("drop", ("core_sack_of_old",))
        await Sack.create({"code": "a"})
        await database.client.drop_database(database.name)
        *_, gone = await take(changes, 3)
        assert (gone.kind, gone.collections) == ("drop", ())
        with pytest.raises(StopAsyncIteration):
            while True:
                await changes.next()


async def test_nothing_counts_it(server_app: App) -> None:
    with count_queries() as queries:
        async with DatabaseChanges(server_app, max_await=0.05) as changes:
            await changes.next()
        waiting = server_app.traffic
    assert len(queries) == 0
    assert waiting == server_app.traffic


async def test_a_backend_without_change_streams_says_so(memory_app: App) -> None:
    with pytest.raises(NotSupported, match="change streams"):
        async with DatabaseChanges(memory_app):
            raise AssertionError("it was opened")
    with pytest.raises(RuntimeError, match="not open"):
        await DatabaseChanges(memory_app).next()
