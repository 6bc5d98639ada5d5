"""Transactions: all or nothing, in the database and in the records at hand; retries; what memory refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pymongo import MongoClient

import earnorm
from earnorm import App, NotSupported, TransactionError

from .shop import Person, Stock


async def test_a_block_that_ends_is_kept(server_app: App) -> None:
    async with earnorm.transaction():
        ann = await Person.create({"name": "Ann"})
        await ann.write({"age": 3})
        assert await Person.count() == 1
    assert (await Person.get(ann.id)).age == 3


async def test_a_block_is_not_seen_from_outside_before_it_ends(server_app: App) -> None:
    async with earnorm.transaction():
        await Person.create({"name": "Ann"})
        with server_app.activate():
            assert await Person.count() == 0
    assert await Person.count() == 1


async def test_a_block_that_fails_leaves_nothing_and_restores_the_records(server_app: App) -> None:
    old = await Person.create({"name": "Old", "age": 1, "tags": ["a"]})
    new = Person(name="New")
    gone = await Person.create({"name": "Gone"})
    with pytest.raises(ZeroDivisionError):
        async with earnorm.transaction():
            await old.write({"age": 2})
            assert old.tags is not None
            old.tags.append("b")
            await old.save()
            await new.save()
            await gone.unlink()
            assert await Person.count() == 2
            raise ZeroDivisionError
    assert (await Person.search(order="name")).mapped("name") == ["Gone", "Old"]
    assert old.age == 1 and (await Person.get(old.id)).age == 1
    assert not new.is_stored and new.id is None
    await new.save()
    assert await Person.count() == 3


async def test_an_unsaved_change_is_still_unsaved_after_a_rollback(server_app: App) -> None:
    ann = await Person.create({"name": "Ann", "age": 1})
    ann.age = 2
    with pytest.raises(ZeroDivisionError):
        async with earnorm.transaction():
            await ann.save()
            assert not ann.is_changed
            raise ZeroDivisionError
    assert ann.age == 2 and ann.is_changed
    await ann.save()
    assert (await Person.get(ann.id)).age == 2


async def test_a_versioned_record_can_be_written_after_a_rollback(server_app: App) -> None:
    nail = await Stock.create({"number": 1})
    with pytest.raises(ZeroDivisionError):
        async with earnorm.transaction():
            await nail.write({"number": 2})
            raise ZeroDivisionError
    await nail.write({"number": 3})
    assert (await Stock.get(nail.id)).number == 3


async def test_an_inner_block_that_fails_dooms_the_whole(server_app: App) -> None:
    with pytest.raises(TransactionError, match="block inside"):
        async with earnorm.transaction():
            await Person.create({"name": "outer"})
            with pytest.raises(ZeroDivisionError):
                async with earnorm.transaction():
                    raise ZeroDivisionError
    assert await Person.count() == 0


async def test_an_inner_block_joins_the_outer(server_app: App) -> None:
    async with earnorm.transaction() as outer:
        async with earnorm.transaction() as inner:
            assert inner is outer
            await Person.create({"name": "inner"})
        assert await Person.count() == 1
    assert await Person.count() == 1


async def test_streams_counts_and_groups_see_the_transaction(server_app: App) -> None:
    async with earnorm.transaction():
        await Person.create([{"name": "Ann"}, {"name": "Bob"}])
        assert {p.name async for p in Person.search()} == {"Ann", "Bob"}
        assert await Person.search().group(number=earnorm.Count()) == [{"number": 2}]
        assert await Person.search().update({"age": 1}) == 2
        assert await Person.search().delete() == 2
    assert await Person.count() == 0


@contextmanager
def failing(uri: str, database: str, times: int, *commands: str) -> Iterator[None]:
    """The server answers these commands of this test's App with a transient transaction error."""
    data: dict[str, Any] = {
        "failCommands": list(commands),
        "appName": database,
        "errorCode": 112,
        "errorLabels": ["TransientTransactionError"],
    }
    with MongoClient[dict[str, Any]](uri) as client:
        client.admin.command("configureFailPoint", "failCommand", mode={"times": times}, data=data)
        try:
            yield
        finally:
            client.admin.command("configureFailPoint", "failCommand", mode="off")


async def test_transactional_runs_again_after_a_transient_error(
    server_app: App, mongo_uri: str, database: str
) -> None:
    tries = 0
    ann = Person(name="Ann")

    @earnorm.transactional(retries=3)
    async def work() -> str:
        nonlocal tries
        tries += 1
        await ann.save()
        return "done"

    await Person.count()
    with failing(mongo_uri, database, 2, "insert"):
        assert await work() == "done"
    assert tries == 3 and await Person.count() == 1 and ann.is_stored


async def test_transactional_gives_up_after_its_retries(
    server_app: App, mongo_uri: str, database: str
) -> None:
    tries = 0

    @earnorm.transactional(retries=1)
    async def work() -> None:
        nonlocal tries
        tries += 1
        await Person.create({"name": "Ann"})

    await Person.count()
    with failing(mongo_uri, database, 9, "insert"), pytest.raises(TransactionError) as caught:
        await work()
    assert caught.value.transient and tries == 2
    assert await Person.count() == 0


async def test_transactional_does_not_repeat_other_errors(server_app: App) -> None:
    tries = 0

    @earnorm.transactional()
    async def work() -> None:
        nonlocal tries
        tries += 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()
    assert tries == 1


def test_transactional_needs_an_async_function_and_a_number() -> None:
    with pytest.raises(TypeError, match="async function"):
        earnorm.transactional()(lambda: None)  # type: ignore[arg-type] # that is the point
    with pytest.raises(TypeError, match="retries"):
        earnorm.transactional(retries=-1)


async def test_memory_has_no_transactions_and_says_so(memory_app: App) -> None:
    with pytest.raises(NotSupported, match="transaction"):
        async with earnorm.transaction():
            pytest.fail("the block was entered")
