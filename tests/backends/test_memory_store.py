"""The memory backend beside the driver's own objects, and its unique indexes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from earnorm.backends import Backend, ServerSettings, open_backend
from earnorm.backends.base import IndexSpec
from earnorm.backends.in_memory.store import server_store
from earnorm.backends.in_memory.unique_keys import UniqueIndex
from earnorm.exceptions import ConfigurationError, DuplicateKey, NotSupported

UNIQUE = IndexSpec((("code", 1),), {"unique": True})


@pytest.fixture
async def memory() -> AsyncIterator[Backend]:
    backend = open_backend(ServerSettings("mongomock://", "store"))
    await backend.connect()
    yield backend
    await backend.close()


async def test_an_insert_looks_at_its_own_keys_and_not_at_every_document(
    memory: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    keys_of = UniqueIndex.keys_of

    def counted(index: UniqueIndex, document: Any) -> Any:
        nonlocal looks
        looks += 1
        return keys_of(index, document)

    monkeypatch.setattr(UniqueIndex, "keys_of", counted)
    items = memory.collection("items")
    await items.create_indexes([UNIQUE])
    for number in range(300):
        await items.insert([{"_id": number, "code": number}])
    assert looks < 300 * 8


async def test_documents_that_the_driver_writes_count_for_unique_indexes(memory: Backend) -> None:
    items = memory.collection("items")
    await items.create_indexes([UNIQUE])
    await items.insert([{"_id": 1, "code": "a"}])
    raw = memory.raw_database()["items"]
    await raw.insert_one({"_id": 2, "code": "b"})
    with pytest.raises(DuplicateKey):
        await items.insert([{"_id": 3, "code": "b"}])
    await raw.delete_one({"_id": 2})
    await items.insert([{"_id": 3, "code": "b"}])
    assert [row["_id"] for row in await raw.find().to_list(None)] == [1, 3]


async def test_a_duplicate_names_the_fields_of_its_index(memory: Backend) -> None:
    items = memory.collection("items")
    pair = IndexSpec((("a", 1), ("b", 1)), {"unique": True})
    await items.create_indexes([UNIQUE, pair])
    await items.insert([{"_id": 1, "code": 1, "a": 1, "b": 2}, {"_id": 2, "code": 2, "a": 1}])
    with pytest.raises(DuplicateKey) as refused:
        await items.update({"_id": 2}, {"$set": {"b": 2}})
    assert tuple(refused.value.fields) == ("a", "b")
    with pytest.raises(DuplicateKey) as refused:
        await items.insert([{"_id": 1}])
    assert tuple(refused.value.fields) == ("_id",)


@pytest.mark.parametrize("collation", [None, {"locale": "en", "strength": 2}])
async def test_a_unique_index_that_documents_break_says_so(memory: Backend, collation: Any) -> None:
    items = memory.collection("items")
    await items.insert([{"_id": 1, "code": "a"}, {"_id": 2, "code": "a"}])
    options = {"unique": True} if collation is None else {"unique": True, "collation": collation}
    with pytest.raises(ConfigurationError, match="share a value") as refused:
        await items.create_indexes([IndexSpec((("code", 1),), options)])
    assert ("for example 1 and 2" in str(refused.value)) is (collation is None)


async def test_a_unique_index_that_ignores_the_case(memory: Backend) -> None:
    items = memory.collection("items")
    folding = {"unique": True, "collation": {"locale": "en", "strength": 2}}
    await items.create_indexes([IndexSpec((("code", 1),), folding)])
    await items.insert([{"_id": 1, "code": "Ann"}])
    with pytest.raises(DuplicateKey):
        await items.insert([{"_id": 2, "code": "ANN"}])
    with pytest.raises(NotSupported, match="other than a to z"):
        await items.insert([{"_id": 2, "code": "Ánn"}])


async def test_a_store_of_another_form_is_named(memory: Backend) -> None:
    # If a version of mongomock keeps its documents elsewhere, this is the test that says so.
    assert server_store(memory.raw_database().client)["store"]["items"] is not None
    with pytest.raises(ConfigurationError, match=r"mongomock==4\.3\.0"):
        server_store(object())
