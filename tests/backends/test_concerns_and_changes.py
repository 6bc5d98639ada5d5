"""Concerns on a collection, a limit to the time of an operation, and change streams."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from earnorm.backends import Backend
from earnorm.backends.base import BulkUpdate
from earnorm.concerns import Concerns
from earnorm.exceptions import NotSupported, OperationTimeout, ValidationError

from .conftest import FailPoint


async def test_a_collection_with_concerns_is_made_once(backend: Backend) -> None:
    concerns = Concerns.of("here", read_concern="majority", read_preference="nearest")
    assert backend.collection("users", concerns) is backend.collection("users", concerns)
    assert backend.collection("users", concerns) is not backend.collection("users")
    await backend.collection("users", concerns).insert([{"_id": 1}])
    assert await backend.collection("users", concerns).find({}) == [{"_id": 1}]


WRITES: list[Callable[[Any], Awaitable[Any]]] = [
    lambda users: users.insert([{"_id": 2}], timeout=0.1),
    lambda users: users.insert([{"_id": 2}, {"_id": 3}], timeout=0.1),
    lambda users: users.update({}, {"$set": {"n": 1}}, timeout=0.1),
    lambda users: users.bulk_update([BulkUpdate({}, {"$set": {"n": 1}})], timeout=0.1),
    lambda users: users.delete({}, timeout=0.1),
    lambda users: users.find({}, timeout=0.1),
    lambda users: users.find({}, limit=1, timeout=0.1),
    lambda users: users.count({}, timeout=0.1),
    lambda users: users.aggregate([], timeout=0.1),
]


@pytest.mark.parametrize("run", WRITES)
async def test_a_server_that_does_not_answer_in_time_ends_the_operation(
    server_backend: Backend, fail_point: FailPoint, run: Callable[[Any], Awaitable[Any]]
) -> None:
    users = server_backend.collection("users")
    await users.insert([{"_id": 1}])
    commands = ("insert", "update", "delete", "find", "aggregate")
    with (
        fail_point(*commands, blockConnection=True, blockTimeMS=600),
        pytest.raises(OperationTimeout, match="users"),
    ):
        await run(users)
    assert await users.count({}, timeout=30) >= 1


async def test_a_change_stream_gives_what_was_written_since_it_was_opened(
    server_backend: Backend,
) -> None:
    users = server_backend.collection("users")
    await users.insert([{"_id": 0}])
    stream = await users.watch([], full_document="updateLookup", max_await=0.1)
    assert stream.token is not None
    await users.insert([{"_id": 1}])
    await users.update({"_id": 1}, {"$set": {"n": 1}})
    await users.delete({"_id": 1})
    seen = [await _next(stream) for _ in range(3)]
    assert [change["operationType"] for change in seen] == ["insert", "update", "delete"]
    assert stream.token == seen[-1]["_id"]
    assert await stream.next() is None
    await stream.close()
    await stream.close()
    again = await users.watch([], resume_after=seen[0]["_id"], max_await=0.1)
    assert (await _next(again))["operationType"] == "update"
    await again.close()


async def _next(stream: Any) -> dict[str, Any]:
    for _ in range(50):
        if (change := await stream.next()) is not None:
            return dict(change)
    pytest.fail("no change came")


async def test_a_change_stream_ends_where_its_collection_is_dropped(
    server_backend: Backend,
) -> None:
    users = server_backend.collection("users")
    await users.insert([{"_id": 0}])
    stream = await users.watch([], max_await=0.1)
    await users.drop()
    with pytest.raises(StopAsyncIteration):
        for _ in range(50):
            await stream.next()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("code", "said"), [(286, "no longer in the server's oplog"), (260, "another stream")]
)
async def test_a_token_that_is_of_no_use_is_said(
    server_backend: Backend, fail_point: FailPoint, code: int, said: str
) -> None:
    users = server_backend.collection("users")
    with (
        fail_point("aggregate", errorCode=code, mode={"times": 1}),
        pytest.raises(ValidationError, match=said),
    ):
        await users.watch([])


async def test_memory_has_no_change_streams(backend: Backend) -> None:
    if backend.name == "memory":
        with pytest.raises(NotSupported, match=r"memory backend.*no change streams.*replica set"):
            await backend.collection("users").watch([])
        with pytest.raises(NotSupported, match=r"memory backend.*no sessions"):
            backend.session()


async def test_a_session_without_a_transaction(server_backend: Backend) -> None:
    users = server_backend.collection("users")
    async with server_backend.session(causal=True) as session:
        await users.insert([{"_id": 1, "at": datetime.datetime(2026, 1, 1)}], session=session)
        assert await users.count({}, session=session) == 1
        async with server_backend.transaction({}, session):
            await users.insert([{"_id": 2}], session=session)
    async with server_backend.session(snapshot=True) as session:
        assert await users.count({}, session=session) == 2
        await users.insert([{"_id": 3}])
        assert await users.count({}, session=session) == 2
