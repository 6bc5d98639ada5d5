"""Stored computed fields on every way to write: how many queries, in whose name, and what a rollback means."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import earnorm
from earnorm import (
    App,
    BaseModel,
    Command,
    ConfigurationError,
    Float,
    Inc,
    Int,
    Layer,
    Many2one,
    One2many,
    Principal,
    String,
    ValidationError,
    depends,
    hookimpl,
)
from earnorm.features.computed.plugin import graph_of
from earnorm.kernel.operations import Operation

from .conftest import Commands, default_app, definitions
from .orders import Country, Label, Line, Order, Partner, as_stored, from_scratch
from .test_computed import Article


async def stored_is_true() -> None:
    expected, found = await from_scratch(), await as_stored()
    assert {k: sorted(v) for k, v in found.items()} == {k: sorted(v) for k, v in expected.items()}


async def shop(orders: int = 2, lines: int = 2) -> tuple[Country, Partner, list[Order]]:
    country = await Country.create({"code": "VN", "vat": 10})
    partner = await Partner.create({"country_id": country})
    made = await Order.create([{"partner_id": partner} for _ in range(orders)])
    await Line.create([{"order_id": order, "qty": 2} for order in made for _ in range(lines)])
    return country, partner, list(made)


# -- round trips ----------------------------------------------------------------------------------


def sent(commands: Commands) -> list[str]:
    """The commands on models, in order, without what a transaction and its lock need."""
    kinds = ("find", "insert", "update", "delete", "aggregate")
    return [f"{name} {command[name]}" for name, command in commands.all if name in kinds]


async def test_a_new_record_has_its_values_in_the_same_insert(commands: Commands) -> None:
    await Article.create({"price": 2.0})
    commands.clear()
    await Article.create([{"price": float(n)} for n in range(100)])
    assert sent(commands) == ["insert calc_article"]
    country, partner, _ = await shop(1, 1)
    commands.clear()
    await Order.create([{"partner_id": partner, "fee": n} for n in range(100)])
    # The partner and its country, for all of them; then what the partner has spent.
    assert sent(commands)[:3] == ["find calc_partner", "find calc_country", "insert calc_order"]
    assert sent(commands)[3:] == ["find calc_partner", "find calc_order", "update calc_partner"]
    assert country.pk


class Town(BaseModel):
    _name = "calc.town"

    name = String(required=True)
    rank = Int(default=0)


class House(BaseModel):
    _name = "calc.house"

    town_id = Many2one(Town)
    town_name = String(related="town_id.name", store=True)
    number = Int(default=0)
    sign = String(compute="_compute_sign", store=True)

    @depends("town_id.rank", "number")
    def _compute_sign(self) -> str:
        return f"{self.town_id.rank if self.town_id else '-'}/{self.number}"


async def test_a_link_that_is_given_is_followed_before_the_write(commands: Commands) -> None:
    old, new = await Town.create([{"name": "old"}, {"name": "new", "rank": 7}])
    houses = await House.create([{"town_id": old, "number": n} for n in range(60)])
    commands.clear()
    await House.search([]).update({"town_id": new, "number": 3})
    assert sent(commands) == ["find calc_town", "update calc_house"]
    assert {(h.town_name, h.sign) for h in await House.search()} == {("new", "7/3")}

    # Each its own link: one query for all of them.
    commands.clear()
    first, second = houses[0], houses[1]
    await House.write_many(
        {first.pk: {"town_id": old, "number": 1}, second.pk: {"town_id": new, "number": 2}}
    )
    assert sent(commands).count("find calc_town") == 1 and sent(commands)[-1] == "update calc_house"
    read = await House.search([("number", "<", 3)], order="number")
    assert [(h.town_name, h.sign) for h in read] == [("old", "0/1"), ("new", "7/2")]

    # A formula that needs more than is given is computed afterwards, as ever.
    await House.search([("number", "=", 1)]).update({"town_id": None})
    assert [(h.town_name, h.sign) for h in await House.search([("number", "=", 1)])] == [
        (None, "-/1")
    ]


async def test_records_that_repeat_one_value_get_it_in_one_update(commands: Commands) -> None:
    town = await Town.create({"name": "before"})
    await House.create([{"town_id": town, "number": n} for n in range(60)])
    commands.clear()
    await town.write({"name": "after"})
    updates = [command for name, command in commands.all if name == "update"]
    of_houses = [command for command in updates if command["update"] == "calc_house"]
    assert len(of_houses) == 1 and len(of_houses[0]["updates"]) == 1
    assert await House.count([("town_name", "=", "after")]) == 60


async def test_a_write_that_brings_all_it_needs_is_one_command(commands: Commands) -> None:
    article = await Article.create({"price": 2.0})
    commands.clear()
    await article.write({"price": 3.0, "tax": 1.0})
    assert sent(commands) == ["update calc_article"] and article.total == 6.0
    await Article.search().update({"price": 4.0, "tax": 1.0})
    await Article.write_many({article: {"price": 5.0, "tax": 2.0}})
    assert sent(commands) == ["update calc_article"] * 3 and article.total == 15.0
    assert (await Article.get(article.pk)).total == 15.0


@pytest.mark.parametrize("number", [1, 10, 1_000])
async def test_round_trips_do_not_depend_on_the_number_of_records(
    commands: Commands, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_of(earnorm.current_env().app), "limit", None)  # nothing is owed here
    country, partner, orders = await shop(number, 2)
    commands.clear()
    await Line.search([("qty", ">", 0)]).update({"qty": Inc(1)})
    assert sent(commands) == [
        "find calc_line",  # which lines, and whose they are
        "update calc_line",
        "find calc_line",
        "update calc_line",  # their amounts
        "find calc_order",
        "find calc_line",
        "find calc_partner",
        "find calc_country",
        "update calc_order",  # net and total
        "find calc_partner",
        "find calc_order",
        "update calc_partner",  # spent
    ]
    commands.clear()
    await country.write({"vat": 20, "code": "XX"})
    assert sent(commands) == [
        "update calc_country",
        "find calc_partner",  # whose land it is
        "find calc_order",
        "find calc_partner",
        "find calc_country",
        "update calc_order",
        "find calc_partner",
        "find calc_order",
        "update calc_partner",
    ]
    await stored_is_true()
    assert partner.pk and len(orders) == number


async def test_a_write_of_what_nothing_depends_on_is_one_command(commands: Commands) -> None:
    _, _, [order] = await shop(1, 1)
    [line] = await Line.search()
    commands.clear()
    await line.write({"note": "x"})
    await order.write({"state": "done"})
    await order.save()
    assert sent(commands) == ["update calc_line", "update calc_order"]


async def test_a_model_that_no_stored_field_depends_on_has_no_step_and_no_layer(app: App) -> None:
    class Plain(BaseModel):
        _name = "calc.plain"
        x = Int()

    def steps(model: type[BaseModel]) -> list[tuple[str, str]]:
        own = [step for step in app.bind(model).steps() if step.name == "computed"]
        return [(step.stage.name, step.on or "") for step in own]

    def layers(model: type[BaseModel]) -> list[int]:
        found = app.loaded.collect(
            "wrap_operation", app=app, model=app.bind(model).model, operation="unlink"
        )
        return [len(list(pairs)) for plugin, pairs in found if plugin == "recompute" and pairs]

    assert steps(Plain) == [] and layers(Plain) == []
    assert steps(Country) == [("COMPUTE", "write"), ("GUARD", "write"), ("PROPAGATE", "write")]
    assert layers(Country) == [2]  # the transaction, and what follows


async def test_only_what_differs_is_written(commands: Commands) -> None:
    _, _, [order] = await shop(1, 1)
    commands.clear()
    await Line.search().update({"price": 2, "qty": 1})  # the amount is the same
    assert "update calc_partner" not in sent(commands)
    assert sent(commands)[-1] == "update calc_line" and order.pk


# -- transactions ---------------------------------------------------------------------------------


async def test_a_rollback_takes_the_values_back(server_app: App) -> None:
    country, _, [order, _] = await shop()
    [line, *_] = await Line.search()
    before = await as_stored()
    order = await Order.get(order.pk)
    with pytest.raises(RuntimeError):
        async with earnorm.transaction():
            line.qty = 9
            await line.save()
            assert line.amount == 9
            await country.write({"vat": 50})
            await order.write({"fee": 7})
            assert order.total == (order.net + 7) * 150 or order.total
            raise RuntimeError
    assert await as_stored() == before
    assert line.qty == 9 or line.qty == 2
    assert order.fee == 0 and order.__dict__["total"] == (await Order.get(order.pk)).total


async def test_a_formula_that_fails_takes_the_write_back(server_app: App) -> None:
    with definitions():

        class Fragile(BaseModel):
            _name = "calc.fragile"
            x = Int()
            y = Int(default=1)
            inverted = Float(compute="_compute_inverted", store=True)

            @depends("x", "y")
            def _compute_inverted(self) -> float:
                return (self.y or 0) / (self.x or 0)

        record = await Fragile.create({"x": 4})
        with pytest.raises(ValidationError) as caught:
            await Fragile.search().update({"x": 0})
        assert caught.value.errors() == [
            {
                "loc": ("inverted",),
                "msg": "_compute_inverted() could not compute it: ZeroDivisionError",
                "type": "compute",
            }
        ]
        assert (await Fragile.get(record.pk)).x == 4
        with pytest.raises(ValidationError, match="could not compute"):
            await Fragile.create({"x": 0})
        assert await Fragile.count() == 1


async def test_two_transactions_on_one_order_see_each_other(server_app: App) -> None:
    _, _, [order] = await shop(1, 0)
    lines = [{"order_id": order, "qty": n} for n in range(1, 9)]
    for _ in range(5):
        try:
            await asyncio.gather(
                *(earnorm.transactional(retries=50)(Line.create)(v) for v in lines)
            )
        finally:
            await stored_is_true()


async def test_values_that_stay_are_locked_all_the_same(server_app: App) -> None:
    """Of two writes that each leave a maximum as it is, the second must not miss the first."""
    with definitions():

        class Peak(BaseModel):
            _name = "calc.peak"
            point_ids = One2many("calc.point", "peak_id")
            height = Int(compute="_compute_height", store=True)

            @depends("point_ids.height")
            def _compute_height(self) -> int:
                return max((point.height or 0 for point in self.point_ids), default=0)

        class Point(BaseModel):
            _name = "calc.point"
            peak_id = Many2one(Peak)
            height = Int()

        peak = await Peak.create({})
        for _ in range(10):
            await Point.search().delete()
            low, high = await Point.create(
                [{"peak_id": peak, "height": 3}, {"peak_id": peak, "height": 5}]
            )
            write = earnorm.transactional(retries=50)(BaseModel.write)
            await asyncio.gather(write(high, {"height": 3}), write(low, {"height": 5}))
            assert (await Peak.get(peak.pk)).height == 5


# -- every way ------------------------------------------------------------------------------------


async def test_every_way_to_write_is_followed(app: App) -> None:
    _, partner, [order, other] = await shop()
    [line, *_] = await Line.search()
    labels = await Label.create([{"weight": 2}, {"weight": 3}])

    async def bulk() -> None:
        async with Line.bulk() as bulk:
            bulk.create({"order_id": order, "qty": 3})
            bulk.write(line, {"price": 7})

    ways: list[Callable[[], Any]] = [
        lambda: line.write({"qty": 5}),
        lambda: line.write({"qty": Inc(2)}),
        lambda: line.write({"order_id": other}),
        lambda: Line.search([("order_id", "=", other)]).update({"price": 3}),
        lambda: Line.write_many({line: {"order_id": order, "qty": 1}}),
        bulk,
        lambda: order.write(
            {"line_ids": [Command.create({"qty": 4}), Command.update(line, {"qty": 6})]}
        ),
        lambda: order.write({"label_ids": labels}),
        lambda: labels[0].write({"weight": 10}),
        lambda: order.write({"label_ids": [Command.unlink(labels[0])]}),
        lambda: Line.create_many([{"order_id": other, "qty": n} for n in range(5)]),
        lambda: Line.upsert({"id": line.pk, "qty": 8}, on="id"),
        lambda: Order.create({"line_ids": [Command.create({"qty": 2})], "partner_id": partner}),
        lambda: other.write({"partner_id": None}),
        lambda: labels[1].unlink(),
        lambda: Line.search([("qty", ">", 2)]).delete(),
        lambda: partner.unlink(),
        lambda: other.unlink(),
    ]
    for way in ways:
        await way()
        await stored_is_true()


async def test_a_record_holds_what_its_own_write_computed(app: App) -> None:
    _, partner, _ = await shop(0)
    order = await Order.create({"partner_id": partner, "line_ids": [Command.create({"qty": 3})]})
    assert (order.net, order.total, order.code) == (3, 330, "VN")
    await order.write({"line_ids": [Command.create({"qty": 2})]})
    assert (order.net, order.total) == (5, 550)
    await order.write({"fee": 1})
    assert order.total == 660
    [line, *_] = order.line_ids if order.line_ids._records else await order.line_ids
    line.price = 10
    await line.save()
    assert line.__dict__["amount"] == 30
    assert (await Order.get(order.pk)).net == 32
    assert order.net == 5  # another record's value, as it was read
    await order.refresh()
    assert order.net == 32


async def test_a_model_that_is_defined_later_is_followed(app: App) -> None:
    country = await Country.create({"vat": 3})
    await country.write({"vat": 4})  # its layers are composed
    with definitions():

        class Later(BaseModel):
            _name = "calc.later"
            country_id = Many2one(Country)
            twice = Int(compute="_compute_twice", store=True)

            @depends("country_id.vat")
            def _compute_twice(self) -> int:
                return 2 * (self.country_id.vat or 0) if self.country_id is not None else 0

        record = await Later.create({"country_id": country})
        await country.write({"vat": 5})
        assert (await Later.get(record.pk)).twice == 10


async def test_a_formula_that_reads_more_than_it_names_is_told(app: App) -> None:
    with definitions():

        class Sloppy(BaseModel):
            _name = "calc.sloppy"
            x = Int()
            y = Int()
            z = Int(compute="_compute_z", store=True)

            @depends("x")
            def _compute_z(self) -> int:
                return (self.x or 0) + (self.y or 0)

        with pytest.raises(
            ConfigurationError, match=r"_compute_z\(\) reads what its @depends does not"
        ):
            await Sloppy.create({"x": 1})


async def test_the_classes_of_one_collection_count_as_what_they_are(app: App) -> None:
    with definitions():

        class Zoo(BaseModel):
            _name = "calc.zoo"
            animal_ids = One2many("calc.animal", "zoo_id")
            legs = Int(compute="_compute_legs", store=True)

            @depends("animal_ids.legs")
            def _compute_legs(self) -> int:
                return sum(animal.legs or 0 for animal in self.animal_ids)

        class Animal(BaseModel):
            _name = "calc.animal"
            _discriminator = "kind"
            zoo_id = Many2one(Zoo)
            size = Int(default=1)
            legs = Int(compute="_compute_legs", store=True)

            @depends("size")
            def _compute_legs(self) -> int:
                return 4 * (self.size or 0)

        class Bird(Animal):
            _name = "calc.bird"

            @depends()
            def _compute_legs(self) -> int:
                return 2 * (self.size or 0)

        zoo = await Zoo.create({})
        bird = await Bird.create({"zoo_id": zoo})
        await Animal.create({"zoo_id": zoo})
        assert (await Zoo.get(zoo.pk)).legs == 6
        await bird.write({"size": 3})
        assert (await Zoo.get(zoo.pk)).legs == 10
        await Animal.search().update({"size": 2})
        assert sorted(a.__dict__["legs"] for a in await Animal.search()) == [4, 8]
        assert (await Zoo.get(zoo.pk)).legs == 12
        await Animal.search([("id", "=", bird)]).delete()
        assert (await Zoo.get(zoo.pk)).legs == 8


# -- who does it ----------------------------------------------------------------------------------


class Watching:
    """Refuses what a principal may not, and notes what it sees."""

    api = 1
    name = "watcher"

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bool, str]] = []

    @hookimpl
    def wrap_operation(self, app: App, model: type[BaseModel], operation: str) -> Any:
        async def guard(op: Operation, call_next: Any) -> Any:
            self.seen.append((op.name, op.model._name, op.env.system, op.env.reason))
            if not op.env.system and op.model._name in ("calc.country", "calc.partner"):
                raise earnorm.AccessDenied(f"{op.model._name} is hidden")
            return await call_next(op)

        return [(Layer.SECURITY, guard)]


async def test_it_is_the_system_that_computes_and_it_says_why(database: str) -> None:
    plugin = Watching()
    async with default_app("memory", database, [plugin]):
        with earnorm.system(reason="set up"):
            _, partner, [order] = await shop(1, 1)
        plugin.seen.clear()
        with earnorm.act_as(Principal("eve")):
            await order.write({"fee": 3})
            assert order.total == (2 + 3) * 110  # of a rate that she may not read
        writes = [each for each in plugin.seen if each[0] == "write"]
        assert writes == [
            ("write", "calc.order", False, ""),
            ("write", "calc.order", True, "recompute calc.order: total"),
            ("write", "calc.partner", True, "recompute calc.partner: spent"),
        ]
        assert partner.pk


async def test_a_recomputed_value_is_no_change_of_the_record_itself(app: App) -> None:
    with definitions():

        class Basket(BaseModel):
            _name = "calc.basket"
            _versioned = True
            changed = earnorm.DateTime(auto_now=True)
            note = earnorm.String()
            item_ids = One2many("calc.item", "basket_id")
            size = Int(compute="_compute_size", store=True)

            @depends("item_ids.qty")
            def _compute_size(self) -> int:
                return sum(item.qty or 0 for item in self.item_ids)

        class Item(BaseModel):
            _name = "calc.item"
            basket_id = Many2one(Basket)
            qty = Int()

        basket = await Basket.create({})
        before = basket.changed
        await Item.create({"basket_id": basket, "qty": 2})
        fresh = await Basket.get(basket.pk)
        assert fresh.size == 2 and fresh.changed == before
        await basket.write({"note": "x"})  # nobody else's update is lost by it


# -- all of a model -------------------------------------------------------------------------------


async def test_a_whole_model_is_computed_anew(app: App) -> None:
    _, _, _ = await shop(3, 2)
    raw = app.dangerous_raw("an older formula's values")
    await raw[Line._collection].update_many({}, {"$set": {"a": 50}})
    await raw[Order._collection].update_many({}, {"$unset": {"t": 1}})
    told: list[int] = []
    dry = await app.recompute(Line, dry_run=True, progress=lambda done: told.append(done.seen))
    assert (dry.seen, dry.changed, told) == (6, 6, [6])
    assert {each.amount for each in await Line.search()} == {50}
    done = await app.recompute(Line)
    assert done.seen == 6 and done.changed >= 6
    await app.recompute(Order, fields=["total"])
    await stored_is_true()
    again = await app.recompute(Order)
    assert (again.seen, again.changed) == (3, 0)
    [first, *_] = await Order.search(order="_id")
    assert (await app.recompute(Order, domain=[("id", "=", first)])).seen == 1
    with pytest.raises(ConfigurationError, match="did you mean 'total'"):
        await app.recompute(Order, fields=["totl"])
    assert (await app.recompute(Country)).seen == 0
