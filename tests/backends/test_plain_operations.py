"""Operations outside of transactions: how many begin, in which order, and what those that wait are told."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import MongoClient
from pymongo.errors import WaitQueueTimeoutError

from earnorm.backends import Backend, ServerSettings, open_backend, plain_operations
from earnorm.backends.plain_operations import PlainOperations
from earnorm.exceptions import ConfigurationError, OperationTimeout, ServerUnavailable

from .conftest import DRIVERS

ACTIONS = ("begin", "begin", "end", "cancel", "open", "close")


class Model:
    """Tasks that each are one operation, and what they did."""

    def __init__(self, places: int) -> None:
        self.operations = PlainOperations(lambda: False)
        self.operations.limit(places, None)
        self.places = places
        self.came: list[asyncio.Task[None]] = []
        self.began: list[asyncio.Task[None] | None] = []
        self.running: dict[asyncio.Task[None], asyncio.Event] = {}
        self.transactions = 0

    async def one(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self.operations.free < 1:
            await self.operations.wait()
        self.operations.free -= 1
        self.began.append(task)
        self.running[task] = asyncio.Event()
        try:
            await self.running[task].wait()
        finally:
            self.end(task)

    def end(self, task: asyncio.Task[None]) -> None:
        if (event := self.running.pop(task, None)) is not None:
            event.set()
            self.operations.give_back()

    @property
    def limit(self) -> int:
        return self.places - (self.transactions > 0)

    async def do(self, action: str, number: int) -> None:
        tasks = [task for task in self.came if not task.done()]
        if action == "begin":
            self.came.append(asyncio.create_task(self.one()))
        elif action == "end" and self.running:
            self.end([*self.running][number % len(self.running)])
        elif action == "cancel" and tasks:
            tasks[number % len(tasks)].cancel()
        elif action == "open":
            self.transactions += 1
            self.operations.opened()
        elif action == "close" and self.transactions:
            self.transactions -= 1
            self.operations.ended()


async def rest() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


@hypothesis.given(
    places=st.integers(1, 3),
    steps=st.lists(
        st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 5)), max_size=3), max_size=25
    ),
)
def test_places_are_kept_handed_on_in_order_and_never_lost(
    places: int, steps: list[list[tuple[str, int]]]
) -> None:
    async def example() -> None:
        model = Model(places)
        for step in steps:
            begun, was_open = len(model.began), model.transactions > 0
            for action, number in step:  # in one step of the event loop
                await model.do(action, number)
            await rest()
            under_way = len(model.running)
            assert under_way <= places
            if was_open and len(model.began) > begun and "close" not in dict(step):
                assert under_way <= places - 1
            waiting = [task for task in model.came if not task.done() and task not in model.running]
            assert not waiting or under_way >= model.limit
            told = model.operations.traffic()
            assert (told.under_way, told.waiting) == (under_way, len(waiting))
            assert told.transactions == model.transactions
        order = [task for task in model.came if task in model.began]
        assert order == model.began
        for _ in range(model.transactions):
            model.operations.ended()
        await rest()
        while model.running or model.operations.line:
            for task in tuple(model.running):
                model.end(task)
            await rest()
        assert model.operations.free == places
        assert not model.operations.line
        await asyncio.gather(*model.came, return_exceptions=True)

    asyncio.run(example())


async def test_a_turn_that_comes_together_with_a_cancellation_goes_to_the_next() -> None:
    operations = PlainOperations(lambda: False)
    operations.limit(1, None)
    operations.free -= 1
    first, second = (asyncio.create_task(operations.wait()) for _ in range(2))
    await rest()
    operations.give_back()
    first.cancel()
    async with asyncio.timeout(20):
        await second
    assert first.cancelled()
    assert (operations.free, len(operations.line)) == (1, 0)


async def test_a_wait_ends_with_its_limit_and_the_place_goes_to_the_next() -> None:
    operations = PlainOperations(lambda: False)
    operations.limit(1, 0.01)
    operations.free -= 1
    with pytest.raises(WaitQueueTimeoutError, match=r"0\.01 s, and nothing was sent"):
        await operations.wait()
    waiting = asyncio.ensure_future(operations.wait(60))  # the shorter limit holds
    with pytest.raises(WaitQueueTimeoutError):
        await waiting
    operations.give_back()
    told = operations.traffic()
    assert (operations.free, told.timeouts, told.waits, told.waiting) == (1, 2, 2, 0)
    assert told.seconds_since_timeout is not None and told.wait_seconds > 0


async def test_without_a_limit_an_operation_goes_on_at_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plain_operations, "LONGEST_WAIT", 0.01)
    operations = PlainOperations(lambda: False)
    operations.limit(1, None)
    operations.opened()
    await operations.wait()
    assert operations.traffic().passed == 1
    operations.free -= 1
    operations.give_back()
    operations.ended()
    assert operations.free == 1


async def test_what_a_transaction_waits_for_does_not_wait_for_it() -> None:
    operations = PlainOperations(lambda: True)
    operations.limit(1, None)
    operations.opened()
    async with asyncio.timeout(20):
        await operations.wait()
    assert operations.traffic().waits == 0


# -- on a server ----------------------------------------------------------------------------------


@asynccontextmanager
async def opened(
    uri: str, database: str, driver: str, client: Any = None, **options: Any
) -> AsyncIterator[Backend]:
    settings = ServerSettings(uri, database, client, {"appName": database, **options})
    backend = open_backend(settings, driver)
    await backend.connect()
    try:
        async with asyncio.timeout(30):  # half of the time after which a server ends a transaction
            yield backend
    finally:
        await backend.raw_database().client.drop_database(database)
        await backend.close()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it did not come to this within half a minute")


def wait_until_blocked(uri: str, database: str, number: int) -> None:
    """Wait until so many writes wait on the server for the end of a transaction."""
    mine = {"$match": {"ns": f"{database}.hot", "writeConflicts": {"$gt": 0}}}
    with MongoClient[dict[str, Any]](uri) as client:
        while len(list(client.admin.aggregate([{"$currentOp": {}}, mine]))) < number:
            time.sleep(0.01)


INC = {"$inc": {"n": 1}}


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_transaction_is_committed_while_plain_writes_wait_for_it(
    mongo_uri: str, database: str, driver: str, size: int
) -> None:
    async with opened(mongo_uri, database, driver, maxPoolSize=size) as backend:
        hot, other = backend.collection("hot"), backend.collection("other")
        await hot.insert([{"_id": 1, "n": 0}])
        await other.insert([{"_id": 1}])
        async with backend.transaction({}) as session:
            await hot.update({"_id": 1}, INC, session=session)
            writers = [asyncio.create_task(hot.update({"_id": 1}, INC)) for _ in range(size + 3)]
            await until(lambda: backend.traffic().waiting == 4)
            assert backend.traffic().under_way == size - 1
            await asyncio.to_thread(wait_until_blocked, mongo_uri, database, size - 1)
            assert await other.find({}, session=session) == [{"_id": 1}]
        assert await asyncio.gather(*writers) == [1] * (size + 3)
        assert await hot.find({}) == [{"_id": 1, "n": size + 4}]
        told = backend.traffic()
        assert (told.at_once, told.under_way, told.waiting, told.transactions) == (size, 0, 0, 0)
        assert told.waits >= 4


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_rollback_does_not_wait_for_them_either(
    mongo_uri: str, database: str, driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(mongo_uri, database, driver, maxPoolSize=2) as backend:
        hot = backend.collection("hot")
        await hot.insert([{"_id": 1, "n": 0}])
        with pytest.raises(ZeroDivisionError):
            async with backend.transaction({}) as session:
                await hot.update({"_id": 1}, INC, session=session)
                writers = [asyncio.create_task(hot.update({"_id": 1}, INC)) for _ in range(4)]
                await until(lambda: backend.traffic().waiting == 3)
                raise ZeroDivisionError
        assert await asyncio.gather(*writers) == [1] * 4
        assert await hot.find({}) == [{"_id": 1, "n": 4}]
        assert not caplog.records  # no session was given up and killed


async def test_cancelled_writes_that_go_on_in_motors_threads_keep_their_places(
    mongo_uri: str, database: str
) -> None:
    async with opened(mongo_uri, database, "motor", maxPoolSize=3) as backend:
        hot = backend.collection("hot")
        await hot.insert([{"_id": 1, "n": 0}])

        async with backend.transaction({}) as session:
            await hot.update({"_id": 1}, INC, session=session)
            for _ in range(2):
                writers = [asyncio.ensure_future(hot.update({"_id": 1}, INC)) for _ in range(4)]
                await asyncio.to_thread(wait_until_blocked, mongo_uri, database, 2)
                for writer in writers:
                    writer.cancel()
                await asyncio.wait(writers)
                told = backend.traffic()
                assert (told.under_way, told.waiting) == (2, 0)
            # Two threads are on it, and the third connection is the transaction's.
            assert (await hot.find({"_id": 1}, session=session))[0]["n"] == 1
        await until(lambda: backend.traffic().under_way == 0)
        assert backend.traffic().waiting == 0
        assert await hot.find({}) == [{"_id": 1, "n": 3}]  # of the others nothing was sent


@pytest.mark.parametrize("driver", DRIVERS)
async def test_who_waits_is_told_when_its_time_is_over(
    mongo_uri: str, database: str, driver: str
) -> None:
    async with opened(
        mongo_uri, database, driver, maxPoolSize=1, waitQueueTimeoutMS=200
    ) as backend:
        rows = backend.collection("rows")
        await rows.insert([{"_id": 1}])
        async with backend.transaction({}) as session:
            await rows.find({}, session=session)
            with pytest.raises(OperationTimeout, match=r"within 0\.05 s, and nothing was sent"):
                await rows.find({}, timeout=0.05)
            for call in (
                rows.find({}),
                rows.find({}, timeout=60),
                rows.insert([{"_id": 2}]),
                rows.describe(),
            ):
                with pytest.raises(ServerUnavailable, match=r"became free within 0\.2 s.*all 1 "):
                    await call
            assert backend.traffic().timeouts == 5
        assert await rows.find({}) == [{"_id": 1}]
        assert await rows.find({}, timeout=60) == [{"_id": 1}]
        assert backend.traffic().under_way == 0


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_read_that_is_cancelled_in_line_has_sent_nothing(
    mongo_uri: str, database: str, driver: str
) -> None:
    async with opened(mongo_uri, database, driver, maxPoolSize=1) as backend:
        rows = backend.collection("rows")
        async with backend.transaction({}) as session:
            await rows.find({}, session=session)
            reading = asyncio.ensure_future(rows.find({}))
            await until(lambda: backend.traffic().waiting == 1)
            reading.cancel()
            await asyncio.wait({reading})
            assert reading.cancelled()
            assert backend.traffic().waiting == 0
            assert not backend.leftovers  # type: ignore[attr-defined]  # of an adapter for a driver


@pytest.mark.parametrize("driver", DRIVERS)
async def test_operations_of_a_session_without_a_transaction_wait_too(
    mongo_uri: str, database: str, driver: str
) -> None:
    async with opened(mongo_uri, database, driver, maxPoolSize=2) as backend:
        hot = backend.collection("hot")
        await hot.insert([{"_id": 1, "n": 0}])

        async def write() -> None:
            async with backend.session() as session:
                await hot.update({"_id": 1}, INC, session=session)

        async with backend.transaction({}) as session:
            await hot.update({"_id": 1}, INC, session=session)
            writers = [asyncio.create_task(write()) for _ in range(4)]
            await until(lambda: backend.traffic().waiting == 3)
            assert backend.traffic().under_way == 1
        await asyncio.gather(*writers)
        assert await hot.find({}) == [{"_id": 1, "n": 5}]


@pytest.mark.parametrize("driver", DRIVERS)
async def test_the_clients_own_operations_are_counted_with_motor_too(
    mongo_uri: str, database: str, driver: str
) -> None:
    async with opened(mongo_uri, database, driver, maxPoolSize=2) as backend:
        rows = backend.raw_database()["rows"]
        await rows.insert_one({"_id": 1})
        slow = {"$where": "sleep(200) || true"}
        reads = [asyncio.ensure_future(rows.find_one(slow)) for _ in range(5)]
        await asyncio.sleep(0)
        told = backend.traffic()
        # PyMongo's wait in the driver, where the events of its pool tell of them.
        assert (told.under_way, told.waiting) == ((2, 3) if driver == "motor" else (0, 0))
        await asyncio.gather(*reads)
        assert (backend.traffic().under_way, backend.traffic().waiting) == (0, 0)


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_close_lets_nobody_wait(mongo_uri: str, database: str, driver: str) -> None:
    async with opened(mongo_uri, database, driver, maxPoolSize=1) as backend:
        rows = backend.collection("rows")
        await rows.insert([{"_id": 1}])
    operations = backend.operations  # type: ignore[attr-defined]
    operations.limit(1, None)
    operations.free -= 1
    waiting = asyncio.ensure_future(rows.find({}))
    await until(lambda: backend.traffic().waiting == 1)
    await backend.close()
    async with asyncio.timeout(20):
        with pytest.raises(ConfigurationError, match="after close"):
            await waiting


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_place_is_left_until_a_given_up_session_is_killed(
    mongo_uri: str, database: str, driver: str
) -> None:
    async with opened(mongo_uri, database, driver, maxPoolSize=1) as backend:
        hot = backend.collection("hot")
        await hot.insert([{"_id": 1, "n": 0}])
        held = asyncio.get_running_loop().create_future()
        with pytest.raises(ZeroDivisionError):
            async with backend.transaction({}) as session:
                await hot.update({"_id": 1}, INC, session=session)
                session._session.give_up_later(held)  # type: ignore[attr-defined]
                raise ZeroDivisionError
        writing = asyncio.ensure_future(hot.update({"_id": 1}, INC))
        await until(lambda: backend.traffic().waiting == 1)
        assert backend.traffic().transactions == 1
        held.set_result(None)
        assert await writing == 1
        assert backend.traffic().transactions == 0


# -- Motor's threads ------------------------------------------------------------------------------


def motor_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("earnorm-motor")}


async def test_an_app_has_as_many_threads_as_connections_and_one_more_until_it_is_closed(
    mongo_uri: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MOTOR_MAX_WORKERS", raising=False)
    before = motor_threads()
    async with opened(mongo_uri, database, "motor", maxPoolSize=3) as backend:
        assert (backend.traffic().at_once, backend.traffic().threads) == (3, 4)
        rows = backend.collection("rows")
        await asyncio.gather(*(rows.find({}) for _ in range(20)))
        assert 0 < len(motor_threads() - before) <= 4
        assert backend.traffic().under_way == 0
    await until(lambda: motor_threads() <= before)


async def test_the_variable_of_motor_is_the_number_of_threads(
    mongo_uri: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTOR_MAX_WORKERS", "2")
    async with opened(mongo_uri, database, "motor", maxPoolSize=10) as backend:
        assert (backend.traffic().at_once, backend.traffic().threads) == (2, 2)
    async with opened(mongo_uri, database, "motor", maxPoolSize=1) as backend:
        assert (backend.traffic().at_once, backend.traffic().threads) == (1, 2)
    async with opened(mongo_uri, database, "motor", maxPoolSize=0) as backend:
        assert backend.traffic().at_once == 2


@pytest.mark.parametrize("value", ["", "0", "-1", "many", "2.5"])
def test_a_number_of_threads_that_is_none_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTOR_MAX_WORKERS", value)
    with pytest.raises(ConfigurationError, match="MOTOR_MAX_WORKERS is the number of threads"):
        open_backend(ServerSettings("mongodb://localhost", "x"), "motor")


async def test_motors_clients_of_the_application_work_in_motors_own_threads(
    mongo_uri: str, database: str
) -> None:
    from motor.frameworks.asyncio import max_workers

    client: Any = AsyncIOMotorClient(mongo_uri, maxPoolSize=3)
    async with opened(mongo_uri, database, "motor", client) as backend:
        hot = backend.collection("hot")
        await hot.insert([{"_id": 1, "n": 0}])
        assert backend.traffic().at_once == min(3, max_workers)
        assert backend.traffic().threads == max_workers
        async with backend.transaction({}) as session:
            await hot.update({"_id": 1}, INC, session=session)
            writers = [asyncio.create_task(hot.update({"_id": 1}, INC)) for _ in range(6)]
            await until(lambda: backend.traffic().waiting == 4)
        await asyncio.gather(*writers)
        assert await hot.find({}) == [{"_id": 1, "n": 7}]
    client.close()


async def test_a_pool_without_a_limit_has_none(mongo_uri: str, database: str) -> None:
    async with opened(mongo_uri, database, "pymongo", maxPoolSize=0) as backend:
        rows = backend.collection("rows")
        async with backend.transaction({}) as session:
            await rows.insert([{"_id": 1}], session=session)
            assert await rows.find({}) == []
            assert backend.traffic().at_once is None
            assert backend.traffic().under_way == 0
