"""Recording on a server without transactions: what one process can promise, and what it says of the rest."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from bson import ObjectId

import earnorm
from earnorm import App, AppStopping, Domain, Layer, Operation, Update, hookimpl
from earnorm.backends.driver import DriverBackend
from earnorm.kernel.life import in_flight
from earnorm_audit import AuditEntry, AuditPlugin
from earnorm_audit.changes import from_json, id_text
from tests.plugins.audit.conftest import MEMORY, Opening, opened, server_uri
from tests.plugins.audit.shop import Article, entries, told
from tests.plugins.audit.storm import Cancelling
from tests.plugins.audit.test_transactions import NoEntries

Started = Callable[..., AbstractAsyncContextManager[App]]


@pytest.fixture(params=["pymongo", "motor"])
def alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Started:
    """Opens an App on a server that says what one alone would say."""

    async def connect(self: DriverBackend) -> None:
        await self._ask("hello")

    monkeypatch.setattr(DriverBackend, "connect", connect)
    return lambda **settings: opened(server_uri(), driver=request.param, **settings)


class Gate:
    """Holds the next write where it has been stored."""

    api = 1
    name = "gate"

    def __init__(self) -> None:
        self.stored, self.opened = asyncio.Event(), asyncio.Event()

    @hookimpl
    def wrap_operation(self, app: App, model: Any, operation: str) -> Iterable[Any]:
        async def wait(op: Operation, call_next: Any) -> Any:
            result = await call_next(op)
            if not self.stored.is_set():
                self.stored.set()
                await self.opened.wait()
            return result

        is_held = model._name == Article._name and operation == "write"
        return [(Layer.DEFAULT, wait)] if is_held else []


async def faults(app: App) -> Counter[str]:
    """Compare the trail with what is stored."""
    found: Counter[str] = Counter()
    database: Any = app.dangerous_raw("the oracle looks at what is stored")
    stored = {
        id_text(document["_id"]): document
        for document in await database["articles"].find({}).to_list(None)
    }
    trails: dict[str, list[AuditEntry]] = {}
    for entry in await entries():
        trails.setdefault(entry.record_id, []).append(entry)
    found["without an entry"] += len(stored.keys() - trails.keys())
    for record_id, trail in trails.items():
        state: dict[str, Any] | None = None
        for entry in trail:
            if (entry.operation == "create") != (state is None):
                found[f"a {entry.operation} at a wrong place"] += 1
            state = {} if state is None else state
            for name, sides in entry.changes.items():
                if sides.get("old") != state.pop(name, None):
                    found["a wrong old value"] += 1
                if "new" in sides:
                    state[name] = sides["new"]
            if entry.operation == "unlink":
                state = None
        document = stored.get(record_id)
        if (document is None) != (state is None):
            found["a lost creation or deletion"] += 1
        elif document is not None and state is not None:
            kept = {"title": document["title"], "stock": document.get("st")}
            if kept != {"title": from_json(state["title"]), "stock": state.get("stock")}:
                found["another state"] += 1
    return +found


# -- cancellations and races ----------------------------------------------------------------------


async def work(draw: random.Random, articles: Sequence[Article], number: int) -> None:
    one = draw.choice(articles)
    kind = draw.randrange(9)
    if kind == 0:
        await Article.create([{"title": f"new {number}"}, {"title": f"newer {number}"}])
    elif kind == 1:
        await Article.search([("title", "=", "Pen")]).update({"stock": earnorm.Inc(1)})
    elif kind == 2:
        made = await Article.create({"title": "for a while"})
        await made.unlink()
    elif kind == 3:
        async with Article.bulk() as bulk:
            bulk.create({"title": f"bulk {number}"})
            bulk.write(one, {"stock": earnorm.Inc(1)})
    elif kind == 4:
        await Article.write_many({one: {"stock": earnorm.Inc(1)}})
    elif kind == 5:
        await Article.create_many([{"title": f"one of many {number}"}] * 3, batch_size=2)
    else:
        await one.write({"stock": earnorm.Inc(1)})


async def strike(
    draw: random.Random, articles: Sequence[Article], number: int, cancels: bool
) -> int:
    moments = {draw.randint(1, 9): draw.choice((0.0, 0.0, 0.001))} if cancels else {}
    task = asyncio.ensure_future(_struck(work(draw, articles, number), moments))
    try:
        await task
    except asyncio.CancelledError:
        return 1
    except earnorm.NotFound:  # another one has deleted it
        pass
    return 0


async def _struck(coroutine: Any, moments: dict[int, float]) -> None:
    await Cancelling(coroutine, moments)


async def storm(app: App, *, works: int, cancels: bool) -> tuple[int, Counter[str]]:
    """Do so many works, four at once, and return the cancellations and the faults."""
    draw = random.Random(7)
    made = await Article.create([{"title": "Pen", "stock": 0} for _ in range(3)])
    # Records of their own, since the saves of one record object queue for each other.
    sets = [[await Article.get(article.id) for article in made] for _ in range(4)]
    cancelled = 0
    for number in range(works // 4):
        strikes = [strike(draw, copies, number, cancels) for copies in sets]
        cancelled += sum(await asyncio.gather(*strikes))
    return cancelled, await faults(app)


async def test_cancelled_and_racing_changes_are_recorded_as_they_were(alone: Started) -> None:
    async with alone() as app:
        cancelled, found = await storm(app, works=80, cancels=True)
        assert found == Counter() and cancelled > 10
        assert (await app.health())["audit"]["unrecorded"] == 0
        assert len(app.queue) == 0 and not app.in_flight._unbroken


@pytest.mark.parametrize("planted", ["unbroken", "alone_at"])
async def test_the_storm_finds_what_neither_ends_nor_waits(
    alone: Started, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    from contextlib import asynccontextmanager

    from earnorm_audit import alone as module

    @asynccontextmanager
    async def alone_at(records: object) -> AsyncIterator[bool]:
        yield True

    async def unbroken(work: Callable[[], Awaitable[object]]) -> object:
        return await work()

    monkeypatch.setattr(module, planted, {"alone_at": alone_at, "unbroken": unbroken}[planted])
    async with alone() as app:
        _, found = await storm(app, works=80, cancels=planted == "unbroken")
        assert found


async def test_a_cancelled_change_raises_when_it_is_recorded(alone: Started) -> None:
    gate = Gate()
    async with alone(plugins=[AuditPlugin, gate]):
        pen = await Article.create({"title": "Pen"})
        writing = asyncio.ensure_future(pen.write({"stock": 1}))
        await gate.stored.wait()
        writing.cancel()
        await asyncio.sleep(0)
        assert not writing.done()
        gate.opened.set()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert await told(pen) == [
            ("create", {"title": {"new": "Pen"}}),
            ("write", {"stock": {"new": 1}}),
        ]


class Doorkeeper:
    """Refuses writes, or holds them, before they are sent."""

    api = 1
    name = "doorkeeper"

    def __init__(self) -> None:
        self.come, self.refuses = asyncio.Event(), False

    @hookimpl
    def wrap_operation(self, app: App, model: Any, operation: str) -> Iterable[Any]:
        async def keep(op: Operation, call_next: Any) -> Any:
            self.come.set()
            if self.refuses:
                raise earnorm.AccessDenied("no writes")
            await asyncio.Event().wait()

        is_kept = model._name == Article._name and operation == "write"
        return [(Layer.SECURITY, keep)] if is_kept else []


@pytest.mark.parametrize("end", ["refused", "cancelled"])
async def test_what_a_bulk_has_not_sent_is_not_told_as_done(
    alone: Started, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    """Its creation has passed the layers and waits for the others when one of them is refused."""
    keeper = Doorkeeper()
    keeper.refuses = end == "refused"
    async with alone(plugins=[AuditPlugin, keeper]) as app:
        pen = await Article.create({"title": "Pen"})

        async def send() -> None:
            async with Article.bulk() as bulk:
                bulk.create({"title": "Ink"})
                bulk.write(pen, {"stock": 1})

        sending = asyncio.ensure_future(send())
        await keeper.come.wait()
        if end == "cancelled":
            sending.cancel()
        with pytest.raises((earnorm.AccessDenied, asyncio.CancelledError)):
            await sending
        assert "cut off" not in caplog.text
        assert (await app.health())["audit"]["unrecorded"] == 0
        assert await faults(app) == Counter() and await Article.count() == 1


async def test_a_stop_that_cuts_off_a_change_lets_it_be_recorded(alone: Started) -> None:
    gate = Gate()
    async with alone(plugins=[AuditPlugin, gate]) as app:
        pen = await Article.create({"title": "Pen"})
        writing = asyncio.ensure_future(pen.write({"stock": 1}))
        await gate.stored.wait()
        stopping = asyncio.ensure_future(app.stop(grace=0))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(writing), 0.05)
        gate.opened.set()
        with pytest.raises(AppStopping):
            await writing
        assert (await stopping).operations
        await app.start()
        assert [operation for operation, _ in await told(pen)] == ["create", "write"]


async def test_one_of_several_is_written_by_one_task_each(alone: Started) -> None:
    async with alone() as app:
        await Article.create([{"title": "free"} for _ in range(6)])

        async def claim(number: int) -> int:
            op = Operation(
                *("write", Article, earnorm.current_env(), Domain([("title", "=", "free")])),
                Update({"$set": {"title": f"taken by {number}"}}),
            )
            op = op.replace(options=op.options.replace(many=False))
            done: int = await app.execute(op)
            return done

        assert sorted(await asyncio.gather(*map(claim, range(8)))) == [0, 0, 1, 1, 1, 1, 1, 1]
        taken = {article.title for article in await Article.search()}
        assert len(taken) == 6 and "free" not in taken
        assert await faults(app) == Counter()


async def test_two_creations_of_one_id_leave_one_entry(alone: Started) -> None:
    async with alone() as app:
        pk = ObjectId()
        results = await asyncio.gather(
            *(Article.create({"id": pk, "title": f"Pen {n}"}) for n in range(4)),
            return_exceptions=True,
        )
        assert sum(isinstance(result, earnorm.DuplicateKey) for result in results) == 3
        assert len(await entries()) == 1 and await faults(app) == Counter()


# -- what it cannot promise is told ---------------------------------------------------------------


async def test_the_start_and_the_health_tell_the_operator(
    alone: Started, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "earnorm.audit"):
        async with alone() as app:
            told = (await app.health())["audit"]
    assert "no replica set" in caplog.text and "without its entry" in caplog.text
    assert told["status"] == "degraded" and told["without_transactions"] is True


async def test_neither_a_replica_set_nor_memory_is_degraded(
    server: Opening, caplog: pytest.LogCaptureFixture
) -> None:
    async with server() as app:
        assert (await app.health())["audit"]["status"] == "ok"
    async with App(MEMORY, database="x", plugins=[AuditPlugin]) as app:
        assert (await app.health())["audit"]["without_transactions"] is False
    assert not [record for record in caplog.records if record.name == "earnorm.audit"]


async def test_an_entry_that_cannot_be_stored_is_told_in_the_log_and_the_health(
    alone: Started, caplog: pytest.LogCaptureFixture
) -> None:
    async with alone(plugins=[AuditPlugin, NoEntries]) as app:
        with pytest.raises(earnorm.ServerUnavailable, match="no space"):
            await Article.create([{"title": "secret Pen"}, {"title": "other"}])
        made = await Article.search([])
        assert len(made) == 2  # there is nothing that would take them back
        for article in made:
            assert str(article.id) in caplog.text
        assert "create of audit_test.article" in caplog.text and "secret" not in caplog.text
        assert (await app.health())["audit"]["unrecorded"] == 2


async def test_a_change_that_does_not_end_is_cut_off_and_told(
    alone: Started, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(in_flight, "UNBROKEN_SECONDS", 0.01)
    gate = Gate()
    async with alone(plugins=[AuditPlugin, gate]) as app:
        pen = await Article.create({"title": "Pen"})
        writing = asyncio.ensure_future(pen.write({"stock": 1}))
        await gate.stored.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        await asyncio.sleep(0)
        assert "it was cut off" in caplog.text and str(pen.id) in caplog.text
        assert (await app.health())["audit"]["unrecorded"] == 1


async def test_a_change_that_waits_too_long_goes_on_and_tells(
    alone: Started, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    async with alone(plugins=[AuditPlugin, gate], retry_timeout=0.05):
        pen = await Article.create({"title": "Pen"})
        other = await Article.get(pen.id)
        writing = asyncio.ensure_future(pen.write({"stock": 1}))
        await gate.stored.wait()
        await other.write({"stock": 2})
        assert "has waited too long" in caplog.text
        gate.opened.set()
        await writing
