"""What a step of a third party may ask of computed values, rows and the end of a call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from earnorm import (
    App,
    Command,
    Inc,
    Int,
    Many2one,
    One2many,
    PluginError,
    String,
    ValidationError,
    depends,
    models,
)
from earnorm.plugin import (
    KNOWN_FIRST,
    Call,
    DocumentBatch,
    KnownFirst,
    Layer,
    Middleware,
    ModelView,
    Operation,
    Stage,
    Step,
    at_end_of_call,
    hookimpl,
    is_in_unit,
)


class Sheet(models.BaseModel):
    _name = "known.sheet"
    name = String()
    a = Int(default=0)
    b = Int(default=0)
    total = Int(compute="_total", store=True)
    line_ids = One2many("known.line", "sheet_id")

    @depends("a", "b")
    def _total(self) -> int:
        return (self.a or 0) + (self.b or 0)


class Line(models.BaseModel):
    _name = "known.line"
    sheet_id = Many2one(Sheet)


class Limits:
    """Refuses a total above 10 before it is stored, and looks at the end of each call."""

    api = 1
    name = "limits"

    def __init__(self) -> None:
        self.totals: list[Any] = []
        self.told: list[Any] = []

    @hookimpl
    def wrap_operation(self, model: Any, operation: str) -> Iterable[tuple[int, Middleware]]:
        async def ask(op: Operation, call_next: Call) -> Any:
            return await call_next(op.with_note(KNOWN_FIRST, KnownFirst(frozenset({"total"}))))

        return [(Layer.SECURITY, ask)] if model is Sheet and operation == "write" else []

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        if model.cls is Sheet:
            yield Step(Stage.JUDGE, "limits", self.judge, on="write")
            yield Step(Stage.SETTLE, "limits", self.look)

    def judge(self, batch: DocumentBatch) -> None:
        self.totals.append([(row.get("total"), dict(row.update.expect)) for row in batch.rows])
        for row in batch.rows:
            if row.has("total") and row.get("total") > 10:
                row.refuse("total", "at most 10", "limit")

    async def look(self, batch: DocumentBatch) -> None:
        async def check() -> None:
            self.told.append((batch.op.name, await Line.count()))

        self.told.append(is_in_unit())
        await at_end_of_call(check)


async def test_a_step_knows_the_values_that_a_write_will_leave() -> None:
    limits = Limits()
    async with App("mongomock://", database="known", plugins=[limits]):
        one, two = await Sheet.create([{"a": 1, "b": 2}, {"a": 1, "b": 5}])
        await one.write({"a": Inc(2)})
        assert limits.totals.pop() == [(5, {"a": 1, "b": 2})]
        with pytest.raises(ValidationError, match="at most 10"):
            await Sheet.search().update({"a": 6})
        assert limits.totals.pop() == [(8, {"b": 2}), (11, {"b": 5})]
        await one.write({"name": "n"})
        assert [(s.total, s.a) for s in await Sheet.search(order="_id")] == [(5, 3), (6, 1)]
        assert two.total == 6


async def test_the_end_of_a_call_comes_when_all_of_it_is_stored() -> None:
    limits = Limits()
    async with App("mongomock://", database="known", plugins=[limits]):
        sheet = await Sheet.create({"line_ids": [{}, {}]})
        assert limits.told == [True, ("create", 2)]
        await sheet.write({"name": "n", "line_ids": [Command.create({})]})
        assert limits.told[2:] == [True, ("write", 3)]
        await sheet.write({"name": "m"})
        assert limits.told[4:] == [False, ("write", 3)]


async def test_a_task_that_outlives_a_call_is_looked_at_when_it_has_written() -> None:
    limits, over = Limits(), asyncio.Event()
    tasks: list[asyncio.Task[Any]] = []

    class Spawning:
        api = 1
        name = "spawning"

        @hookimpl
        def before_create(self, op: Operation) -> None:
            if op.model is Line and not tasks:
                tasks.append(asyncio.create_task(self.later()))

        async def later(self) -> None:
            await over.wait()
            await Sheet.create({"name": "later"})

    async with App("mongomock://", database="known", plugins=[limits, Spawning()]):
        await Sheet.create({"line_ids": [{}]})
        over.set()
        await tasks[0]
        assert limits.told == [True, ("create", 1), False, ("create", 1)]


@pytest.mark.parametrize(
    "run",
    [lambda batch: batch.rows[0].expect({"a": 1}), lambda batch: batch.split([1])],
)
async def test_a_new_document_expects_nothing_and_is_not_split(run: Any) -> None:
    class Wrong:
        api = 1
        name = "wrong"

        @hookimpl
        def register_steps(self, model: ModelView) -> Iterable[Step]:
            return [Step(Stage.GUARD, "wrong", run, on="create")]

    async with App("mongomock://", database="known", plugins=[Wrong()]):
        with pytest.raises(PluginError, match="plugin 'wrong': the step 'wrong'"):
            await Line.create({})
