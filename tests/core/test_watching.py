"""watch(): typed events of records, filtered by a domain, and taken up again where they broke off."""

from __future__ import annotations

import asyncio
import base64
import datetime
from typing import Any

import bson
import pytest

import earnorm
from earnorm import (
    App,
    BaseModel,
    ChangeEvent,
    Int,
    List,
    NotSupported,
    ServerUnavailable,
    String,
    TransactionError,
    ValidationError,
    Watch,
)
from earnorm.features.indexes.collection_options import CollectionOptions

from .failpoints import failing
from .shop import Author, Person, Post, Stock


class Parcel(BaseModel):
    """Its collection keeps pre-images."""

    _name = "core.parcel"
    _options = CollectionOptions(pre_images=True)

    code = String(required=True)
    weight = Int(db_name="w")
    stops = List(String())


async def take(watch: Watch[Any], number: int) -> list[ChangeEvent[Any]]:
    return [await asyncio.wait_for(anext(watch), 20) for _ in range(number)]


async def test_events_of_create_write_and_unlink(server_app: App) -> None:
    async with Person.watch() as watch:
        ann = await Person.create({"name": "Ann", "age": 1})
        pk = ann.pk
        await ann.write({"age": 2})
        ann.age = None
        await ann.save()
        await ann.unlink()
        created, written, unset, gone = await take(watch, 4)
    assert [e.kind for e in (created, written, unset, gone)] == [
        "create",
        "write",
        "write",
        "unlink",
    ]
    assert created.record == ann and created.record is not ann
    assert {"name", "age"} <= created.changed and created.pk == pk and created.id == str(pk)
    assert written.changed == {"age"} and written.removed == frozenset()
    assert gone.record is None and gone.pk == pk and gone.changed == frozenset()
    assert isinstance(created.at, datetime.datetime) and created.at.tzinfo is not None
    assert "Ann" not in repr(created)


async def test_the_record_of_a_write_is_as_it_is_now(server_app: App) -> None:
    ann = await Person.create({"name": "Ann", "age": 1})
    async with Person.watch() as watch:
        await ann.write({"age": 2})
        [event] = await take(watch, 1)
        assert event.record is not None and event.record.age == 2
        assert not event.record.is_changed
        await event.record.write({"age": 3})
    async with Person.watch(full_document=False) as watch:
        await ann.write({"age": 4})
        [event] = await take(watch, 1)
        assert event.record is None and event.changed == {"age"}


async def test_a_domain_decides_which_records(server_app: App) -> None:
    ann = await Person.create({"name": "Ann", "age": 1})
    async with Person.watch([("age", ">", 10), "!", ("name", "=", "Bob")]) as watch:
        await Person.create([{"name": "Bob", "age": 50}, {"name": "Cem", "age": 50}])
        await ann.write({"age": 11})  # it comes in
        created, came = await take(watch, 2)
        await ann.write({"age": 5})  # it leaves: not told
        await ann.unlink()  # nobody knows what it was: not told
        await Person.create({"name": "End", "age": 99})
        [end] = await take(watch, 1)
    assert [e.record.name for e in (created, came, end) if e.record] == ["Cem", "Ann", "End"]
    assert [e.kind for e in (created, came, end)] == ["create", "write", "create"]


async def test_with_pre_images_deletions_and_the_record_before_are_told(server_app: App) -> None:
    async with Parcel.watch([("weight", ">", 1)], before=True) as watch:
        light, heavy = await Parcel.create(
            [{"code": "a", "weight": 1}, {"code": "b", "weight": 2, "stops": ["x"]}]
        )
        await heavy.write({"weight": 3})
        await light.unlink()
        await heavy.unlink()
        created, written, gone = await take(watch, 3)
    assert created.before is None and created.record == heavy
    assert written.changed == {"weight"} and written.before.weight == 2
    assert gone.kind == "unlink" and gone.before is not None
    assert gone.before.weight == 3 and gone.before.stops == ["x"]


async def test_what_no_field_stands_for_is_no_event(server_app: App) -> None:
    ann = await Person.create({"name": "Ann"})
    async with Person.watch() as watch:
        async with earnorm.transaction():
            await Person.search().lock()
        raw = server_app.dangerous_raw("a test").core_person
        await raw.update_one({}, {"$set": {"undeclared": 1}})
        await ann.write({"age": 1})
        [event] = await take(watch, 1)
    assert event.changed == {"age"}
    assert event.record is not None and "undeclared" not in event.record.__dict__


async def test_a_revision_is_no_change_of_its_own(server_app: App) -> None:
    nail = await Stock.create({"number": 1})
    async with Stock.watch() as watch:
        await nail.write({"number": 2})
        [event] = await take(watch, 1)
        assert event.changed == {"number"}
        assert event.record is not None
        await event.record.write({"number": 3})  # it knows its revision


async def test_a_token_goes_on_behind_its_event(server_app: App) -> None:
    async with Person.watch() as watch:
        assert watch.token is not None
        start = watch.token
        await Person.create([{"name": name} for name in "abc"])
        first = await anext(watch)
    async with Person.watch(resume_token=first.token) as watch:
        assert [e.record.name for e in await take(watch, 2) if e.record] == ["b", "c"]
    async with Person.watch(resume_token=start) as watch:
        assert [e.record.name for e in await take(watch, 3) if e.record] == ["a", "b", "c"]


