"""What was read in a transaction that was rolled back is stale; what was there before it goes back."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from typing import Any

import pytest

import earnorm
from earnorm import App, FieldNotLoaded, NotFound, RecordSet, TransactionError
from earnorm.kernel.transactions.held_records import HOLDERS

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


async def test_a_set_is_saved_of_which_a_stale_record_has_no_changes(server_app: App) -> None:
    """The machine found it: such a record is not written, alone or as a copy of one that is."""
    ann, bob = await Person.create([{"name": "Ann", "age": 1}, {"name": "Bob", "age": 2}])
    with pytest.raises(Rollback):
        async with earnorm.transaction():
            stale = await Person.search(order="name")
            raise Rollback
    ann.age = 5
    assert await RecordSet(Person, [*stale, ann, bob]).save() == 1
    assert stale.is_stale and stale[0].age == 5
    assert [person.age for person in await Person.search(order="name")] == [5, 2]
    ann.age = stale[1].age = 6
    with pytest.raises(TransactionError, match=r"Person .* is stale"):
        await RecordSet(Person, [stale[1], ann]).save()
    assert [person.age for person in await Person.search(order="name")] == [5, 2]


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


async def test_a_link_from_before_that_was_followed_in_it_is_unread_again(server_app: App) -> None:
    await Post.create({"title": "x", "author_id": await Author.create({"name": "Ann"})})
    post: Any = await Post.search().first()
    with pytest.raises(Rollback):
        async with earnorm.transaction():
            await Author.search().update({"name": "Bea"})
            assert (await post.author_id).name == "Bea"
            raise Rollback
    assert (await post.author_id).name == "Ann"
    await post.author_id.write({"name": "Cy"})  # it is not stale


async def test_a_relation_from_before_that_was_loaded_in_it_is_unread_again(
    server_app: App,
) -> None:
    ann = await Author.create({"name": "Ann"})
    await Post.create({"title": "x", "author_id": ann})
    author = await Author.get(ann.id)
    held = author.post_ids
    with pytest.raises(Rollback):
        async with earnorm.transaction():
            await Post.search().update({"title": "z"})
            await Post.create({"title": "y", "author_id": ann})
            assert len(await author.post_ids) == len(held) == 2
            raise Rollback
    with pytest.raises(FieldNotLoaded):
        len(held)
    posts = await author.post_ids
    assert posts.mapped("title") == ["x"] and not posts.is_stale


async def test_each_try_loads_the_relations_of_records_from_before(server_app: App) -> None:
    ann = await Author.create({"name": "Ann"})
    post = await Post.create({"title": "x", "author_id": ann})
    author, post = await Author.get(ann.id), await Post.get(post.id)
    seen: list[Any] = []

    @earnorm.transactional()
    async def work() -> None:
        await Post.create({"title": f"y{len(seen)}", "author_id": ann})
        of_post: Any = post.author_id
        await Author.search().update({"name": f"Ann {len(seen)}"})
        seen.append([(await author.post_ids).mapped("title"), (await of_post).name])
        if len(seen) < 3:
            raise TransactionError("again", transient=True)
        await of_post.write({"name": "Bea"})  # it is not stale in this try

    await work()
    assert seen == [[["x", f"y{n}"], f"Ann {n}"] for n in range(3)]
    assert not author.post_ids.is_stale


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


# -- what other tasks make of a record meanwhile ----------------------------------------------------


async def _refresh(record: Any) -> None:
    await record.refresh()


async def _assign(record: Any) -> None:
    record.name = "of the transaction"


async def _fail(record: Any) -> None:
    with pytest.raises(earnorm.ValidationError):
        await record.write({"age": "no number"})


async def _write_elsewhere(record: Any) -> None:
    await record.write({"age": 7})


async def _save_elsewhere(record: Any) -> None:
    record.age = 7
    await record.save()


async def _assign_elsewhere(record: Any) -> None:
    record.age = 7


async def _assign_refused_elsewhere(record: Any) -> None:
    record.age = "no number"


async def _refresh_elsewhere(record: Any) -> None:
    await Person.search().update({"age": 7})
    await record.refresh()


@pytest.mark.parametrize("own", [_refresh, _assign, _fail])
@pytest.mark.parametrize(
    "other",
    [
        _write_elsewhere,
        _save_elsewhere,
        _assign_elsewhere,
        _assign_refused_elsewhere,
        _refresh_elsewhere,
    ],
)
@pytest.mark.parametrize("first", [True, False])
async def test_a_rollback_takes_back_nothing_of_another_task(
    server_app: App, own: Any, other: Any, first: bool
) -> None:
    ann = await Person.create({"name": "Ann", "age": 1})
    outside = contextvars.copy_context()
    with pytest.raises(Rollback):
        async with earnorm.transaction():
            if first:
                await own(ann)
            await asyncio.create_task(other(ann), context=outside)
            if not first:
                await own(ann)
            raise Rollback
    stored = (await Person.search()).ensure_one()
    given = "no number" if other is _assign_refused_elsewhere else 7
    if other in (_assign_elsewhere, _assign_refused_elsewhere) and first:
        assert ann.age == given and ann.is_changed and not ann.is_stale
        assert stored.age == 1 and ann._value_before("age") == 1
    elif not ann.is_stale:
        in_memory: Any = ann.age
        assert in_memory == (given if ann.is_changed else stored.age)
    else:
        assert own is _refresh
        await ann.refresh()
        assert ann.age == stored.age == given
    if not ann.is_changed:
        assert ann.name == stored.name
        await ann.write({"name": "Bea"})
        assert (await Person.search()).mapped("name") == ["Bea"]


@pytest.mark.parametrize("was_pending", [True, False])
async def test_of_a_record_that_another_task_wrote_own_assignments_are_taken_back(
    server_app: App, was_pending: bool
) -> None:
    ann = await Person.create({"name": "Ann", "age": 1})
    if was_pending:
        ann.name = "Bea"
    outside = contextvars.copy_context()
    with pytest.raises(Rollback):
        async with earnorm.transaction():
            ann.name = "of the transaction"
            await asyncio.create_task(_write_elsewhere(ann), context=outside)
            raise Rollback
    assert ann.age == 7
    assert ann.is_stale is ann.is_changed is was_pending
    if not was_pending:
        assert ann.name == "Ann"


async def test_an_assignment_of_another_task_survives_one_of_the_transaction(
    server_app: App,
) -> None:
    ann = await Person.create({"name": "Ann", "age": 1, "tags": ["a"]})
    outside = contextvars.copy_context()

    async def assign() -> None:
        ann.age, ann.tags = 7, ["b"]
        ann.tags.append("c")

    with pytest.raises(Rollback):
        async with earnorm.transaction():
            await ann.refresh()
            await asyncio.create_task(assign(), context=outside)
            ann.age = 9
            await ann.save()
            raise Rollback
    assert (ann.age, ann.tags, ann.is_changed, ann.is_stale) == (7, ["b", "c"], True, False)
    await ann.save()
    assert (await Person.search())[0].to_dict(include=["age", "tags"]) == {
        "age": 7,
        "tags": ["b", "c"],
    }


async def test_a_new_record_that_another_task_assigned_to_is_unsaved_with_it(
    server_app: App,
) -> None:
    outside = contextvars.copy_context()
    given = Person(name="given", age=1)

    async def assign(record: Any) -> None:
        record.age = 7

    with pytest.raises(Rollback):
        async with earnorm.transaction():
            made = await Person.create({"name": "made", "age": 1})
            given.name = "Given"
            await given.save()
            for record in (made, given):
                await asyncio.create_task(assign(record), context=outside)
                with pytest.raises(NotFound):
                    await asyncio.create_task(record.write({"age": 8}), context=outside)
            raise Rollback
    for record, name in ((made, "made"), (given, "given")):
        assert (record.is_stored, record.name, record.age) == (False, name, 7)
        await record.save()
    assert sorted((await Person.search()).mapped("age")) == [7, 7]


async def test_two_transactions_that_clash_over_one_object_both_succeed(server_app: App) -> None:
    ann = await Person.create({"name": "Ann", "age": 1})

    @earnorm.transactional(retries=20)
    async def add(number: int) -> None:
        await ann.write({"age": earnorm.Inc(number)})
        await asyncio.sleep(0.01)

    await asyncio.gather(add(10), add(100))
    assert (await Person.search())[0].age == 111
    assert not ann.is_stale
    await ann.write({"name": "Bea"})


async def test_what_one_transaction_restored_another_does_not_set_back(server_app: App) -> None:
    ann = await Person.create({"name": "Ann", "age": 1})
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def one() -> None:
        async with earnorm.transaction():
            await ann.write({"age": 5})
            begun.set()
            await may_end.wait()
            raise Rollback

    async def other() -> None:
        async with earnorm.transaction():
            await begun.wait()
            await _fail(ann)
            ann.name = "assigned"  # now the transaction holds what the first one wrote
            may_end.set()
            await asyncio.wait([first])
            raise Rollback

    first = asyncio.create_task(one())
    with pytest.raises(Rollback):
        await other()
    with pytest.raises(Rollback):
        await first
    assert (ann.age, ann.is_stale) == (1, False)


async def test_a_transaction_that_is_over_holds_no_record(server_app: App) -> None:
    ann = await Person.create({"name": "Ann"})
    async with earnorm.transaction():
        await ann.write({"age": 2})
        await Person.create({"name": "Bob"})
        assert HOLDERS
    assert not HOLDERS
    with pytest.raises(Rollback):
        async with earnorm.transaction():
            await ann.write({"age": 3})
            raise Rollback
    assert not HOLDERS
