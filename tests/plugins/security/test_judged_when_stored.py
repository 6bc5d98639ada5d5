"""What memory cannot judge as the server does is judged when it is stored, and undone if refused."""

from __future__ import annotations

from typing import Any

import pytest
from bson import ObjectId

import earnorm
from earnorm import (
    AccessDenied,
    CollectionOptions,
    Command,
    Inc,
    Int,
    Many2one,
    Mul,
    One2many,
    Point,
    Principal,
    String,
    act_as,
    models,
    system,
)
from earnorm_security import Rule


class Folded(models.BaseModel):
    """Its collection compares texts without case."""

    _name = "stored.folded"
    _options = CollectionOptions(collation={"locale": "en", "strength": 2})
    _rules = [
        Rule("own", lambda env: [("owner", "=", env.principal.id)], operations=["create", "write"]),
        Rule("not ann's", [("label", "!=", "ann")], operations=["create", "write"]),
    ]
    code = String(unique=True, sparse=True)
    owner = String()
    label = String()


class FoldedByMapping(models.BaseModel):
    """The same, said as a mapping."""

    _name = "stored.folded_by_mapping"
    _options = {"collation": {"locale": "en", "strength": 2}}
    _rules = Folded._rules
    code = String(unique=True, sparse=True)
    owner = String()
    label = String()


class Spot(models.BaseModel):
    _name = "stored.spot"
    _rules = [
        Rule(
            "near",
            [("place", "within", [[0, 0], [0, 10], [10, 10], [10, 0]])],
            operations=["create", "write"],
        )
    ]
    place = Point()
    name = String()


class Article(models.BaseModel):
    _name = "stored.article"
    _indexes = [{"text": "text"}]
    _rules = [Rule("about tea", [("*", "text", "tea")], operations=["create"])]
    text = String()


class Stock(models.BaseModel):
    _name = "stored.stock"
    _rules = [Rule("few", [("n", "<=", 5)])]
    n = Int(default=0)
    name = String()


ROOT, OTHER = ObjectId(), ObjectId()


class Walked(models.BaseModel):
    """A tree in which a principal works below one node."""

    _name = "stored.walked"
    _rules = [Rule("below", lambda env: [("id", "child_of", ROOT)], operations=["write", "create"])]
    name = String()
    parent_id = Many2one("stored.walked", on_delete="set_null")


class Pathed(models.BaseModel):
    """The same with stored paths."""

    _name = "stored.pathed"
    _parent_store = True
    _rules = [Rule("below", [("id", "child_of", ROOT)], operations=["write", "create"])]
    name = String()
    parent_id = Many2one("stored.pathed", on_delete="set_null")


class Basket(models.BaseModel):
    """It has an apple, whoever creates or changes it."""

    _name = "stored.basket"
    _rules = [Rule("apple", [("fruit_ids", "any", [("kind", "=", "apple")])])]
    name = String()
    fruit_ids = One2many("stored.fruit", "basket_id")


class Fruit(models.BaseModel):
    _name = "stored.fruit"
    kind = String()
    basket_id = Many2one(Basket)


EVE = Principal("eve")


async def refused(way: Any) -> bool:
    try:
        await way
    except AccessDenied:
        return True
    return False


@pytest.mark.parametrize("model", [Folded, FoldedByMapping])
async def test_a_collation_decides_and_not_memory(opened, model):
    async with opened():
        with act_as(EVE):
            record = await model.create({"code": "a", "owner": "EVE"})
            assert await refused(model.create({"owner": "eve", "label": "ANN"}))
            assert await refused(model.create_many([{"owner": "eve"}, {"owner": "x"}]))
            assert await refused(record.write({"label": "Ann"}))
            assert await refused(model.search().update({"label": "aNN"}))
            assert await refused(model.upsert({"code": "a", "label": "ANN"}, on="code"))
            await record.write({"label": "bob", "owner": "Eve"})
            await model.write_many({record.pk: {"label": "B"}})
            assert [(r.owner, r.label) for r in await model.search()] == [("Eve", "B")]


async def test_places_are_judged_by_the_server(opened):
    async with opened():
        spot = await Spot.create({"place": [5, 5]})
        assert await refused(Spot.create({"place": [50, 5]}))
        assert await refused(spot.write({"place": [50, 5]}))
        await spot.write({"place": [6, 6]})
        assert await Spot.count() == 1


async def test_a_full_text_rule_can_be_fulfilled(opened):
    async with opened():
        await Article.create({"text": "a cup of tea"})
        assert await refused(Article.create({"text": "a cup of coffee"}))
        assert await Article.count() == 1


async def test_a_change_whose_result_only_the_server_knows_is_allowed_where_it_is_right(opened):
    async with opened():
        stock = await Stock.create({"n": 2})
        other = await Stock.create({"n": 4})
        await stock.write({"n": Inc(2)})
        assert await refused(stock.write({"n": Mul(2)}))
        assert await Stock.search().update({"n": Inc(1)}) == 2
        assert await refused(Stock.search().update({"n": Inc(1)}))
        assert await refused(Stock.write_many({stock.pk: {"n": 1}, other.pk: {"n": Inc(1)}}))
        assert [s.n for s in await Stock.search(order="_id")] == [5, 5]


async def test_such_a_refusal_ends_a_transaction_of_the_programs_own(opened):
    async with opened():
        stock = await Stock.create({"n": 5})
        with pytest.raises(earnorm.TransactionError):
            async with earnorm.transaction():
                await stock.write({"name": "x"})
                assert await refused(stock.write({"n": Inc(1)}))
        assert (await Stock.get(stock.pk)).to_dict()["n"] == 5
        assert (await Stock.get(stock.pk)).name is None


@pytest.mark.parametrize("model", [Walked, Pathed])
async def test_a_place_in_a_tree_is_judged_as_it_is_after_a_move(opened, model):
    async with opened():
        with system(reason="test data"):
            await model.create([{"_id": ROOT}, {"_id": OTHER}])
            a = await model.create({"name": "a", "parent_id": ROOT})
            b = await model.create({"name": "b", "parent_id": a})
        for way in (
            lambda: b.write({"parent_id": OTHER}),
            lambda: b.write({"parent_id": None}),
            lambda: model.search([("name", "=", "a")]).update({"parent_id": OTHER}),
            lambda: model.write_many({b.pk: {"name": "c"}, a.pk: {"parent_id": OTHER}}),
            lambda: model.create({"parent_id": OTHER}),
            lambda: model.create({}),
            lambda: model.browse([OTHER])[0].write({"parent_id": a.pk}),
        ):
            assert await refused(way())
        made = await model.create({"name": "c", "parent_id": b})
        await made.write({"parent_id": a})
        stored = {r.name: r.parent_id and r.parent_id.pk for r in await model.search()}
        assert stored == {None: None, "a": ROOT, "b": a.pk, "c": a.pk}


async def test_records_that_are_created_along_count_in_a_rule(opened):
    async with opened():
        basket = await Basket.create({"name": "b", "fruit_ids": [{"kind": "apple"}]})
        assert await refused(Basket.create({"fruit_ids": [{"kind": "pear"}]}))
        assert await refused(Basket.create({}))
        await basket.write({"name": "c", "fruit_ids": [Command.create({"kind": "pear"})]})
        (apple,) = await Fruit.search([("kind", "=", "apple")])
        assert await refused(basket.write({"name": "d", "fruit_ids": [Command.delete(apple)]}))
        assert (await Basket.search()).mapped("name") == ["c"]
        assert sorted((await Fruit.search()).mapped("kind")) == ["apple", "pear"]
