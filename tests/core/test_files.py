"""File fields: streams in and out of GridFS, replacing and deleting, transactions, and who may read."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import io
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from bson import ObjectId
from gridfs.asynchronous import AsyncGridFSBucket
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo import AsyncMongoClient

from earnorm import (
    App,
    BaseModel,
    ConcurrencyError,
    FieldNotLoaded,
    File,
    NotFound,
    String,
    ValidationError,
    constrains,
    transaction,
    validates,
)
from earnorm.backends.gridfs import CHUNK
from earnorm.files import remove_orphans

from .conftest import Commands, default_app


class Owner(BaseModel):
    _name = "core.file_owner"

    name = String(required=True)
    avatar = File(content_types=("image/*",), max_size=3 * CHUNK)
    report = File(db_name="r")


class Guarded(BaseModel):
    _name = "core.file_guarded"
    _versioned = True

    name = String()
    paper = File(readonly=True)


async def raw(app: App, name: str = "r") -> tuple[int, int]:
    """How many files and chunks the bucket of a field holds."""
    database = app.dangerous_raw("a look")
    bucket = f"core_file_owner.{name}"
    return (
        await database[f"{bucket}.files"].count_documents({}),
        await database[f"{bucket}.chunks"].count_documents({}),
    )


async def owner(**values: Any) -> Owner:
    return await Owner.create({"name": "Ann", **values})


SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 8 * CHUNK, 8 * CHUNK + 5, 17 * CHUNK + 3]


@pytest.mark.parametrize("size", SIZES)
async def test_content_of_any_size_comes_back(app: App, size: int) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    content = content[:size]
    record = await owner()
    assert not record.report and record.report.length == 0 and record.report.sha256 is None
    written = await record.report.write(content, filename="a.bin", content_type="text/plain")
    assert written.length == size and not record.is_changed
    for each in (record, await Owner.get(record.id)):
        file = each.report
        assert file and await file.read() == content
        assert (file.length, file.filename, file.content_type) == (size, "a.bin", "text/plain")
        assert file.sha256 == hashlib.sha256(content).hexdigest()
        assert file.uploaded_at is not None and file.uploaded_at.tzinfo is datetime.UTC
        assert max([len(piece) async for piece in file], default=0) <= CHUNK
    assert await raw(app) == (1, -(-size // CHUNK))


async def parts(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


class Upload:
    """As a web framework hands one over."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    async def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


@pytest.mark.parametrize(
    "source",
    [
        b"hello",
        bytearray(b"hello"),
        memoryview(b"hello"),
        io.BytesIO(b"hello"),
        [b"he", b"", b"llo"],
        Upload(b"hello"),
        parts(b"hel", b"lo"),
    ],
    ids=lambda source: type(source).__name__,
)
async def test_content_is_taken_from(memory_app: App, source: Any) -> None:
    if isinstance(source, io.BytesIO):
        source.seek(0)
    record = await owner()
    assert await (await record.report.write(source)).read() == b"hello"


@pytest.mark.parametrize("source", ["text", 3, None, ["text"]], ids=str)
async def test_what_is_no_content_is_refused_and_leaves_nothing(app: App, source: Any) -> None:
    record = await owner()
    with pytest.raises(ValidationError, match="bytes"):
        await record.report.write(source)
    assert await raw(app) == (0, 0) and not record.report


