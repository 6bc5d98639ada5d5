"""A change by a path is decided exactly: before it a record matches the residual, or after it not the rule."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest

from earnorm import (
    AccessDenied,
    Domain,
    Embedded,
    EmbeddedModel,
    Int,
    List,
    Principal,
    String,
    UpdateItems,
    act_as,
    models,
    system,
)
from earnorm.plugin import Update
from earnorm_security import Rule
from earnorm_security.residual import Residual


class Spot(EmbeddedModel):
    city = String(db_name="c")
    floor = Int()


class Shop(models.BaseModel):
    _name = "paths.shop"
    _rules = [Rule("hanoi", [("place.city", "=", "Hanoi")], operations=["write"])]
    name = String()
    place = Embedded(Spot, db_name="p")
    spots = List(Embedded(Spot))


CONDITIONS: list[list[Any]] = [
    [("place.city", "=", "a")],
    [("place.city", "!=", "a")],
    [("place.floor", ">", 1)],
    [("place", "=", None)],
    [("place", "!=", None)],
    ["|", ("place.city", "=", "a"), ("name", "=", "n")],
    ["!", "&", ("place.floor", "=", 2), ("place.city", "in", ["a", "b"])],
]
SETS: list[dict[str, Any]] = [
    {"p.c": "a"},
    {"p.c": "b", "p.floor": 2},
    {"p.c": None},
    {"p": {"c": "a", "floor": 0}},
    {"p": None},
    {"name": "n"},
]
DOCUMENTS: list[dict[str, Any]] = [
    {"name": name, "p": place}
    for name in ("n", "m")
    for place in ({"c": "a", "floor": 2}, {"c": "b"}, {}, {"floor": 1, "other": 1})
]


def applied(document: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(document)
    for path, value in values.items():
        *outer, key = path.split(".")
        part = result
        for each in outer:
            part = part[each]
        part[key] = value
    return result


async def test_a_residual_of_paths_agrees_with_the_rule_after_the_change(opened) -> None:
    async with opened() as app:
        model = app.bind(Shop).model
        for source, values in itertools.product(CONDITIONS, SETS):
            domain = Domain(source)
            rest = Residual(app, model, domain).after(Update({"$set": values}))
            assert rest is not None, (source, values)
            before, after = app.matcher(model, rest), app.matcher(model, domain)
            for document in DOCUMENTS:
                changed = applied(document, values)
                assert before(document) == after(changed), (source, values, document)


async def test_a_part_of_what_a_rule_looks_at_is_not_decided(opened) -> None:
    async with opened() as app:
        model = app.bind(Shop).model
        rule = Residual(app, model, Domain([("spots.city", "=", "a")]))
        assert rule.after(Update({"$set": {"spots.0.c": "a"}})) is None
        assert rule.after(Update({"$push": {"spots": {"c": "a"}}})) is None
        assert rule.after(Update({"$set": {"spots": [{"c": "a"}]}})) is Domain.TRUE
        assert rule.after(Update({"$set": {"place.c": "a"}})) is not None


async def test_a_save_by_path_is_held_to_the_rules(opened) -> None:
    async with opened(default="open"):
        with system(reason="set-up"):
            shop = await Shop.create({"name": "s", "place": {"city": "Hanoi", "floor": 1}})
        with act_as(Principal("ann")):
            shop = await Shop.get(shop.id)
            shop.place.floor = 2
            await shop.save()
            shop.place.city = "Huế"
            with pytest.raises(AccessDenied):
                await shop.save()
            await shop.refresh()
            assert (shop.place.city, shop.place.floor) == ("Hanoi", 2)


class Stall(models.BaseModel):
    _name = "paths.stall"
    _rules = [
        Rule("one", [("name", "=", "mine"), ("spots.city", "!=", "Huế")], operations=["write"])
    ]
    name = String()
    spots = List(Embedded(Spot))
    others = List(Embedded(Spot))


async def test_a_change_of_matching_items_is_held_to_the_rules(opened) -> None:
    async with opened(default="open") as app:
        model = app.bind(Shop).model
        rule = Residual(app, model, Domain([("spots.city", "=", "a")]))
        assert rule.after(Update({"$set": {"spots.$[i0].c": "a"}})) is None
        assert rule.after(Update({"$set": {"spots.$[i0].floor": 1}})) == rule._domain
        of_items = Residual(app, model, Domain([("spots", "elem", [("floor", "=", 1)])]))
        assert of_items.after(Update({"$set": {"spots.$[i0].c": "a"}})) is None

        spots = [{"city": "a", "floor": 1}, {"city": "b", "floor": 2}]
        with system(reason="set-up"):
            mine = await Stall.create({"name": "mine", "spots": spots, "others": spots})
            theirs = await Stall.create({"name": "theirs", "spots": spots})
        with act_as(Principal("ann")):
            mine, theirs = await Stall.get(mine.id), await Stall.get(theirs.id)
            await mine.write({"others": UpdateItems([("city", "=", "a")], {"city": "Huế"})})
            await mine.write({"spots": UpdateItems([("city", "=", "a")], {"floor": 9})})
            with pytest.raises(AccessDenied, match="record rules"):  # as it has been stored
                await mine.write({"spots": UpdateItems([("floor", ">", 0)], {"city": "Huế"})})
            await mine.write({"spots": UpdateItems([("city", "=", "a")], {"city": "Hanoi"})})
            for write in (theirs.write, Stall.search().update):
                with pytest.raises(AccessDenied):
                    await write({"spots": UpdateItems([], {"floor": 7})})
        with system(reason="a look"):
            mine, theirs = await Stall.get(mine.id), await Stall.get(theirs.id)
            assert [(spot.city, spot.floor) for spot in mine.spots] == [("Hanoi", 9), ("b", 2)]
            assert [spot.city for spot in mine.others] == ["Huế", "b"]
            assert [spot.floor for spot in theirs.spots] == [1, 2]
