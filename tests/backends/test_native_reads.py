"""Searches read through the compiled decoder: the same documents from both drivers, and when it is off."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from bson import CodecOptions, Decimal128, Int64, ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.monitoring import CommandListener

import earnorm
from earnorm import App, BaseModel, ConfigurationError, Embedded, EmbeddedModel, Int, List, String
from earnorm.backends import Backend, ServerSettings, open_backend
from earnorm.backends.base import Document
from earnorm.backends.native import build, interface, loading, probe
from earnorm.cli import doctor
from earnorm.exceptions import UnreadableDocument
from earnorm.kernel.serving.declared import DeclaredKeys, SharedKeys
from tests.backends import compiled as decoders
from tests.backends.test_native_decoder import Keys

TREE = {"_id": None, "name": None, "n": None, "inner": {"a": None}, "money": None}


def stored(number: int) -> Document:
    return {
        "_id": number,
        "name": f"n{number}",
        "n": Int64(number),
        "inner": {"a": [1.5, {"b": uuid.UUID(int=number)}], "kept": ObjectId()},
        "money": Decimal128("1.10"),
    }


@pytest.fixture(scope="module")
def module() -> Iterator[Any]:
    with decoders.compiled() as module:
        yield module


@pytest.fixture(params=["pymongo", "motor"])
async def reading(
    request: pytest.FixtureRequest,
    module: Any,
    mongo_uri: str,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Backend]:
    """A backend that reads with the decoder; nothing is decoded where it was not to be."""
    monkeypatch.setenv(loading.VARIABLE, "1")
    settings = ServerSettings(mongo_uri, database, options={"compressors": "zlib"})
    backend = open_backend(settings, request.param)
    await backend.connect()
    try:
        yield backend
    finally:
        with MongoClient[Any](mongo_uri) as client:
            client.drop_database(database)
        await backend.close()


async def test_every_read_gives_the_driver_s_documents(reading: Backend) -> None:
    users, keys = reading.collection("users"), Keys(TREE)
    documents = [stored(n) for n in range(300)]
    await users.insert(documents)
    order: Any = [("_id", 1)]
    whole = await users.find({}, sort=order, keys=keys)
    assert all(map(probe.same, whole, await users.find({}, sort=order)))
    assert whole == documents and keys.noted == 0
    assert await users.find({"_id": 5}, limit=1, keys=keys) == [documents[5]]
    assert await users.find({"_id": -1}, limit=1, keys=keys) == []
    assert await users.find({}, sort=order, skip=3, limit=20, keys=keys) == documents[3:23]
    named = await users.find({}, sort=order, projection={"_id": 1, "n": 1}, keys=keys)
    assert named == [{"_id": n, "n": n} for n in range(300)]
    pipeline: Any = [{"$sort": {"_id": 1}}, {"$project": {"name": 1}}]
    rows = [{"_id": n, "name": f"n{n}"} for n in range(300)]
    assert await users.aggregate(pipeline, keys=keys) == rows
    for cursor, wanted in (
        (await users.open_cursor({}, sort=order, batch_size=70, keys=keys), documents),
        (await users.open_pipeline(pipeline, batch_size=70, keys=keys), rows),
    ):
        read: list[Document] = []
        while batch := await cursor.next_batch():
            assert len(batch) <= 70
            read += batch
        assert read == wanted
    async with reading.transaction({}) as session:
        await users.insert([{"_id": 1000, "name": "new"}], session=session)
        assert len(await users.find({}, session=session, keys=keys)) == 301
    assert keys.noted == 0


async def test_undeclared_keys_are_left_out_without_a_look_at_the_documents(
    reading: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    users, keys = reading.collection("users"), Keys({"_id": None, "name": None})
    monkeypatch.setattr(
        keys, "only", lambda documents: pytest.fail("the keys were asked for again")
    )
    await users.insert([{"_id": n, "name": "x", "save": n} for n in range(3)])
    clean = [{"_id": n, "name": "x"} for n in range(3)]
    assert await users.find({}, keys=keys) == clean and keys.noted
    cursor = await users.open_cursor({}, keys=keys)
    assert await cursor.next_batch() == clean


async def test_errors_and_broken_documents_are_told_as_ever(
    reading: Backend, mongo_uri: str, database: str
) -> None:
    users, keys = reading.collection("users"), Keys(TREE)
    broken = b"\x02name\0" + (3).to_bytes(4, "little") + b"\xff\xfe\0"
    body = b"\x10_id\0" + (7).to_bytes(4, "little") + broken
    data = (len(body) + 5).to_bytes(4, "little") + body + b"\0"
    await users.insert([stored(1)])
    with MongoClient[Any](mongo_uri) as client:
        client[database]["users"].insert_one(RawBSONDocument(data))
    with pytest.raises(UnreadableDocument) as refused:
        await users.find({}, keys=keys)
    assert refused.value.ids == (7,) and "name" in str(refused.value)
    problems: list[UnreadableDocument] = []

    async def note(error: UnreadableDocument) -> None:
        problems.append(error)

    cursor = await users.open_cursor({}, on_broken=note, keys=Keys({"_id": None}))
    assert await cursor.next_batch() == [{"_id": 1}]
    assert [problem.ids for problem in problems] == [(7,)]
    with pytest.raises(earnorm.EarnORMError, match=r"\$nope"):
        await users.find({"$nope": 1}, keys=keys)


async def test_listeners_hear_of_every_reply(
    module: Any, mongo_uri: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Listener(CommandListener):
        replies: list[Any] = []

        def started(self, event: Any) -> None:
            pass

        def succeeded(self, event: Any) -> None:
            self.replies.append((event.command_name, event.reply))

        def failed(self, event: Any) -> None:
            pass

    monkeypatch.setenv(loading.VARIABLE, "1")
    backend = open_backend(ServerSettings(mongo_uri, database, event_listeners=[Listener()]))
    await backend.connect()
    users = backend.collection("users")
    await users.insert([stored(1)])
    assert await users.find({}, keys=Keys(TREE))
    [reply] = [reply for name, reply in Listener.replies if name == "find"]
    assert type(reply) is dict and reply["cursor"]["firstBatch"][0]["_id"] == 1
    await backend.raw_database().client.drop_database(database)
    await backend.close()


async def test_changes_are_watched_through_the_driver(reading: Backend) -> None:
    users = reading.collection("users")
    await users.insert([stored(1)])
    await users.find({}, keys=Keys(TREE))
    changes = await users.watch([], max_await=0.2)
    await users.insert([stored(2)])
    change = None
    while change is None:
        change = await changes.next()
    assert change["fullDocument"]["_id"] == 2
    await changes.close()


async def test_a_collection_with_other_codec_options_is_read_as_they_say(reading: Backend) -> None:
    users = reading.collection("users")
    await users.insert([stored(1)])
    foreign = users._native.with_options(codec_options=CodecOptions(tz_aware=True))  # type: ignore[attr-defined] # a driver's
    users._native = foreign  # type: ignore[attr-defined] # the same
    assert users._reading(Keys(TREE)) is foreign  # type: ignore[attr-defined] # the same


# -- when it is off --------------------------------------------------------------------------------


def only_decision(monkeypatch: pytest.MonkeyPatch, value: str | None) -> loading.Decision:
    if value is None:
        monkeypatch.delenv(loading.VARIABLE, raising=False)
    else:
        monkeypatch.setenv(loading.VARIABLE, value)
    loading._look.cache_clear()
    return loading.decision()


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No compiled module can be imported."""
    monkeypatch.setitem(sys.modules, interface.MODULE, None)  # type: ignore[arg-type] # blocks it
    loading._look.cache_clear()
    yield
    loading._look.cache_clear()