def test_any_slice_is_what_bytes_would_give(database: str) -> None:
    content = bytes(n % 253 for n in range(2 * CHUNK + 77))
    edges = st.sampled_from([0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, len(content)])
    place = edges | st.integers(0, len(content) + 9)
    with asyncio.Runner() as runner:
        app = runner.run(App("mongomock://", database=database, plugins=[]).start())

        async def prepare() -> Owner:
            with app.activate():
                record = await owner()
                await record.report.write(content)
                return record

        record = runner.run(prepare())

        async def law(start: int, stop: int | None, step: int) -> None:
            with app.activate():
                found = b"".join([piece async for piece in record.report.chunks(start, stop)])
                assert found == content[start:stop]
                async with record.report.open(start, stop) as reader:
                    read = [piece async for piece in _until_empty(reader, step)]
                assert b"".join(read) == content[start:stop]
                assert all(len(piece) == step for piece in read[:-1])

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(place, place | st.none(), st.integers(CHUNK // 3, 3 * CHUNK))
        def check(start: int, stop: int | None, step: int) -> None:
            runner.run(law(start, stop, step))

        check()
        runner.run(app.stop())


async def _until_empty(reader: Any, size: int) -> AsyncIterator[bytes]:
    while piece := await reader.read(size):
        yield piece


async def test_drivers_buckets_read_what_is_written_and_the_other_way(
    server_app: App, mongo_uri: str, database: str
) -> None:
    record = await owner()
    await record.report.write(b"x" * (CHUNK + 9), filename="a.bin")
    async with AsyncMongoClient(mongo_uri) as client:
        bucket = AsyncGridFSBucket(client[database], "core_file_owner.r")
        files = [file async for file in bucket.find()]
        assert [(f.filename, f.length, f.chunk_size) for f in files] == [
            ("a.bin", CHUNK + 9, CHUNK)
        ]
        stream = await bucket.open_download_stream(files[0]._id)
        assert await stream.read() == b"x" * (CHUNK + 9)
        # the driver's own file under the record's id: read by us as well
        await bucket.delete(files[0]._id)
        await bucket.upload_from_stream_with_id(files[0]._id, "b", b"y" * 99, chunk_size_bytes=10)
    assert await record.report.read() == b"y" * 99


async def test_replacing_and_deleting_drop_the_old_content(app: App) -> None:
    record = await owner()
    await record.report.write(b"one")
    before = await Owner.get(record.id)
    await record.report.write(b"two")
    assert await raw(app) == (1, 1)
    with pytest.raises(NotFound, match="replaced"):
        await before.report.read()
    with pytest.raises(ConcurrencyError, match="replaced"):
        await before.report.write(b"three")
    assert await raw(app) == (1, 1)
    assert await (await Owner.get(record.id)).report.read() == b"two"
    await record.report.delete()
    await record.report.delete()
    assert not record.report and await raw(app) == (0, 0)
    with pytest.raises(NotFound, match="no file"):
        await record.report.read()
    assert not (await Owner.get(record.id)).report


@pytest.mark.parametrize("way", ["record", "records", "query"])
async def test_content_goes_with_its_record(app: App, way: str) -> None:
    records = [await owner(name=name) for name in ("a", "b", "c")]
    for record in records:
        await record.report.write(b"x")
        await record.avatar.write(b"y", content_type="image/png")
    if way == "record":
        for record in records[:2]:
            await record.unlink()
    elif way == "records":
        await (await Owner.search([("name", "!=", "c")])).unlink()
    else:
        assert await Owner.search([("name", "!=", "c")]).delete() == 2
    assert await raw(app) == (1, 1) == await raw(app, "avatar")
    assert await records[2].report.read() == b"x"


async def test_a_model_without_files_deletes_in_one_command(commands: Commands) -> None:
    class Plain(BaseModel):
        _name = "core.file_plain"
        name = String()

    record = await Plain.create({"name": "a"})
    commands.clear()
    await record.unlink()
    assert commands.of("core_file_plain") == ["delete"]


# -- transactions ---------------------------------------------------------------------------------


async def test_a_rollback_keeps_the_old_content_and_drops_the_new(server_app: App) -> None:
    record, other = await owner(), await owner()
    await record.report.write(b"old")
    await other.report.write(b"other")
    with pytest.raises(ZeroDivisionError):
        async with transaction():
            await record.report.write(b"new")
            assert await record.report.read() == b"new"
            await other.unlink()
            raise ZeroDivisionError
    assert await record.report.read() == b"old"
    assert await other.report.read() == b"other"
    assert await raw(server_app) == (2, 2)


async def test_a_commit_drops_the_old_content_afterwards(server_app: App) -> None:
    record, other = await owner(), await owner()
    await record.report.write(b"old")
    await other.report.write(b"other")
    async with transaction():
        await record.report.write(b"first")
        await record.report.write(b"new")
        await other.unlink()
        assert await raw(server_app) == (4, 4)
    assert await record.report.read() == b"new" == await (await Owner.get(record.id)).report.read()
    assert await raw(server_app) == (1, 1)


# -- what may go wrong ----------------------------------------------------------------------------


async def test_a_source_that_fails_leaves_nothing(app: App) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * (20 * CHUNK)
        raise OSError("gone")

    record = await owner()
    await record.report.write(b"old")
    with pytest.raises(OSError, match="gone"):
        await record.report.write(broken())
    assert await raw(app) == (1, 1) and await record.report.read() == b"old"


async def test_a_cancelled_upload_leaves_nothing(server_app: App) -> None:
    started = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * (20 * CHUNK)
        started.set()
        await asyncio.sleep(60)

    record = await owner()
    task = asyncio.create_task(record.report.write(slow()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await raw(server_app) == (0, 0)


async def test_two_writers_have_one_winner_and_no_left_over(server_app: App) -> None:
    record = await owner()
    copies = [await Owner.get(record.id) for _ in range(4)]
    tries = [each.report.write(b"%d" % number) for number, each in enumerate(copies)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    lost = [each for each in outcomes if isinstance(each, BaseException)]
    assert len(lost) == 3 and all(isinstance(each, ConcurrencyError) for each in lost)
    assert await raw(server_app) == (1, 1)
    await record.refresh()
    assert await record.report.read() in (b"0", b"1", b"2", b"3")


async def test_a_missing_part_is_an_error_and_never_other_bytes(app: App) -> None:
    record = await owner()
    await record.report.write(b"x" * (3 * CHUNK))
    chunks = app.dangerous_raw("damage")["core_file_owner.r.chunks"]
    await chunks.delete_one({"n": 1})
    with pytest.raises(NotFound, match="missing"):
        await record.report.read()
    await chunks.delete_many({})
    with pytest.raises(NotFound, match="missing"):
        await record.report.read()
    await app.dangerous_raw("damage")["core_file_owner.r.files"].delete_many({})
    with pytest.raises(NotFound, match="not in the store"):
        await record.report.read()


async def test_what_a_field_allows(app: App) -> None:
    record = await owner()
    with pytest.raises(ValidationError, match=r"image/\*"):
        await record.avatar.write(b"x", content_type="text/html")
    with pytest.raises(ValidationError, match=r"image/\*"):
        await record.avatar.write(b"x")
    with pytest.raises(ValidationError, match="at most"):
        await record.avatar.write(iter([b"x" * CHUNK] * 4), content_type="image/png")
    with pytest.raises(ValidationError, match="filename"):
        await record.avatar.write(b"x", content_type="image/png", filename="x" * 256)
    assert await raw(app, "avatar") == (0, 0)
    await record.avatar.write(b"x" * 3 * CHUNK, content_type="image/png; q=1")
    with pytest.raises(ValidationError, match="not saved"):
        await Owner(name="x").avatar.write(b"x", content_type="image/png")
    gone = await owner()
    await gone.unlink()
    with pytest.raises(NotFound):
        await gone.report.write(b"x")
    assert await raw(app) == (0, 0)


async def test_readonly_is_once_and_versions_count(app: App) -> None:
    record = await Guarded.create({"name": "a"})
    stale = await Guarded.get(record.id)
    await record.paper.write(b"x")
    with pytest.raises(ValidationError, match="once"):
        await record.paper.write(b"y")
    with pytest.raises(ValidationError, match="once"):
        await record.paper.delete()
    record.name = "b"
    await record.save()  # the revision was counted in memory too
    stale.name = "c"
    with pytest.raises(ConcurrencyError):
        await stale.save()


async def test_a_files_description_cannot_be_forged(app: App) -> None:
    record, other = await owner(), await owner()
    await record.report.write(b"secret")
    forged = {"_id": record.__dict__["report"]["_id"], "length": 6, "sha256": "x"}
    for value in (forged, record.report, b"bytes", None):
        with pytest.raises(ValidationError, match="report"):
            await Owner.create({"name": "x", "report": value})
        with pytest.raises(ValidationError, match="report"):
            await other.write({"report": value})
        with pytest.raises(ValidationError, match="report"):
            await Owner.search().update({"report": value})
        with pytest.raises(ValidationError, match="write"):
            other.report = value  # type: ignore[assignment] # that is the point
    with pytest.raises(ValidationError):
        await other.write({"report._id": forged["_id"]})
    assert not (await Owner.get(other.id)).report


async def test_a_file_is_loaded_with_its_record_only(app: App) -> None:
    record = await owner()
    await record.report.write(b"x", filename="a.txt")
    part = (await Owner.search().only("name"))[0]
    with pytest.raises(FieldNotLoaded):
        part.report  # noqa: B018 - reading it is the point
    assert await Owner.search([("report.filename", "=", "a.txt")]).count() == 1
    assert await Owner.search([("report.length", ">", 0)]).count() == 1
    assert await Owner.search(Owner.report.length > 0).count() == 1
    assert await Owner.search([("report", "=", None)]).count() == 0
    assert await Owner.search([("avatar", "=", None)]).count() == 1
    shown = record.to_dict()["report"]
    assert shown["filename"] == "a.txt" and "_id" not in shown
    assert '"sha256"' in record.to_json() and record.to_dict()["avatar"] is None
    body: Any = Owner.pydantic_model(include=["report", "avatar"])
    assert body.model_validate(record).model_dump(mode="json")["report"]["filename"] == "a.txt"
    schema = body.model_json_schema(mode="serialization")["properties"]["report"]
    assert schema["anyOf"][0]["readOnly"]


async def test_what_no_record_points_at_is_found_and_removed(app: App) -> None:
    record = await owner()
    await record.report.write(b"used")
    store = app._backend.files("core_file_owner.r")
    for _ in range(3):
        await store.save(ObjectId(), parts(b"left over"), filename=None, metadata={})
    assert await remove_orphans(Owner) == 0  # they may be of a write under way
    assert await remove_orphans(Owner, older_than=datetime.timedelta(seconds=-60)) == 3
    assert await raw(app) == (1, 1) and await record.report.read() == b"used"


class Paper(BaseModel):
    _name = "core.file_paper"
    _discriminator = "kind"

    scan = File()
    logo = File(bucket="core_logos")


class Letter(Paper):
    _name = "core.file_letter"

    seal = File()


class Deed(Paper):
    _name = "core.file_deed"

    seal = File()


class Brand(BaseModel):
    _name = "core.file_brand"

    sign = File(bucket="core_logos")


@pytest.mark.parametrize("asked", [Deed, Letter, Paper, Brand])
async def test_what_another_model_points_at_is_no_orphan(app: App, asked: type[BaseModel]) -> None:
    used: list[Any] = []
    for model in (Paper, Letter, Deed, Brand):
        record = await model.create({})
        for name in {"scan", "logo", "seal", "sign"} & set(model._schema.fields):
            await getattr(record, name).write(name.encode())
            used.append((record, name))
    # A class of the family that this App does not have.
    paper = app.dangerous_raw("the test writes what another program would")["core_file_paper"]
    deed = next(record for record, _ in used if isinstance(record, Deed))
    await paper.update_one({"_id": deed.pk}, {"$set": {"kind": "unknown"}})
    for bucket in ("core_file_paper.scan", "core_file_paper.seal", "core_logos"):
        store = app._backend.files(bucket)
        await store.save(ObjectId(), parts(b"left over"), filename=None, metadata={})
    deleted = await remove_orphans(asked, older_than=datetime.timedelta(seconds=-60))
    assert deleted == {Paper: 2, Brand: 1}.get(asked, 3)
    await paper.update_one({"_id": deed.pk}, {"$set": {"kind": deed._name}})
    for record, name in used:
        assert await getattr(record, name).read() == name.encode()


async def test_a_copy_has_no_file_of_its_own_yet(app: App) -> None:
    record = await owner()
    await record.report.write(b"x")
    copied = await record.copy()
    assert not copied.report and copied.name == record.name
    await copied.unlink()
    assert await record.report.read() == b"x"


def test_a_wrong_declaration_fails_where_it_stands() -> None:
    with pytest.raises(TypeError, match="unique"):
        File(unique=True)
    with pytest.raises(TypeError, match="sequence"):
        File(content_types="image/png")


def zeros(size: int) -> Iterator[bytes]:
    piece = bytes(64 * 1024)
    for _ in range(size // len(piece)):
        yield piece


@pytest.mark.parametrize("driver", ["pymongo"])
async def test_a_large_file_is_never_whole_in_memory(driver: str, database: str) -> None:
    async with default_app(driver, database):
        record = await owner()
        await record.report.write(zeros(4 * 2**20))  # what is imported once is not counted
        tracemalloc.start()
        try:
            await record.report.write(zeros(48 * 2**20))
            length = 0
            async for piece in record.report:
                length += len(piece)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert length == 48 * 2**20
    assert peak < 12 * 2**20  # 6.5 MiB when this was written


class Ruled(BaseModel):
    _name = "core.file_ruled"

    name = String()
    paper = File()

    @constrains("paper")
    def is_lucky(self) -> None:
        if self.paper.length == 13:
            raise ValueError("13 bytes bring bad luck")

    @constrains("paper")
    async def is_kept(self) -> None:
        if self.name == "keeper" and not self.paper:
            raise ValueError("a keeper has a paper")

    @constrains()
    def is_open(self) -> None:
        if self.name == "closed":
            raise ValueError("it is closed")

    @validates("paper")
    def is_named(self, file: Any) -> Any:
        if file.filename == "virus.exe":
            raise ValueError("no programs")
        return file

    @validates("paper")
    async def is_short(self, file: Any) -> Any:
        if file.length > 20:
            raise ValueError("too long")
        return file


@pytest.mark.parametrize("in_transaction", [False, True])
@pytest.mark.parametrize(
    ("content", "filename", "problem"),
    [
        (b"x" * 13, "a.txt", "bad luck"),
        (b"x", "virus.exe", "no programs"),
        (b"x" * 21, "a.txt", "too long"),
    ],
)
async def test_a_file_that_a_rule_refuses_is_not_stored(
    server_app: App, content: bytes, filename: str, problem: str, in_transaction: bool
) -> None:
    kept = await Ruled.create({"name": "Ann"})
    await kept.paper.write(b"old")
    (record,) = await Ruled.search([("id", "=", kept.id)]).only("paper")

    async def write() -> None:
        with pytest.raises(ValidationError, match=problem):
            await record.paper.write(content, filename=filename)

    if in_transaction:
        async with transaction():  # it is committed
            await write()
    else:
        await write()
    assert await record.paper.read() == b"old"
    files = server_app.dangerous_raw("a look")["core_file_ruled.paper.files"]
    assert await files.count_documents({"length": {"$ne": 3}}) == 0


async def test_rules_without_names_and_those_of_no_file_hold_for_files(server_app: App) -> None:
    record = await Ruled.create({"name": "Ann"})
    await record.paper.write(b"old")
    await record.write({"name": "keeper"})
    with pytest.raises(ValidationError, match="a keeper has"):
        await record.paper.delete()
    assert await record.paper.read() == b"old"
    database = server_app.dangerous_raw("a look")
    await database["core_file_ruled"].update_many({}, {"$set": {"name": "closed"}})
    stale = await Ruled.get(record.id)
    with pytest.raises(ValidationError, match="closed"):
        await stale.paper.write(b"new")
