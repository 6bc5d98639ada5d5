"""How transactions end: three outcomes, cancelled tasks, operations under way, and tasks that outlive a block."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from pymongo import MongoClient

import earnorm
from earnorm import (
    App,
    DuplicateKey,
    Operation,
    TransactionError,
    TransactionOutcomeUnknown,
    hookimpl,
)
from earnorm.backends import in_sessions, transacting

from .conftest import DRIVERS, default_app
from .failpoints import failing, until
from .shop import Person

BLOCKED: Mapping[str, Any] = {"blockConnection": True, "blockTimeMS": 1_000}
LONG: Mapping[str, Any] = {"blockConnection": True, "blockTimeMS": 30_000}
"""For what the test interrupts, or what ends with its session."""
CONCERN = {"code": 64, "codeName": "WriteConcernFailed", "errmsg": "waiting for replication"}


class Told:
    """A plugin that notes how transactions ended."""

    api = 1
    name = "told"

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.error: TransactionOutcomeUnknown | None = None
        self.numbers: list[int] = []

    @hookimpl
    async def after_commit(self, app: App, operations: Sequence[Operation]) -> None:
        self.heard.append("committed")

    @hookimpl
    async def after_rollback(self, app: App, operations: Sequence[Operation]) -> None:
        self.heard.append("rolled back")

    @hookimpl
    async def transaction_unknown(
        self, app: App, operations: Sequence[Operation], error: TransactionOutcomeUnknown
    ) -> None:
        self.heard.append("unknown")
        self.error = error
        self.numbers.append(len(operations))


class Ends:
    """An App on the server, what its plugin heard, and the server's own figures."""

    def __init__(self, app: App, told: Told, uri: str, database: str) -> None:
        self.app, self.told, self.uri, self.database = app, told, uri, database
        self.called: list[str] = []

    def note(self, running: earnorm.Transaction) -> None:
        running.after_commit(lambda: self.called.append("committed"))
        running.after_rollback(lambda: self.called.append("rolled back"))

    def failing(self, *commands: str, times: int = 1, **data: Any) -> Any:
        return failing(self.uri, self.database, *commands, mode={"times": times}, **data)

    def open_transactions(self) -> int:
        """The transactions of this App that the server holds open."""
        return self.idle("transaction")

    def idle(self, what: str) -> int:
        """The transactions or cursors of this App that the server holds."""
        here = {"$regex": f"^{self.database}\\."}
        with MongoClient[dict[str, Any]](self.uri) as client:
            stages: list[dict[str, Any]] = [
                {"$currentOp": {"allUsers": True, "idleSessions": True, "idleCursors": True}},
                {"$match": {what: {"$exists": True}}},
                # A cursor names its collection, and a transaction its App.
                {"$match": {"$or": [{"appName": self.database}, {"ns": here}]}},
            ]
            return len(list(client.admin.aggregate(stages)))


@pytest.fixture(params=DRIVERS)
async def ends(
    request: pytest.FixtureRequest, database: str, mongo_uri: str
) -> AsyncIterator[Ends]:
    told = Told()
    async with default_app(request.param, database, [told]) as app:
        await app.prepare_models()  # a transaction would do it before it begins
        await Person.create({"name": "first"})
        told.heard.clear()
        yield Ends(app, told, mongo_uri, database)


async def cancelled(
    work: Callable[[], Awaitable[object]], *moments: Callable[[], Awaitable[object]]
) -> None:
    """Run the work in a task, and cancel it after each of these has come."""
    task = asyncio.ensure_future(work())
    for moment in moments:
        await moment()
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def soon() -> None:
    """Let the other tasks take some steps."""
    for _ in range(5):
        await asyncio.sleep(0)


async def timed_out(
    moment: Callable[[], Awaitable[object]], work: Callable[[], Awaitable[object]]
) -> None:
    """Run the work under a time limit that is over when this has come."""
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as limit:
            reached = asyncio.ensure_future(moment())
            reached.add_done_callback(lambda _: limit.reschedule(loop.time()))
            await work()
    await reached


async def cancelled_when(waits: asyncio.Event, work: Callable[[], Awaitable[object]]) -> None:
    """Run the work in a task, and cancel it when it waits."""
    waits.clear()
    task = asyncio.ensure_future(work())
    await waits.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- three outcomes -------------------------------------------------------------------------------


