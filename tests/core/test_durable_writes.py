"""What is durable is never reported as failed, whatever plugins do that hear of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any

import pytest

import earnorm
from earnorm import App, BaseModel, DuplicateKey, Layer, Operation, String, TransactionError
from earnorm.plugin import hookimpl, in_transaction

from .conftest import default_app

KINDS = ["pymongo", "memory"]


class Parcel(BaseModel):
    _name = "durable.parcel"
    code = String(required=True, unique=True)


class Plain(BaseModel):
    """A model of no unique field, of which a second save would store a second document."""

    _name = "durable.written"
    text = String()


Hook = Callable[[], Awaitable[None] | None]


class Hearing:
    """Does something in each hook that hears of a finished write, and notes that it was called."""

    api = 1
    name = "first"

    def __init__(self, does: Hook, *, opens: bool = False) -> None:
        self.does, self.opens = does, opens
        self.heard: list[str] = []

    @hookimpl
    def wrap_operation(self, operation: str) -> Iterable[Any]:
        is_write = operation in ("create", "write", "unlink")
        return [(Layer.TRANSACTION, in_transaction)] if self.opens and is_write else []

    @hookimpl
    async def after_create(self, op: Operation, result: Sequence[Any]) -> None:
        await self._hear("after_create")

    @hookimpl
    async def after_write(self, op: Operation, result: int) -> None:
        await self._hear("after_write")

    @hookimpl
    async def after_unlink(self, op: Operation, result: int) -> None:
        await self._hear("after_unlink")

    @hookimpl
    async def after_commit(self, app: App, operations: Sequence[Operation]) -> None:
        await self._hear("after_commit")

    @hookimpl
    async def after_rollback(self, app: App, operations: Sequence[Operation]) -> None:
        await self._hear("after_rollback")

    async def _hear(self, hook: str) -> None:
        self.heard.append(hook)
        answer = self.does()
        if answer is not None:
            await answer


class Second(Hearing):
    """Hears after the first."""

    name = "second"


def queue_is_down() -> None:
    raise ConnectionError("the queue is down")


def refuse() -> None:
    raise earnorm.ValidationError("parcel", [{"loc": ("code",), "msg": "no", "type": "no"}])


async def lets_a_cancellation_escape() -> None:
    """Await a task that somebody cancelled, as a plugin does that stops its own worker."""
    worker = asyncio.create_task(asyncio.sleep(60))
    worker.cancel()
    await worker


def asks_a_cancelled_future() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    future.result()


ESCAPING = [lets_a_cancellation_escape, asks_a_cancelled_future]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("does", [queue_is_down, refuse, *ESCAPING])
async def test_what_a_hook_raises_behind_a_write_is_logged(
    kind: str, does: Hook, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Hearing(does), Second(lambda: None)
    async with default_app(kind, database, [first, second]):
        parcel = Parcel(code="a")
        with caplog.at_level(logging.ERROR, "earnorm"):
            await parcel.save()
        assert parcel.is_stored and not parcel.is_changed
        await parcel.write({"code": "b"})
        parcel.code = "c"
        await parcel.save()
        assert not parcel.is_changed
        assert await Parcel.search([("code", "=", "c")]).update({"code": "d"}) == 1
        assert await parcel.unlink() == 1
    told = ["after_create", "after_commit", *["after_write", "after_commit"] * 3]
    assert first.heard == second.heard == [*told, "after_unlink", "after_commit"]
    assert "plugin 'first' failed in its hook after_create" in caplog.text
    assert "plugin 'first' failed in its hook after_commit" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("does", ESCAPING)
async def test_a_cancellation_of_somebody_else_is_an_error_of_the_call(
    kind: str, does: Hook, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with default_app(kind, database, [Asking(does)]):
        plain = await Plain.create({"text": "a"})
        assert plain.is_stored
        await plain.write({"text": "b"})
        assert plain.text == "b"
        if kind == "pymongo":
            async with earnorm.transaction() as transaction:
                await plain.write({"text": "c"})
                transaction.after_commit(does)
    assert f"the after_durable callback {does.__qualname__} failed" in caplog.text


async def test_before_a_write_it_refuses_the_write_and_names_the_plugin() -> None:
    class Before:
        api = 1
        name = "careless"

        @hookimpl
        async def before_create(self, op: Operation) -> None:
            await lets_a_cancellation_escape()

    async with App("mongomock://", database="escaping", plugins=[Before]):
        with pytest.raises(earnorm.PluginError, match=r"'careless' .* has to catch that error"):
            await Plain.create({"text": "a"})
        assert await Plain.count() == 0


@pytest.mark.parametrize("when", ["before the save", "in the hook"])
async def test_a_cancellation_of_the_task_itself_is_raised_wherever_it_was_asked_for(
    when: str,
) -> None:
    def cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async def wait() -> None:
        if when == "in the hook":
            cancel()
        await asyncio.sleep(0)

    async def save() -> None:
        if when == "before the save":
            cancel()
        await plain.save()

    async with App("mongomock://", database="escaping", plugins=[Hearing(wait)]):
        plain = Plain(text="a")
        task = asyncio.create_task(save())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()


async def test_a_task_that_is_cancelled_already_saves_in_its_cleanup() -> None:
    saved: list[bool] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            saved.append((await Plain.create({"text": "last words"})).is_stored)

    async with App("mongomock://", database="e", plugins=[Hearing(lets_a_cancellation_escape)]):
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert saved == [True]


async def test_a_block_that_is_committed_does_not_fail(database: str) -> None:
    plugin, runs = Hearing(queue_is_down), 0
    async with default_app("pymongo", database, [plugin]):

        @earnorm.transactional()
        async def work() -> BaseModel:
            nonlocal runs
            runs += 1
            return await Parcel.create({"code": "a"})

        assert (await work()).is_stored
        assert runs == 1 and plugin.heard == ["after_create", "after_commit"]
        assert await Parcel.count() == 1


async def test_a_hook_hides_no_error_of_the_operation(database: str) -> None:
    plugin = Hearing(queue_is_down)
    async with default_app("pymongo", database, [plugin]):
        await Parcel.create({"code": "a"})
        with pytest.raises(DuplicateKey):
            await Parcel.create({"code": "a"})
        with pytest.raises(ZeroDivisionError):
            async with earnorm.transaction():
                await Parcel.create({"code": "b"})
                raise ZeroDivisionError
        assert plugin.heard[-1] == "after_rollback"


async def test_a_transient_error_of_the_database_in_a_transaction_is_raised(database: str) -> None:
    tries: list[int] = []

    def conflict() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise TransactionError("a write conflict", transient=True)

    plugin = Hearing(conflict)
    async with default_app("pymongo", database, [plugin]):

        @earnorm.transactional()
        async def work() -> None:
            await Parcel.create({"code": "a"})

        await work()
        assert plugin.heard == ["after_create", "after_rollback", "after_create", "after_commit"]
        assert await Parcel.count() == 1
        tries.clear()
        assert (await Parcel.create({"code": "b"})).is_stored  # no transaction runs


class Asking:
    """Asks a layer of every write for a call once it is durable."""

    api = 1
    name = "asking"

    def __init__(self, call: Hook) -> None:
        self.call = call

    @hookimpl
    def wrap_operation(self, operation: str) -> Iterable[Any]:
        return [(Layer.DEFAULT, self._layer)] if operation in ("create", "write") else []

    async def _layer(self, op: Operation, call_next: Any) -> Any:
        op.after_durable(self.call)
        return await call_next(op)


@pytest.mark.parametrize("how", ["after_commit", "own transaction", "after_durable"])
async def test_a_record_is_settled_before_anybody_hears_of_it(how: str, database: str) -> None:
    record: list[Plain] = []
    seen: list[tuple[bool, bool]] = []

    def look() -> None:
        seen.append((record[0].is_stored, record[0].is_changed))

    heard = Hearing(lambda: None, opens=how == "own transaction")
    plugins = [heard, Asking(look)] if how == "after_durable" else [heard]
    if how != "after_durable":
        plain = heard._hear

        async def hear(hook: str) -> None:
            if hook == "after_commit":
                look()
            await plain(hook)

        heard._hear = hear  # type: ignore[method-assign] # the hooks look at the record
    async with default_app("pymongo", database, plugins):
        record.append(Plain(text="a"))
        await record[0].save()
        record[0].text = "b"
        await record[0].save()
        async with Plain.bulk() as bulk:
            bulk.write(record[0], {"text": "c"})
    assert seen == [(True, False)] * 3


@pytest.mark.parametrize("opens", [False, True])
async def test_a_cancelled_hook_leaves_a_record_that_knows_it_is_stored(
    opens: bool, database: str
) -> None:
    hanging = asyncio.Event()

    async def never_ends() -> None:
        if plugin.heard[-1] == "after_commit" and not is_over:
            hanging.set()
            await asyncio.sleep(60)

    async def cancelled(save: Coroutine[Any, Any, Any]) -> None:
        """Cancel a save when the hook has been called."""
        hanging.clear()
        task = asyncio.create_task(save)
        await hanging.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    plugin, is_over = Hearing(never_ends, opens=opens), False
    async with default_app("pymongo", database, [plugin]) as app:
        plain = Plain(text="a")
        await cancelled(plain.save())
        assert plain.is_stored and not plain.is_changed
        plain.text = "b"
        await cancelled(plain.save())
        assert not plain.is_changed
        is_over = True
        await plain.save()
        raw = app.dangerous_raw("to count")["durable_written"]
        assert [d["text"] async for d in raw.find()] == ["b"]


async def test_an_observer_that_fails_when_access_is_denied_does_not_hide_that() -> None:
    async def deny(op: Operation, call_next: Any) -> Any:
        raise earnorm.AccessDenied("not you")

    class Denying:
        api = 1
        name = "denying"

        @hookimpl
        def wrap_operation(self) -> Iterable[Any]:
            return [(Layer.SECURITY, deny)]

        @hookimpl
        async def access_denied(self, op: Operation, error: earnorm.AccessDenied) -> None:
            raise ConnectionError("the alarm is broken")

    async with App("mongomock://", database="denied", plugins=[Denying]):
        with pytest.raises(earnorm.AccessDenied, match="not you"):
            await Plain.count()
