"""lock(), and optimistic locking with ``_versioned``."""

from __future__ import annotations

import asyncio

import pytest
from bson import ObjectId

import earnorm
from earnorm import (
    App,
    BaseModel,
    ConcurrencyError,
    DuplicateKey,
    Int,
    NotFound,
    NotSupported,
    String,
    TransactionError,
)

from .conftest import Commands
from .shop import Person, Stock


class Seat(BaseModel):
    _name = "core.seat"
    _versioned = True

    code = String(unique=True)
    number = Int(default=0)


# -- lock() ---------------------------------------------------------------------------------------


async def test_a_lock_needs_a_transaction(app: App) -> None:
    with pytest.raises(TransactionError, match=r"none is running.*transaction"):
        await Person.search().lock()


async def test_a_lock_goes_with_an_awaited_search_only(server_app: App) -> None:
    async with earnorm.transaction():
        with pytest.raises(NotSupported, match="awaited"):
            await Person.search().lock().count()
        with pytest.raises(NotSupported, match="awaited"):
            async for _ in Person.search().lock():
                pytest.fail("a record came")
        with pytest.raises(NotSupported, match="awaited"):
            await Person.search().lock().update({"age": 1})


async def test_two_that_lock_the_same_record_conflict_at_once(server_app: App) -> None:
    ann = await Person.create({"name": "Ann", "age": 1})
    bob = await Person.create({"name": "Bob"})
    async with earnorm.transaction():
        locked = await Person.search([("id", "=", ann.id)]).lock()
        assert locked.mapped("name") == ["Ann"]
        with server_app.activate():
            with pytest.raises(TransactionError) as caught:
                async with earnorm.transaction():
                    await Person.search([("id", "=", ann.id)]).lock()
            assert caught.value.transient
            # Another record is free, and so is reading.
            async with earnorm.transaction():
                assert len(await Person.search([("id", "=", bob.id)]).lock()) == 1
            assert (await Person.get(ann.id)).age == 1
    async with earnorm.transaction():
        assert len(await Person.search().lock()) == 2


async def test_a_lock_fails_where_the_record_was_written_since_the_transaction_began(
    server_app: App,
) -> None:
    ann = await Person.create({"name": "Ann", "age": 1})
    with pytest.raises(TransactionError) as caught:
        async with earnorm.transaction():
            await Person.count()  # the snapshot is taken
            with server_app.activate():
                await ann.write({"age": 2})
            await Person.search().lock()
    assert caught.value.transient


async def test_with_retries_locks_put_transactions_in_a_row(server_app: App) -> None:
    ann = await Person.create({"name": "Ann", "age": 0})

    @earnorm.transactional(retries=100)
    async def add() -> None:
        record = (await Person.search([("id", "=", ann.id)]).lock()).ensure_one()
        await asyncio.sleep(0)
        assert record.age is not None
        await record.write({"age": record.age + 1})

    await asyncio.gather(*(add() for _ in range(8)))
    assert (await Person.get(ann.id)).age == 8


async def test_a_lock_is_seen_by_nobody_and_changes_no_revision(server_app: App) -> None:
    nail = await Stock.create({"number": 1})
    async with earnorm.transaction():
        mine = (await Stock.search().lock()).ensure_one()
        await mine.write({"number": 2})
    stored = await server_app.dangerous_raw("a test").core_stock.find_one({})
    assert stored["_lock"] == 1 and stored["_revision"] == 1
    found = await Stock.get(nail.id)
    assert "_lock" not in found.__dict__ and "_lock" not in found.to_dict()


async def test_a_lock_costs_one_update_and_nothing_where_nothing_is_found(
    commands: Commands,
) -> None:
    await Person.create([{"name": "Ann"}, {"name": "Bob"}])
    async with earnorm.transaction():
        assert not await Person.search([("name", "=", "Cem")]).lock()
        assert commands.named("update") == []
        assert len(await Person.search().only("name").lock()) == 2
    assert len(commands.named("update")) == 1


# -- _versioned -----------------------------------------------------------------------------------


async def test_a_lost_update_is_refused(app: App) -> None:
    first = await Stock.create({"number": 1})
    second = await Stock.get(first.id)
    await first.write({"number": 2})
    for attempt in (lambda: second.write({"number": 3}), second.save):
        second.number = 3
        with pytest.raises(ConcurrencyError, match="refresh"):
            await attempt()
    await second.refresh()
    await second.write({"number": 3})
    assert (await Stock.get(first.id)).number == 3


async def test_of_two_that_write_at_once_one_is_refused(app: App) -> None:
    nail = await Stock.create({"number": 0})
    copies = [await Stock.get(nail.id) for _ in range(5)]
    results = await asyncio.gather(
        *(copy.write({"number": n}) for n, copy in enumerate(copies)), return_exceptions=True
    )
    refused = [r for r in results if isinstance(r, ConcurrencyError)]
    assert len(refused) == 4


async def test_in_bulk_those_that_changed_are_refused(app: App) -> None:
    await Stock.create([{"name": name, "number": 0} for name in "abc"])
    mine = await Stock.search(order="name")
    await (await Stock.get(mine[1].id)).write({"number": 9})
    with pytest.raises(ConcurrencyError, match="1 of 3"):
        await mine.write({"number": 1})
    assert (await Stock.search(order="name")).mapped("number") == [1, 9, 1]


async def test_a_versioned_record_that_was_changed_is_not_deleted(app: App) -> None:
    mine = await Stock.create({"number": 1})
    await (await Stock.get(mine.id)).write({"number": 2})
    with pytest.raises(ConcurrencyError, match="1 of 1"):
        await mine.unlink()
    assert await Stock.count() == 1
    await mine.refresh()
    assert await mine.unlink() == 1
    assert await mine.unlink() == 0  # gone is gone


async def test_in_bulk_those_that_were_changed_are_not_deleted(app: App) -> None:
    mine = await Stock.create([{"name": name} for name in "abc"])
    await (await Stock.get(mine[0].id)).write({"number": 2})
    with pytest.raises(ConcurrencyError, match=r"1 of 3 .* left"):
        await mine.unlink()
    assert (await Stock.search()).mapped("name") == ["a"]


async def test_a_ghost_of_a_versioned_model_is_deleted_whatever_its_revision(app: App) -> None:
    nail = await Stock.create({"number": 1})
    await nail.write({"number": 2})
    assert await Stock.browse([nail.id]).unlink() == 1


async def test_each_kind_of_failure_is_an_error_of_its_own(app: App) -> None:
    first, second = await Seat.create([{"code": "a"}, {"code": "b"}])
    with pytest.raises(DuplicateKey):
        await second.write({"code": "a"})
    await second.refresh()
    await (await Seat.get(second.id)).write({"number": 1})
    with pytest.raises(ConcurrencyError):
        await second.write({"number": 2})
    await (await Seat.get(first.id)).unlink()
    with pytest.raises(NotFound):
        await first.write({"number": 2})
    with pytest.raises(NotFound):
        await Seat.get(ObjectId())