async def test_an_unknown_outcome_is_told_as_that_and_as_nothing_else(ends: Ends) -> None:
    ann, tries = await Person.create({"name": "Ann", "age": 1}), 0
    ends.told.heard.clear()
    made: list[Person] = []

    @earnorm.transactional(retries=5, max_commit_time=1)
    async def work() -> None:
        nonlocal tries
        tries += 1
        running = earnorm.current_env().transaction
        assert running is not None
        ends.note(running)
        await ann.write({"age": 7})
        made.append(await Person.create({"name": "Bob"}))
        made[0].age = 5

    # The server commits, and answers that it had too little time.
    expired = {"code": 50, "codeName": "MaxTimeMSExpired", "errmsg": "time limit"}
    with (
        ends.failing("commitTransaction", writeConcernError=expired),
        pytest.raises(TransactionOutcomeUnknown, match="unknown") as caught,
    ):
        await work()
    assert not caught.value.transient and caught.value.unknown
    assert caught.value.code == "transaction_outcome_unknown"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert tries == 1 and ends.called == [] and ends.told.heard == ["unknown"]
    assert ends.told.error is caught.value and ends.told.numbers == [2]
    assert (await ends.app.health())["transactions"]["unknown"] == 1
    assert (await Person.get(ann.id)).age == 7
    bob = made[0]
    for record in (ann, bob):
        assert record.is_stale and record.is_stored
        with pytest.raises(TransactionError, match="look whether its id exists"):
            await record.write({"age": 9})
    with pytest.raises(TransactionError, match="look whether its id exists"):
        await bob.save()
    await ann.refresh()
    await bob.refresh()
    assert not ann.is_stale and not bob.is_stale
    await ann.write({"age": 9})


async def test_the_outcome_stands_in_the_transaction(ends: Ends) -> None:
    async with earnorm.transaction() as done:
        assert repr(done.outcome) == "<Outcome open>"
        await Person.create({"name": "Ann"})
    assert done.outcome.committed and done.outcome.is_over
    with pytest.raises(ZeroDivisionError):
        async with earnorm.transaction() as gone:
            await Person.create({"name": "Ann"})
            raise ZeroDivisionError
    assert gone.outcome.rolled_back and not gone.outcome.committed
    with (
        ends.failing("commitTransaction", writeConcernError={**CONCERN, "code": 100}),
        pytest.raises(TransactionOutcomeUnknown),
    ):
        async with earnorm.transaction() as unsure:
            await Person.create({"name": "Ann"})
    assert unsure.outcome.unknown and unsure.outcome.is_over
    assert repr(unsure.outcome) == "<Outcome unknown>"


async def test_a_commit_whose_task_is_cancelled_is_awaited_and_told_as_it_was(ends: Ends) -> None:
    ann = await Person.create({"name": "Ann", "age": 1})
    ends.told.heard.clear()
    running: Any = None

    async def work() -> None:
        nonlocal running
        async with earnorm.transaction() as running:
            ends.note(running)
            await ann.write({"age": 7})

    with ends.failing("commitTransaction", **BLOCKED) as commit:
        await cancelled(work, commit.entered, soon)
    assert running.outcome.committed and ends.called == ["committed"]
    assert ends.told.heard == ["committed"]
    assert ann.age == 7 and not ann.is_stale and (await Person.get(ann.id)).age == 7
    assert ends.open_transactions() == 0


async def test_a_cancelled_commit_that_takes_too_long_is_unknown(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transacting, "CANCELLED_COMMIT_SECONDS", 0.05)
    ann, running = await Person.create({"name": "Ann", "age": 1}), None

    async def work() -> None:
        nonlocal running
        async with earnorm.transaction() as running:
            ends.note(running)
            await ann.write({"age": 7})

    ends.told.heard.clear()
    with ends.failing("commitTransaction", **LONG) as commit:
        await cancelled(work, commit.entered)
        assert commit.blocked()  # it was not waited for
        await commit.interrupt()
    assert running is not None and running.outcome.unknown
    assert ends.called == [] and ends.told.heard == ["unknown"] and ann.is_stale
    await until(lambda: ends.open_transactions() == 0)
    await ann.refresh()
    assert ann.age in (1, 7)


