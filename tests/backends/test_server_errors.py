"""What goes wrong with a server, in EarnORM's words and without a password."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
import traceback
import uuid

import pytest

from earnorm.backends import Backend, ServerSettings, open_backend
from earnorm.exceptions import (
    ConfigurationError,
    EarnORMError,
    NotSupported,
    OperationTimeout,
    ServerUnavailable,
    TransactionError,
    ValidationError,
)

from .conftest import DRIVERS, FailPoint

# Half a second for each document, in the server.
SLOW = {
    "$expr": {
        "$function": {"body": "function() { sleep(500); return true }", "args": [], "lang": "js"}
    }
}

# Honest work that finds nothing, since the server reports an interrupted script as one that was killed, not as one out of time.
TOIL = {
    "$expr": {
        "$lt": [
            {
                "$reduce": {
                    "input": {"$range": [0, 100_000]},
                    "initialValue": 0,
                    "in": {"$add": ["$$value", "$_id"]},
                }
            },
            0,
        ]
    }
}


def printed(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_missing_server_is_said_in_time_with_host_port_and_limit(driver: str) -> None:
    secret, port = uuid.uuid4().hex, closed_port()
    uri = f"mongodb://ada:{secret}@127.0.0.1:{port}/?authSource=admin"
    options = {"serverSelectionTimeoutMS": 200}
    backend = open_backend(ServerSettings(uri, "x", options=options), driver)
    started = time.monotonic()
    with pytest.raises(ServerUnavailable) as caught:
        await backend.connect()
    assert time.monotonic() - started < 3
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "within 0.2 s (serverSelectionTimeoutMS)" in str(caught.value)
    assert secret not in printed(caught.value)
    assert secret not in repr(backend)
    with pytest.raises(ServerUnavailable):
        await backend.collection("users").find({})
    await backend.close()


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_refused_login_is_a_configuration_error(mongo_uri: str, driver: str) -> None:
    secret = uuid.uuid4().hex
    uri = mongo_uri.replace("mongodb://", f"mongodb://ada:{secret}@", 1)
    backend = open_backend(ServerSettings(uri, "x"), driver)
    with pytest.raises(ConfigurationError, match=r"refused the login .*code 18.*authSource") as e:
        await backend.connect()
    assert secret not in printed(e.value)
    await backend.close()


async def test_a_missing_right_names_it_without_the_command(
    server_backend: Backend, fail_point: FailPoint
) -> None:
    with fail_point("find", errorCode=13), pytest.raises(ConfigurationError, match="code 13"):
        await server_backend.collection("users").find({})


async def test_a_search_that_takes_too_long_is_a_timeout(server_backend: Backend) -> None:
    users = server_backend.collection("users")
    await users.insert([{"_id": n} for n in range(100)])
    for search in (
        lambda: users.find(TOIL, timeout=0.05),
        lambda: users.find(TOIL, limit=1, timeout=0.05),
        lambda: users.count(TOIL, timeout=0.05),
        lambda: users.aggregate([{"$match": TOIL}], timeout=0.05),
    ):
        with pytest.raises(OperationTimeout, match=r"users: .*more time") as caught:
            await search()
        assert isinstance(caught.value, TimeoutError)
    cursor = await users.open_cursor(TOIL, timeout=0.05)
    with pytest.raises(OperationTimeout):
        await cursor.next_batch()


async def test_a_cancelled_search_stays_cancelled_and_the_backend_works_on(
    server_backend: Backend,
) -> None:
    users = server_backend.collection("users")
    await users.insert([{"_id": 1}])
    task = asyncio.create_task(users.find(SLOW))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await users.find({}) == [{"_id": 1}]


@pytest.mark.parametrize("driver", DRIVERS)
async def test_an_exhausted_pool_is_said_with_its_size(
    mongo_uri: str, database: str, driver: str
) -> None:
    options = {"maxPoolSize": 1, "waitQueueTimeoutMS": 50}
    backend = open_backend(ServerSettings(mongo_uri, database, options=options), driver)
    users = backend.collection("users")
    await users.insert([{"_id": 1}])
    outcomes = await asyncio.gather(*(users.find(SLOW) for _ in range(3)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert len(refused) == 2
    for error in refused:
        assert isinstance(error, ServerUnavailable)
        assert "within 0.05 s (waitQueueTimeoutMS); all 1 (maxPoolSize)" in str(error)
    await backend.raw_database().client.drop_database(database)
    await backend.close()


async def test_a_connection_that_breaks_is_said_with_its_host(
    server_backend: Backend, fail_point: FailPoint
) -> None:
    users = server_backend.collection("users")
    with fail_point("insert", "find", closeConnection=True):
        for work in (users.insert([{"_id": 1}]), users.find({})):
            with pytest.raises(ServerUnavailable, match=r"127\.0\.0\.1:\d+"):
                await work


async def test_a_break_inside_a_transaction_may_be_tried_again(
    server_backend: Backend, fail_point: FailPoint
) -> None:
    users = server_backend.collection("users")
    with fail_point("insert", closeConnection=True), pytest.raises(TransactionError) as caught:
        async with server_backend.transaction({}) as session:
            await users.insert([{"_id": 1}], session=session)
    assert caught.value.transient


async def test_a_write_that_too_few_confirmed_is_a_timeout(
    server_backend: Backend, fail_point: FailPoint
) -> None:
    concern = {"code": 64, "codeName": "WriteConcernFailed", "errmsg": "waiting for replication"}
    users = server_backend.collection("users")
    with fail_point("insert", writeConcernError=concern):
        for documents in ([{"_id": 1}], [{"_id": 2}, {"_id": 3}]):
            with pytest.raises(OperationTimeout, match="written, but too few members confirmed"):
                await users.insert(documents)
    assert await users.count({}) == 3


async def test_what_the_collections_own_rules_refuse_is_a_validation_error(
    server_backend: Backend,
) -> None:
    await server_backend.raw_database().create_collection(
        "users", validator={"age": {"$type": "int"}}
    )
    users = server_backend.collection("users")
    secret = uuid.uuid4().hex
    with pytest.raises(ValidationError) as caught:
        await users.insert([{"_id": 1, "age": secret}])
    assert caught.value.errors()[0]["type"] == "document_validation"
    assert secret not in printed(caught.value)
    with pytest.raises(ValidationError) as caught:
        await users.insert([{"_id": 1, "age": 1}, {"_id": 2, "age": secret}])
    assert caught.value.errors()[0]["loc"] == (1,)
    assert secret not in printed(caught.value)


async def test_what_the_server_does_not_know_is_not_supported(server_backend: Backend) -> None:
    with pytest.raises(NotSupported, match="nope"):
        await server_backend.collection("users").aggregate([{"$nope": 1}])


async def test_any_other_refusal_keeps_the_servers_words_and_code(server_backend: Backend) -> None:
    with pytest.raises(EarnORMError, match=r"users: .*\$bad .*code 2 BadValue") as caught:
        await server_backend.collection("users").find({"a": {"$bad": 1}})
    assert type(caught.value) is EarnORMError
    assert caught.value.__cause__ is not None


async def test_a_cursor_that_the_server_dropped_is_a_timeout(
    server_backend: Backend, fail_point: FailPoint
) -> None:
    users = server_backend.collection("users")
    await users.insert([{"_id": n} for n in range(5)])
    cursor = await users.open_cursor({}, batch_size=2)
    await cursor.next_batch()
    with fail_point("getMore", errorCode=43), pytest.raises(OperationTimeout, match="idle"):
        await cursor.next_batch()


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_closed_backend_says_so(mongo_uri: str, driver: str) -> None:
    backend = open_backend(ServerSettings(mongo_uri, "x"), driver)
    await backend.connect()
    await backend.close()
    await backend.close()
    with pytest.raises(ConfigurationError, match="after close"):
        await backend.collection("users").find({})


async def test_a_name_that_cannot_be_is_a_configuration_error(server_backend: Backend) -> None:
    with pytest.raises(ConfigurationError, match="collection names"):
        server_backend.collection("a..b")


@pytest.mark.parametrize("pipeline", [[{"$setWindowFields": {}}], [{"$densify": {}}]])
async def test_memory_says_what_it_lacks_and_the_way_out(
    database: str, pipeline: list[dict[str, object]]
) -> None:
    backend = open_backend(ServerSettings("mongomock://", database))
    users = backend.collection("users")
    await users.insert([{"_id": 1}])
    with pytest.raises(NotSupported, match=r"memory backend .*MongoDB server"):
        await users.aggregate(pipeline)
    with pytest.raises(NotSupported, match="memory backend"):
        await users.find({"$text": {"$search": "a"}})


async def test_no_password_is_logged(mongo_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    secret = uuid.uuid4().hex
    uri = f"mongodb://ada:{secret}@127.0.0.1:{closed_port()}"
    with caplog.at_level(logging.DEBUG, "earnorm"):
        backend = open_backend(ServerSettings(uri, "x", options={"serverSelectionTimeoutMS": 50}))
        with pytest.raises(ServerUnavailable):
            await backend.connect()
    assert secret not in caplog.text
    await backend.close()
