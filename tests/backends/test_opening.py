"""Which adapter opens what, what it imports, and what it refuses."""

from __future__ import annotations

import datetime
import subprocess
import sys
import traceback
import uuid
import warnings
from typing import Any

import motor.motor_asyncio
import pymongo
import pytest
from mongomock import MongoClient as MockClient
from mongomock_motor import AsyncMongoMockClient
from pymongo.monitoring import CommandListener

from earnorm.backends import Backend, ServerSettings, open_backend
from earnorm.backends.base import CAPABILITIES
from earnorm.exceptions import ConfigurationError

from .conftest import DRIVERS


class Started(CommandListener):
    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event: Any) -> None:
        self.names.append(event.command_name)

    def succeeded(self, event: Any) -> None: ...

    def failed(self, event: Any) -> None: ...


@pytest.mark.parametrize(
    ("uri", "driver", "name"),
    [
        ("mongodb://localhost", None, "pymongo"),
        ("mongodb://localhost", "", "pymongo"),
        ("mongodb://localhost", "pymongo", "pymongo"),
        ("mongodb://localhost", "motor", "motor"),
        ("mongodb+srv://cluster.example.net", None, "pymongo"),
        ("mongomock://", None, "memory"),
        ("mongomock://localhost/x", "motor", "memory"),
    ],
)
async def test_the_scheme_and_the_driver_pick_the_adapter(
    uri: str, driver: str | None, name: str
) -> None:
    backend = open_backend(ServerSettings(uri, "x"), driver)
    assert backend.name == name
    await backend.close()


@pytest.mark.parametrize(
    ("uri", "driver", "said"),
    [
        ("http://localhost", None, r"mongodb://, mongodb\+srv:// or mongomock://"),
        ("ada:hidden@localhost", None, "must begin with"),
        ("", None, "must begin with"),
        ("mongodb://localhost", "moter", "unknown driver 'moter'; did you mean 'motor'"),
        ("mongodb://localhost", "memory", "unknown driver 'memory'"),
    ],
)
def test_an_unknown_scheme_or_driver_names_the_known_ones(
    uri: str, driver: str | None, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        open_backend(ServerSettings(uri, "x"), driver)
    assert "hidden" not in str(caught.value)


# Each is a URI that a driver refuses; the password is "hidden" or has it as a part.
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    ("uri", "options", "said"),
    [
        ("mongodb://ada:hid@hidden:w@h", {}, "percent-encoded"),
        ("mongodb://ada:p/hidden@h/db", {}, "percent-encoded"),
        ("mongodb://ada:p?hidden@h", {}, "percent-encoded"),
        ("mongodb://ada:hidden%zz@h", {}, "percent-encoded"),
        ("mongodb://ada:hidden:x@h", {}, "percent-encoded"),
        ("mongodb://ada:hidden@h:99999", {}, "Port must be an integer"),
        ("mongodb://ada:hidden@h,", {}, "Empty host"),
        ("mongodb://ada:hidden@h/?authSource=", {}, "authSource"),
        ("mongodb://ada:hidden@h/?tls=true&tlsCAFile=/nope", {}, "a file .* cannot be read"),
        ("mongodb://ada:hidden@h", {"maxPoolSize": "many"}, "maxPoolSize must be an integer"),
        ("mongodb://ada:hidden@h", {"maxPolSize": 3}, "Unknown option"),
        ("mongodb://", {}, "at least one hostname"),
    ],
)
def test_a_refused_uri_is_explained_without_credentials(
    driver: str, uri: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        open_backend(ServerSettings(uri, "x", options=options), driver)
    lines = traceback.TracebackException.from_exception(caught.value, lookup_lines=False)
    assert "hidden" not in "".join(lines.format())
    assert caught.value.__context__ is None


def test_a_bad_database_name_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match=r"a b"):
        open_backend(ServerSettings("mongodb://localhost", "a b"))


async def test_capabilities_are_complete_after_connect(server_backend: Backend) -> None:
    assert server_backend.capabilities == CAPABILITIES


async def test_memory_claims_no_more_than_it_has() -> None:
    backend = open_backend(ServerSettings("mongomock://", "x"))
    await backend.connect()
    assert backend.capabilities == {"aggregation"}


async def test_ping_tells_version_set_and_hosts(server_backend: Backend) -> None:
    answer = await server_backend.ping()
    assert answer["backend"] == server_backend.name
    assert int(answer["version"].partition(".")[0]) >= 4
    assert answer["replica_set"]
    assert not answer["sharded"]
    assert all(":" in host for host in answer["hosts"])


async def test_ping_of_memory_tells_that_it_is_memory() -> None:
    answer = await open_backend(ServerSettings("mongomock://", "x")).ping()
    assert answer["backend"] == "memory"
    assert answer["replica_set"] is None
    assert answer["hosts"] == ["memory"]


