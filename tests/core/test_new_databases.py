"""Transactions that write first to a collection which a new database does not have yet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

import earnorm
from earnorm import App, BaseModel, Command, Int, Many2one, One2many, String, depends
from earnorm.kernel import registry

from .conftest import Commands, Watching, default_app


class Parcel(BaseModel):
    """It has no index, so that nothing else makes its collection."""

    _name = "new.parcel"
    name = String()


class Shelf(BaseModel):
    _name = "new.shelf"
    box_ids = One2many("new.box", "shelf_id")
    boxes = Int(compute="_count", store=True, required=True)

    @depends("box_ids")
    def _count(self) -> int:
        return len(self.box_ids)


class Box(BaseModel):
    _name = "new.box"
    shelf_id = Many2one(Shelf, required=True)


async def block() -> None:
    async with earnorm.transaction():
        await Parcel.create({"name": "first"})
        await Parcel.create({"name": "second"})


async def records() -> None:
    async with earnorm.transaction():
        await Parcel(name="one").save()


@earnorm.transactional(retries=0)
async def function() -> None:
    await Parcel.create({"name": "only"})


@pytest.mark.parametrize("work", [block, records, function])
async def test_fifty_tasks_at_once_in_a_new_database_do_not_meet(
    server_app: App, work: Callable[[], Awaitable[None]]
) -> None:
    await asyncio.gather(*(work() for _ in range(50)))
    assert await Parcel.count() == (100 if work is block else 50)
    assert server_app.contention.retries == 0


async def nested() -> None:
    await Shelf.create({"box_ids": [Command.create({})]})


async def one_by_one() -> None:
    shelf = await Shelf.create({})
    await Box.create({"shelf_id": shelf})


async def collected() -> None:
    shelf = await Shelf.create({})
    async with Box.bulk() as bulk:
        bulk.create({"shelf_id": shelf})


async def lines_in_a_block() -> None:
    async with earnorm.transaction():
        shelf = await Shelf.create({})
        await Box.create({"shelf_id": shelf})


@pytest.mark.parametrize("work", [nested, one_by_one, collected, lines_in_a_block])
async def test_nor_do_those_that_write_linked_models(
    server_app: App, work: Callable[[], Awaitable[None]]
) -> None:
    await asyncio.gather(*(work() for _ in range(50)))
    assert await Shelf.count([("boxes", "=", 1)]) == await Box.count() == 50
    assert server_app.contention.retries == 0


async def test_the_collections_are_looked_for_once(commands: Commands) -> None:
    with_links = {"box_ids": [Command.create({})]}
    await Shelf.create(with_links)
    made = {command["create"] for command in commands.named("create")}
    # What other tests' models declare of their collections is made before a transaction anyway.
    own = [m for m in registry.definitions().values() if m.__module__ == __name__]
    assert made & {model._collection for model in own} == {"new_shelf", "new_box"}
    commands.clear()
    await Shelf.create(with_links)
    async with earnorm.transaction():
        await Shelf.create(with_links)
    assert commands.named("create") == commands.named("listCollections") == []


async def test_create_indexes_false_makes_no_collection(database: str) -> None:
    listener = Commands()
    async with default_app("pymongo", database, [Watching(listener)], create_indexes=False):
        async with earnorm.transaction():
            await Parcel.create({"name": "one"})
        assert listener.named("create") == listener.named("listCollections") == []
