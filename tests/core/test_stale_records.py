"""What was read in a transaction that was rolled back is stale; what was there before it goes back."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

import earnorm
from earnorm import App, NotFound, TransactionError

from .shop import Author, Person, Post


class Rollback(Exception):
    """What ends a block."""


async def test_what_was_read_in_it_is_stale(server_app: App) -> None:
    await Person.create([{"name": "Ann", "age": 1}, {"name": "Bob", "age": 2}])
    with pytest.raises(Rollback):
        async with earnorm.transaction():
            await Person.search().update({"age": 9})
            people = await Person.search(order="name")
            streamed = [person async for person in Person.search()]
            one = await Person.get(people[0].id)
            assert not people.is_stale
            raise Rollback
    assert people.is_stale and one.is_stale and all(p.is_stale for p in streamed)
    assert one.age == 9  # it can be read
    for write in (
        lambda: one.write({"age": 3}),
        lambda: people.write({"age": 3}),
        lambda: one.unlink(),
    ):
        with pytest.raises(TransactionError, match=r"stale.*refresh"):
            await write()
    one.age = 4
    with pytest.raises(TransactionError, match="stale"):
        await one.save()
    await one.refresh()
    assert not one.is_stale and one.age == 1
    await one.write({"age": 5})
    assert (await Person.get(one.id)).age == 5
    await people.refresh()
    assert not people.is_stale and people.mapped("age") == [5, 2]


async def test_what_was_committed_is_not_stale(server_app: App) -> None:
    async with earnorm.transaction():
        ann = await Person.create({"name": "Ann"})
        found = await Person.search()
    assert not ann.is_stale and not found.is_stale
    await found.write({"age": 1})


async def test_what_was_created_in_it_is_unsaved_again(server_app: App) -> None:
    with pytest.raises(Rollback):
        async with earnorm.transaction():
            ann = await Person.create({"name": "Ann", "age": 1})
            many = await Person.create([{"name": "Bob"}, {"name": "Cem"}])
            await ann.write({"age": 2})
            await many[0].refresh()
            raise Rollback
    assert ann.id is None and not ann.is_stored and not ann.is_stale
    assert many.ids == [None, None]
    assert ann.name == "Ann" and ann.age == 1
    await ann.save()
    await many.save()
    assert sorted((await Person.search()).mapped("name")) == ["Ann", "Bob", "Cem"]


async def test_a_record_from_before_that_was_refreshed_in_it_goes_back(server_app: App) -> None:
    ann = await Person.create({"name": "Ann", "age": 1})
    with pytest.raises(Rollback):
        async with earnorm.transaction():
            await Person.search().update({"age": 2})
            await ann.refresh()
            assert ann.age == 2
            raise Rollback
    assert ann.age == 1 and not ann.is_stale
    await ann.write({"age": 3})


async def test_a_ghost_from_before_that_was_loaded_in_it_is_a_ghost_again(server_app: App) -> None:
    await Post.create({"title": "x", "author_id": await Author.create({"name": "Ann"})})
    post = await Post.search().first()
    assert post is not None
    author: Any = post.author_id
    with pytest.raises(Rollback):
        async with earnorm.transaction():
            await Author.search().update({"name": "Bea"})
            assert (await author).name == "Bea"
            raise Rollback
    assert (await author).name == "Ann"


async def test_a_record_that_was_deleted_in_it_is_still_there(server_app: App) -> None:
    ann = await Person.create({"name": "Ann"})
    with pytest.raises(Rollback):
        async with earnorm.transaction():
            await ann.unlink()
            raise Rollback
    assert ann.is_stored and not ann.is_stale
    await ann.write({"age": 1})


async def test_a_stale_record_that_does_not_exist_is_not_found(server_app: App) -> None:
    with pytest.raises(Rollback):
        async with earnorm.transaction():
            await Person.create({"name": "Ann"})
            found = await Person.search()
            raise Rollback
    assert found.is_stale
    with pytest.raises(NotFound):
        await found.refresh()


async def test_a_stream_in_a_transaction_keeps_no_record_until_its_end(server_app: App) -> None:
    await Person.create([{"name": str(number)} for number in range(10)])
    async with earnorm.transaction():
        streamed = [weakref.ref(person) async for person in Person.search()]
        gc.collect()
        assert [ref() for ref in streamed] == [None] * 10
