"""What a step of a plugin hands in is checked, whichever way: the error names plugin, step, model and field."""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from bson import ObjectId

from earnorm import (
    App,
    Decimal,
    Domain,
    Embedded,
    Float,
    Int,
    List,
    PluginError,
    String,
    models,
)
from earnorm.plugin import ModelView, Stage, Step, Update, ValueRow, hookimpl


class Place(models.EmbeddedModel):
    nr = Int()
    town = String(db_name="t")


class Page(models.BaseModel):
    _name = "given.page"
    title = String()
    price = Int(db_name="p")
    rate = Float()
    cost = Decimal()
    tags = List(String())
    place = Embedded(Place)
    places = List(Embedded(Place))


Run = Callable[[Any], object]


def each_row(call: Run) -> Run:
    def run(batch: Any) -> None:
        for row in batch.rows:
            call(row)

    return run


def opened(stage: Stage, run: Run, uri: str = "mongomock://") -> App:
    def step(batch: Any) -> None:
        run(batch)

    async def waiting(batch: Any) -> None:
        run(batch)

    class Shop:
        api = 1
        name = "shop"

        @hookimpl
        def register_steps(self, model: ModelView) -> Iterable[Step]:
            if model.name == "given.page":
                yield Step(stage, "x", waiting if stage is Stage.CONSTRAIN else step)

    return App(uri, database="given_steps", plugins=[Shop])


def merge(operator: Any, values: Any) -> Run:
    return each_row(lambda row: row.merge(operator, values))


def set_in_document(key: str, value: Any) -> Run:
    return each_row(lambda row: row.document.__setitem__(key, value))


def set_value(name: str, value: Any) -> Run:
    return each_row(lambda row: row.values.__setitem__(name, value))


def assign(name: str, value: Any) -> Run:
    return each_row(lambda row: setattr(row, name, value))


NAN, NEW = math.nan, ObjectId()
CREATES: list[tuple[Stage, Run, str]] = [
    (Stage.STAMP, set_in_document("_id", NEW), "changes the id"),
    (Stage.STAMP, each_row(lambda row: row.document.pop("_id")), "changes the id"),
    (Stage.STAMP, assign("pk", NEW), "changes the id"),
    (Stage.STAMP, lambda batch: batch.fill("_id", NEW), "changes the id"),
    (Stage.STAMP, each_row(lambda row: row.put("_id", NEW)), "changes the id"),
    (Stage.STAMP, set_in_document("price", 1), "stored key 'price'"),
    (Stage.CONSTRAIN, set_in_document("titel", "a"), "'titel'.*did you mean 'title'"),
    (Stage.STAMP, set_in_document("p", "x"), "'price'.*a value of type 'str'"),
    (Stage.STAMP, set_in_document("tags", [1]), "'tags'.*a value of type 'list'"),
    (Stage.STAMP, set_in_document("cost", decimal.Decimal(1)), "'cost'.*'Decimal'"),
    (Stage.STAMP, lambda batch: batch.documents.append({"_id": NEW}), "adds or removes rows"),
    (Stage.STAMP, assign("document", {}), "assigns row.document"),
    (Stage.SETTLE, each_row(lambda row: row.hand_back("price", "x")), "'price'.*'str'"),
    (Stage.SETTLE, each_row(lambda row: row.hand_back("_id", NEW)), "changes the id"),
    (Stage.DEFAULT, set_value("_id", NEW), "changes the id"),
    (Stage.PLAN, set_value("_id", NEW), "changes the id"),
    (Stage.PLAN, each_row(lambda row: row.take("_id")), "changes the id"),
    (Stage.VALIDATE, set_value("pirce", 1), "no field 'pirce'; did you mean 'price'"),
    (Stage.VALIDATE, set_value("price", "x"), "'price'"),
    (Stage.PLAN, set_value("price", "x"), "'price'"),
    (Stage.PLAN, each_row(lambda row: row.hand_back("price", "x")), "'price'"),
    (Stage.PLAN, each_row(lambda row: row.hand_back("_id", NEW)), "changes the id"),
    (Stage.PLAN, lambda batch: batch.rows.append(ValueRow({})), "adds or removes rows"),
    (Stage.DEFAULT, lambda batch: batch.rows.clear(), "adds or removes rows"),
]
WRITES: list[tuple[Stage, Run, str]] = [
    (Stage.STAMP, merge("$set", {"pirce": 1}), "stored key 'pirce'"),
    (Stage.STAMP, merge("$set", {"price": 1}), "stored key 'price'"),
    (Stage.STAMP, merge("$inc", {"pirce.a": 1}), "stored key 'pirce'"),
    (Stage.STAMP, merge("$set", {"place.town": "a"}), "stored key 'town' in 'place'"),
    (Stage.STAMP, merge("$set", {"places.0.town": "a"}), "stored key 'town'"),
    (Stage.STAMP, merge("$set", {"place.nr": "a"}), "'nr'.*'str'"),
    (Stage.STAMP, merge("$inc", {"places.0.nr": NAN}), "'nr'.*a finite number"),
    (Stage.STAMP, merge("$set", {"_id": 1}), "changes the id"),
    (Stage.STAMP, merge("$sett", {"p": 1}), "did you mean '\\$set'"),
    (Stage.STAMP, merge("$set", ["p"]), "values by stored key"),
    (Stage.STAMP, merge("$set", {"p": "x"}), "'price'.*'str'"),
    (Stage.STAMP, merge("$push", {"tags": 1}), "'tags'.*'int'"),
    (Stage.STAMP, merge("$addToSet", {"tags": {"$each": ["a", 1]}}), "'tags'.*'int'"),
    (Stage.STAMP, merge("$mul", {"rate": math.inf}), "'rate'.*a finite number"),
    (Stage.STAMP, lambda batch: batch.increase("rate", NAN), "'rate'.*a finite number"),
    (Stage.STAMP, lambda batch: batch.increase("cost", decimal.Decimal("NaN")), "finite"),
    (Stage.STAMP, lambda batch: batch.increase("price", 1.5), "'price'.*a whole number"),
    (Stage.STAMP, lambda batch: batch.increase("price", "1"), "'price'.*a str is no number"),
    (Stage.STAMP, lambda batch: batch.increase("price", True), "'price'.*a bool is no number"),
    (Stage.STAMP, lambda batch: batch.increase("price", 2**70), "'price'.*64 bits"),
    (Stage.STAMP, lambda batch: batch.increase("tags"), "'tags'.*no numbers"),
    (Stage.STAMP, lambda batch: batch.increase("_id"), "changes the id"),
    (Stage.STAMP, assign("update", Update({"$set": {"p": 1}})), "assigns row.document or"),
    (Stage.STAMP, assign("pk", NEW), "changes the id"),
    (Stage.CONSTRAIN, lambda batch: batch.narrow(Domain([("pirce", "=", 1)])), "'pirce'"),
    (Stage.DEFAULT, set_value("_id", NEW), "changes the id"),
    (Stage.PLAN, set_value("_id", NEW), "changes the id"),
    (Stage.PLAN, set_value("pirce", 1), "no field 'pirce'"),
    (Stage.PLAN, each_row(lambda row: row.expect("pirce", 1)), "no field 'pirce'"),
    (Stage.PLAN, each_row(lambda row: row.expect("price", "x")), "'price'.*'str'"),
]


