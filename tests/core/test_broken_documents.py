"""Documents that no driver can decode: which they are, where they are broken, and how to read the others."""

from __future__ import annotations

import asyncio
import datetime
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from bson import ObjectId, encode
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

import earnorm
from earnorm import (
    App,
    BaseModel,
    DateTime,
    Embedded,
    EmbeddedModel,
    Int,
    List,
    Many2one,
    Max,
    One2many,
    String,
    UnreadableDocument,
)


class BrokenPart(EmbeddedModel):
    note = String()


class Broken(BaseModel):
    _name = "broken.record"

    name = String(db_name="n")
    at = DateTime()
    number = Int()
    parts = List(Embedded(BrokenPart))
    uuid = earnorm.UUID()
    parent_id = Many2one("broken.record")
    child_ids = One2many("broken.record", "parent_id")


FAR = b"\x09at\0" + (253402300800000).to_bytes(8, "little")
BAD_TEXT = b"\x02n\0" + (3).to_bytes(4, "little") + b"\xff\xfe\0"
BAD_UUID = b"\x05uuid\0" + (3).to_bytes(4, "little") + b"\x04abc"
_INNER = b"\x02note\0" + (2).to_bytes(4, "little") + b"\xff\0"
_ITEM = (len(_INNER) + 5).to_bytes(4, "little") + _INNER + b"\0"
_LIST = b"\x030\0" + _ITEM
BAD_ITEM = b"\x04parts\0" + (len(_LIST) + 5).to_bytes(4, "little") + _LIST + b"\0"

PLACES: dict[str, tuple[bytes, tuple[str, ...], str]] = {
    "date": (FAR, ("at",), "a date outside of the years 1 to 9999"),
    "text": (BAD_TEXT, ("name",), "a text that is no valid UTF-8"),
    "uuid": (BAD_UUID, ("uuid",), "a UUID that has not 16 bytes"),
    "inside": (BAD_ITEM, ("parts", "0", "note"), "a text that is no valid UTF-8"),
}


def store(app: App, element: bytes, **values: Any) -> ObjectId:
    """Store a document with an element that cannot be decoded."""
    pk = ObjectId()
    body = encode({"_id": pk, "number": 1, **values})[4:-1] + element
    document = (len(body) + 5).to_bytes(4, "little") + body + b"\0"
    with MongoClient[Any](os.environ["EARNORM_TEST_MONGO_URI"]) as client:
        client[app.settings.database]["broken_record"].insert_one(RawBSONDocument(document))
    return pk


async def some(app: App, element: bytes = FAR) -> ObjectId:
    """Store three records, one of them broken; return its id."""
    await Broken.create({"name": "first", "number": 0})
    pk = store(app, element)
    await Broken.create({"name": "last", "number": 2})
    return pk


async def streamed(query: Any) -> list[Any]:
    return [record async for record in query]


@pytest.mark.parametrize("place", PLACES)
async def test_the_error_names_the_id_and_the_field(server_app: App, place: str) -> None:
    element, loc, message = PLACES[place]
    pk = await some(server_app, element)
    whole = "parts" if place == "inside" else loc[0]
    ways: dict[str, Callable[[], Awaitable[Any]]] = {
        "search": Broken.search,
        "limited": lambda: Broken.search(order="number", limit=5),
        "get": lambda: Broken.get(pk),
        "first": lambda: Broken.search([("number", "=", 1)]).first(),
        "stream": lambda: streamed(Broken.search()),
        "aggregate": lambda: Broken.search().aggregate([{"$match": {}}]),
        "aggregate stream": lambda: streamed(Broken.search().aggregate([{"$match": {}}])),
        "pandas": lambda: Broken.search().to_pandas(),
        "polars": lambda: Broken.search(only=whole).to_polars(),
        "page": lambda: Broken.search().page(1, 10),
        "paginate": lambda: Broken.search().paginate(10),
        "refresh": lambda: Broken.browse([pk]).refresh(),
    }
    for way, make in ways.items():
        with pytest.raises(UnreadableDocument) as caught:
            await make()
        detail = caught.value.errors()[0]
        assert detail["loc"] == (str(pk), *loc), way
        assert detail["msg"] == message
        assert caught.value.ids == (pk,), way
        assert caught.value.subject == "broken.record"
        assert caught.value.code == "unreadable_document"


async def test_a_relation_to_a_broken_document_names_it(server_app: App) -> None:
    pk = await some(server_app)
    await Broken.create({"name": "child", "parent_id": pk})
    with pytest.raises(UnreadableDocument, match=f"{pk}.at"):
        await Broken.search([("name", "=", "child")], prefetch="parent_id")


async def test_a_group_says_which_result(server_app: App) -> None:
    await some(server_app)
    assert len(await Broken.search().group("number")) == 3
    with pytest.raises(UnreadableDocument, match="latest: a date outside of the years"):
        await Broken.search().group(latest=Max("at"))


async def test_a_stream_goes_on_to_the_others(server_app: App) -> None:
    pk = await some(server_app)
    assert await Broken.count() == 3
    query = Broken.search(order="number")
    names = [record.name async for record in query.stream(on_error="skip")]
    assert names == ["first", "last"]
    told: list[UnreadableDocument] = []
    assert len([r async for r in query.stream(on_error=told.append)]) == 2

    async def wait(error: UnreadableDocument) -> None:
        await asyncio.sleep(0)
        told.append(error)

    assert len([r async for r in query.stream(on_error=wait)]) == 2
    assert [error.ids for error in told] == [(pk,), (pk,)]
    assert told[0].errors()[0]["loc"] == (str(pk), "at")
    assert str(told[0]).startswith("broken.record: ")
    with pytest.raises(earnorm.ValidationError, match="on_error: is"):
        await streamed(query.stream(on_error="ignore"))  # type: ignore[arg-type] # a mistake


async def test_all_batches_of_a_stream_are_read(server_app: App) -> None:
    await Broken.create_many([{"number": 0} for _ in range(4100)])
    broken = [store(server_app, FAR, number=n) for n in range(3)]
    told: list[Any] = []
    read = [
        record
        async for record in Broken.search(order="number").stream(
            on_error=lambda error: told.extend(error.ids)
        )
    ]
    assert len(read) == 4100
    assert told == broken


async def test_the_rest_of_the_document_can_be_read_and_the_value_replaced(server_app: App) -> None:
    pk = await some(server_app)
    assert [r.number for r in await Broken.search(only=["name", "number"], order="number")] == [
        0,
        1,
        2,
    ]
    assert await Broken.search([("id", "=", pk)]).update({"at": None}) == 1
    assert len(await Broken.search()) == 3


async def test_a_stream_in_a_transaction_goes_on_too(server_app: App) -> None:
    await some(server_app)
    async with earnorm.transaction():
        await Broken.search(order="number").update({"number": 5})
        assert len([r async for r in Broken.search().stream(on_error="skip")]) == 2
        with pytest.raises(UnreadableDocument):
            await Broken.search()


async def test_watching_names_the_document_and_goes_on(server_app: App) -> None:
    async with Broken.watch() as changes:
        pk = store(server_app, FAR)
        after = await Broken.create({"name": "after"})
        with pytest.raises(UnreadableDocument, match=f"{pk}.at"):
            await anext(changes)
        event = await asyncio.wait_for(anext(changes), 20)
        assert event.id == after.id


async def test_the_memory_backend_streams_with_on_error(memory_app: App) -> None:
    await Broken.create({"name": "a", "at": datetime.datetime(2024, 1, 1)})
    assert len([r async for r in Broken.search().stream(on_error="skip")]) == 1
