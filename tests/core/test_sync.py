"""earnorm.sync: the synchronous face, over one event loop in the background."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NoReturn

import pytest
from pymongo import MongoClient

import earnorm
import earnorm.sync
from earnorm import (
    AppStopping,
    ConfigurationError,
    Int,
    NotFound,
    String,
    TransactionError,
    current_env,
    models,
)
from earnorm.sync import calls


class Note(models.BaseModel):
    _name = "sync.note"

    text = String(required=True)
    number = Int(default=0)


TEXTS = [{"text": str(number), "number": number} for number in range(450)]


@pytest.fixture
def app(database: str, mongo_uri: str) -> Iterator[earnorm.sync.App]:
    with earnorm.sync.App(mongo_uri, database=database, plugins=[]) as app:
        yield app
        app.run(app.dangerous_raw("the test is over").client.drop_database, database)


@pytest.fixture
def in_memory(database: str) -> Iterator[earnorm.sync.App]:
    with earnorm.sync.App("mongomock://", database=database, plugins=[]) as app:
        yield app


async def who() -> str:
    return str(current_env().actor)


async def count() -> int:
    return await Note.count()


# -- run ------------------------------------------------------------------------------------------


def test_run_takes_a_coroutine_a_query_and_a_function_with_its_arguments(
    in_memory: earnorm.sync.App,
) -> None:
    note = earnorm.sync.run(Note.create({"text": "a"}))
    assert note.id is not None
    assert earnorm.sync.run(Note.get, note.id).text == "a"
    assert [each.text for each in in_memory.run(Note.search())] == ["a"]
    assert in_memory.run(note.write, {"text": "b"}) is not None and note.text == "b"


def test_an_error_of_the_work_is_raised_as_it_is(in_memory: earnorm.sync.App) -> None:
    with pytest.raises(NotFound):
        earnorm.sync.run(Note.get("0" * 24))
    with pytest.raises(SystemExit):
        earnorm.sync.run(left_with, 3)
    assert earnorm.sync.run(count) == 0  # the loop goes on


async def left_with(code: int) -> NoReturn:
    raise SystemExit(code)


def test_an_exit_in_a_task_of_its_own_does_not_end_the_loop(in_memory: earnorm.sync.App) -> None:
    async def begin() -> None:
        asyncio.get_running_loop().call_soon(sys.exit, 3)

    earnorm.sync.run(begin)
    assert earnorm.sync.run(count) == 0


@pytest.mark.parametrize("work", [3, lambda: 3, Note.search().stream])
def test_what_cannot_be_awaited_is_refused(work: Any, in_memory: earnorm.sync.App) -> None:
    with pytest.raises(TypeError, match=r"run\(\) takes"):
        earnorm.sync.run(work)


def test_arguments_for_a_coroutine_are_refused(in_memory: earnorm.sync.App) -> None:
    with pytest.raises(TypeError, match="arguments are for a function"):
        earnorm.sync.run(Note.search(), 3)  # type: ignore[call-overload]


# -- the context ----------------------------------------------------------------------------------


def test_who_acts_in_the_thread_acts_in_the_work(in_memory: earnorm.sync.App) -> None:
    assert earnorm.sync.run(who) == "None"
    with earnorm.act_as("ann", tenant="t"):
        assert earnorm.sync.run(who) == "ann"
        with earnorm.system(reason="a test"):
            assert earnorm.sync.run(who) == "system"
        assert in_memory.run(who) == "ann"
    assert earnorm.sync.run(who) == "None"


def names() -> Iterator[str]:
    with earnorm.act_as("ann"):
        yield earnorm.sync.run(who)
        yield earnorm.sync.run(who)


def test_a_generator_s_block_holds_for_the_generator_and_not_for_its_consumer(
    in_memory: earnorm.sync.App,
) -> None:
    with earnorm.system(reason="a test"):
        inside, outside = [], []
        for name in names():
            inside.append(name)
            outside.append(earnorm.sync.run(who))
    assert inside == ["ann", "ann"] and outside == ["system", "system"]


OWN: contextvars.ContextVar[str] = contextvars.ContextVar("own", default="unset")


def test_what_the_work_sets_holds_in_the_thread_afterwards(in_memory: earnorm.sync.App) -> None:
    async def set_own(value: str) -> str:
        before = OWN.get()
        with earnorm.act_as("ann"):
            OWN.set(value)
        return before

    def work() -> None:
        OWN.set("mine")
        assert earnorm.sync.run(set_own, "the work's") == "mine"
        assert OWN.get() == "the work's"
        assert current_env().principal is None

    contextvars.copy_context().run(work)


def test_threads_do_not_mix(in_memory: earnorm.sync.App) -> None:
    async def slowly() -> str:
        await asyncio.sleep(0.001)
        return await who()

    def work(name: str) -> set[str]:
        with earnorm.act_as(name):
            return {earnorm.sync.run(slowly) for _ in range(20)} | {earnorm.sync.run(who)}

    with ThreadPoolExecutor(16) as pool:
        for name, seen in zip("abcdefghijklmnop", pool.map(work, "abcdefghijklmnop"), strict=True):
            assert seen == {name}


def test_a_thread_outside_of_blocks_finds_the_one_app(in_memory: earnorm.sync.App) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(earnorm.sync.run, count).result() == 0


def test_two_apps_have_each_their_own_work(in_memory: earnorm.sync.App, database: str) -> None:
    in_memory.run(Note.create({"text": "first"}))
    other = earnorm.sync.App("mongomock://", database=database, plugins=[], name="other")
    with other:
        assert other.run(count) == earnorm.sync.run(count) == 0
        assert in_memory.run(count) == 1
        assert [note.text for note in in_memory.iterate(Note.search())] == ["first"]
        with ThreadPoolExecutor(1) as pool, pytest.raises(ConfigurationError) as caught:
            pool.submit(earnorm.sync.run, count).result()
        assert caught.value.code == "which_app"
    assert earnorm.sync.run(count) == 1


def test_first_uses_in_many_threads_at_once(database: str) -> None:
    for turn in range(10):
        start = threading.Barrier(8)
        with earnorm.sync.App("mongomock://", database=f"{database}{turn}", plugins=[]):

            def work(start: threading.Barrier = start) -> int:
                start.wait()
                note = Note(text="a")
                earnorm.sync.run(note.save())
                return earnorm.sync.run(Note.search(Note.text == "a").count())

            with ThreadPoolExecutor(8) as pool:
                futures = [pool.submit(work) for _ in range(8)]
                assert max(future.result() for future in futures) == 8


# -- transactions and blocks ----------------------------------------------------------------------


def test_a_transaction_holds_over_several_calls(app: earnorm.sync.App) -> None:
    note = app.run(Note.create({"text": "a"}))
    with earnorm.sync.transaction() as running:
        app.run(note.write({"text": "b"}))
        assert app.run(Note.get(note.id)).text == "b"
        with ThreadPoolExecutor(1) as pool:  # another thread is outside of it
            assert pool.submit(app.run, Note.get, note.id).result().text == "a"
        with app.transaction() as inner:
            assert inner is running
    assert app.run(Note.get(note.id)).text == "b"
    assert current_env().transaction is None


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_error_in_the_block_rolls_it_back(
    app: earnorm.sync.App, kind: type[BaseException]
) -> None:
    note = app.run(Note.create({"text": "a"}))
    with pytest.raises(kind), app.transaction():
        app.run(note.write({"text": "b"}))
        raise kind
    assert app.run(Note.get(note.id)).text == note.text == "a"
    assert not app.in_flight.transactions and current_env().transaction is None


def test_a_block_that_cannot_be_entered_leaves_nothing(in_memory: earnorm.sync.App) -> None:
    before = current_env()
    with pytest.raises(earnorm.NotSupported), earnorm.sync.transaction():
        raise AssertionError("not reached")
    assert current_env() is before


def test_a_session_and_any_other_block(app: earnorm.sync.App) -> None:
    app.run(Note.create({"text": "a"}))
    seen = []

    @asynccontextmanager
    async def other() -> AsyncIterator[str]:
        task = asyncio.current_task()
        try:
            with earnorm.act_as("bob"):
                yield "value"
        except ValueError:
            seen.append("swallowed")
        assert asyncio.current_task() is task

    with earnorm.sync.session(snapshot=True):
        assert app.run(Note.count()) == 1
        with ThreadPoolExecutor(1) as pool:
            pool.submit(app.run, Note.create, {"text": "b"}).result()
        assert app.run(Note.count()) == 1
    assert app.run(Note.count()) == 2
    with earnorm.sync.entered(other()) as value:
        assert value == "value"
        raise ValueError
    assert seen == ["swallowed"]


def test_a_block_that_is_left_elsewhere_says_so_and_is_over(app: earnorm.sync.App) -> None:
    block = app.transaction()
    contextvars.copy_context().run(block.__enter__)
    with pytest.raises(ConfigurationError) as caught:
        block.__exit__(None, None, None)
    assert caught.value.code == "left_elsewhere" and not app.in_flight.transactions


def test_a_thread_whose_generator_another_has_closed_goes_on_in_an_activated_app(
    app: earnorm.sync.App,
) -> None:
    def generator() -> Iterator[None]:
        with app.transaction():
            app.run(Note.create({"text": "a"}))
            yield

    def close() -> None:
        with pytest.raises(ConfigurationError) as caught:
            held.close()  # type: ignore[attr-defined]  # an iterator of a generator function
        assert caught.value.code == "left_elsewhere"

    def first_thread() -> None:
        next(held)
        other = ThreadPoolExecutor(1)
        other.submit(close).result(20)
        other.shutdown()
        with pytest.raises(TransactionError):
            app.run(Note.search().count())
        with app.activate(), earnorm.act_as("ann"), app.transaction():
            assert app.run(who) == "ann" and app.run(Note.search().count()) == 0

    held = generator()
    with ThreadPoolExecutor(1) as threads:
        threads.submit(first_thread).result(30)


def test_transactions_of_threads_are_tried_again(app: earnorm.sync.App) -> None:
    note = app.run(Note.create({"text": "a"}))

    @earnorm.transactional()
    async def add() -> None:
        found = await Note.get(note.id)
        await found.write({"number": found.number + 1})

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(app.run, add) for _ in range(12)]:
            future.result()
    assert app.run(Note.get(note.id)).number == 12


# -- streams --------------------------------------------------------------------------------------


def test_a_stream_gives_every_record_in_order(app: earnorm.sync.App) -> None:
    app.run(Note.create(TEXTS))
    query = Note.search(order="number")
    assert [note.number for note in app.iterate(query)] == list(range(450))
    assert [note.number for note in earnorm.sync.iterate(query.stream())] == list(range(450))
    assert list(app.iterate(Note.search([("number", ">", 1000)]))) == []
    assert not app.in_flight.streams


def test_a_loop_that_is_left_early_closes_its_stream(app: earnorm.sync.App) -> None:
    app.run(Note.create([{"text": "x" * 10_000, "number": n} for n in range(3000)]))
    with app.transaction():
        for note in app.iterate(Note.search()):
            if note.number == 5:
                break
        app.run(note.write({"text": "left"}))
    assert not app.in_flight.streams
    assert app.run(Note.search([("text", "=", "left")]).count()) == 1


def test_an_error_of_a_stream_is_raised_at_its_item(in_memory: earnorm.sync.App) -> None:
    closed = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            raise ValueError("no more")
        finally:
            closed.append(True)

    read = []
    with pytest.raises(ValueError, match="no more"):
        for number in earnorm.sync.iterate(numbers()):
            read.append(number)
    assert read == [1] and closed == [True]


def test_a_stream_has_one_reader_s_rights(app: earnorm.sync.App) -> None:
    app.run(Note.create(TEXTS))
    with earnorm.act_as("ann"):
        notes = app.iterate(Note.search())
        next(notes)
    with pytest.raises(ConfigurationError) as caught:
        next(notes)
    assert caught.value.code == "stream_of_another"


def test_events_come_one_by_one(app: earnorm.sync.App) -> None:
    seen = []
    with earnorm.sync.entered(Note.watch()) as events:
        app.run(Note.create({"text": "a"}))
        for event in app.iterate(events):
            assert event.record is not None
            seen.append(event.record.text)
            if len(seen) == 3:
                break
            app.run(Note.create({"text": "b"}))
    assert seen == ["a", "b", "b"]


def test_a_stream_that_the_loop_s_own_thread_collects_does_not_stand_still(
    app: earnorm.sync.App,
) -> None:
    app.run(Note.create(TEXTS))
    notes = app.iterate(Note.search())
    next(notes)
    kept: list[Any] = [notes]
    kept.append(kept)
    del notes

    async def collect() -> None:
        kept.clear()
        gc.collect()

    app.run(collect)
    for _ in range(100):
        if not app.in_flight.streams:
            break
        time.sleep(0.01)
    assert not app.in_flight.streams


# -- interrupts -----------------------------------------------------------------------------------


class OutOfTime(Exception):
    """What Celery raises in the worker's thread, as its SoftTimeLimitExceeded."""


