"""What fails beside a step or a layer's own run says whose it was, and what waits for itself is an error."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest

import earnorm
from earnorm import App, DomainError, Int, Many2one, Operator, PluginError, models
from earnorm.plugin import Layer, ModelView, Stage, Step, hookimpl, in_transaction_if


class Page(models.BaseModel):
    _name = "named.page"
    number = Int()


class Other(models.BaseModel):
    _name = "named.other"
    number = Int()


def fails(op: Any) -> Any:
    raise ZeroDivisionError("oops")


async def waits(op: Any) -> bool:
    return True


def nothing(batch: Any) -> None: ...


def opened(uri: str, steps: Iterable[Step] = (), layers: Iterable[tuple[int, Any]] = ()) -> App:
    class Shop:
        api = 1
        name = "shop"

        @hookimpl
        def register_steps(self, model: ModelView) -> Iterable[Step]:
            return steps if model.name == "named.page" else ()

        @hookimpl
        def wrap_operation(self, model: type, operation: str) -> Any:
            is_write = operation in ("create", "write") and model.__name__ == "Page"
            return layers if is_write else ()

    return App(uri, database="named_failures", plugins=[Shop])


async def create() -> None:
    await Page.create({"number": 1})


async def bulk() -> None:
    async with Page.bulk() as batch:
        batch.create({"number": 1})


async def write() -> None:
    await (await Page.search()).write({"number": 2})


IN_TRANSACTION = (Layer.TRANSACTION, in_transaction_if(lambda op: True))


@pytest.mark.parametrize("do", [create, bulk])
@pytest.mark.parametrize("argument", ["atomic", "queues_for"])
async def test_a_function_of_a_step_that_raises_is_named(
    uri: str, argument: str, do: Callable[[], Any]
) -> None:
    step = Step(Stage.STAMP, "x", nothing, **{argument: fails})  # type: ignore[arg-type] # by name
    async with opened(uri, [step], [IN_TRANSACTION] if argument == "queues_for" else []):
        with pytest.raises(ZeroDivisionError) as caught:
            await do()
    note = f"in {argument}= of the step 'x' of plugin 'shop', in model 'named.page'"
    assert caught.value.__notes__[0] == note


async def test_a_function_of_a_value_step_that_raises_is_named(uri: str) -> None:
    async with opened(uri) as app:
        page = await Page.create({"number": 1})
        await app.dangerous_raw("the other pages")["named_page"].delete_many(
            {"_id": {"$ne": page.pk}}
        )
    async with opened(uri, [Step(Stage.DEFAULT, "x", nothing, atomic=fails)]):
        with pytest.raises(ZeroDivisionError) as caught:
            await write()
    note = "in atomic= of the step 'x' of plugin 'shop', in model 'named.page'"
    assert caught.value.__notes__ == [note]


@pytest.mark.parametrize("do", [create, bulk])
@pytest.mark.parametrize("part", ["needs", "queues_for"])
async def test_a_function_of_a_layer_that_raises_is_named(
    uri: str, part: str, do: Callable[[], Any]
) -> None:
    if part == "needs":
        layer = in_transaction_if(fails)
    else:
        layer = in_transaction_if(lambda op: True, queues_for=fails)
    async with opened(uri, layers=[(Layer.TRANSACTION, layer)]):
        with pytest.raises(ZeroDivisionError) as caught:
            await do()
    assert "layer TransactionLayer of plugin 'shop', around create" in caught.value.__notes__[0]


@pytest.mark.parametrize("do", [create, bulk])
@pytest.mark.parametrize("stage", [Stage.STAMP])
async def test_a_coroutine_is_no_answer(uri: str, stage: Stage, do: Callable[[], Any]) -> None:
    async with opened(uri, [Step(stage, "x", nothing, atomic=waits)]):  # type: ignore[arg-type] # the mistake
        with pytest.raises(PluginError, match=r"'shop'.*'x'.*atomic= returned an awaitable") as got:
            await do()
        assert got.value.code == "step_result"


# -- preparations that wait for themselves --------------------------------------------------------


async def look(app: App, model: ModelView) -> None:
    await model.cls.search()


async def begin(app: App, model: ModelView) -> None:
    async with earnorm.transaction():
        pass


async def bind(app: App, model: ModelView) -> None:
    await app.bind(model.cls).prepare()


async def in_a_task(app: App, model: ModelView) -> None:
    await asyncio.create_task(look(app, model))


async def one_after_the_other(app: App, model: ModelView) -> None:
    await (Other if model.name == "named.page" else Page).count()


def preparing(do: Callable[[App, ModelView], Any], uri: str, *names: str) -> App:
    class Shop:
        api = 1
        name = "shop"

        @hookimpl
        async def prepare_model(self, app: App, model: ModelView) -> None:
            if model.name in names:
                await do(app, model)

    return App(uri, database="named_preparations", plugins=[Shop])


@pytest.mark.parametrize("do", [look, begin, bind, in_a_task])
async def test_a_preparation_does_not_wait_for_itself(uri: str, do: Any) -> None:
    async with preparing(do, uri, "named.page") as app:
        if do is begin and "transactions" not in app.capabilities:
            pytest.skip("it begins no transaction")
        with pytest.raises(PluginError, match=r"'shop': prepare_model.*'named\.page'") as caught:
            await Page.count()
        assert caught.value.code == "prepare_waits" and "startup()" in str(caught.value)


async def test_nor_over_another_one(uri: str) -> None:
    async with preparing(one_after_the_other, uri, "named.page", "named.other"):
        with pytest.raises(PluginError) as caught:
            await Page.count()
        assert caught.value.code == "prepare_waits"


async def test_nor_two_that_wait_for_each_other(uri: str) -> None:
    both, seen = asyncio.Barrier(2), set[str]()

    async def each(app: App, model: ModelView) -> None:
        if model.name not in seen:  # it is called again after a failure
            seen.add(model.name)
            await both.wait()
        await one_after_the_other(app, model)

    async with preparing(each, uri, "named.page", "named.other"):
        counts = (Page.count(), Other.count())
        errors = await asyncio.gather(*counts, return_exceptions=True)
        assert {getattr(error, "code", "") for error in errors} == {"prepare_waits"}


async def test_another_model_is_used_in_it(uri: str) -> None:
    async with preparing(one_after_the_other, uri, "named.page"):
        assert await Page.count() == await Page.count()


async def test_a_task_that_it_leaves_goes_on_afterwards(uri: str) -> None:
    tasks: list[asyncio.Task[None]] = []

    async def leave(app: App, model: ModelView) -> None:
        tasks.append(asyncio.create_task(look(app, model)))

    async with preparing(leave, uri, "named.page"):
        await Page.count()
        await tasks[0]


# -- health ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (None, "gave None"),
        ("ok", "gave a str"),
        ({}, "gave a dict"),
        ({"status": "good"}, "gave a dict"),
        ({"status": ["ok"]}, "gave a dict"),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_part_of_the_health_that_is_none_says_what_was_expected(
    part: Any, told: str, is_async: bool
) -> None:
    class Shop:
        api = 1
        name = "shop"

        if is_async:

            @hookimpl
            async def health(self) -> Any:
                return part

        else:

            @hookimpl
            def health(self) -> Any:
                return part

    async with App("mongomock://", database="named", plugins=[Shop]) as app:
        report = (await app.health())["shop"]
    assert report["status"] == "failed"
    for text in ("plugin 'shop'", "health(", told, "{'status': 'ok'}", "'degraded' or 'failed'"):
        assert text in str(report["error"])


# -- functions that are handed in for later -------------------------------------------------------


class Way(models.BaseModel):
    _name = "named.way"
    page_id = Many2one("named.page")


def searched(uri: str, **parts: Any) -> App:
    given: dict[str, Any] = {
        "prepare": lambda field, value: value,
        "to_mongo": lambda path, value: {path: value},
        "matches": lambda value: lambda values: value in list(values),
    }

    class Shop:
        api = 1
        name = "shop"

        @hookimpl
        def register_operators(self) -> Iterable[Operator]:
            return [Operator("is like", **given | parts)]

    return App(uri, database="named_failures", plugins=[Shop])


async def never() -> None: ...


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (
            {"prepare": lambda field, value: 1 / 0},
            "prepare of the operator 'is like' of plugin 'shop'",
        ),
        ({"to_mongo": lambda path, value: 1 / 0}, "to_mongo of the operator 'is like'"),
        ({"to_mongo": lambda path, value: None}, "to_mongo .* gave NoneType, and no filter"),
        ({"matches": lambda value: 1 / 0}, "matches of the operator 'is like' of plugin 'shop'"),
        ({"matches": lambda value: None}, "matches .* gave NoneType, and no test"),
        ({"matches": lambda value: lambda values: 1 / 0}, r"the test that matches\(\) made"),
        ({"matches": lambda value: lambda values: never()}, "gave an awaitable, which nobody"),
    ],
)
async def test_a_function_of_an_operator_that_fails_is_named(
    parts: dict[str, Any], told: str
) -> None:
    async with searched("mongomock://", **parts):
        await Page.create({"number": 1})
        found = await Page.search()
        with pytest.raises((ZeroDivisionError, PluginError)) as caught:
            await Page.search([("number", "is like", 1)])
            found.filtered_domain([("number", "is like", 1)])
    assert re.search(told, "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())]))


async def test_a_refusal_of_an_operator_is_none_of_its_failures() -> None:
    def refuses(field: object, value: object) -> None:
        raise ValueError("not today")

    async with searched("mongomock://", prepare=refuses):
        with pytest.raises(DomainError, match="not today") as caught:
            await Page.search([("number", "is like", 1)])
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize(
    ("hides", "told"),
    [
        (lambda env: 1 / 0, "in the function of hides_records of plugin 'shop'"),
        (lambda env: never(), "the function of hides_records of plugin 'shop' gave an awaitable"),
        (lambda: True, r"it has to give a plain function of \(env\), or None"),
    ],
)
async def test_a_function_that_tells_of_hidden_records_is_named(
    hides: Callable[..., Any], told: str
) -> None:
    class Shop:
        api = 1
        name = "shop"

        @hookimpl
        def hides_records(self) -> Any:
            return hides

    async with App("mongomock://", database="named_failures", plugins=[Shop]):
        page = await Page.create({"number": 1})
        with pytest.raises((ZeroDivisionError, PluginError)) as caught:
            await Way.create({"page_id": page})
    assert re.search(told, "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())]))
