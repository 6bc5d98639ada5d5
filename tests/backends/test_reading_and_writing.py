"""What goes in comes out, on every backend alike."""

from __future__ import annotations

import asyncio
import datetime
import re
import traceback
import uuid
from typing import Any

import pytest
from bson import ObjectId
from bson.decimal128 import Decimal128
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from earnorm.backends import Backend
from earnorm.backends.base import BulkUpdate, Collection, Document, IndexSpec
from earnorm.backends.collection import PART
from earnorm.exceptions import DuplicateKey, NotSupported, ValidationError

LAW = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

names = st.text(st.characters(codec="utf-8", exclude_characters="\0$."), min_size=1, max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=20)
    | st.binary(max_size=20)
    | st.uuids()
    | st.datetimes(datetime.datetime(1, 1, 2), datetime.datetime(9999, 12, 30)).map(
        lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    )
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


async def numbered(collection: Collection, count: int) -> None:
    await collection.insert([{"_id": n, "n": n, "odd": n % 2 == 1} for n in range(count)])


@LAW
@given(content=st.dictionaries(names.filter(lambda name: name != "_id"), values, max_size=5))
async def test_a_document_comes_back_as_it_was_stored(
    users: Collection, content: dict[str, Any]
) -> None:
    document = {"_id": ObjectId(), **content}
    await users.insert([document])
    [found] = await users.find({"_id": document["_id"]}, limit=1)
    assert found == document
    assert {name: type(value) for name, value in found.items() if type(value) is uuid.UUID} == {
        name: uuid.UUID for name, value in document.items() if type(value) is uuid.UUID
    }
    assert list(found) == list(document)


async def test_datetimes_are_naive_and_utc(users: Collection) -> None:
    berlin = datetime.timezone(datetime.timedelta(hours=1))
    await users.insert(
        [{"_id": 1, "at": datetime.datetime(2026, 1, 2, 1, 0, 0, 123456, tzinfo=berlin)}]
    )
    [found] = await users.find({})
    assert found["at"] == datetime.datetime(2026, 1, 2, 0, 0, 0, 123000)


async def test_a_uuid_is_found_by_its_value(users: Collection) -> None:
    key = uuid.uuid4()
    await users.insert([{"_id": key, "amount": Decimal128("1.10")}])
    assert await users.find({"_id": {"$in": [key, uuid.uuid4()]}}) == [
        {"_id": key, "amount": Decimal128("1.10")}
    ]


async def test_changing_a_found_document_does_not_change_the_store(users: Collection) -> None:
    document: dict[str, Any] = {"_id": 1, "tags": ["a", {"deep": 1}]}
    await users.insert([document])
    document["tags"].append("later")
    [found] = await users.find({})
    found["tags"][1]["deep"] = 2
    found["tags"].append("later")
    assert await users.find({}) == [{"_id": 1, "tags": ["a", {"deep": 1}]}]


async def test_find_takes_order_window_and_projection_together(users: Collection) -> None:
    await numbered(users, 10)
    found = await users.find(
        {"odd": True},
        sort=[("n", -1)],
        skip=1,
        limit=2,
        projection={"n": 1, "_id": 0},
        timeout=5,
    )
    assert found == [{"n": 7}, {"n": 5}]


@pytest.mark.parametrize("limit", [0, 1, 2, 101, 102, 250, 1000])
async def test_find_gives_as_many_as_the_limit_allows(users: Collection, limit: int) -> None:
    await numbered(users, 300)
    found = await users.find({}, sort=[("_id", 1)], limit=limit)
    assert [d["_id"] for d in found] == list(range(300))[: limit or 300]


async def test_find_of_one_honours_order_and_skip(users: Collection) -> None:
    await numbered(users, 3)
    assert [d["_id"] for d in await users.find({}, sort=[("n", -1)], skip=1, limit=1)] == [1]
    assert await users.find({"n": 99}, limit=1) == []


async def test_a_cursor_hands_out_batches_until_none_is_left(users: Collection) -> None:
    await numbered(users, 25)
    cursor = await users.open_cursor({}, sort=[("_id", 1)], batch_size=10)
    batches = [await cursor.next_batch() for _ in range(4)]
    assert [[d["_id"] for d in batch] for batch in batches] == [
        list(range(10)),
        list(range(10, 20)),
        list(range(20, 25)),
        [],
    ]
    await cursor.close()


async def test_a_cursor_takes_what_find_takes(users: Collection) -> None:
    await numbered(users, 10)
    cursor = await users.open_cursor(
        {"odd": True}, sort=[("n", -1)], skip=1, limit=2, projection={"n": 1, "_id": 0}, timeout=5
    )
    assert await cursor.next_batch() == [{"n": 7}, {"n": 5}]


async def test_a_closed_cursor_gives_nothing_more(users: Collection) -> None:
    await numbered(users, 25)
    cursor = await users.open_cursor({}, batch_size=10)
    await cursor.next_batch()
    await cursor.close()
    await cursor.close()
    assert await cursor.next_batch() == []