@contextmanager
def interrupted(after: float) -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, after)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_interrupt_cancels_the_work_and_waits_for_its_end(in_memory: earnorm.sync.App) -> None:
    ends = []

    async def endless() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            ends.append("cleaned up")

    with pytest.raises(OutOfTime), interrupted(0.1):
        earnorm.sync.run(endless)
    assert ends == ["cleaned up"]
    assert earnorm.sync.run(count) == 0


def test_an_interrupt_in_a_stream_or_a_block_ends_it(app: earnorm.sync.App) -> None:
    events = Note.watch()
    with pytest.raises(OutOfTime), interrupted(0.3), earnorm.sync.entered(events) as watch:
        for _ in app.iterate(watch):
            pass
    assert events._cursor is None
    note = app.run(Note.create({"text": "a"}))
    with pytest.raises(OutOfTime), app.transaction():
        app.run(note.write({"text": "b"}))
        with interrupted(0.1):
            app.run(asyncio.sleep, 60)
    assert app.run(Note.get(note.id)).text == "a" and not app.in_flight.transactions


class Endless:
    """An iterator that never gives anything, and notes how it is closed."""

    def __init__(self) -> None:
        self.cancellations: list[int] = []

    def __aiter__(self) -> Endless:
        return self

    async def __anext__(self) -> int:
        await asyncio.sleep(60)
        return 1

    async def aclose(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.cancellations.append(task.cancelling())


def test_what_is_closed_after_an_interrupt_is_not_cancelled(in_memory: earnorm.sync.App) -> None:
    endless = Endless()
    with pytest.raises(OutOfTime), interrupted(0.1):
        next(in_memory.iterate(endless))
    assert endless.cancellations == [0]


def test_an_interrupt_while_a_block_is_entered_leaves_it(in_memory: earnorm.sync.App) -> None:
    steps = []

    @asynccontextmanager
    async def slow(seconds: float) -> AsyncIterator[None]:
        steps.append("in")
        try:
            await asyncio.sleep(seconds)
            yield
        finally:
            steps.append("out")

    with pytest.raises(OutOfTime), interrupted(0.1), earnorm.sync.entered(slow(60)):
        raise AssertionError("not reached")
    assert steps == ["in", "out"]


def _random_interrupts(seed: int, call: Callable[[], Any]) -> list[str]:
    """Interrupt a call at random microseconds, and return what came of each; none may hang."""
    chance, outcomes = random.Random(seed), []

    def interrupt(*_: object) -> None:
        nonlocal struck
        struck += 1
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(400):
            struck = 0
            start = time.monotonic()
            try:
                try:
                    # The second signal frees a call that hangs, so that this test ends and says so.
                    signal.setitimer(signal.ITIMER_REAL, chance.uniform(5e-6, 3e-3), 5)
                    call()
                    outcomes.append("done")
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except OutOfTime:
                outcomes.append("interrupted")
            assert struck < 2 and time.monotonic() - start < 5, f"call {len(outcomes)} hung"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return outcomes


# Python drops an exception that strikes while it collects something; the call then ends as usual.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("seed", range(2))
def test_no_interrupt_at_any_microsecond_hangs_a_call(
    seed: int, in_memory: earnorm.sync.App
) -> None:
    pauses = random.Random(seed)

    async def work() -> int:
        await asyncio.sleep(pauses.uniform(0, 0.002))
        return 1

    def call() -> None:
        assert in_memory.run(work) == 1

    outcomes = _random_interrupts(seed, call)
    assert {"done", "interrupted"} == set(outcomes)
    assert in_memory.run(work) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")  # an interrupt came before its loop
def test_an_interrupt_at_any_microsecond_leaves_a_block_that_was_entered(
    in_memory: earnorm.sync.App,
) -> None:
    inside = 0

    @asynccontextmanager
    async def block() -> AsyncIterator[None]:
        nonlocal inside
        inside += 1
        try:
            await asyncio.sleep(0.0005)
            yield
        finally:
            inside -= 1

    def call() -> None:
        with earnorm.sync.entered(block()):
            in_memory.run(asyncio.sleep, 0.0005)

    outcomes = _random_interrupts(7, call)
    assert "interrupted" in outcomes
    gc.collect()  # of a block whose 'with' was not reached
    in_memory.run(asyncio.sleep, 0.01)
    assert inside == 0


class AtOnce(asyncio.SelectorEventLoop):
    """A loop on which a thread is interrupted as it tells it something, before or after it."""

    def __init__(self, interrupts: list[str]) -> None:
        super().__init__()
        self.interrupts = interrupts

    def call_soon_threadsafe(self, *arguments: Any, **keywords: Any) -> asyncio.Handle:
        moment = self.interrupts.pop() if self.interrupts else ""
        if moment == "before":
            raise OutOfTime
        handle = super().call_soon_threadsafe(*arguments, **keywords)
        if moment == "after":
            raise OutOfTime
        return handle


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_while_work_is_handed_over_ends_the_call(moment: str) -> None:
    loop = AtOnce([])
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    while not loop.is_running():
        time.sleep(0.001)
    started = []

    async def work() -> None:
        started.append(1)

    loop.interrupts.append(moment)
    waiting = threading.Thread(target=lambda: _raises_out_of_time(work, loop), daemon=True)
    waiting.start()
    waiting.join(5)
    assert not waiting.is_alive()
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()
    assert moment == "after" or not started


def _raises_out_of_time(work: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
    with pytest.raises(OutOfTime):
        calls.call(work, None, loop)


def test_an_interrupt_after_the_wake_of_a_thread_does_not_lose_the_end() -> None:
    async def work() -> int:
        return 1

    step = calls.Step(work, contextvars.copy_context())
    loop = asyncio.new_event_loop()
    loop.run_until_complete(step.carry_out())
    for _ in range(2):  # an interrupt between the first wait's wake and its return
        step._wakes.acquire(blocking=False)
        step.wait(loop)
    loop.close()
    assert step.result() == 1


def test_time_limits_of_asyncio_hold(in_memory: earnorm.sync.App) -> None:
    async def limited() -> None:
        async with asyncio.timeout(0.02):
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        earnorm.sync.run(limited)


def test_cancelled_work_says_so(in_memory: earnorm.sync.App) -> None:
    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    with pytest.raises(asyncio.CancelledError):
        earnorm.sync.run(cancels_itself)
    assert earnorm.sync.run(count) == 0


# -- inside of an event loop ----------------------------------------------------------------------


BLOCKING: dict[str, Callable[[], object]] = {
    "run": lambda: earnorm.sync.run(count()),
    "run a function": lambda: earnorm.sync.run(count),
    "iterate": lambda: earnorm.sync.iterate(Note.search()),
    "transaction": lambda: earnorm.sync.transaction().__enter__(),
    "open": lambda: earnorm.sync.App("mongomock://", database="d", plugins=[]).open(),
    "with": lambda: earnorm.sync.App("mongomock://", database="d", plugins=[]).__enter__(),
    "close": lambda: earnorm.sync.App("mongomock://", database="d", plugins=[]).close(),
    "shutdown": earnorm.sync.shutdown,
}


@pytest.mark.parametrize("name", BLOCKING)
async def test_a_blocking_call_in_an_event_loop_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="this thread runs an event loop") as caught:
        BLOCKING[name]()
    assert caught.value.code == "sync_in_loop"


def test_it_is_refused_on_the_loop_in_the_background_too(in_memory: earnorm.sync.App) -> None:
    async def nested() -> int:
        return in_memory.run(count())

    with pytest.raises(ConfigurationError, match="this thread runs an event loop"):
        earnorm.sync.run(nested)

    async def in_a_thread() -> int:
        return await asyncio.to_thread(earnorm.sync.run, count)

    assert earnorm.sync.run(in_a_thread) == 0


async def test_an_app_of_the_background_does_not_start_elsewhere(database: str) -> None:
    app = earnorm.sync.App("mongomock://", database=database, plugins=[])
    with pytest.raises(ConfigurationError, match="lives on the loop in the background"):
        await app.start()
    assert not app.is_started


async def test_a_thread_works_on_the_loop_of_an_app_that_lives_elsewhere(database: str) -> None:
    async with earnorm.App("mongomock://", database=database, plugins=[]):
        with earnorm.act_as("ann"):
            assert await asyncio.to_thread(earnorm.sync.run, who) == "ann"
        assert await asyncio.to_thread(lambda: list(earnorm.sync.iterate(Note.search()))) == []


def test_an_app_whose_loop_does_not_run_is_refused(database: str) -> None:
    app = earnorm.App("mongomock://", database=database, plugins=[])
    with asyncio.Runner() as runner:
        runner.run(app.start())
        with pytest.raises(ConfigurationError, match="does not run now") as caught:
            earnorm.sync.run(count)
        assert caught.value.code == "loop_not_running"
        runner.run(app.stop())


def test_a_loop_that_ends_meanwhile_does_not_leave_its_thread_waiting(database: str) -> None:
    app = earnorm.App("mongomock://", database=database, plugins=[])
    begun = threading.Event()

    async def endless() -> None:
        begun.set()
        await asyncio.sleep(60)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(app.start())
    living = threading.Thread(target=loop.run_forever)
    living.start()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(earnorm.sync.run, endless)
        begun.wait()
        loop.call_soon_threadsafe(loop.stop)
        living.join()
        with pytest.raises(ConfigurationError, match="was ended before") as caught:
            waiting.result(timeout=10)
    assert caught.value.code == "loop_not_running"
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(app.stop())
    loop.close()


# -- its end --------------------------------------------------------------------------------------


def connections(uri: str, name: str) -> int:
    """The number of connections that the server has of an application."""
    with MongoClient[dict[str, Any]](uri) as client:
        pipeline = [{"$currentOp": {"allUsers": True, "idleConnections": True}}]
        found = list(client.admin.aggregate(pipeline))
    return sum(each.get("appName") == name for each in found)


def test_a_block_of_an_app_closes_all_that_it_has_opened(database: str, mongo_uri: str) -> None:
    options = {"appname": database}
    app = earnorm.sync.App(mongo_uri, database=database, plugins=[], client_options=options)
    with app:
        app.run(Note.create(TEXTS))
        notes = app.iterate(Note.search().limit(3))
        next(notes)
        assert connections(mongo_uri, database) > 0
        app.run(app.dangerous_raw("the test is over").client.drop_database, database)
    assert connections(mongo_uri, database) == 0 and not app.is_started
    with pytest.raises(ConfigurationError, match=r"'with app:' or app\.open\(\) first"):
        app.run(count())
    with app:  # it may be opened again
        assert app.run(count()) == 0


def test_work_in_flight_ends_before_the_app_is_closed(app: earnorm.sync.App) -> None:
    begun = threading.Event()

    def work() -> str:
        with app.activate(), app.transaction():
            note = app.run(Note.create({"text": "in time"}))
            begun.set()
            time.sleep(0.2)
            app.run(note.write({"number": 1}))
        return "done"

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        begun.wait()
        assert app.close(grace=5).is_clean
        assert future.result() == "done"
    app.open()
    with pytest.raises(AppStopping):
        begun.clear()
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(work)
            begun.wait()
            assert app.close(grace=0).transactions == 1
            try:
                future.result()
            except TransactionError as error:
                raise AppStopping("heard") from error
    app.open()
    assert app.run(Note.search([("number", "=", 1)]).count()) == 1


def test_the_end_of_everything_closes_apps_and_the_thread(database: str) -> None:
    app = earnorm.sync.App("mongomock://", database=database, plugins=[]).open()
    assert app.run(count()) == 0
    earnorm.sync.shutdown()
    assert not app.is_started
    assert "earnorm.sync" not in {thread.name for thread in threading.enumerate()}
    earnorm.sync.shutdown()
    with app:
        assert app.run(count()) == 0


# -- processes ------------------------------------------------------------------------------------

BEGINNING = """
import asyncio, os, signal, sys, threading, time
import earnorm, earnorm.sync
from earnorm import Int, String, models

class Note(models.BaseModel):
    _name = "sync.note"
    text = String(required=True)

def app():
    uri, database = os.environ["EARNORM_TEST_MONGO_URI"], sys.argv[1]
    return earnorm.sync.App(uri, database=database, plugins=[], client_options={"appname": database})

def forked(work):
    child = os.fork()
    if not child:
        signal.alarm(20)
        try:
            print(work(), flush=True)
        except earnorm.EarnORMError as error:
            print(error.code, error, flush=True)
        finally:
            sys.stdout.flush()
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "it hung or failed"
"""


def run_program(code: str, database: str, uri: str, **options: Any) -> str:
    try:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", BEGINNING + textwrap.dedent(code), database],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            **options,
        )
        assert connections(uri, database) == 0
    finally:
        with MongoClient[dict[str, Any]](uri) as client:
            client.drop_database(database)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def test_a_forked_child_hears_an_error_or_makes_a_loop_of_its_own(
    database: str, mongo_uri: str
) -> None:
    printed = run_program(
        """
        def afresh():
            with app() as own:
                return own.run(Note.search().count())

        with app() as parent:
            parent.run(Note.create([{"text": str(n)} for n in range(500)]))
            notes = parent.iterate(Note.search())
            next(notes)
            forked(lambda: earnorm.sync.run(Note.search().count()))
            forked(lambda: parent.run(Note.search().count()))
            given = []
            forked(lambda: given.extend(notes))
            forked(lambda: (next(notes, None), "given in the child"))
            forked(afresh)
            forked(lambda: parent.open().run(Note.search().count()))
            block = parent.transaction()
            block.__enter__()
            parent.run(Note.create({"text": "in it"}))
            forked(lambda: block.__exit__(None, None, None))
            forked(lambda: block.__exit__(KeyError, KeyError(), None))
            block.__exit__(None, None, None)
            print(sum(1 for _ in notes), parent.run(Note.search().count()))
        """,
        database,
        mongo_uri,
    )
    lines = printed.splitlines()
    assert lines[0].startswith("app_of_parent this process was forked after")
    assert lines[1].startswith("app_of_parent this process was forked after")
    for line in (lines[2], lines[3], lines[6]):
        assert line.startswith("left_elsewhere this stream or block was begun in the process")
    assert lines[4:6] == ["500", "500"]
    assert lines[7:] == ["False", "499 501"]  # an error in the block is raised as it is


