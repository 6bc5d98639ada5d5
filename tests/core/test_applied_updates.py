"""An update that memory applies to a document gives what the server gives, or is left to the server."""

from __future__ import annotations

import asyncio
import copy
from collections import Counter
from typing import Any

import pytest
from bson import BSON
from hypothesis import given, settings
from hypothesis import strategies as st
from pymongo import AsyncMongoClient
from pymongo.errors import WriteError

from earnorm.features.computed.applied import applied
from earnorm.plugin import Update

NUMBERS = st.integers(-5, 5) | st.sampled_from([0.5, -1.25, 2**62, 2**63 - 1])
TEXTS = st.sampled_from(["a", "A", "b", "é", "e", ""])
VALUES = NUMBERS | TEXTS | st.none() | st.booleans()
LISTS = st.lists(TEXTS | st.integers(0, 2), max_size=3)
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "n": VALUES,
        "t": VALUES,
        "l": LISTS | st.none(),
        "d": st.fixed_dictionaries({}, optional={"a": VALUES, "l": LISTS}) | LISTS | st.none(),
    },
)
PATHS = st.sampled_from(["n", "t", "l", "d", "d.a", "d.l", "l.0", "l.2", "d.x.y"])
EACH = st.lists(TEXTS | st.integers(0, 2), max_size=2).map(lambda items: {"$each": items})
OPERANDS: dict[str, st.SearchStrategy[Any]] = {
    "$set": VALUES | LISTS,
    "$unset": st.just(True),
    "$inc": NUMBERS,
    "$mul": NUMBERS,
    "$min": VALUES,
    "$max": VALUES,
    "$push": EACH,
    "$addToSet": EACH,
    "$pullAll": st.lists(TEXTS | st.integers(0, 2), max_size=2),
    "$pull": st.lists(VALUES, max_size=2).map(lambda items: {"$in": items}) | VALUES,
    "$pop": st.sampled_from([1, -1]),
}


@st.composite
def operators(draw: Any) -> dict[str, dict[str, Any]]:
    chosen: dict[str, dict[str, Any]] = {}
    roots: set[str] = set()
    for _ in range(draw(st.integers(1, 2))):
        operator, path = draw(st.sampled_from(sorted(OPERANDS))), draw(PATHS)
        if path.partition(".")[0] not in roots:
            roots.add(path.partition(".")[0])
            chosen.setdefault(operator, {})[path] = draw(OPERANDS[operator])
    return chosen


@pytest.mark.parametrize("collation", [None, {"locale": "en", "strength": 1}])
def test_memory_applies_an_update_as_the_server_does(
    mongo_uri: str, database: str, collation: dict[str, Any] | None
) -> None:
    seen: Counter[str] = Counter()

    async def check(collection: Any, document: dict[str, Any], change: Any) -> None:
        update = Update(change)
        before = {"_id": 1, **copy.deepcopy(document)}
        expected = applied(before, update, has_collation=collation is not None)
        assert before == {"_id": 1, **document}
        await collection.replace_one({"_id": 1}, document, upsert=True)
        try:
            await collection.update_one({"_id": 1}, change)
        except WriteError:
            # The write is refused, whatever was computed beforehand.
            seen["refused"] += 1
            return
        if expected is None:
            seen["left to the server"] += 1
            return
        stored = await collection.find_one({"_id": 1})
        assert sorted(stored) == sorted(expected), (document, change)
        for key, value in stored.items():
            ours = BSON.encode({"": expected[key]}).decode()
            assert ours == {"": value} and repr(ours[""]) == repr(value), (document, change)
        seen["applied"] += 1

    async def run(pairs: Any) -> None:
        async with AsyncMongoClient[dict[str, Any]](mongo_uri) as client:
            collection = client[database]["applied"]
            if not await collection.estimated_document_count():
                await client[database].drop_collection("applied")
                await client[database].create_collection("applied", collation=collation)
            for document, change in pairs:
                await check(collection, document, change)

    @settings(deadline=None, max_examples=40)
    @given(st.lists(st.tuples(DOCUMENTS, operators()), min_size=15, max_size=15))
    def law(pairs: Any) -> None:
        asyncio.run(run(pairs))

    try:
        law()
    finally:

        async def drop() -> None:
            async with AsyncMongoClient[dict[str, Any]](mongo_uri) as client:
                await client.drop_database(database)

        asyncio.run(drop())
    assert seen["applied"] > 100 and seen["left to the server"] > 10, seen