# -- what was under way ---------------------------------------------------------------------------


async def test_a_second_cancellation_does_not_cut_a_rollback_short(ends: Ends) -> None:
    ann = await Person.create({"name": "Ann", "age": 1})
    written = asyncio.Event()

    async def work() -> None:
        async with earnorm.transaction() as running:
            ends.note(running)
            await ann.write({"age": 7})
            written.set()
            await asyncio.sleep(30)

    with ends.failing("abortTransaction", **BLOCKED) as abort:
        await cancelled(work, written.wait, abort.entered, soon)
    assert ends.called == ["rolled back"] and ann.age == 1
    assert ends.open_transactions() == 0
    await ann.write({"age": 2})


async def test_what_a_cancelled_operation_writes_late_is_rolled_back_with_the_rest(
    ends: Ends,
) -> None:
    async def work() -> None:
        async with earnorm.transaction() as running:
            ends.note(running)
            await Person.create({"name": "Ann"})

    with ends.failing("insert", **BLOCKED) as insert:
        await cancelled(work, insert.entered)
        assert ends.called == ["rolled back"]
        await until(lambda: not insert.blocked())
    assert await Person.count([("name", "=", "Ann")]) == 0 and ends.open_transactions() == 0


async def test_an_operation_that_does_not_end_in_time_loses_its_session(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(in_sessions, "OPERATION_SECONDS", 0.1)
    sessions: list[Any] = []

    async def work() -> None:
        async with earnorm.transaction() as running:
            sessions.append(running._session)
            await Person.create({"name": "Ann"})

    with (
        ends.failing("insert", **LONG) as insert,
        caplog.at_level(logging.WARNING, "earnorm.backends"),
    ):
        await cancelled(work, insert.entered)
    assert "killed on the server" in caplog.text
    lost = sessions[0].native.session_id
    await until(lambda: ends.open_transactions() == 0)
    for _ in range(5):  # the driver gives a session that came back to the next one who asks
        async with earnorm.transaction() as running:
            await Person.count()
            native: Any = running._session
            assert native.native.session_id != lost
    assert await Person.count([("name", "=", "Ann")]) == 0


async def test_a_time_limit_of_its_own_says_how_long_an_operation_is_waited_for(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(in_sessions, "OPERATION_SECONDS", 0.01)

    async def work() -> None:
        async with earnorm.transaction():
            await Person.search().timeout(20)

    with ends.failing("find", "aggregate", **BLOCKED) as find:
        await cancelled(work, find.entered)
        assert not find.blocked()  # it was waited for
    assert "killed on the server" not in caplog.text


@pytest.mark.parametrize("then", ["read", "write", "block", "nothing"])
async def test_after_a_cancelled_operation_a_transaction_takes_nothing_more(
    ends: Ends, then: str
) -> None:
    ann = await Person.create({"name": "Ann", "age": 1})
    works: dict[str, Callable[[], Awaitable[object]]] = {
        "read": Person.count,
        "write": lambda: ann.write({"age": 3}),
        "block": enter_a_block,
    }
    with ends.failing("insert", **BLOCKED) as insert, pytest.raises(TransactionError) as caught:
        async with earnorm.transaction() as running:
            ends.note(running)
            await ann.write({"age": 2})
            await timed_out(insert.entered, lambda: Person.create({"name": "late"}))
            if then in works:
                with pytest.raises(TransactionError, match="was cancelled") as refused:
                    await works[then]()
                assert refused.value.code == "transaction_doomed" and not refused.value.transient
    assert caught.value.code == "transaction_doomed" and "was cancelled" in str(caught.value)
    assert ends.called == ["rolled back"] and ann.age == 1
    assert (await Person.search()).mapped("name") == ["first", "Ann"]


async def enter_a_block() -> None:
    async with earnorm.transaction():
        pytest.fail("the block was entered")


async def test_an_operation_that_is_cancelled_in_a_hook_dooms_the_transaction(
    database: str, mongo_uri: str
) -> None:
    called = asyncio.Event()

    class Slow:
        api = 1
        name = "slow"

        @hookimpl
        async def after_create(self, op: Operation, result: Sequence[Any]) -> None:
            called.set()
            await asyncio.sleep(30)

    async with default_app("pymongo", database, [Slow()]):
        with pytest.raises(TransactionError, match="was cancelled"):
            async with earnorm.transaction():
                await timed_out(called.wait, lambda: Person.create({"name": "Ann"}))
                for work in (read, write, block):
                    with pytest.raises(TransactionError, match="was cancelled"):
                        await work()
        assert await Person.count() == 0


# -- callbacks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_every_callback_is_called_though_one_is_cancelled(ends: Ends, end: str) -> None:
    called: list[str] = []
    waits = asyncio.Event()

    async def slow() -> None:
        waits.set()
        try:
            await asyncio.sleep(30)
        finally:
            called.append("slow")

    async def work() -> None:
        async with earnorm.transaction() as running:
            for register in (running.after_commit, running.after_rollback):
                register(slow)
                register(lambda: called.append("second"))
            await Person.create({"name": "Ann"})
            if end == "rollback":
                raise ZeroDivisionError

    await cancelled_when(waits, work)
    assert called == ["slow", "second"]


async def test_every_plugin_hears_of_the_end_though_a_hook_is_cancelled(database: str) -> None:
    heard: list[str] = []
    waits = asyncio.Event()

    class Slow:
        api = 1
        name = "a"

        @hookimpl
        async def after_commit(self, app: App, operations: Sequence[Operation]) -> None:
            heard.append(self.name)
            if self.name == "a":
                waits.set()
                await asyncio.sleep(30)

    class Second(Slow):
        name = "b"

    async with default_app("pymongo", database, [Slow(), Second()]):

        async def work() -> None:
            async with earnorm.transaction() as running:
                running.after_commit(lambda: heard.append("callback"))
                await Person.create({"name": "Ann"})

        await cancelled_when(waits, work)
        assert heard == ["a", "b", "callback"]
        heard.clear()
        await cancelled_when(waits, lambda: Person.create({"name": "Bob"}))  # in no transaction
        assert heard == ["a", "b"]


# -- tasks that outlive a block -------------------------------------------------------------------


async def read() -> None:
    await Person.count()


async def stream() -> None:
    _ = [person async for person in Person.search()]


async def write() -> None:
    await Person.create({"name": "late"})


async def block() -> None:
    await enter_a_block()


@pytest.mark.parametrize("work", [read, stream, write, block])
@pytest.mark.parametrize("end", ["committed", "rolled back", "session"])
async def test_a_task_that_outlives_its_block_gets_one_clear_error(
    ends: Ends, end: str, work: Callable[[], Awaitable[None]]
) -> None:
    over = asyncio.Event()

    async def later() -> None:
        await over.wait()
        await work()

    code, said = "session_over", r"session\(\) that has ended"
    if end == "session":
        async with earnorm.session():
            task = asyncio.create_task(later())
    else:
        code, said = "transaction_over", end
        with suppress(ZeroDivisionError):
            async with earnorm.transaction():
                task = asyncio.create_task(later())
                if end == "rolled back":
                    raise ZeroDivisionError
    over.set()
    with pytest.raises(TransactionError, match=said) as caught:
        await task
    assert caught.value.code == code and "await the task inside the block" in str(caught.value)
    assert await Person.count() == 1


async def test_a_transaction_is_not_committed_while_a_task_is_at_work_in_it(ends: Ends) -> None:
    with (
        ends.failing("insert", **BLOCKED) as insert,
        pytest.raises(TransactionError, match="still at work"),
    ):
        async with earnorm.transaction():
            task = asyncio.create_task(write())
            await insert.entered()
    with pytest.raises(TransactionError, match=r"is ending|was rolled back"):
        await task
    assert await Person.count() == 1


async def test_a_record_that_an_outliving_task_assigns_to_is_not_held(ends: Ends) -> None:
    ann = await Person.create({"name": "Ann"})
    over = asyncio.Event()

    async def later() -> None:
        await over.wait()
        ann.age = 3

    async with earnorm.transaction():
        task = asyncio.create_task(later())
    over.set()
    await task
    from earnorm.kernel.transactions import held_records

    assert ann.is_changed and id(ann) not in held_records.HOLDERS


# -- elsewhere ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DRIVERS)
async def test_health_never_raises(database: str, kind: str) -> None:
    async with default_app(kind, database) as app:
        assert (await app.health())["database"]["status"] == "ok"
        report = await asyncio.to_thread(lambda: asyncio.run(app.health()))
        assert report["database"]["status"] == "failed"
        assert "another event loop" in str(report["database"]["error"])
    report = await app.health()
    assert report["database"]["status"] == "failed"
    assert "not started" in str(report["database"]["error"])


def _work_of_child(answers: Any, database: str) -> None:
    async def main() -> int:
        app = await earnorm.init(
            mongo_uri=os.environ["EARNORM_TEST_MONGO_URI"], database=database, plugins=[]
        )
        assert earnorm.current_app() is app
        await Person.create({"name": "child"})
        found: int = await Person.count()
        await earnorm.close()
        return found

    try:
        answers.put(asyncio.run(main()))
    except BaseException as error:
        answers.put(f"{type(error).__name__}: {error}")


@contextmanager
def forked(*arguments: Any) -> Iterator[Any]:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_work_of_child, args=(answers, *arguments))
    child.start()
    try:
        yield answers
    finally:
        child.join(20)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
async def test_a_forked_child_begins_anew(database: str) -> None:
    async with default_app("pymongo", database) as app:
        await Person.create({"name": "parent"})
        async with earnorm.transaction():
            await Person.create({"name": "unseen"})
            with forked(database) as answers:
                said = await asyncio.to_thread(answers.get, timeout=20)
        assert said == 2
        assert app.is_started and await Person.count() == 3


# -- a single save --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_stored", [True, False])
async def test_after_an_interrupted_save_a_new_record_is_known_by_its_id(
    ends: Ends, is_stored: bool
) -> None:
    ann = Person(name="Ann", age=1)
    if not is_stored:
        with ends.failing("insert", errorCode=50), pytest.raises(earnorm.OperationTimeout):
            await ann.save()
        assert not ann.is_stored
        await ann.save()
        assert ann.is_stored
        return
    with ends.failing("insert", **BLOCKED) as insert:
        await cancelled(ann.save, insert.entered)
        assert not ann.is_stored
        with MongoClient[dict[str, Any]](ends.uri) as client:  # it arrives late
            people = client[ends.database].core_person
            await until(lambda: people.find_one({"name": "Ann"}) is not None)
    ann.age = 2
    with pytest.raises(DuplicateKey, match=r"earlier save\(\) .* interrupted") as caught:
        await ann.save()
    assert caught.value.code == "stored_before" and caught.value.fields == ("_id",)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(TransactionError, match="look whether its id exists"):
        await ann.save()
    assert (await ann.refresh()).age == 1
    await ann.write({"age": 3})
    assert await Person.count([("name", "=", "Ann"), ("age", "=", 3)]) == 1


async def test_an_id_that_another_record_has_is_a_plain_duplicate(ends: Ends) -> None:
    ann = await Person.create({"name": "Ann"})
    bob = Person(name="Bob", _id=ann.pk)
    with pytest.raises(DuplicateKey) as caught:
        await bob.save()
    assert caught.value.code == "duplicate_key" and not bob.is_stored


# -- cursors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [earnorm.transaction, earnorm.session])
async def test_a_stream_that_is_left_leaves_no_cursor_behind(
    ends: Ends, block: Callable[[], Any]
) -> None:
    await Person.create([{"name": f"p{n}"} for n in range(2500)])
    streams: list[Any] = []
    async with block():
        stream = Person.search().stream().__aiter__()
        streams.append(stream)  # nothing closes it before the block ends
        await stream.__anext__()
        assert ends.idle("cursor") == 1
    assert ends.idle("cursor") == 0
    await stream.aclose()


async def test_a_session_waits_for_a_cancelled_operation_and_goes_on(ends: Ends) -> None:
    with ends.failing("insert", **{**BLOCKED, "blockTimeMS": 1_500}) as insert:
        async with earnorm.session():
            await timed_out(insert.entered, lambda: Person.create({"name": "late"}))
            assert await Person.count([("name", "=", "first")]) == 1
        assert not insert.blocked()  # it was waited for
    assert await Person.count() == 2  # no transaction, so that it stays
