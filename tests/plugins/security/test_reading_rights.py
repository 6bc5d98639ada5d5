"""Separate rights to aggregate, export, watch and explain; each row says them, or follows ``read``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from earnorm import (
    AccessDenied,
    ConfigurationError,
    Int,
    Many2one,
    Principal,
    String,
    Sum,
    act_as,
    models,
    system,
)
from earnorm_security import Access, Rule

RIGHTS = ("aggregate", "export", "watch", "explain")


class Branch(models.BaseModel):
    _name = "reading_rights.branch"
    _access = [Access("*", read=True, aggregate=False), Access("analyst", read=True)]
    city = String()


class Wage(models.BaseModel):
    _name = "reading_rights.wage"
    _access = [
        Access("*", read=True, aggregate=False, export=False, watch=False, explain=False),
        *[Access(right, **{right: True}) for right in RIGHTS],
    ]
    _rules = [Rule("small", [("amount", "<", 100)])]
    amount = Int(default=0)
    branch_id = Many2one(Branch)


class Sale(models.BaseModel):
    _name = "reading_rights.sale"
    _access = [Access("clerk", read=True, write=True)]
    amount = Int(default=0)
    branch_id = Many2one(Branch)


class Shape(models.BaseModel):
    _name = "reading_rights.shape"
    _discriminator = "kind"
    _access = [Access("*", read=True)]
    size = Int(default=0)


class Circle(Shape):
    _name = "reading_rights.circle"
    _access = [Access("*", read=True, export=False)]
    radius = Int(default=0)


async def _watch(model: type[models.BaseModel]) -> None:
    async with model.watch():
        pass


async def _pipeline(model: type[models.BaseModel]) -> None:
    await model.search().aggregate([{"$match": {}}])


DONE: dict[str, Callable[[type[Any]], Awaitable[object]]] = {
    "aggregate": lambda model: model.search().group(total=Sum("amount")),
    "pipeline": _pipeline,
    "export": lambda model: model.search().to_arrow(),
    "watch": _watch,
    "explain": lambda model: model.search().explain(),
}
NEEDED = {name: name for name in RIGHTS} | {"pipeline": "aggregate"}


@pytest.mark.parametrize("action", DONE)
async def test_each_needs_its_own_right(opened, action):
    pytest.importorskip("pyarrow")
    right = NEEDED[action]
    async with opened() as app:
        with system(reason="fill"):
            await Wage.create([{"amount": 5}, {"amount": 500}])
        can = app.services["security"].can
        with act_as(Principal("ann", [right])) as env:
            await DONE[action](Wage)
            assert can(env, Wage, right)
        others = [name for name in RIGHTS if name != right]
        with act_as(Principal("eve", others)) as env:
            assert await Wage.count() == 1  # reading itself is open
            assert not can(env, Wage, right)
            with pytest.raises(AccessDenied, match=f"to {right} needs the role '{right}'"):
                await DONE[action](Wage)


@pytest.mark.parametrize("action", DONE)
async def test_a_row_that_does_not_say_follows_read(opened, action):
    pytest.importorskip("pyarrow")
    async with opened():
        with act_as(Principal("ann", ["clerk"])):
            await DONE[action](Sale)
        with act_as(Principal("bob")), pytest.raises(AccessDenied, match="needs the role 'clerk'"):
            await DONE[action](Sale)


async def test_the_rules_for_reading_hold_for_each_of_them(opened):
    pytest.importorskip("pyarrow")
    async with opened():
        with system(reason="fill"):
            await Wage.create([{"amount": 5}, {"amount": 500}])
        with act_as(Principal("ann", RIGHTS)):
            assert await Wage.search().group(total=Sum("amount")) == [{"total": 5}]
            assert await Wage.search().aggregate([{"$count": "n"}]) == [{"n": 1}]
            assert (await Wage.search().to_arrow()).num_rows == 1


async def test_none_is_worth_anything_without_the_right_to_read(opened):
    async with opened(access={"reading_rights.sale": [Access("blind", export=True)]}) as app:
        with act_as(Principal("ann", ["blind"])) as env:
            assert not app.services["security"].can(env, Sale, "export")
            with pytest.raises(AccessDenied, match="the right to read needs the role 'clerk'"):
                await Sale.search().to_arrow()


JOINS = {
    "lookup": lambda: Sale.search().aggregate(
        [
            {
                "$lookup": {
                    "from": "reading_rights.branch",
                    "localField": "branch_id",
                    "foreignField": "_id",
                    "as": "branch",
                }
            }
        ]
    ),
    "union": lambda: Sale.search().aggregate(
        [{"$unionWith": {"coll": "reading_rights.branch", "pipeline": []}}]
    ),
    "group": lambda: Sale.search().group("branch_id.city", total=Sum("amount")),
}


@pytest.mark.parametrize("join", JOINS)
async def test_a_pipeline_joins_models_that_may_be_aggregated(opened, join):
    async with opened():
        with act_as(Principal("ann", ["clerk", "analyst"])):
            await JOINS[join]()
        with act_as(Principal("eve", ["clerk"])):
            assert await Sale.search(order="branch_id.city").count() == 0
            await Sale.search(order="branch_id.city")  # an order only reads
            with pytest.raises(AccessDenied, match=r"aggregate on model 'reading_rights.branch'"):
                await JOINS[join]()


async def test_a_class_of_a_family_is_left_out_where_its_own_right_is_missing(opened):
    pytest.importorskip("pyarrow")
    async with opened():
        with system(reason="fill"):
            await Shape.create({"size": 1})
            await Circle.create({"size": 2})
        with act_as(Principal("ann")):
            assert await Shape.count() == 2
            assert (await Shape.search().to_arrow())["size"].to_pylist() == [1]


@pytest.mark.parametrize("right", RIGHTS)
@pytest.mark.parametrize("value", [1, "yes", [], 0])
async def test_a_right_is_a_truth_or_left_out(opened, right, value):
    wrong = Access("clerk", read=True, **{right: value})
    async with opened(access={"reading_rights.sale": [wrong]}):
        with pytest.raises(ConfigurationError, match=f"{right} is True or False"):
            await Sale.count()


@pytest.mark.parametrize("right", RIGHTS)
async def test_a_rule_is_about_records_and_not_about_such_a_right(opened, right):
    wrong = Rule("late", [("amount", ">", 1)], operations=[right])
    async with opened(rules={"reading_rights.sale": [wrong]}):
        with pytest.raises(ConfigurationError, match="operations are some of read, write, create"):
            await Sale.count()


@pytest.mark.parametrize("action", DONE)
async def test_system_needs_no_right(opened, action):
    pytest.importorskip("pyarrow")
    async with opened(default="closed"):
        with system(reason="all"):
            await DONE[action](Wage)