@pytest.mark.parametrize(("stage", "run", "told"), CREATES)
async def test_what_a_step_gives_a_new_record_is_checked(stage: Stage, run: Run, told: str) -> None:
    async with opened(stage, run):
        with pytest.raises(PluginError, match=told) as caught:
            await Page(_id=ObjectId(), title="a").save()
        assert str(caught.value).startswith("plugin 'shop': the step 'x': ")
        assert "given.page" in str(caught.value)
        assert caught.value.code in ("step_value", "unknown_field")
        assert await Page.count() == (1 if stage is Stage.SETTLE else 0)


@pytest.mark.parametrize(("stage", "run", "told"), WRITES)
async def test_what_a_step_gives_a_write_is_checked(stage: Stage, run: Run, told: str) -> None:
    wanted: list[Run] = []

    def later(batch: Any) -> None:
        if wanted:
            wanted[0](batch)

    async with opened(stage, later):
        page, other = await Page.create([{"title": "a"}, {"title": "b"}])
        wanted.append(run)
        for attempt in (
            lambda: page.write({"title": "c"}),
            lambda: Page.write_many({page: {"title": "c"}, other: {"title": "d"}}),
        ):
            with pytest.raises(PluginError, match=told) as caught:
                await attempt()
            assert str(caught.value).startswith("plugin 'shop': the step 'x': ")
            assert caught.value.code in ("step_value", "unknown_field")
        wanted.clear()
        assert (await Page.search(order="title")).mapped("title") == ["a", "b"]


async def test_what_the_fields_can_have_is_taken(uri: str) -> None:
    def give(row: Any) -> None:
        if row.document is not None:
            row.document |= {"p": 3, "tags": ["a"], "place": {"t": "Rome", "unknown": 1}}
            return
        row.merge("$set", {"place.t": "Bonn", "places": [{"nr": 1}]})
        row.merge("$push", {"tags": {"$each": ["b", "c"]}})
        row.merge("$inc", {"rate": 1.5, "place.nr": 2})
        row.merge("$unset", {"title": True})

    def run(batch: Any) -> None:
        for row in batch.rows:
            give(row)
        if batch.operation.name == "write":
            batch.increase("price", 2)
            batch.increase("cost", decimal.Decimal("1.50"))

    async with opened(Stage.STAMP, run, uri):
        page = await Page.create({"title": "a"})
        await page.write({"rate": 1.0})
        await page.refresh()
        assert (page.price, page.rate, page.tags) == (5, 2.5, ["a", "b", "c"])
        assert page.place is not None and (page.place.town, page.place.nr) == ("Bonn", 2)
        assert (page.cost, page.title) == (decimal.Decimal("1.50"), None)


async def test_an_id_is_given_where_there_is_none() -> None:
    async with opened(Stage.DEFAULT, each_row(lambda row: row.fill("_id", NEW))):
        assert (await Page.create({"title": "a"})).id == str(NEW)


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("wrong", [None, 3, 119])
async def test_of_many_rows_each_is_checked(in_parts: bool, wrong: int | None) -> None:
    def run(batch: Any) -> None:
        batch.fill("title", "all")
        for row in batch.rows:
            row.put("price", row.position)
            if row.position == wrong:
                row.document["p"] = "x"

    class Shop:
        api = 1
        name = "shop"

        @hookimpl
        def register_steps(self, model: ModelView) -> Iterable[Step]:
            if model.name == "given.page":
                yield Step(Stage.STAMP, "x", run, in_parts=in_parts)

    async with App("mongomock://", database="given_parts", plugins=[Shop]):
        values = [{"rate": float(number)} for number in range(120)]
        if wrong is None:
            pages = await Page.create(values)
            assert pages.mapped("price") == list(range(120)) and set(pages.mapped("title")) == {
                "all"
            }
            return
        with pytest.raises(PluginError, match=r"'shop'.*'x'.*'price'.*'str'"):
            await Page.create(values)
        assert await Page.count() == 0
