"""`rolled_back`: after the block the database and the records are as before, whatever happened in it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

import earnorm
from earnorm import DuplicateKey, Int, NotSupported, String, TransactionError, models
from earnorm.plugin import Layer, hookimpl
from earnorm.testing import app_with, rolled_back


class Note(models.BaseModel):
    _name = "testing.rollbacks.note"
    text = String(required=True, unique=True)
    stars = Int(default=0)


class Durable:
    """Asks for a call when a write is durable."""

    api = 1
    name = "durable"

    def __init__(self) -> None:
        self.calls: list[str] = []

    @hookimpl
    def wrap_operation(self, operation):  # type: ignore[no-untyped-def] # as plugins are written
        async def layer(op, call_next):  # type: ignore[no-untyped-def] # as plugins are written
            op.after_durable(lambda: self.calls.append("durable"))
            return await call_next(op)

        return [(Layer.DEFAULT, layer)] if operation == "create" else []


@pytest.fixture
def durable() -> Durable:
    return Durable()


@pytest.fixture(params=["pymongo", "motor"])
async def kept(request: pytest.FixtureRequest, durable: Durable) -> AsyncIterator[Note]:
    """A record that was there before."""
    uri = os.environ["EARNORM_TEST_MONGO_URI"]
    async with app_with(durable, uri=uri, driver=request.param):
        yield await Note.create({"text": "kept", "stars": 1})


async def test_the_database_and_the_records_are_as_before(kept: Note, durable: Durable) -> None:
    told: list[str] = []
    durable.calls.clear()
    async with rolled_back():
        new = await Note.create({"text": "new"})
        kept.stars = 5
        await kept.save()
        async with earnorm.transaction():
            await Note.search([("text", "=", "kept")]).update({"stars": 6})
        await earnorm.after_commit(lambda: told.append("commit"))
        await earnorm.after_rollback(lambda: told.append("rollback"))
        assert await asyncio.create_task(number()) == 2
    assert [note.text for note in await Note.search()] == ["kept"]
    assert (await Note.get(kept.id)).stars == 1
    assert (kept.stars, new.is_stored) == (1, False)
    assert told == ["rollback"] and durable.calls == []


async def number() -> int:
    return await Note.count()


async def test_a_block_that_fails_is_rolled_back_with_its_own_error(kept: Note) -> None:
    with pytest.raises(ZeroDivisionError):
        async with rolled_back():
            await Note.create({"text": "new"})
            _ = 1 / 0
    assert await Note.count() == 1


async def test_an_error_of_the_server_ends_the_transaction_and_not_the_test(kept: Note) -> None:
    async with rolled_back():
        await Note.create({"text": "new"})
        with pytest.raises(DuplicateKey):
            await Note.create({"text": "kept"})
        with pytest.raises(TransactionError):
            await Note.count()
    assert await Note.count() == 1


async def test_inside_of_a_transaction_it_is_refused(kept: Note) -> None:
    async with earnorm.transaction():
        with pytest.raises(TransactionError, match="no savepoints"):
            async with rolled_back():
                pass
        await Note.create({"text": "new"})
    assert await Note.count() == 2


async def test_memory_has_none() -> None:
    async with app_with():
        with pytest.raises(NotSupported):
            async with rolled_back():
                pass


async def test_nothing_is_seen_after_a_block_of_the_program_that_failed(kept: Note) -> None:
    async def program() -> None:
        async with earnorm.transaction():
            await Note.create({"text": "half"})
            raise ValueError("the rest cannot be done")

    with pytest.raises(ValueError, match="the rest"):
        await program()
    assert await Note.count() == 1
    async with rolled_back():
        with pytest.raises(ValueError, match="the rest"):
            await program()
        # In production the note would be gone: the test must not go on as if it were there.
        with pytest.raises(TransactionError, match="a block inside it failed"):
            await Note.count()
    assert await Note.count() == 1