OF_ANOTHER_TIME = "8200000F000000012B022C0100296E5A1004A0370776227944D88AEAB38923849BB446645F696400646B0E4DA67F875E76F542EEB0000004"


@pytest.mark.parametrize("data", [5, "", "zz", "82", "ff" * 30, OF_ANOTHER_TIME])
async def test_a_token_that_no_server_made_is_said(server_app: App, data: object) -> None:
    token = base64.urlsafe_b64encode(bson.encode({"_data": data})).decode("ascii")
    with pytest.raises(ValidationError, match="resume_token"):
        async with Person.watch(resume_token=token):
            pass


@pytest.mark.parametrize("token", ["", "no token", "AAAA", "é", "BQAAAAA="])
async def test_a_token_that_is_none_is_said(server_app: App, token: str) -> None:
    with pytest.raises(ValidationError, match="resume_token"):
        async with Person.watch(resume_token=token):
            pytest.fail("it was opened")


async def test_an_iteration_needs_no_block(server_app: App) -> None:
    async def first_name() -> str:
        async for event in Person.watch([("name", "like", "x")]):
            if event.record is not None:
                return event.record.name
        return ""

    task = asyncio.create_task(first_name())
    while not task.done():
        await Person.create({"name": "x"})
        await asyncio.sleep(0.05)
    assert await task == "x"


async def test_whoever_is_cancelled_while_waiting_misses_nothing(server_app: App) -> None:
    names: list[str] = []
    timeouts = 0
    async with Person.watch() as watch:
        for number in range(20):
            await Person.create({"name": str(number)})
            try:
                async with asyncio.timeout(0.001 * (number % 7)):
                    names += [e.record.name for e in [await anext(watch)] if e.record]
            except TimeoutError:
                timeouts += 1
        names += [e.record.name for e in await take(watch, 20 - len(names)) if e.record]
    assert names == [str(number) for number in range(20)]
    assert timeouts


async def test_a_stream_that_breaks_off_is_taken_up_again(
    server_app: App, mongo_uri: str, database: str
) -> None:
    async with Person.watch() as watch:
        await Person.create({"name": "a"})
        await take(watch, 1)
        # The driver tries once by itself: a failing aggregate is more than it stands.
        with failing(
            mongo_uri, database, "getMore", "aggregate", mode={"times": 4}, closeConnection=True
        ):
            with server_app.activate():
                await Person.create([{"name": "b"}, {"name": "c"}])
            assert [e.record.name for e in await take(watch, 2) if e.record] == ["b", "c"]


async def test_patience_ends(server_app: App, mongo_uri: str, database: str) -> None:
    async with Person.watch(patience=0.3) as watch:
        with (
            failing(mongo_uri, database, "getMore", "aggregate", closeConnection=True),
            pytest.raises(ServerUnavailable),
        ):
            await take(watch, 1)


async def test_it_ends_where_the_collection_is_dropped_or_it_is_closed(server_app: App) -> None:
    await Person.create({"name": "a"})
    watch = Person.watch()
    async with watch:
        await server_app.dangerous_raw("a test").drop_collection("core_person")
        assert [event.kind async for event in watch] == []
        assert [event.kind async for event in watch] == []
    async with Person.watch() as watch:
        await watch.close()
        await watch.close()
        assert [event.kind async for event in watch] == []


async def test_a_transaction_cannot_watch_but_its_commit_is_seen(server_app: App) -> None:
    async with Person.watch() as watch:
        async with earnorm.transaction():
            await Person.create([{"name": "a"}, {"name": "b"}])
            with pytest.raises(TransactionError, match="cannot watch"):
                async with Person.watch():
                    pytest.fail("it was opened")
        assert [e.kind for e in await take(watch, 2)] == ["create", "create"]


async def test_memory_has_no_change_streams(memory_app: App) -> None:
    with pytest.raises(NotSupported, match=r"memory.*replica set"):
        async with Person.watch():
            pytest.fail("it was opened")


async def test_an_unknown_field_is_said(server_app: App) -> None:
    with pytest.raises(earnorm.DomainError, match="agee"):
        async with Person.watch([("agee", "=", 1)]):
            pytest.fail("it was opened")


async def test_a_domain_may_ask_about_other_records(server_app: App) -> None:
    ann, bob = await Author.create([{"name": "Ann"}, {"name": "Bob"}])
    async with Post.watch([("author_id.name", "=", "Ann")]) as watch:
        await Post.create([{"title": "b", "author_id": bob}, {"title": "a", "author_id": ann}])
        [event] = await take(watch, 1)
        assert event.record is not None and event.record.title == "a"
        # Who fulfils it is asked again for each event.
        await bob.write({"name": "Ann"})
        await Post.create({"title": "a2", "author_id": ann})
        await take(watch, 1)
        await Post.create({"title": "b2", "author_id": bob})
        [event] = await take(watch, 1)
        assert event.record is not None and event.record.title == "b2"