async def test_count_honours_the_window(users: Collection) -> None:
    await numbered(users, 10)
    assert await users.count({}) == 10
    assert await users.count({"odd": True}, timeout=5) == 5
    assert await users.count({}, skip=4) == 6
    assert await users.count({}, skip=4, limit=3) == 3


async def test_aggregate_gives_every_document(users: Collection) -> None:
    await numbered(users, 300)
    groups = await users.aggregate(
        [
            {"$match": {"n": {"$lt": 10}}},
            {"$group": {"_id": "$odd", "total": {"$sum": "$n"}}},
            {"$sort": {"_id": 1}},
        ],
        timeout=5,
    )
    assert groups == [{"_id": False, "total": 20}, {"_id": True, "total": 25}]
    assert len(await users.aggregate([{"$match": {}}])) == 300


async def test_insert_of_nothing_does_nothing(users: Collection) -> None:
    await users.insert([])
    assert await users.bulk_update([]) == 0
    assert await users.count({}) == 0


async def test_update_counts_what_matched(users: Collection) -> None:
    await numbered(users, 4)
    assert await users.update({"odd": True}, {"$set": {"odd": True}}) == 2
    assert await users.update({"odd": True}, {"$set": {"seen": 1}}, many=False) == 1
    assert await users.update({"n": 99}, {"$set": {"seen": 1}}) == 0
    assert await users.count({"seen": 1}) == 1


async def test_an_upsert_counts_and_is_stored(users: Collection) -> None:
    for many in (True, False):
        assert await users.update({"_id": many}, {"$set": {"n": 1}}, many=many, upsert=True) == 1
        assert await users.update({"_id": many}, {"$set": {"n": 2}}, many=many, upsert=True) == 1
    assert await users.count({"n": 2}) == 2


async def test_a_bulk_of_updates_counts_what_matched_and_what_was_made(users: Collection) -> None:
    await numbered(users, 3)
    counted = await users.bulk_update(
        [
            BulkUpdate({"_id": 0}, {"$set": {"n": 10}}),
            BulkUpdate({"_id": 77}, {"$set": {"n": 77}}),
            BulkUpdate({"_id": 78}, {"$set": {"n": 78}}, upsert=True),
        ]
    )
    assert counted == 2
    assert sorted(d["n"] for d in await users.find({})) == [1, 2, 10, 78]


async def test_delete_counts_what_went(users: Collection) -> None:
    await numbered(users, 4)
    assert await users.delete({"odd": True}, many=False) == 1
    assert await users.delete({}) == 3
    assert await users.delete({}) == 0


async def test_a_dropped_collection_is_gone(backend: Backend, users: Collection) -> None:
    await numbered(users, 1)
    assert list(await backend.list_collections()) == ["users"]
    await users.drop()
    await users.drop()
    assert list(await backend.list_collections()) == []


async def test_a_collection_is_made_once(backend: Backend) -> None:
    assert backend.collection("a") is backend.collection("a")
    assert backend.collection("a").name == "a"


async def test_these_anchors_mean_the_same_everywhere(users: Collection) -> None:
    texts = ["ab", "ab\n", "xab", "ab\nc", "AB"]
    await users.insert([{"_id": n, "text": text} for n, text in enumerate(texts)])
    # \z is no Python before 3.14, and \Z lets a newline follow in PCRE but not in Python.
    exact = r"\Aab(?![\s\S])"
    assert [d["_id"] for d in await users.find({"text": {"$regex": exact}})] == [0]
    assert [d["_id"] for d in await users.find({"text": re.compile(exact, re.IGNORECASE)})] == [
        0,
        4,
    ]


async def test_explain_tells_the_plan_or_that_there_is_none(
    backend: Backend, users: Collection
) -> None:
    await numbered(users, 3)
    if "explain" in backend.capabilities:
        plan = await users.explain({"n": uuid.uuid4()}, sort=[("n", 1)], skip=1, limit=2)
        assert plan["executionStats"]["totalDocsExamined"] == 3
        assert "executionStats" not in await users.explain({}, verbosity="queryPlanner")
    else:
        with pytest.raises(NotSupported, match="memory backend has no query plans"):
            await users.explain({})


# Refusals


async def test_one_duplicate_names_the_fields_and_no_value(users: Collection) -> None:
    secret = uuid.uuid4().hex
    await users.insert([{"_id": secret}])
    with pytest.raises(DuplicateKey, match=r"users: .*_id.* exists already") as caught:
        await users.insert([{"_id": secret}])
    assert caught.value.fields == ("_id",)
    assert secret not in printed(caught.value)


@LAW
@given(
    ids=st.lists(st.integers(0, 4), min_size=2, max_size=8),
    ordered=st.booleans(),
)
async def test_a_refused_batch_says_which_positions_failed_and_which_were_written(
    users: Collection, ids: list[int], ordered: bool
) -> None:
    await users.delete({})
    repeated = [n for n, key in enumerate(ids) if key in ids[:n]]
    documents = [{"_id": key, "position": n} for n, key in enumerate(ids)]
    if not repeated:
        await users.insert(documents, ordered=ordered)
        return
    failed = repeated[:1] if ordered else repeated
    written = (
        list(range(failed[0])) if ordered else [n for n in range(len(ids)) if n not in repeated]
    )
    with pytest.raises(DuplicateKey) as caught:
        await users.insert(documents, ordered=ordered)
    refused: Any = caught.value
    assert [detail["loc"] for detail in refused.errors()] == [(n, "_id") for n in failed]
    assert {detail["type"] for detail in refused.errors()} == {"duplicate_key"}
    assert refused.fields == ("_id",)
    assert list(refused.positions) == failed
    assert list(refused.written) == written
    assert sorted(d["position"] for d in await users.find({})) == written