async def test_each_store_in_memory_is_its_own_unless_the_client_is_shared() -> None:
    one, other = (open_backend(ServerSettings("mongomock://", "x")) for _ in range(2))
    await one.collection("users").insert([{"_id": 1}])
    assert await other.collection("users").count({}) == 0
    client: Any = AsyncMongoMockClient()
    one, other = (open_backend(ServerSettings("", "x", client=client)) for _ in range(2))
    assert one.name == "memory"
    await one.collection("users").insert([{"_id": 1}])
    assert await other.collection("users").count({}) == 1


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (pymongo.AsyncMongoClient, "pymongo"),
        (motor.motor_asyncio.AsyncIOMotorClient, "motor"),
    ],
)
async def test_a_client_that_is_handed_in_is_used_and_left_open(
    make: Any, name: str, mongo_uri: str, database: str
) -> None:
    # The application's own codec options must not change what we read.
    client = make(mongo_uri, tz_aware=True)
    backend = open_backend(ServerSettings("", database, client=client), "motor")
    assert backend.name == name
    await backend.connect()
    users = backend.collection("users")
    document = {"_id": uuid.uuid4(), "at": datetime.datetime(2026, 1, 1)}
    await users.insert([document])
    assert await users.find({}) == [document]
    await backend.close()
    assert await client[database]["users"].count_documents({}) == 1
    await client.drop_database(database)
    if (closing := client.close()) is not None:
        await closing


@pytest.mark.parametrize(
    "client",
    [
        pymongo.MongoClient("mongodb://localhost", connect=False),
        "mongodb://ada:hidden@localhost",
        MockClient(),
        object(),
    ],
    ids=["sync", "text", "mongomock", "object"],
)
def test_a_client_of_another_kind_is_refused_naming_the_accepted(client: object) -> None:
    accepted = r"pymongo\.AsyncMongoClient or motor\.motor_asyncio\.AsyncIOMotorClient"
    with pytest.raises(ConfigurationError, match=accepted) as caught:
        open_backend(ServerSettings("", "x", client=client))
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("driver", DRIVERS)
async def test_event_listeners_hear_the_commands(
    mongo_uri: str, database: str, driver: str
) -> None:
    listener = Started()
    settings = ServerSettings(mongo_uri, database, event_listeners=[listener])
    backend = open_backend(settings, driver)
    await backend.collection("users").find({}, limit=1)
    assert listener.names == ["find"]
    assert backend.unheard_listeners == ()
    await backend.close()


async def test_listeners_that_a_foreign_client_cannot_take_are_told(
    mongo_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Started()
    client: Any = pymongo.AsyncMongoClient(mongo_uri)
    settings = ServerSettings("", "x", client=client, event_listeners=[listener])
    assert open_backend(settings).unheard_listeners == (listener,)
    assert "1 event listeners are not attached" in caplog.text
    await client.close()
    memory = open_backend(ServerSettings("mongomock://", "x", event_listeners=[listener]))
    assert memory.unheard_listeners == (listener,)


@pytest.mark.parametrize("driver", DRIVERS)
async def test_options_reach_the_client_in_the_drivers_own_names(
    mongo_uri: str, driver: str
) -> None:
    options = {
        "maxPoolSize": 7,
        "minPoolSize": 0,
        "waitQueueTimeoutMS": 300,
        "readPreference": "secondaryPreferred",
        "w": 1,
        "readConcernLevel": "local",
    }
    with warnings.catch_warnings(action="error"):
        backend = open_backend(ServerSettings(mongo_uri, "x", options=options), driver)
    client = backend.raw_database().client
    assert client.options.pool_options.max_pool_size == 7
    assert client.read_preference.mongos_mode == "secondaryPreferred"
    assert backend.raw_database().write_concern.document == {"w": 1}
    await backend.connect()
    await backend.close()


# What is imported is asked of a fresh interpreter.
IMPORTED = """
import sys
from earnorm.backends import ServerSettings, open_backend
before = {{"pymongo", "motor", "mongomock", "mongomock_motor"}} & set(sys.modules)
open_backend(ServerSettings({uri!r}, "x"), {driver!r})
after = {{"pymongo", "motor", "mongomock", "mongomock_motor"}} & set(sys.modules)
print(sorted(before), sorted(after))
"""


@pytest.mark.parametrize(
    ("uri", "driver", "after"),
    [
        ("mongodb://localhost", "pymongo", "['pymongo']"),
        ("mongodb://localhost", "motor", "['motor', 'pymongo']"),
    ],
)
def test_no_driver_is_imported_before_it_is_chosen(uri: str, driver: str, after: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", IMPORTED.format(uri=uri, driver=driver)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == f"[] {after}"


def test_without_mongomock_motor_memory_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mongomock_motor", None)
    with pytest.raises(ConfigurationError, match=r'pip install "earnorm-core\[memory\]"'):
        open_backend(ServerSettings("mongomock://", "x"))
