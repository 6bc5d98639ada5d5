"""Reads that are cancelled before their answer has come leave no cursor on the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest
from pymongo import MongoClient

from earnorm import App, Int, String, models
from earnorm.backends import left_reads

from .conftest import DRIVERS, default_app
from .failpoints import failing

BLOCKED: Mapping[str, Any] = {"blockConnection": True, "blockTimeMS": 200}


class LeftRow(models.BaseModel):
    _name = "core.left_row"
    number = Int()
    text = String()


@pytest.fixture(params=DRIVERS)
async def app(request: pytest.FixtureRequest, database: str) -> AsyncIterator[App]:
    async with default_app(request.param, database) as started:
        await LeftRow.create_many({"number": n, "text": "x" * 400} for n in range(5_500))
        yield started


def cursors(uri: str, database: str) -> int:
    """The cursors that the server holds for the database."""
    with MongoClient[dict[str, Any]](uri) as client:
        every = {"$currentOp": {"allUsers": True, "idleCursors": True}}
        mine = {"$match": {"type": "idleCursor", "ns": {"$regex": f"^{database}[.]"}}}
        return len(list(client.admin.aggregate([every, mine])))


async def whole() -> object:
    return await LeftRow.search()


async def stream() -> None:
    async for _ in LeftRow.search():
        pass


async def stream_that_skips() -> None:
    async for _ in LeftRow.search().stream(on_error="skip"):
        pass


async def pipeline() -> None:
    async for _ in LeftRow.search().aggregate([{"$sort": {"number": 1}}]):
        pass


READS = {
    "search": whole,
    "stream": stream,
    "skipping stream": stream_that_skips,
    "pipeline": pipeline,
}


@pytest.mark.parametrize("kind", READS)
async def test_a_read_that_is_cancelled_before_its_answer_closes_its_cursor(
    app: App, mongo_uri: str, database: str, kind: str
) -> None:
    with failing(mongo_uri, database, "find", "aggregate", mode={"times": 1}, **BLOCKED):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(READS[kind](), 0.05)
        assert app._backend.leftovers  # type: ignore[attr-defined]  # of an adapter for a driver
        for _ in range(40):
            if not app._backend.leftovers:  # type: ignore[attr-defined]
                break
            await asyncio.sleep(0.05)
    assert await asyncio.to_thread(cursors, mongo_uri, database) == 0


@pytest.mark.parametrize("kind", READS)
async def test_reads_that_are_cancelled_at_any_moment_leave_no_cursor(
    app: App, mongo_uri: str, database: str, kind: str
) -> None:
    begin = time.monotonic()
    await READS[kind]()
    took = time.monotonic() - begin
    cancelled = 0
    for step in range(12):
        try:
            await asyncio.wait_for(READS[kind](), took * step / 12)
        except TimeoutError:
            cancelled += 1
    assert cancelled
    await app.stop()
    assert await asyncio.to_thread(cursors, mongo_uri, database) == 0
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        client.drop_database(database)


# -- closes ---------------------------------------------------------------------------------------


async def opened(app: App, kind: str) -> tuple[Any, Callable[[], Awaitable[object]]]:
    """Open a cursor that stays open, and return the driver's own and what closes it."""
    if kind == "watch":
        watch = LeftRow.watch()
        await watch.__aenter__()
        cursor: Any = watch._cursor
        return cursor._native, watch.close
    rows = LeftRow.search().stream().__aiter__()
    await anext(rows)
    (request,) = app.in_flight.streams
    cursor = request._cursor
    return cursor._native, rows.aclose  # type: ignore[attr-defined]  # it is a generator


@pytest.mark.parametrize("is_cancelled", [False, True])
@pytest.mark.parametrize("kind", ["stream", "watch"])
async def test_a_stop_disconnects_after_a_close_that_is_under_way(
    app: App,
    mongo_uri: str,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    is_cancelled: bool,
) -> None:
    native, close = await opened(app, kind)
    close_native, disconnect = native.close, app._backend.close
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def late() -> None:
        begun.set()
        await go_on.wait()
        await close_native()

    async def disconnecting() -> None:
        # The close must go on only when the backend would have gone, if it did not wait.
        asyncio.get_running_loop().call_later(0.1, go_on.set)
        await disconnect()

    monkeypatch.setattr(native, "close", late)
    monkeypatch.setattr(app._backend, "close", disconnecting)
    closing = asyncio.ensure_future(close())
    await begun.wait()
    if is_cancelled:
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
    await app.stop()
    if not is_cancelled:
        await closing
    assert await asyncio.to_thread(cursors, mongo_uri, database) == 0
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        client.drop_database(database)


async def test_a_watch_that_was_cancelled_goes_on_with_the_same_read(app: App) -> None:
    async with LeftRow.watch() as watch:
        cursor: Any = watch._cursor
        for _ in range(3):
            waiting = asyncio.ensure_future(anext(watch))
            for _ in range(1000):
                if (reading := cursor._reading) is not None:
                    break
                await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert reading is not None and cursor._reading is reading
        made = [await LeftRow.create({"number": n}) for n in range(3)]
        assert [(await anext(watch)).id for _ in made] == [row.id for row in made]
        assert watch._cursor is cursor  # it was not opened again


async def test_a_read_that_takes_long_is_given_up(
    database: str, mongo_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(left_reads, "LEFT_SECONDS", 0.05)
    async with default_app("pymongo", database) as app:
        await app.prepare_models()
        await LeftRow.create({"number": 1})
        with (
            failing(
                mongo_uri, database, "find", mode={"times": 1}, **{**BLOCKED, "blockTimeMS": 3000}
            ),
            pytest.raises(TimeoutError),
        ):
            await asyncio.wait_for(whole(), 0.05)
        begin = time.monotonic()
        await app.stop()
        assert time.monotonic() - begin < 1.5


async def test_a_read_in_a_thread_closes_its_cursor_however_late_it_comes_back(
    database: str, mongo_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(left_reads, "LEFT_SECONDS", 0.01)
    async with default_app("motor", database) as app:
        await LeftRow.create_many({"number": n, "text": "x" * 400} for n in range(5_500))
        for kind in READS:
            with failing(mongo_uri, database, "find", "aggregate", mode={"times": 1}, **BLOCKED):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(READS[kind](), 0.05)
                left: set[asyncio.Task[None]] = app._backend.leftovers
                _, late = await asyncio.wait(left, timeout=20)
                assert not late
            assert await asyncio.to_thread(cursors, mongo_uri, database) == 0, kind


async def test_the_result_of_a_read_is_closed_and_its_error_is_nobodys() -> None:
    closed: list[object] = []
    leftovers: set[asyncio.Task[None]] = set()
    left = left_reads.LeftReads(leftovers, ends_cancelled=True)

    async def close(result: object) -> None:
        closed.append(result)

    async def answer() -> str:
        await asyncio.sleep(0.02)
        return "cursor"

    async def failure() -> str:
        await asyncio.sleep(0.02)
        raise LookupError("nobody waits for it")

    async def cancelled(work: Callable[[], Awaitable[str]]) -> None:
        task = asyncio.ensure_future(left.read(work(), close))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait(leftovers)

    await cancelled(answer)
    await cancelled(failure)
    assert closed == ["cursor", None] and not leftovers
    assert await left.read(answer(), close) == "cursor"
    with pytest.raises(LookupError):
        await left.read(failure(), close)
    assert len(closed) == 2 and not leftovers
