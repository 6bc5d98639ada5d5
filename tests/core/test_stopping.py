"""A stop while work is in flight: what it takes, what it waits for, and what it cuts off."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, Final

import pytest
from pymongo import MongoClient

import earnorm
from earnorm import App, AppStopping, EarnORMError, Layer, Operation, TransactionError, hookimpl
from earnorm.kernel.life.in_flight import Stopped

from .conftest import DRIVERS, default_app
from .failpoints import FailPoint, failing, until
from .shop import Author, Person, Post

BLOCKED: Mapping[str, Any] = {"blockConnection": True, "blockTimeMS": 600}
LONG_MS = 30_000
"""For what the test interrupts."""
NEVER: Final = 3_600.0
"""A grace that no test waits for."""


class OnServer:
    """An App on the server, and what the server holds of it."""

    def __init__(self, app: App, uri: str) -> None:
        self.app, self.uri, self.name = app, uri, app.settings.database

    def blocked(self, *commands: str, ms: int = 600) -> AbstractContextManager[FailPoint]:
        data = {**BLOCKED, "blockTimeMS": ms}
        return failing(self.uri, self.name, *commands, mode={"times": 1}, **data)

    def held(self) -> tuple[int, int, int]:
        """The open transactions, cursors and connections of the App."""
        with MongoClient[dict[str, Any]](self.uri) as client:
            every = {
                "allUsers": True,
                "idleConnections": True,
                "idleCursors": True,
                "idleSessions": True,
            }
            operations = list(
                client.admin.aggregate([{"$currentOp": every}, {"$match": {"appName": self.name}}])
            )
            cursors = list(
                client.admin.aggregate(
                    [
                        {"$currentOp": every},
                        {"$match": {"type": "idleCursor", "ns": f"{self.name}.core_person"}},
                    ]
                )
            )
        transactions = [op for op in operations if "transaction" in op]
        connections = [op for op in operations if op.get("type") == "op" and "connectionId" in op]
        return len(transactions), len(cursors), len(connections)

    async def stops(self) -> None:
        """Wait until the App takes nothing new."""
        await until(lambda: self.app._lifecycle.taking is None)

    async def left(self) -> tuple[int, int, int]:
        """What the server holds once it has noticed which connections are gone."""
        for _ in range(200):
            left = await asyncio.to_thread(self.held)
            if left == (0, 0, 0):
                break
            await asyncio.sleep(0.05)
        return left

    def documents(self) -> list[dict[str, Any]]:
        with MongoClient[dict[str, Any]](self.uri) as client:
            return list(client[self.name].core_person.find())

    def write(self) -> None:
        """Write all records as another program does, which waits for no lock."""
        with MongoClient[dict[str, Any]](self.uri, timeoutMS=1500) as client:
            client[self.name].core_person.update_many({}, {"$set": {"age": 99}})


@pytest.fixture(params=DRIVERS)
async def server(
    request: pytest.FixtureRequest, database: str, mongo_uri: str
) -> AsyncIterator[OnServer]:
    async with default_app(request.param, database) as app:
        await app.prepare_models()
        await Person.create({"name": "first", "age": 1})
        yield OnServer(app, mongo_uri)
        await app.stop(grace=0)
        with MongoClient[dict[str, Any]](mongo_uri) as client:
            client.drop_database(database)


async def begun(
    work: Callable[[], Awaitable[object]], moment: Callable[[], Awaitable[object]]
) -> asyncio.Task[Any]:
    """Begin the work in a task of its own, and wait until this has come."""
    task = asyncio.ensure_future(work())
    await moment()
    return task


# -- what is in flight ends -----------------------------------------------------------------------


async def test_an_operation_in_flight_ends_and_new_ones_are_refused(server: OnServer) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def write() -> Person:
        with server.app.in_flight.whole():
            inside.set()
            await go_on.wait()
            return await Person.create({"name": "Ann"})

    writing = await begun(write, inside.wait)
    stopping = await begun(lambda: server.app.stop(grace=NEVER), server.stops)
    try:
        for new in (
            Person.count,
            lambda: Person.create({"name": "Bob"}),
            lambda: Person.create_many([{"name": "Bob"}]),
            lambda: Person.upsert({"name": "Bob", "email": "b@example.com"}, on="email"),
            lambda: anext(aiter(Person.search())),
            earnorm.transaction().__aenter__,
            earnorm.session().__aenter__,
        ):
            with pytest.raises(AppStopping, match="is stopping and takes no new work") as refused:
                await new()
            assert refused.value.code == "app_stopping" and refused.value.status == 503
        health = await server.app.health()
        assert health["database"]["status"] == "failed" and server.app.is_started
    finally:
        go_on.set()
    assert await stopping == Stopped()
    assert (await writing).name == "Ann"
    assert [d["name"] for d in server.documents()] == ["first", "Ann"]
    assert await server.left() == (0, 0, 0)


async def test_a_transaction_in_flight_goes_on_to_its_commit_and_its_callbacks(
    server: OnServer,
) -> None:
    called: list[str] = []
    written = asyncio.Event()

    async def callback() -> None:
        await Person.create({"name": "called"})
        called.append("callback")

    async def work() -> None:
        async with earnorm.transaction() as running:
            running.after_commit(callback)
            await Person.create({"name": "Ann"})
            written.set()
            await server.stops()
            await asyncio.gather(Person.count(), Person.search())
            await Person.create({"name": "Bob"})

    working = await begun(work, written.wait)
    assert (await server.app.stop(grace=NEVER)).is_clean
    await working
    assert called == ["callback"]
    assert {d["name"] for d in server.documents()} == {"first", "Ann", "Bob", "called"}
    assert await server.left() == (0, 0, 0)


async def test_a_stream_and_a_session_in_flight_go_on_to_their_ends(server: OnServer) -> None:
    await Person.create_many({"name": f"p{n}"} for n in range(2_500))
    streams, has_session = asyncio.Event(), asyncio.Event()

    async def stream() -> int:
        seen = 0
        async for _ in Person.search():
            seen += 1
            if seen == 1:
                streams.set()
                await server.stops()
        return seen

    async def in_session() -> int:
        async with earnorm.session():
            has_session.set()
            await server.stops()
            return await Person.count()

    tasks = [await begun(stream, streams.wait), await begun(in_session, has_session.wait)]
    assert (await server.app.stop(grace=NEVER)).is_clean
    assert await asyncio.gather(*tasks) == [2_501, 2_501]
    assert await server.left() == (0, 0, 0)


async def test_a_prefetch_follows_its_search(server: OnServer) -> None:
    author = await Author.create({"name": "Ann"})
    await Post.create({"author_id": author, "title": "one"})
    with server.blocked("find", "aggregate") as find:
        reading = await begun(Post.search().prefetch("author_id")._run, find.entered)
        assert (await server.app.stop(grace=NEVER)).is_clean
    assert [post.author_id.name for post in await reading] == ["Ann"]


# -- what is cut off ------------------------------------------------------------------------------


async def test_what_is_not_over_after_the_grace_is_cut_off_and_told(
    server: OnServer, caplog: pytest.LogCaptureFixture
) -> None:
    await Person.create_many({"name": f"p{n}"} for n in range(4_000))
    ended: list[BaseException | str] = []
    rolled_back: list[str] = []
    never = asyncio.Event()
    at_work = [asyncio.Event() for _ in range(3)]

    async def heard(work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
            ended.append("ended")
        except BaseException as error:
            ended.append(error)

    async def in_transaction() -> None:
        async with earnorm.transaction() as running:
            running.after_rollback(lambda: rolled_back.append("told"))
            first = (await Person.search([("name", "=", "first")])).ensure_one()
            await first.write({"age": 7})
            at_work[0].set()
            await never.wait()

    async def in_session() -> None:
        async with earnorm.session():
            await Person.count()
            at_work[1].set()
            await never.wait()

    async def stream() -> None:
        async for _ in Person.search():
            at_work[2].set()
            await never.wait()

    works = zip((in_transaction, in_session, stream), at_work, strict=True)
    tasks = [await begun(partial(heard, work), event.wait) for work, event in works]
    with caplog.at_level(logging.WARNING, "earnorm"):
        stopped = await server.app.stop(grace=0.2)
    assert stopped == Stopped(transactions=1, sessions=1, streams=1) and not stopped.is_clean
    assert "cut off after 0.2 s: 1 transaction, 1 session, 1 stream" in caplog.text
    assert rolled_back == ["told"]
    assert await server.left() == (0, 0, 0)
    await asyncio.to_thread(server.write)  # nobody holds a lock
    never.set()
    await asyncio.wait(tasks, timeout=5)
    doomed, *others = ended[0], *ended[1:]
    assert isinstance(doomed, TransactionError) and "was stopped" in str(doomed)
    assert not doomed.transient and doomed.code == "transaction_doomed"
    assert len(others) == 2


@pytest.mark.parametrize("again", [False, True])
async def test_what_was_busy_while_the_app_stopped_gets_the_error_when_it_goes_on(
    server: OnServer, again: bool
) -> None:
    await Person.create_many({"name": f"p{n}"} for n in range(1_500))
    app, go_on, ended = server.app, asyncio.Event(), dict[str, BaseException | str]()
    busy = asyncio.Semaphore(0)

    async def be_busy() -> None:
        busy.release()
        await go_on.wait()

    async def stream() -> None:
        async for _ in Person.search():
            await be_busy()

    async def in_session() -> None:
        async with earnorm.session():
            await Person.count()
            await be_busy()
            await Person.count()

    async def in_transaction() -> None:
        async with earnorm.transaction():
            await Person.count()
            await be_busy()
            await Person.count()

    async def heard(work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
            ended[work.__name__] = "ended"
        except BaseException as error:
            ended[work.__name__] = error

    works = (stream, in_session, in_transaction)
    tasks = [await begun(partial(heard, work), busy.acquire) for work in works]
    assert not (await app.stop(grace=0)).is_clean
    if again:
        await app.start()
    go_on.set()
    await asyncio.wait(tasks, timeout=5)
    assert isinstance(ended["stream"], AppStopping), ended
    doomed = AppStopping | TransactionError  # a transaction says what has happened to it
    assert isinstance(ended["in_transaction"], doomed), ended
    assert isinstance(ended["in_session"], doomed), ended


async def test_an_operation_that_is_cut_off_gets_the_error_and_its_task_goes_on(
    server: OnServer,
) -> None:
    async def work() -> str:
        with pytest.raises(AppStopping):
            await Person.search()
        await asyncio.sleep(0.01)  # the task is not cancelled
        task = asyncio.current_task()
        assert task is not None and task.cancelling() == 0
        return "went on"

    with server.blocked("find", ms=LONG_MS) as find:
        working = await begun(work, find.entered)
        stopping = asyncio.ensure_future(server.app.stop(grace=0.05))
        assert await working == "went on"
        await find.interrupt()  # a read in Motor's thread is waited for
        assert await stopping == Stopped(operations=1)
    assert await server.left() == (0, 0, 0)


@pytest.mark.parametrize("command", ["insert", "commitTransaction", "abortTransaction"])
async def test_a_transaction_is_cut_off_in_the_middle_of_each_step(
    server: OnServer, command: str
) -> None:
    outcome: Any = None

    async def work() -> None:
        nonlocal outcome
        async with earnorm.transaction() as running:
            outcome = running.outcome
            await Person.search([("name", "=", "first")]).update({"age": 7})
            await Person.create({"name": "Ann"})
            if command == "abortTransaction":
                raise ZeroDivisionError

    # A commit that were interrupted would leave its transaction; it has to take longer than the stop.
    with server.blocked(command, ms=3_000 if command == "commitTransaction" else 600) as step:
        working = await begun(work, step.entered)
        stopped = await server.app.stop(grace=0)
    await asyncio.wait({working}, timeout=5)
    assert working.exception() is not None
    assert stopped.transactions == 1
    assert await server.left() == (0, 0, 0)
    await asyncio.to_thread(server.write)
    names = {d["name"] for d in server.documents()}
    if command == "commitTransaction":
        assert outcome.unknown
    else:
        assert outcome.rolled_back and names == {"first"}


async def test_a_prefetch_that_is_cut_off_gets_the_error(server: OnServer) -> None:
    author = await Author.create({"name": "Ann"})
    await Post.create({"author_id": author, "title": "one"})
    with failing(server.uri, server.name, "find", mode={"skip": 1}, **BLOCKED) as find:
        working = await begun(Post.search().prefetch("author_id")._run, find.entered)
        stopped = await server.app.stop(grace=0)
    assert stopped.operations
    with pytest.raises(AppStopping):
        await working
    assert await server.left() == (0, 0, 0)


async def test_a_watch_that_is_cut_off_while_it_opens_gets_the_error(server: OnServer) -> None:
    async def look() -> None:
        async for _ in Person.watch():
            pass

    with server.blocked("aggregate") as opening:
        looking = await begun(look, opening.entered)
        await server.app.stop(grace=0)
    with pytest.raises(AppStopping):
        await looking
    assert await server.left() == (0, 0, 0)


async def test_a_cancelled_stop_ends_the_grace_and_leaves_nothing_either(server: OnServer) -> None:
    written = asyncio.Event()

    async def work() -> None:
        async with earnorm.transaction():
            await Person.search([("name", "=", "first")]).update({"age": 7})
            written.set()
            await asyncio.sleep(NEVER)

    working = await begun(work, written.wait)
    stopping = await begun(lambda: server.app.stop(grace=NEVER), server.stops)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert not server.app.is_started and await server.left() == (0, 0, 0)
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working
    assert server.documents()[0]["age"] == 1


async def test_a_stop_inside_of_its_own_work_does_not_wait_for_itself(server: OnServer) -> None:
    with pytest.raises(TransactionError, match="was stopped"):
        async with earnorm.transaction():
            await Person.create({"name": "Ann"})
            assert await server.app.stop(grace=NEVER) == Stopped(transactions=1)
    assert await server.left() == (0, 0, 0)
    assert [d["name"] for d in server.documents()] == ["first"]


async def test_callbacks_that_go_on_are_not_told_as_a_transaction_that_was_cut_off(
    server: OnServer,
) -> None:
    running, released = asyncio.Event(), asyncio.Event()
    refused: list[BaseException] = []

    async def callback() -> None:
        running.set()
        await released.wait()
        try:
            await Person.count()
        except EarnORMError as error:
            refused.append(error)

    async def work() -> bool:
        async with earnorm.transaction() as transaction:
            transaction.after_commit(callback)
            await Person.create({"name": "Ann"})
        return transaction.outcome.committed

    working = await begun(work, running.wait)
    stopped = await server.app.stop(grace=0.01)
    assert stopped == Stopped(callbacks=1) and str(stopped) == "1 callback"
    released.set()
    assert await working and refused
    assert [d["name"] for d in server.documents()] == ["first", "Ann"]


async def test_a_stop_in_a_callback_cuts_off_nothing(server: OnServer) -> None:
    heard: list[object] = []

    async def callback() -> None:
        heard.append(await server.app.stop(grace=NEVER))

    async with earnorm.transaction() as transaction:
        transaction.after_commit(callback)
        transaction.after_commit(lambda: heard.append("the next one"))
        await Person.create({"name": "Ann"})
    assert heard == [Stopped(), "the next one"]
    assert await server.left() == (0, 0, 0)


async def test_a_stream_of_changes_is_not_waited_for(server: OnServer) -> None:
    changes = Person.watch()

    async def look() -> None:
        async with changes:
            async for _ in changes:
                pass

    def waits_for_a_change() -> bool:
        return getattr(changes._cursor, "_reading", None) is not None

    looking = await begun(look, lambda: until(waits_for_a_change))
    assert (await server.app.stop(grace=NEVER)).is_clean
    with pytest.raises(AppStopping):
        await looking
    assert await server.left() == (0, 0, 0)


async def test_a_cancellation_of_ones_own_stays_one(server: OnServer) -> None:
    with server.blocked("find") as find:
        working = await begun(Person.search()._run, find.entered)
        stopping = asyncio.ensure_future(server.app.stop(grace=0.05))
        working.cancel()
        await stopping
    with pytest.raises(asyncio.CancelledError):
        await working


# -- without a server -----------------------------------------------------------------------------


class Flushing:
    """A plugin that writes in its hooks, and from a task that it began at the start."""

    api = 1
    name = "flushing"

    def __init__(self) -> None:
        self.flush = asyncio.Event()
        self.stopped = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def _flush(self) -> None:
        await self.flush.wait()
        await Person.create({"name": "flushed"})

    @hookimpl
    async def startup(self, app: App) -> None:
        self.task = asyncio.create_task(self._flush())

    @hookimpl
    async def shutdown(self, app: App) -> None:
        await Person.create({"name": "shut down"})
        self.flush.set()
        assert self.task is not None
        await self.task
        self.names = {person.name for person in await Person.search()}
        foreign = contextvars.Context().run(asyncio.ensure_future, self._new(app))
        with pytest.raises(AppStopping):
            await foreign

    async def _new(self, app: App) -> None:
        # A part of something, which nothing in flight is any more.
        await app.execute(Operation("count", Person, app.env).child("count", Person, origin="late"))


async def test_hooks_and_their_tasks_work_until_the_end(database: str) -> None:
    plugin = Flushing()
    async with App("mongomock://", database=database, plugins=[plugin]):
        await Person.create({"name": "Ann"})
    assert plugin.names == {"Ann", "shut down", "flushed"}


async def test_a_layer_may_make_operations_while_the_app_stops(database: str) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()
    counted: list[Any] = []

    class Asking:
        api = 1
        name = "asking"

        @hookimpl
        def wrap_operation(self, app: App, model: type, operation: str) -> list[Any]:
            async def ask(op: Operation, call_next: Any) -> Any:
                inside.set()
                await go_on.wait()
                search = op.child("search", Person, origin="asking")
                counted.append(await asyncio.gather(Person.count(), op.app.execute(search)))
                return await call_next(op)

            return [(Layer.DEFAULT, ask)] if operation == "create" else []

    async with App("mongomock://", database=database, plugins=[Asking]) as app:
        writing = asyncio.ensure_future(Person.create({"name": "Ann"}))
        await inside.wait()
        stopping = asyncio.ensure_future(app.stop())
        await until(lambda: app._lifecycle.taking is None)
        go_on.set()
        await writing
        assert (await stopping).is_clean
    assert counted == [[0, []]]  # the count names no parent, and is made in a task of its own


async def test_a_unit_without_transactions_is_not_torn_apart(database: str) -> None:
    from earnorm.kernel.transactions.blocks import atomic

    async with App("mongomock://", database=database, plugins=[]) as app:
        half = asyncio.Event()

        async def both() -> int:
            await Person.create({"name": "Ann"})
            half.set()
            await until(lambda: app._lifecycle.taking is None)
            await Person.create({"name": "Bob"})
            return await Person.count()

        working = await begun(lambda: atomic(both), half.wait)
        assert (await app.stop(grace=NEVER)).is_clean
        assert await working == 2


async def test_an_app_is_started_anew_after_a_stop_that_cut_off(database: str) -> None:
    app = App("mongomock://", database=database, plugins=[])
    for _ in range(2):
        async with app:
            working = await begun(
                lambda: whole(app, asyncio.sleep(30)),
                lambda: asyncio.sleep(0),
            )
            assert await app.stop(grace=0.01) == Stopped(operations=1)
            working.cancel()
            assert await app.stop() == Stopped()
        async with app:
            assert await Person.count() == 0
    assert str(Stopped(operations=2, streams=1)) == "2 operations, 1 stream"
    assert str(Stopped()) == "nothing"


async def whole(app: App, work: Awaitable[object]) -> None:
    with app.in_flight.whole():
        await work


async def test_close_says_what_it_cut_off(database: str) -> None:
    await earnorm.init("mongomock://", database=database, plugins=[])
    assert await earnorm.close(grace=1) == Stopped()
    assert await earnorm.close() == Stopped()
