"""Transactions: all or nothing, the session on every call, and what an unsure commit means."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pymongo.errors import OperationFailure
from pymongo.read_concern import ReadConcern

from earnorm.backends import Backend, ServerSettings, open_backend, sessions, transacting
from earnorm.backends.base import BulkUpdate
from earnorm.exceptions import ConfigurationError, DuplicateKey, NotSupported, TransactionError

from .conftest import FailPoint


async def test_what_a_block_wrote_stays_when_it_ends(server_backend: Backend) -> None:
    users = server_backend.collection("users")
    async with server_backend.transaction({}) as session:
        await users.insert([{"_id": 1}], session=session)
        assert await users.find({}) == []
    assert await users.find({}) == [{"_id": 1}]


async def test_nothing_stays_when_a_block_fails(server_backend: Backend) -> None:
    users = server_backend.collection("users")
    with pytest.raises(ZeroDivisionError):
        async with server_backend.transaction({}) as session:
            await users.insert([{"_id": 1}], session=session)
            raise ZeroDivisionError
    assert await users.find({}) == []


async def test_every_call_takes_the_session(server_backend: Backend) -> None:
    users = server_backend.collection("users")
    await users.insert([{"_id": 0, "n": 0}])
    with pytest.raises(ZeroDivisionError):
        async with server_backend.transaction({}) as session:
            await users.insert([{"_id": n, "n": n} for n in range(1, 5)], session=session)
            assert await users.update({"_id": 0}, {"$set": {"n": 10}}, session=session) == 1
            change = BulkUpdate({"_id": 1}, {"$set": {"n": 11}})
            assert await users.bulk_update([change], session=session) == 1
            assert await users.delete({"_id": 2}, session=session) == 1
            assert await users.count({}, session=session) == 4
            assert len(await users.find({}, session=session)) == 4
            assert len(await users.find({}, limit=1, session=session)) == 1
            cursor = await users.open_cursor({}, sort=[("n", -1)], batch_size=2, session=session)
            assert [d["n"] for d in await cursor.next_batch()] == [11, 10]
            summed = [{"$group": {"_id": None, "sum": {"$sum": "$n"}}}]
            assert await users.aggregate(summed, session=session) == [{"_id": None, "sum": 28}]
            raise ZeroDivisionError
    assert await users.find({}) == [{"_id": 0, "n": 0}]


async def test_the_options_reach_the_server(server_backend: Backend) -> None:
    options = {
        "read_concern": "snapshot",
        "write_concern": {"w": "majority", "j": True},
        "read_preference": "primary",
        "max_commit_time": 1.5,
    }
    async with server_backend.transaction(options) as session:
        native: Any = session
        await server_backend.collection("users").insert([{"_id": 1}], session=session)
        assert native.native.in_transaction
    converted = sessions.transaction_options(options)
    assert converted["max_commit_time_ms"] == 1500
    assert converted["read_concern"].level == "snapshot"
    assert converted["write_concern"].document == {"w": "majority", "j": True}
    assert await server_backend.collection("users").count({}) == 1


def test_options_may_be_the_drivers_own_objects() -> None:
    concern = ReadConcern("majority")
    assert sessions.transaction_options({"read_concern": concern, "write_concern": None}) == {
        "read_concern": concern
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"read_concerns": "x"}, "did you mean 'read_concern'"),
        ({"read_preference": "closest"}, "read_preference='closest'"),
        ({"write_concern": {"q": 1}}, "write_concern"),
        ({"max_commit_time": "soon"}, "max_commit_time='soon'"),
    ],
)
async def test_an_option_that_is_wrong_is_said_before_anything_starts(
    server_backend: Backend, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        server_backend.transaction(options)


async def test_memory_has_no_transactions_and_says_the_way_out(database: str) -> None:
    backend = open_backend(ServerSettings("mongomock://", database))
    await backend.connect()
    assert "transactions" not in backend.capabilities
    with pytest.raises(NotSupported, match=r"memory backend.*replica set"):
        backend.transaction({})


async def test_a_server_that_is_no_replica_set_has_no_transactions(
    server_backend: Backend, monkeypatch: pytest.MonkeyPatch, database: str, mongo_uri: str
) -> None:
    fresh = open_backend(ServerSettings(mongo_uri, database), server_backend.name)

    async def standalone(command: str) -> dict[str, Any]:
        return {"isWritablePrimary": True}

    monkeypatch.setattr(fresh, "_ask", standalone)
    await fresh.connect()
    assert fresh.capabilities & {"transactions", "change_streams"} == frozenset()
    with pytest.raises(NotSupported, match=r"no replica set .*--replSet"):
        fresh.transaction({})
    await fresh.close()


async def test_two_that_write_the_same_document_conflict_and_may_try_again(
    server_backend: Backend,
) -> None:
    users = server_backend.collection("users")
    await users.insert([{"_id": 1, "n": 0}])
    with pytest.raises(TransactionError) as caught:
        async with server_backend.transaction({}) as first, server_backend.transaction({}) as late:
            await users.update({"_id": 1}, {"$inc": {"n": 1}}, session=first)
            await users.update({"_id": 1}, {"$inc": {"n": 1}}, session=late)
    assert caught.value.transient
    assert await users.find({}) == [{"_id": 1, "n": 0}]


async def test_a_duplicate_inside_aborts_the_whole(server_backend: Backend) -> None:
    users = server_backend.collection("users")
    await users.insert([{"_id": 2}])
    with pytest.raises(DuplicateKey):
        async with server_backend.transaction({}) as session:
            await users.insert([{"_id": 1}, {"_id": 2}], session=session)
    assert await users.find({}) == [{"_id": 2}]


async def test_a_cancelled_block_is_aborted_and_stays_cancelled(server_backend: Backend) -> None:
    users = server_backend.collection("users")
    inside = asyncio.Event()

    async def work() -> None:
        async with server_backend.transaction({}) as session:
            await users.insert([{"_id": 1}], session=session)
            inside.set()
            await asyncio.sleep(30)

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await users.find({}) == []
    # No lock is left behind.
    await asyncio.wait_for(users.insert([{"_id": 1}]), 5)


async def test_a_raw_driver_error_inside_is_translated(server_backend: Backend) -> None:
    with pytest.raises(TransactionError) as caught:
        async with server_backend.transaction({}):
            raise OperationFailure("x", 112, {"errorLabels": ["TransientTransactionError"]})
    assert caught.value.transient


# Two failures are within what PyMongo tries again by itself; three need us.
@pytest.mark.parametrize("failures", [1, 2, 3, 5])
async def test_a_commit_of_unknown_outcome_is_tried_again(
    server_backend: Backend, fail_point: FailPoint, failures: int
) -> None:
    users = server_backend.collection("users")
    await users.insert([{"_id": 0}])
    with fail_point("commitTransaction", mode={"times": failures}, errorCode=11602):
        async with server_backend.transaction({}) as session:
            await users.insert([{"_id": 1}], session=session)
    assert await users.count({}) == 2


@pytest.fixture
async def left_open(server_backend: Backend) -> AsyncIterator[None]:
    """A commit that a fail point refused leaves its transaction open in the server, for a minute."""
    yield
    # The session came back to the driver's pool, and its next transaction ends the one before.
    async with server_backend.transaction({}) as session:
        await server_backend.collection("users").count({}, session=session)


async def test_after_the_time_limit_the_outcome_of_a_commit_is_unknown(
    server_backend: Backend, fail_point: FailPoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transacting, "COMMIT_SECONDS", 0.2)
    concern = {"code": 64, "codeName": "WriteConcernFailed", "errmsg": "waiting for replication"}
    with (
        pytest.raises(TransactionError, match="outcome is unknown") as caught,
        fail_point("commitTransaction", writeConcernError=concern),
    ):
        async with server_backend.transaction({}) as session:
            await server_backend.collection("users").insert([{"_id": 1}], session=session)
    assert not caught.value.transient


@pytest.mark.usefixtures("left_open")
async def test_a_commit_that_ran_out_of_time_is_not_tried_again(
    server_backend: Backend, fail_point: FailPoint
) -> None:
    with (
        fail_point("commitTransaction", mode={"times": 1}, errorCode=50),
        pytest.raises(TransactionError, match=r"outcome is unknown.*code 50"),
    ):
        async with server_backend.transaction({"max_commit_time": 1}) as session:
            await server_backend.collection("users").insert([{"_id": 1}], session=session)


@pytest.mark.usefixtures("left_open")
async def test_a_transient_failure_of_the_commit_may_be_tried_again(
    server_backend: Backend, fail_point: FailPoint
) -> None:
    labels = ["TransientTransactionError"]
    with (
        fail_point("commitTransaction", mode={"times": 1}, errorCode=251, errorLabels=labels),
        pytest.raises(TransactionError, match="nothing was written") as caught,
    ):
        async with server_backend.transaction({}) as session:
            await server_backend.collection("users").insert([{"_id": 1}], session=session)
    assert caught.value.transient


async def test_a_commit_that_a_write_concern_could_not_confirm_may_have_been_done(
    server_backend: Backend, fail_point: FailPoint
) -> None:
    users = server_backend.collection("users")
    concern = {"code": 100, "codeName": "UnsatisfiableWriteConcern", "errmsg": "too few members"}
    with (
        fail_point("commitTransaction", mode={"times": 1}, writeConcernError=concern),
        pytest.raises(TransactionError, match=r"outcome is unknown.*code 100"),
    ):
        async with server_backend.transaction({}) as session:
            await users.insert([{"_id": 1}], session=session)
    assert await users.count({}) == 1
