"""What a step does wrong is an error that names it: nothing is passed over in silence."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import pytest

import earnorm
from earnorm import (
    App,
    ConfigurationError,
    DateTime,
    Int,
    PluginError,
    String,
    ValidationError,
    models,
)
from earnorm.plugin import DocumentBatch, ModelView, Stage, Step, ValueBatch, Way, hookimpl


class Page(models.BaseModel):
    _name = "wrong.page"
    title = String()
    price = Int()
    printed_at = DateTime()


def opened(*steps: Any) -> App:
    class Shop:
        api = 1
        name = "shop"

        @hookimpl
        def register_steps(self, model: ModelView) -> Iterable[Step]:
            return steps if model.name == "wrong.page" else ()

    return App("mongomock://", database="wrong", plugins=[Shop])


# -- steps that wait ------------------------------------------------------------------------------

RUN: list[str] = []


async def check(batch: Any) -> None:
    await asyncio.sleep(0)
    RUN.append("run")
    raise ValidationError("page", [])


async def create() -> None:
    await Page.create({"title": "a"})


async def write() -> None:
    await Page.search().update({"title": "a"})


async def bulk() -> None:
    async with Page.bulk() as batch:
        batch.create({"title": "a"})


@pytest.mark.parametrize(
    ("stage", "do"),
    [
        (Stage.ALIAS, create),
        (Stage.ALIAS, bulk),
        (Stage.PLAN, create),
        (Stage.JUDGE, create),
        (Stage.JUDGE, write),
        (Stage.PROPAGATE, create),
    ],
)
async def test_a_check_that_nothing_awaits_is_an_error(
    stage: Stage, do: Callable[[], Awaitable[None]]
) -> None:
    RUN.clear()
    async with opened(Step(stage, "check", lambda batch: check(batch))):
        with pytest.raises(PluginError) as caught:
            await do()
    assert caught.value.code == "step_result"
    for part in (
        "plugin 'shop'",
        "the step 'check'",
        "'wrong.page'",
        "make the step an 'async def'",
    ):
        assert part in str(caught.value)
    assert not RUN


async def test_beside_an_async_step_it_is_an_error_too() -> None:
    async def waits(batch: DocumentBatch) -> None: ...

    async with opened(
        Step(Stage.STAMP, "waits", waits), Step(Stage.JUDGE, "check", lambda batch: check(batch))
    ):
        with pytest.raises(PluginError, match="make the step an 'async def'"):
            await create()
        assert await Page.count() == 0


@pytest.mark.parametrize("stage", [Stage.ALIAS, Stage.STAMP, Stage.SETTLE])
async def test_a_step_returns_nothing(stage: Stage) -> None:
    async def seven(batch: Any) -> int:
        return 7

    for run in (lambda batch: 7, seven):
        async with opened(Step(stage, "x", run)):
            with pytest.raises(PluginError, match=r"'x' of model 'wrong\.page' returned 7; a step"):
                await create()


# -- exceptions and unknown names -----------------------------------------------------------------


def each_row(call: Callable[[Any], object]) -> Callable[[Any], None]:
    def run(batch: ValueBatch | DocumentBatch) -> None:
        for row in batch.rows:
            call(row)

    return run


def fails(batch: Any) -> None:
    raise ZeroDivisionError("oops")


@pytest.mark.parametrize("stage", [Stage.ALIAS, Stage.STAMP, Stage.SETTLE])
async def test_an_exception_that_leaves_a_step_names_it(stage: Stage) -> None:
    async with opened(Step(stage, "x", fails)):
        with pytest.raises(ZeroDivisionError) as caught:
            await create()
    assert caught.value.__notes__ == ["in the step 'x' of plugin 'shop', in model 'wrong.page'"]


@pytest.mark.parametrize(
    ("stage", "run"),
    [
        (Stage.STAMP, lambda batch: batch.fill("pirce", 1)),
        (Stage.STAMP, each_row(lambda row: row.fill("pirce", 1))),
        (Stage.STAMP, each_row(lambda row: row.put("pirce", 1))),
        (Stage.STAMP, each_row(lambda row: row.get("pirce"))),
        (Stage.STAMP, each_row(lambda row: row.has("pirce"))),
        (Stage.SETTLE, each_row(lambda row: row.hand_back("pirce", 1))),
        (Stage.STAMP, lambda batch: batch.increase("pirce")),
        (Stage.PLAN, each_row(lambda row: row.hand_back("pirce", 1))),
        (Stage.ALIAS, each_row(lambda row: row.expect("pirce", 1))),
        (Stage.PLAN, each_row(lambda row: row.expect("pirce", 1))),
        (Stage.VALIDATE, each_row(lambda row: row.fill("pirce", 1))),
        (Stage.PLAN, each_row(lambda row: row.fill("pirce", 1))),
    ],
)
async def test_an_unknown_field_names_the_step_the_model_and_the_nearest(
    stage: Stage, run: Callable[[Any], None]
) -> None:
    async with opened(Step(stage, "x", run)):
        with pytest.raises(PluginError) as caught:
            await create()
    assert str(caught.value) == (
        "plugin 'shop': the step 'x': model 'wrong.page' has no field 'pirce'; did you mean 'price'?"
    )
    assert caught.value.code == "unknown_field"


# -- work beside the operation --------------------------------------------------------------------

DONE: list[str] = []


async def enter(text: str) -> None:
    await asyncio.sleep(0)
    DONE.append(text)


@pytest.mark.parametrize("add", ["before", "after"])
async def test_work_beside_an_operation_may_be_sync_and_async(add: str) -> None:
    DONE.clear()

    def run(batch: ValueBatch) -> None:
        getattr(batch, add)(lambda: DONE.append("sync"))
        getattr(batch, add)(lambda: enter("async"))

    async with opened(Step(Stage.PLAN, "x", run, Way.CREATE)):
        await create()
    assert DONE == ["sync", "async"]


@pytest.mark.parametrize("add", ["before", "after"])
async def test_work_that_is_no_function_names_the_step(add: str) -> None:
    def run(batch: ValueBatch) -> None:
        getattr(batch, add)("work")

    async with opened(Step(Stage.PLAN, "x", run, Way.CREATE)):
        with pytest.raises(PluginError) as caught:
            await create()
    assert str(caught.value) == (
        "plugin 'shop': the step 'x': batch.before() and after() take a function without arguments, not "
        "'work'"
    )
    assert caught.value.code == "step_work"


async def test_work_that_returns_what_nobody_waits_for_is_an_error() -> None:
    def run(batch: ValueBatch) -> None:
        batch.after(lambda: Page.search)  # it was meant to be called

    async with opened(Step(Stage.PLAN, "x", run, Way.CREATE)):
        with pytest.raises(
            PluginError, match=r"wrong\.page: the work .*lambda.* was it called"
        ) as caught:
            await create()
    assert caught.value.code == "step_work"


async def test_work_that_fails_is_named() -> None:
    def run(batch: ValueBatch) -> None:
        batch.after(fails)  # type: ignore[arg-type] # the mistake: it takes an argument

    async with opened(Step(Stage.PLAN, "x", run, Way.CREATE)):
        with pytest.raises(TypeError) as caught:
            await create()
    note = "in the work 'fails' that a step added to an operation on 'wrong.page'"
    assert caught.value.__notes__ == [note]


# -- rows, and what happens once the write is durable ----------------------------------------------


@pytest.mark.parametrize(("on", "do"), [("create", create), ("write", write)])
@pytest.mark.parametrize(
    "run", [lambda batch: batch.rows.append(batch.rows[0]), lambda batch: batch.rows.clear()]
)
async def test_a_step_that_adds_or_removes_rows_is_named(
    run: Callable[[Any], None], on: Literal["create", "write"], do: Callable[[], Any]
) -> None:
    async with opened(Step(Stage.STAMP, "x", run, on=on)):
        with pytest.raises(PluginError, match=r"'shop': the step 'x': it adds or removes rows"):
            await do()


@pytest.mark.parametrize("is_waiting", [False, True])
async def test_a_step_that_fails_after_the_write_is_named_in_the_log(
    is_waiting: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails_later(batch: Any) -> None:
        fails(batch)

    async with opened(Step(Stage.DURABLE, "x", fails_later if is_waiting else fails)):
        await create()
        assert await Page.count() == 1
    assert "in the step 'x' of plugin 'shop', in model 'wrong.page'" in caplog.messages[-1]


# -- what is handed in ----------------------------------------------------------------------------


def nothing(batch: Any) -> None: ...


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (Step("STAMP", "x", nothing), "stage='STAMP'; expected a Stage"),  # type: ignore[arg-type]
        (Step(125, "x", nothing), "stage=125; expected a Stage"),  # type: ignore[arg-type]
        (Step(Stage.STAMP, "x", nothing, "create"), "ways='create'; expected a Way"),  # type: ignore[arg-type]
        (Step(Stage.STAMP, "x", nothing, on="update"), "on='update'; expected 'create'"),  # type: ignore[arg-type]
        (
            Step(Stage.ALIAS, "x", nothing, on="write"),
            "on='write'; expected None, since on= is for",
        ),
        (
            Step(Stage.STAMP, "x", nothing, names={"a"}),
            "names={'a'}; expected None, since names= is",
        ),
        (Step(Stage.ALIAS, "x", nothing, names="a"), "names='a'; expected a collection of names"),
        (Step(Stage.STAMP, "x", nothing, after="y"), "after='y'; expected a tuple of names"),  # type: ignore[arg-type]
        (
            Step(Stage.STAMP, "x", nothing, after=("timestmps",)),
            "runs after 'timestmps', and STAMP has no step of this name; did you mean 'timestamps'?",
        ),
    ],
)
async def test_a_wrong_argument_of_a_step_is_refused(step: Step, told: str) -> None:
    async with opened(step):
        with pytest.raises(PluginError) as caught:
            await create()
    assert str(caught.value).startswith(
        "plugin 'shop': register_steps(app, model): the step 'x'"
    ) and told in str(caught.value)
    assert caught.value.code == "not_a_step"


async def test_a_step_may_run_after_one_that_only_other_models_have() -> None:
    async with opened(
        Step(Stage.STAMP, "x", nothing, after=("timestamps", "y")), Step(Stage.STAMP, "y", nothing)
    ):
        await create()


def test_every_step_of_the_features_is_one_to_run_after() -> None:
    root = Path(earnorm.__file__).parent
    names = {
        name
        for room in ("features", "model")
        for path in (root / room).rglob("*.py")
        for name in re.findall(r"\bStep\(\s*Stage\.\w+,\s*([\w\" ]+),", path.read_text())
    }
    assert names - {"NAME"} | {'"computed"'} == {f'"{name}"' for name in App.built_in_steps}


def test_a_feature_that_does_not_exist_cannot_be_left_out() -> None:
    without = type("AppWithout", (App,), {"left_out": ("timestmps",)})
    with pytest.raises(
        ConfigurationError, match="'timestmps'; did you mean 'timestamps'"
    ) as caught:
        without("mongomock://", database="wrong")
    assert caught.value.code == "unknown_feature"


# -- what is handed back --------------------------------------------------------------------------

PRECISE = dt.datetime(2024, 5, 6, 7, 8, 9, 123_456, dt.UTC)


@pytest.mark.parametrize("way", ["fill", "row", "now"])
async def test_what_is_handed_back_is_what_is_stored(uri: str, way: str) -> None:
    def stamp(batch: DocumentBatch) -> None:
        if way == "row":
            batch.rows[0].put("printed_at", PRECISE)
        else:
            batch.fill("printed_at", PRECISE if way == "fill" else batch.now)

    class Stamping:
        api = 1
        name = "stamping"

        @hookimpl
        def register_steps(self, model: ModelView) -> Iterable[Step]:
            return [Step(Stage.STAMP, "x", stamp, Way.CREATE)] if model.name == "wrong.page" else ()

    async with App(uri, database="wrong_steps", plugins=[Stamping]):
        await Page.search().delete()
        page = await Page.create({"title": "a"})
        assert page.printed_at is not None and page.printed_at.microsecond % 1000 == 0
        assert page.printed_at == (await Page.get(page.id)).printed_at
        assert await Page.count([("printed_at", "=", page.printed_at)]) == 1


async def test_the_time_of_an_operation_is_in_milliseconds() -> None:
    seen: list[dt.datetime] = []
    async with opened(Step(Stage.STAMP, "x", lambda batch: seen.append(batch.now))):
        for _ in range(5):
            await create()
    assert not any(now.microsecond % 1000 for now in seen)


def test_the_stored_form_of_a_point_in_time_is_in_milliseconds() -> None:
    field = Page._fields["printed_at"]
    assert field.encode(PRECISE) == dt.datetime(2024, 5, 6, 7, 8, 9, 123_000)
    assert field.decode(field.encode(PRECISE)) == PRECISE.replace(microsecond=123_000)


# -- changes that cannot be joined ----------------------------------------------------------------


async def test_a_change_that_cannot_be_joined_names_the_step_and_the_field() -> None:
    step = Step(Stage.STAMP, "discount", lambda batch: batch.increase("price"), on="write")
    async with opened(step):
        page = await Page.create({"price": 3})
        pages = Page.search([("price", "=", 3)])
        for attempt in (
            lambda: page.write({"price": earnorm.Mul(5)}),
            lambda: Page.write_many({page: {"price": earnorm.Mul(5)}}),
            lambda: pages.update({"price": earnorm.Mul(5)}),
        ):
            with pytest.raises(PluginError) as caught:
                await attempt()
            assert caught.value.code == "step_conflict"
            message = str(caught.value)
            assert message.startswith("plugin 'shop': the step 'discount': it changes 'price'")
            assert "$inc beside $mul" in message and "put()" in message
        assert (await Page.get(page.id)).price == 3


async def test_nothing_is_merged_into_a_new_document() -> None:
    step = Step(Stage.STAMP, "count", lambda batch: batch.increase("price"))
    async with opened(step):
        with pytest.raises(PluginError, match="are for writes") as caught:
            await Page.create({"price": 3})
        assert caught.value.code == "step_value"
