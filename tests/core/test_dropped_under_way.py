"""A model that is dropped while operations on it are under way: they go on to their end, others are refused."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any

import pytest

from earnorm import App, ConfigurationError, String, forget, hookimpl, models
from earnorm.plugin import Layer, Operation, OperationName, atomic
from tests.core.conftest import definitions


@pytest.fixture(autouse=True)
def forgetting() -> Iterator[None]:
    with definitions():
        yield


class Looking:
    """Asks before and after each operation what is stored, as an audit does, in tasks of its own, too."""

    api = 1

    @hookimpl
    def wrap_operation(self, model: type[models.BaseModel], operation: OperationName) -> Any:
        if model._name.startswith("dropped."):
            return [(Layer.DEFAULT, self.wait if operation == "search" else self.look)]
        return ()

    async def look(self, op: Operation, call_next: Any) -> Any:
        await self.ask(op)
        result = await call_next(op)
        await asyncio.gather(self.ask(op), self.ask(op))
        return result

    async def ask(self, op: Operation) -> None:
        assert op.app.bind(op.model).view.name.startswith("dropped.")
        await op.app.execute(op.child("search", op.model, origin="looking"))

    async def wait(self, op: Operation, call_next: Any) -> Any:
        await asyncio.sleep(0)
        assert op.app.bind(op.model).view.name.startswith("dropped.")
        return await call_next(op)


NUMBERS = count()


def ticket() -> type[Any]:
    class Ticket(models.BaseModel):
        _name = f"dropped.ticket{next(NUMBERS)}"
        text = String()

    return Ticket


async def creates(model: type[Any], record: Any) -> object:
    return await model.create({"text": "b"})


async def creates_in_a_transaction(model: type[Any], record: Any) -> object:
    return await atomic(lambda: model.create([{"text": "b"}, {"text": "b"}]))


async def writes(model: type[Any], record: Any) -> object:
    return await record.write({"text": "b"})


async def writes_by_domain(model: type[Any], record: Any) -> object:
    return await model.search([("text", "=", "a")]).update({"text": "b"})


async def deletes(model: type[Any], record: Any) -> object:
    return await record.unlink()


Work = Callable[[type[Any], Any], Awaitable[object]]


@pytest.mark.parametrize(
    "work", [creates, creates_in_a_transaction, writes, writes_by_domain, deletes]
)
async def test_a_write_is_done_and_told_so_or_not_done_and_refused(work: Work) -> None:
    """The law: whenever the model is dropped, an error means that nothing was written."""
    async with App("mongomock://", database="dropped", plugins=[Looking]) as app:
        database = app.dangerous_raw("to look")
        done, outcomes = False, set[str]()
        for steps in count():
            model = ticket()
            record = await model.create({"text": "a"})
            task = asyncio.ensure_future(work(model, record))
            for _ in range(steps):
                await asyncio.sleep(0)
            done = task.done()
            forget(model)
            try:
                await task
                outcomes.add("done")
            except ConfigurationError as error:
                assert error.code == "forgotten_model"
                outcomes.add("refused")
            stored = [row["text"] async for row in database[model._collection].find()]
            was_written = stored != ["a"]
            assert was_written == (not task.exception()), (steps, stored)
            with pytest.raises(ConfigurationError, match="was dropped"):
                await model.count()
            if done:
                break
        assert outcomes == {"done", "refused"}, "refused before it began, else done"


async def test_an_operation_of_another_model_does_not_bring_a_dropped_one_back() -> None:
    async with App("mongomock://", database="dropped", plugins=[Looking]):
        model, other = ticket(), ticket()
        await model.count()
        at_work = asyncio.ensure_future(model.create({"text": "a"}))
        await asyncio.sleep(0)
        forget(model)

        class Asks:
            def __await__(self) -> Any:
                return model.count().__await__()

        with pytest.raises(ConfigurationError, match="was dropped"):
            await asyncio.gather(other.create({"text": "a"}), Asks())
        await at_work


async def test_a_dropped_model_is_freed_when_its_last_operation_is_over() -> None:
    async with App("mongomock://", database="dropped", plugins=[Looking]):
        model = ticket()
        await model.count()
        at_work = asyncio.ensure_future(model.create({"text": "a"}))
        await asyncio.sleep(0)
        forget(model)
        await at_work
        gone = weakref.ref(model)
        del model, at_work
        for _ in range(3):  # the loop lets go of what it has called
            await asyncio.sleep(0)
        gc.collect()
        assert gone() is None