def test_a_program_that_forgets_to_close_leaves_nothing_open(database: str, mongo_uri: str) -> None:
    printed = run_program(
        """
        earnorm.sync.run(earnorm.init, os.environ["EARNORM_TEST_MONGO_URI"], database=sys.argv[1],
                         plugins=[], client_options={"appname": sys.argv[1]})
        own = app().open()
        print(earnorm.sync.run(Note.create({"text": "a"})).text, own.run(Note.search().count()))
        """,
        database,
        mongo_uri,
    )
    assert printed == "a 1\n"


def test_an_app_that_is_stopped_by_the_end_of_the_process_still_has_threads(
    database: str, mongo_uri: str
) -> None:
    printed = run_program(
        """
        class Slow(earnorm.sync.App):
            async def stop(self, **options):
                loop = asyncio.get_running_loop()
                print((await loop.getaddrinfo("127.0.0.1", 1))[0][4][0])
                print(await asyncio.to_thread(lambda: "in a thread"))
                return await super().stop(**options)

        own = Slow("mongomock://", database=sys.argv[1], plugins=[]).open()
        own.run(asyncio.to_thread, int)
        threading.Timer(0.2, lambda: print(own.run(Note.search().count()), flush=True)).start()
        """,
        database,
        mongo_uri,
    )
    assert printed == "0\n127.0.0.1\nin a thread\n"


def test_ctrl_c_ends_the_work_and_closes_the_app(database: str, mongo_uri: str) -> None:
    printed = run_program(
        """
        async def endless():
            await Note.create({"text": "a"})
            os.kill(os.getpid(), signal.SIGINT)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                print("cancelled")
                raise
        try:
            with app() as own:
                own.run(endless)
        except KeyboardInterrupt:
            print("interrupted", own.is_started)
        """,
        database,
        mongo_uri,
    )
    assert printed == "cancelled\ninterrupted False\n"


def test_a_second_ctrl_c_does_not_wait(in_memory: earnorm.sync.App) -> None:
    hurdle = threading.Event()

    async def stubborn() -> None:
        while not hurdle.is_set():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue

    def interrupt(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.2)
    start = time.monotonic()
    try:
        with pytest.raises(OutOfTime):
            earnorm.sync.run(stubborn)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        hurdle.set()
    assert time.monotonic() - start < 5
    assert os.getpid() and earnorm.sync.run(count) == 0