async def test_a_refused_batch_quotes_no_document(users: Collection) -> None:
    secret = uuid.uuid4().hex
    await users.insert([{"_id": 1, "password": secret}])
    with pytest.raises(DuplicateKey) as caught:
        await users.insert([{"_id": 2}, {"_id": 1, "password": secret}])
    assert secret not in printed(caught.value)


async def test_an_update_into_a_taken_value_is_a_duplicate(users: Collection) -> None:
    await users.create_indexes(
        [IndexSpec((("email", 1),), {"unique": True}), IndexSpec((("nick", 1),), {"unique": True})]
    )
    await users.insert([{"_id": n, "email": str(n), "nick": str(n)} for n in range(3)])
    with pytest.raises(DuplicateKey) as caught:
        await users.update({"_id": 1}, {"$set": {"nick": "0"}})
    assert caught.value.fields == ("nick",)
    with pytest.raises(DuplicateKey) as caught:
        await users.bulk_update(
            [
                BulkUpdate({"_id": 0}, {"$set": {"email": "new"}}),
                BulkUpdate({"_id": 1}, {"$set": {"email": "2"}}),
            ]
        )
    assert [detail["loc"] for detail in caught.value.errors()] == [(1, "email")]
    assert await users.count({"email": "new"}) == 1


# A driver refuses the largest, the server those just above its limit, in two ways of its own.
@pytest.mark.parametrize("size", [2**24, 2**24 + 2**14, 17 * 2**20])
async def test_a_document_beyond_the_limit_is_refused_with_its_position(
    users: Collection, size: int
) -> None:
    large = "x" * size
    with pytest.raises(ValidationError, match="limit is 16777216") as caught:
        await users.insert([{"_id": 1, "text": large}])
    assert caught.value.errors()[0]["type"] == "document_too_large"
    with pytest.raises(ValidationError) as caught:
        await users.insert([{"_id": 1}, {"_id": 2, "text": large}])
    assert caught.value.errors()[0]["loc"] == (1,)
    with pytest.raises(ValidationError) as caught:
        await users.update({"_id": 1}, {"$set": {"text": large}})
    assert caught.value.errors()[0]["type"] == "document_too_large"


@pytest.mark.parametrize(
    ("value", "kind"), [({1, 2}, "set"), (2**64, "int"), (datetime.date(2026, 1, 1), "date")]
)
async def test_a_value_that_is_no_bson_is_refused_with_its_place(
    users: Collection, value: object, kind: str
) -> None:
    with pytest.raises(ValidationError, match=f"bad: a value of type {kind}") as caught:
        await users.insert([{"_id": 1, "bad": value}])
    assert caught.value.errors()[0]["loc"] == ("bad",)
    with pytest.raises(ValidationError) as caught:
        await users.insert([{"_id": 1}, {"_id": 2, "bad": value}])
    assert caught.value.errors()[0]["loc"] == (1, "bad")
    with pytest.raises(ValidationError):
        await users.find({"bad": value})
    assert await users.count({}) == 0


async def test_fifty_tasks_share_one_backend(users: Collection) -> None:
    await numbered(users, 50)
    found = await asyncio.gather(*(users.find({"_id": n}, limit=1) for n in range(50)))
    assert [d["n"] for [d] in found] == list(range(50))


def printed(error: BaseException) -> str:
    """The error as a log shows it, with every cause."""
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize("size", [PART - 1, PART, 2 * PART + 3])
async def test_a_large_result_comes_in_parts_that_are_each_looked_at(
    users: Collection, size: int
) -> None:
    await users.insert([{"_id": n} for n in range(size)])
    seen: list[int] = []

    def each(part: list[Document]) -> list[Document]:
        seen.append(len(part))
        return [{**document, "looked": 1} for document in part]

    found = await users.find({}, sort=[("_id", 1)], each_part=each)
    assert [d["_id"] for d in found] == list(range(size))
    assert all(d["looked"] for d in found)
    assert sum(seen) == size and max(seen) <= PART
    assert len(await users.find({}, limit=size - 1, each_part=each)) == size - 1


async def test_a_part_that_is_refused_leaves_nothing_under_way(server_backend: Backend) -> None:
    users = server_backend.collection("users")
    await users.insert([{"_id": n} for n in range(PART + 1)])

    def refuse(part: list[Document]) -> list[Document]:
        raise LookupError("no")

    with pytest.raises(LookupError):
        await users.find({}, each_part=refuse)
    await asyncio.sleep(0)
    assert not [t for t in asyncio.all_tasks() if "to_list" in repr(t) and not t.cancelling()]
    assert await users.count({}) == PART + 1
