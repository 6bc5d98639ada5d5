"""An abort that does not reach the server leaves no transaction open there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.synchronous.client_session import ClientSession

import earnorm
from earnorm import App, TransactionError
from earnorm.backends import aborts

from .conftest import DRIVERS, default_app
from .failpoints import failing, until
from .shop import Person


def open_transactions(uri: str, database: str) -> int:
    """The transactions that the server holds open for one App."""
    stages: list[dict[str, Any]] = [
        {"$currentOp": {"allUsers": True, "idleSessions": True}},
        {"$match": {"transaction": {"$exists": True}, "appName": database}},
    ]
    with MongoClient[dict[str, Any]](uri) as client:
        return len(list(client.admin.aggregate(stages)))


@pytest.fixture(params=DRIVERS)
async def app(request: pytest.FixtureRequest, database: str) -> AsyncIterator[App]:
    async with default_app(request.param, database, []) as app:
        await app.prepare_models()
        yield app


FAILURES: Mapping[str, Mapping[str, Any]] = {
    "the connection breaks twice": {"closeConnection": True, "mode": {"times": 2}},
    "the server is interrupted": {"errorCode": 11601, "mode": {"times": 1}},
    "the server takes too long": {"errorCode": 50, "mode": {"times": 1}},
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failed_abort_leaves_no_transaction_open(
    app: App, database: str, mongo_uri: str, failure: str
) -> None:
    person = await Person.create({"name": "first"})
    with failing(mongo_uri, database, "abortTransaction", **FAILURES[failure]):
        with pytest.raises(KeyError):
            async with earnorm.transaction():
                await person.write({"name": "second"})
                raise KeyError
        assert open_transactions(mongo_uri, database) == 0
    await person.write({"name": "third"})


async def test_a_kill_that_fails_is_tried_again(app: App, database: str, mongo_uri: str) -> None:
    person = await Person.create({"name": "first"})
    commands = ("abortTransaction", "killSessions")
    with failing(mongo_uri, database, *commands, closeConnection=True, mode={"times": 7}):
        with pytest.raises(KeyError):
            async with earnorm.transaction():
                await person.write({"name": "second"})
                raise KeyError
        await until(lambda: open_transactions(mongo_uri, database) == 0)
    await person.write({"name": "third"})


async def test_a_refused_commit_leaves_no_transaction_open(
    app: App, database: str, mongo_uri: str
) -> None:
    person = await Person.create({"name": "first"})
    with failing(mongo_uri, database, "commitTransaction", errorCode=2, mode={"times": 1}):
        with pytest.raises(TransactionError, match="nothing was written"):
            async with earnorm.transaction():
                await person.write({"name": "second"})
        assert open_transactions(mongo_uri, database) == 0
    assert (await person.refresh()).name == "first"


async def test_an_abort_without_a_connection_in_time_is_made_up_for(
    database: str, mongo_uri: str
) -> None:
    """Other code of the program holds all connections for longer than ``pool_timeout``."""
    async with default_app("pymongo", database, [], max_pool_size=2, pool_timeout=0.1) as app:
        person = await Person.create({"name": "first"})
        admin = app.dangerous_raw("hold the connections").client.admin
        holding: list[asyncio.Future[Any]] = []
        with failing(mongo_uri, database, "ping", blockConnection=True, blockTimeMS=1_500) as held:
            with pytest.raises(KeyError):
                async with earnorm.transaction():
                    await person.write({"name": "second"})
                    holding += [asyncio.ensure_future(admin.command("ping")) for _ in range(2)]
                    await held.entered(2)
                    raise KeyError
            await until(lambda: open_transactions(mongo_uri, database) == 0)
            await asyncio.gather(*holding)
        await person.write({"name": "third"})


async def test_an_aborted_transaction_of_a_session_lets_it_go_on(
    app: App, database: str, mongo_uri: str
) -> None:
    """The usual abort does not cost the session, also where the server has aborted by itself."""
    person = await Person.create({"name": "first"})
    label = ["TransientTransactionError"]
    async with earnorm.session():
        with pytest.raises(KeyError):
            async with earnorm.transaction():
                await person.write({"name": "second"})
                raise KeyError
        with (
            failing(
                mongo_uri, database, "update", errorCode=112, errorLabels=label, mode={"times": 1}
            ),
            pytest.raises(TransactionError),
        ):
            async with earnorm.transaction():
                await person.write({"name": "second"})
        async with earnorm.transaction():
            await person.refresh()
            await person.write({"name": "third"})
    assert (await Person.get(person.id)).name == "third"


async def test_a_driver_that_does_not_tell_is_not_believed(
    app: App, database: str, mongo_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aborts, "_SEND", "_no_such_method")
    person = await Person.create({"name": "first"})
    with failing(mongo_uri, database, "abortTransaction", errorCode=50, mode={"times": 1}):
        with pytest.raises(KeyError):
            async with earnorm.transaction():
                await person.write({"name": "second"})
                raise KeyError
        assert open_transactions(mongo_uri, database) == 0
    await person.write({"name": "third"})


@pytest.mark.parametrize("session", [AsyncClientSession, ClientSession])
def test_the_drivers_have_the_method_that_tells_of_an_abort(session: type[object]) -> None:
    """If this fails, each rollback costs a ``killSessions``: look how the new driver aborts."""
    assert callable(getattr(session, aborts._SEND))