def test_without_the_module_the_driver_decodes(
    absent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided = only_decision(monkeypatch, None)
    assert not decided.is_on and not decided.is_faulty and "not installed" in decided.reason
    assert doctor._decoder().level == "ok"
    with pytest.raises(
        ConfigurationError, match="EARNORM_NATIVE=1, and the compiled decoder is off"
    ):
        only_decision(monkeypatch, "1")
    assert doctor._decoder().level == "error"


def test_the_environment_turns_it_off_and_takes_no_other_word(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert only_decision(monkeypatch, None).is_on
    assert str(only_decision(monkeypatch, "1")) == "compiled"
    assert "on" in doctor._decoder().what
    assert str(only_decision(monkeypatch, "0")) == "the driver's (EARNORM_NATIVE=0)"
    assert doctor._decoder().level == "ok"
    with pytest.raises(ConfigurationError, match="'yes'"):
        only_decision(monkeypatch, "yes")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("setup", lambda *_: (_ for _ in ()).throw(TypeError("an ObjectId is not as expected"))),
        ("INTERFACE", 0),
        ("reply", lambda plan, raw: {"cursor": {}}),
        ("reply", lambda plan, raw: {}[raw]),
        ("reply", lambda plan, raw: __import__("bson").decode(raw)),
    ],
)
def test_a_decoder_that_differs_is_off_with_a_word_in_the_log(
    name: str,
    value: Any,
    module: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = ModuleType(interface.MODULE)
    vars(other).update({**vars(module), name: value})
    monkeypatch.setitem(sys.modules, interface.MODULE, other)
    with caplog.at_level(logging.WARNING, "earnorm.backends"):
        decided = only_decision(monkeypatch, None)
    loading._look.cache_clear()
    assert decided.is_faulty and not decided.is_on
    assert "the compiled decoder is off" in caplog.text
    monkeypatch.setattr(doctor, "decision", lambda: decided)
    assert doctor._decoder().level == "warning"


def test_it_is_off_on_a_python_with_which_it_was_not_tested(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "NEWEST", (3, 10))
    assert "not tested" in only_decision(monkeypatch, None).reason
    with pytest.raises(build.BuildFailed, match="not tested"):
        build.compile_decoder(Path("/nonexistent"))
    loading._look.cache_clear()


def test_no_compiler_and_no_headers_are_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(build, "compiler", lambda: None)
    with pytest.raises(build.BuildFailed, match="no C compiler"):
        build.compile_decoder(tmp_path)
    monkeypatch.setattr(build, "compiler", lambda: [sys.executable, "-c", "raise SystemExit('no')"])
    with pytest.raises(build.BuildFailed, match="no"):
        build.compile_decoder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_build_command_makes_a_module_that_the_probe_takes(module: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "earnorm.backends.native.build", str(tmp_path)]
    if "EARNORM_TEST_DECODER" not in os.environ:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert Path(done.stdout.strip()) == tmp_path / build.file_name()
        with decoders.compiled(decoders.load(tmp_path / build.file_name())):
            assert loading.decision is not None


# -- models ----------------------------------------------------------------------------------------


class NativePart(EmbeddedModel):
    note = String(db_name="t")


class NativeOrder(BaseModel):
    _name = "native.order"
    name = String(db_name="n")
    number = Int()
    part = Embedded(NativePart)
    parts = List(Embedded(NativePart))


def test_a_model_s_keys_are_told_with_those_of_embedded_documents() -> None:
    inner = {"t": None}
    keys = {"_id": None, "n": None, "number": None, "part": inner, "parts": inner}
    assert DeclaredKeys(NativeOrder._schema).tree == keys
    assert SharedKeys.tree is None


async def test_records_are_the_same_with_it_and_without(
    module: Any, mongo_uri: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    for way in ("0", "1"):
        monkeypatch.setenv(loading.VARIABLE, way)
        async with App(mongo_uri, database=database, plugins=[]) as app:
            if way == "0":
                await NativeOrder.create(
                    [
                        {
                            "name": f"ü{n}",
                            "number": n,
                            "part": {"note": "a"},
                            "parts": [{"note": "b"}] * 2,
                        }
                        for n in range(10)
                    ]
                )
                raw = app.dangerous_raw("another program writes here")["native_order"]
                await raw.update_one({"number": 3}, {"$set": {"save": 1, "part.more": [1]}})
            told: Any = (await app.health())["database"]["decoder"]
            assert told == ("compiled" if way == "1" else "the driver's (EARNORM_NATIVE=0)")
            records = await NativeOrder.search(order="number")
            rows = [
                (r.to_dict(), r.part and r.part.note, [p.note for p in r.parts]) for r in records
            ]
            streamed = [r.to_dict() async for r in NativeOrder.search(order="number")]
            assert streamed == [row for row, _, _ in rows] and callable(records[3].save)
            seen.append(rows)
    assert seen[0] == seen[1]
    with MongoClient[Any](mongo_uri) as client:
        client.drop_database(database)


async def test_an_app_that_asks_for_it_does_not_start_without(
    absent: None, mongo_uri: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(loading.VARIABLE, "1")
    with pytest.raises(ConfigurationError, match="EARNORM_NATIVE=1"):
        async with App(mongo_uri, database=database, plugins=[]):
            await asyncio.sleep(0)
    async with App("mongomock://", database=database, plugins=[]):
        await NativeOrder.create({"name": "in memory nothing is decoded"})
        assert len(await NativeOrder.search()) == 1
