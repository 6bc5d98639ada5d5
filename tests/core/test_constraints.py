"""Rules of a model: @validates and @constrains, asynchronous validators; on every way to the database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import earnorm
from earnorm import (
    App,
    BaseModel,
    DomainError,
    DuplicateKey,
    Email,
    Embedded,
    EmbeddedModel,
    FieldNotLoaded,
    Inc,
    Int,
    List,
    Many2one,
    RecordSet,
    String,
    ValidationError,
    constrains,
    hookimpl,
    validates,
)

from .conftest import Commands, default_app
from .laws import law

CALLS: list[str] = []


async def no_spam(value: str) -> str:
    await asyncio.sleep(0)
    CALLS.append(value)
    if "spam" in value:
        raise ValueError("no spam please")
    return value


class Shop(BaseModel):
    _name = "core.rule_shop"

    name = String(required=True)
    limit = Int()


class Item(BaseModel):
    _name = "core.rule_item"

    name = String(required=True)
    code = String(unique=True)
    email = Email()
    note = String(validators=[no_spam])
    price = Int(default=0)
    cost = Int(default=0)
    discount = Int(default=0)
    tags = List(String(), default=list)
    shop_id = Many2one(Shop)

    @validates("email", "code")
    def lower(self, value: str) -> str:
        return value.lower()

    @validates("name")
    async def known(self, value: str) -> str:
        if value == "unknown":
            raise ValueError("an unknown name")
        return value.strip()

    @constrains("price", "cost")
    def covers_cost(self) -> None:
        if (self.price or 0) < (self.cost or 0):
            raise ValueError("the price does not cover the cost")

    @constrains("discount")
    def modest(self) -> None:
        if (self.discount or 0) > (self.price or 0):  # price is read, but not named
            raise ValueError("more than the price")

    @constrains("price", "shop_id")
    async def within_limit(self) -> None:
        shop = await self.shop_id if self.shop_id is not None else None
        if shop is not None and shop.limit is not None and (self.price or 0) > shop.limit:
            raise ValueError("above the limit of the shop")

    @constrains("name", on=("create",))
    def no_test_items(self) -> None:
        if self.name.startswith("test"):
            raise ValueError("no new test items")


def problems(error: ValidationError) -> list[tuple[tuple[str | int, ...], str]]:
    return [(detail["loc"], detail["msg"]) for detail in error.errors()]


COST = "the price does not cover the cost"


# -- every way to the database --------------------------------------------------------------------


async def test_a_value_is_validated_on_every_way(app: App) -> None:
    assert Item(name="a", email="A@B.CD").email == "a@b.cd"  # the constructor
    one = await Item.create({"name": "a", "email": "A@B.CD"})
    two, three = await Item.create([{"name": "b", "code": "X"}, Item(name="c", code="Y")])
    assert (one.email, two.code, three.code) == ("a@b.cd", "x", "y")
    one.email = "C@D.EF"
    await one.save()
    assert one.email == "c@d.ef"
    await one.write({"email": "G@H.IJ"})
    assert one.email == "g@h.ij"
    await Item.search([("name", "=", "a")]).update({"email": "K@L.MN"})
    assert (await Item.get(one.id)).email == "k@l.mn"
    await (await Item.search()).write({"email": None})  # None is not given to a validator
    assert (await Item.get(one.id)).email is None


WAYS: list[Callable[[Item], Awaitable[Any]]] = [
    lambda item: Item.create({"name": "x", "price": 1, "cost": 2}),
    lambda item: Item.create([{"name": "x", "price": 1, "cost": 2}]),
    lambda item: Item(name="x", price=1, cost=2).save(),
    lambda item: item.write({"cost": 11}),
    lambda item: item.write({"price": 1}),
    lambda item: RecordSet(Item, [item]).write({"cost": 11}),
    lambda item: Item.search().update({"cost": 11}),
    lambda item: _assigned(item).save(),
    lambda item: RecordSet(Item, [_assigned(item), Item(name="new")]).save(),
    lambda item: RecordSet(Item, [_renamed(item), Item(name="x", cost=1)]).save(),
    lambda item: Item.create_many([{"name": "x", "price": 1, "cost": 2}]),
    lambda item: Item.write_many({item.id: {"cost": 11}}),
    lambda item: Item.write_many({item: {"price": 1}}),
    lambda item: Item.upsert({"code": "one", "name": "a", "cost": 11}, "code"),
    lambda item: Item.upsert({"code": "two", "name": "b", "cost": 11}, "code"),
    lambda item: Item.upsert_many([{"code": "one", "name": "a", "cost": 11}], "code"),
    lambda item: item.save({"cost": 11}),
    lambda item: _bulk(lambda bulk: bulk.write(item, {"cost": 11})),
    lambda item: _bulk(lambda bulk: bulk.create({"name": "x", "cost": 1})),
]


async def _bulk(fill: Callable[[Any], object]) -> None:
    async with Item.bulk() as bulk:
        fill(bulk)


def _assigned(item: Item) -> Item:
    item.cost = 11
    return item


def _renamed(item: Item) -> Item:
    item.name = "renamed"
    return item


@pytest.mark.parametrize("way", range(len(WAYS)))
async def test_a_constraint_holds_on_every_way_and_nothing_is_written(app: App, way: int) -> None:
    item = await Item.create({"name": "a", "price": 10, "cost": 5, "code": "one"})
    before = (await Item.get(item.id)).to_dict()
    with pytest.raises(ValidationError, match=COST):
        await WAYS[way](item)
    assert await Item.count() == 1
    assert (await Item.get(item.id)).to_dict() == before


async def test_an_asynchronous_rule_holds_on_every_way_but_the_constructor(app: App) -> None:
    item = await Item.create({"name": " a ", "note": "ok"})
    assert item.name == "a"
    unsaved = Item(name="unknown", note="spam")
    attempts: list[Callable[[], Awaitable[Any]]] = [
        unsaved.save,
        lambda: Item.create({"name": "unknown"}),
        lambda: item.write({"note": "spam"}),
        lambda: Item.search().update({"note": "spam"}),
    ]
    for attempt in attempts:
        with pytest.raises(ValidationError, match=r"unknown name|no spam"):
            await attempt()
    item.name = "unknown"
    with pytest.raises(ValidationError) as caught:
        await item.save()
    assert problems(caught.value) == [(("name",), "an unknown name")]
    assert await Item.count() == 1 and (await Item.get(item.id)).note == "ok"


async def test_what_an_asynchronous_validator_returns_is_stored(app: App) -> None:
    item = await Item.create({"name": "a"})
    await item.write({"name": " b "})
    assert (item.name, (await Item.get(item.id)).name) == ("b", "b")
    await Item.search().update({"name": " c "})
    item = await Item.get(item.id)
    item.name += "  "
    await item.save()
    assert (item.name, (await Item.get(item.id)).name) == ("c", "c")


async def test_values_of_an_update_are_validated_once(app: App) -> None:
    items = await Item.create([{"name": str(n)} for n in range(5)])
    CALLS.clear()
    await items.write({"note": "one"})
    await Item.search().update({"note": "two"})
    assert CALLS == ["one", "two"]


async def test_a_rule_for_new_records_lets_others_be_renamed(app: App) -> None:
    with pytest.raises(ValidationError, match="no new test items"):
        await Item.create({"name": "test 1"})
    item = await Item.create({"name": "a"})
    await item.write({"name": "test 1"})
    assert item.name == "test 1"


async def test_a_constraint_is_not_asked_where_none_of_its_fields_is_written(app: App) -> None:
    item = await Item.create({"name": "a", "price": 10})
    await app.dangerous_raw("a wrong document")["core_rule_item"].update_one(
        {}, {"$set": {"cost": 99}}
    )
    await item.write({"note": "still writable"})
    with pytest.raises(ValidationError, match=COST):
        await (await Item.get(item.id)).write({"price": 11})


# -- batches --------------------------------------------------------------------------------------


async def test_all_problems_of_a_batch_are_told_with_their_positions(app: App) -> None:
    with pytest.raises(ValidationError) as caught:
        await Item.create(
            [
                {"name": "a"},
                {"name": "b", "price": 1, "cost": 2},
                {"price": "no"},
                {"name": "unknown"},
                Item(name="c", price=1, discount=5, cost=3),
                {"name": "d", "note": "spam"},
            ]
        )
    assert [(loc, msg) for loc, msg in problems(caught.value) if loc[0] != 2] == [
        ((1,), COST),
        ((3, "name"), "an unknown name"),
        ((4,), COST),
        ((4, "discount"), "more than the price"),
        ((5, "note"), "no spam please"),
    ]
    assert {loc for loc, _ in problems(caught.value) if loc[0] == 2} == {(2, "name"), (2, "price")}
    assert await Item.count() == 0


async def test_all_problems_of_a_save_are_told_with_their_positions(app: App) -> None:
    items = await Item.create([{"name": n, "price": 10} for n in "abcd"])
    items[0].cost, items[1].price, items[2].note = 20, "no", "spam"  # type: ignore[assignment]
    items[3].name = "fine"
    with pytest.raises(ValidationError) as caught:
        await items.save()
    assert [loc for loc, _ in problems(caught.value)] == [(0,), (1, "price"), (2, "note")]
    assert set((await Item.search()).mapped("name")) == set("abcd")


async def test_a_write_to_many_checks_each_with_its_own_other_values(app: App) -> None:
    items = await Item.create([{"name": str(n), "price": n} for n in range(4)])
    with pytest.raises(ValidationError) as caught:
        await items.write({"cost": 2})
    assert problems(caught.value) == [((0,), COST), ((1,), COST)]
    await items[2:].write({"cost": 2})
    assert (await Item.search(order="name")).mapped("cost") == [0, 0, 2, 2]


async def test_an_update_by_domain_names_the_records_and_writes_none(app: App) -> None:
    items = await Item.create([{"name": str(n), "price": n} for n in range(4)])
    with pytest.raises(ValidationError) as caught:
        await Item.search().update({"cost": 3})
    assert {loc for loc, _ in problems(caught.value)} == {(items[n].id,) for n in range(3)}
    assert (await Item.search()).mapped("cost") == [0] * 4
    assert await Item.search([("price", ">", 2)]).update({"cost": 3}) == 1
    assert await Item.search([("price", ">", 99)]).update({"cost": 3}) == 0


@pytest.mark.fuzz
@law(40)
@given(prices=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=8))
def test_a_batch_is_written_if_and_only_if_every_record_fulfils_the_constraint(
    prices: list[tuple[int, int]],
) -> None:
    async def go() -> None:
        async with App("mongomock://", database="x"):
            batch = [{"name": "x", "price": p, "cost": c} for p, c in prices]
            wrong = {n for n, (p, c) in enumerate(prices) if p < c}
            try:
                await Item.create(batch)
            except ValidationError as error:
                many = len(prices) > 1
                assert {loc[0] if many else 0 for loc, _ in problems(error)} == wrong
                assert await Item.count() == 0 and wrong
            else:
                assert not wrong and await Item.count() == len(prices)

    asyncio.run(go())


# -- what a constraint sees -----------------------------------------------------------------------


async def test_what_was_not_fetched_is_loaded_with_one_query_for_all(commands: Commands) -> None:
    await Item.create([{"name": str(n), "price": 10 + n, "cost": 1} for n in range(5)])
    items = await Item.search().only("name")
    commands.clear()
    with pytest.raises(ValidationError) as caught:
        await items.write({"cost": 12})
    assert [loc for loc, _ in problems(caught.value)] == [(0,), (1,)]
    assert commands.of("core_rule_item") == ["find"]
    commands.clear()
    await items.write({"discount": 10})  # reads price, which it doesn't name
    assert commands.of("core_rule_item") == ["find", "update"]
    with pytest.raises(FieldNotLoaded):
        print(items[0].price)  # the record itself is as it was


async def test_many_writes_of_their_own_values_load_with_one_query_and_tell_all_problems(
    commands: Commands,
) -> None:
    items = await Item.create([{"name": str(n), "price": n} for n in range(5)])
    commands.clear()
    with pytest.raises(ValidationError) as caught:
        await Item.write_many(
            {item.id: {"cost": 3, "name": f" {n} "} for n, item in enumerate(items)}
        )
    assert problems(caught.value) == [((0,), COST), ((1,), COST), ((2,), COST)]
    assert commands.of("core_rule_item") == ["find"]
    await Item.write_many({item.id: {"name": f" n{n} "} for n, item in enumerate(items)})
    assert (await Item.search(order="name")).mapped("name") == [f"n{n}" for n in range(5)]


async def test_a_ghost_is_checked_with_its_stored_values(app: App) -> None:
    item = await Item.create({"name": "a", "price": 10})
    ghost = Item.browse([item.id])
    with pytest.raises(ValidationError, match=COST):
        await ghost.write({"cost": 11})
    await ghost.write({"cost": 10})
    assert (await Item.get(item.id)).cost == 10


async def test_a_record_that_is_gone_is_not_found(app: App) -> None:
    item = await Item.create({"name": "a", "price": 10})
    ghost = Item.browse([item.id])
    await item.unlink()
    with pytest.raises(earnorm.NotFound):
        await ghost.write({"cost": 11})


async def test_write_is_checked_against_what_is_stored_not_against_unsaved_changes(
    app: App,
) -> None:
    item = await Item.create({"name": "a", "price": 10})
    item.price = 100
    with pytest.raises(ValidationError, match=COST):
        await item.write({"cost": 50})
    await item.save()
    await item.write({"cost": 50})


async def test_a_constraint_awaits_a_relation_and_asks_the_database(app: App) -> None:
    small = await Shop.create({"name": "s", "limit": 5})
    with pytest.raises(ValidationError, match="above the limit"):
        await Item.create({"name": "a", "price": 6, "shop_id": small})
    item = await Item.create({"name": "a", "price": 5, "shop_id": small})
    with pytest.raises(ValidationError, match="above the limit"):
        await (await Item.get(item.id)).write({"price": 6})


async def test_constraints_of_a_batch_run_one_at_a_time_in_a_transaction(server_app: App) -> None:
    running: list[int] = []

    class Busy(BaseModel):
        _name = "core.rule_busy"
        number = Int()

        @constrains("number")
        async def alone(self) -> None:
            running.append(1)
            most.append(len(running))
            await Busy.count()
            running.pop()

    most: list[int] = []
    async with earnorm.transaction():
        await Busy.create([{"number": n} for n in range(30)])
    assert max(most) == 1 and len(most) == 30
    most.clear()
    await Busy.create([{"number": n} for n in range(30)])
    assert 1 < max(most) <= 10 and len(most) == 30


async def test_an_error_that_is_no_problem_of_a_value_passes_and_leaves_nothing_running(
    app: App,
) -> None:
    class Broken(BaseModel):
        _name = "core.rule_broken"
        number = Int()

        @constrains("number")
        async def check(self) -> None:
            await asyncio.sleep(0)
            if self.number == 7:
                raise RuntimeError("a mistake")
            if self.number == 8:
                await Broken.search([("numbre", "=", 1)])

    with pytest.raises(RuntimeError, match="a mistake"):
        await Broken.create([{"number": n} for n in range(8)])
    with pytest.raises(DomainError, match="numbre"):
        await Broken.create({"number": 8})
    assert await Broken.count() == 0


async def test_a_constraint_that_changes_the_record_is_refused(memory_app: App) -> None:
    class Eager(BaseModel):
        _name = "core.rule_eager"
        number = Int()

        @constrains("number")
        def check(self) -> None:
            self.number = 1

    with pytest.raises(TypeError, match="changes nothing"):
        await Eager.create({"number": 3})


async def test_a_constraint_says_itself_which_field_is_wrong(memory_app: App) -> None:
    class Own(BaseModel):
        _name = "core.rule_own"
        low = Int()
        high = Int()

        @constrains("low", "high")
        def ordered(self) -> None:
            if (self.low or 0) > (self.high or 0):
                raise ValidationError(
                    "own", [{"loc": ("high",), "msg": "too low", "type": "order"}]
                )

    with pytest.raises(ValidationError) as caught:
        await Own.create([{"low": 1, "high": 2}, {"low": 2, "high": 1}])
    assert caught.value.errors() == [{"loc": (1, "high"), "msg": "too low", "type": "order"}]


# -- changes that the server makes ----------------------------------------------------------------


async def test_a_change_whose_result_a_rule_must_know_is_refused(app: App) -> None:
    item = await Item.create({"name": "a", "price": 10})
    for attempt in (
        lambda: item.write({"cost": Inc(20)}),
        lambda: Item.search().update({"cost": Inc(20)}),
    ):
        with pytest.raises(ValidationError, match=r"covers_cost\(\) checks the whole new value"):
            await attempt()
    await item.write({"name": "b"})
    assert (await Item.get(item.id)).cost == 0


# -- classes --------------------------------------------------------------------------------------


class Named(BaseModel):
    _abstract = True

    name = String(required=True)

    @validates("name")
    def clean(self, value: str) -> str:
        return value.strip()

    @constrains("name")
    def named(self) -> None:
        if not self.name:
            raise ValueError("a name is needed")


class Loud:
    """A mixin that is no model."""

    @constrains("name")
    def not_quiet(self: Any) -> None:
        if self.name == "hush":
            raise ValueError("too quiet")


class Ship(Loud, Named):
    _name = "core.rule_ship"

    def clean(self, value: str) -> str:  # an override stays a rule
        return super().clean(value).title()

    @constrains("name")
    def named(self) -> None:
        super().named()
        if self.name == "Titanic":
            raise ValueError("not that one")


class Raft(Ship):
    _name = "core.rule_raft"
    named = None  # type: ignore[assignment] # takes the rule away


async def test_rules_are_inherited_and_overridden_by_name(memory_app: App) -> None:
    assert (await Ship.create({"name": " queen "})).name == "Queen"
    for name, message in ((" ", "a name is needed"), ("titanic", "not that one")):
        with pytest.raises(ValidationError, match=message):
            await Ship.create({"name": name})
    assert (await Raft.create({"name": "titanic"})).name == "Titanic"


async def test_a_plugins_extension_brings_rules_to_a_model_in_its_apps_only(database: str) -> None:
    class Port(BaseModel):
        _name = "core.rule_port"
        name = String(required=True)

        @validates("name")
        def clean(self, value: str) -> str:
            return value.strip()

    class DeepPort(BaseModel):
        _inherit = "core.rule_port"
        depth = Int()

        def clean(self, value: str) -> str:
            return super().clean(value).upper()  # type: ignore[misc,no-any-return] # of the model

        @constrains("depth", "name")
        def deep(self) -> None:
            if (self.depth or 0) < 0:
                raise ValueError("no depth")

    class Depths:
        api = 1
        name = "depths"

        @hookimpl
        def register_models(self, app: App) -> list[type[BaseModel]]:
            return [DeepPort]

    async with default_app("memory", database, [Depths()]):
        assert (await Port.create(Port(name=" a "))).name == "A"
        assert Port(name=" a ").name == "A"
        with pytest.raises(ValidationError, match="no depth"):
            await Port.create({"name": "a", "depth": -1})
    async with default_app("memory", database):
        assert (await Port.create({"name": " a "})).name == "a"


class Span(EmbeddedModel):
    low = Int(required=True)
    high = Int(required=True)

    @validates("low")
    @classmethod
    def positive(cls, value: int) -> int:
        return abs(value)

    @constrains("low", "high")
    def ordered(self) -> None:
        if self.low > self.high:
            raise ValueError("upside down")


class Range(BaseModel):
    _name = "core.rule_range"
    span = Embedded(Span)
    spans = List(Embedded(Span))


async def test_an_embedded_object_has_rules_of_its_own(app: App) -> None:
    one = await Range.create({"span": {"low": -1, "high": 2}})
    assert one.span is not None and one.span.low == 1
    with pytest.raises(ValueError, match="upside down"):
        Span(low=3, high=2)
    with pytest.raises(ValidationError) as caught:
        await Range.create({"spans": [{"low": 1, "high": 2}, {"low": 3, "high": 2}]})
    assert problems(caught.value) == [(("spans", 1), "upside down")]
    one.span.low = 9
    with pytest.raises(ValidationError, match="upside down"):
        await one.save()
    with pytest.raises(ValidationError, match="rules of its own"):
        await one.write({"span.low": 9})


def test_a_validator_sees_no_record_and_says_so() -> None:
    class Peeking(BaseModel):
        _name = "core.rule_peeking"
        one = Int()
        two = Int()

        @validates("one")
        def peek(self, value: int) -> int:
            return value + (self.two or 0)

    with pytest.raises(FieldNotLoaded, match="@constrains method"):
        Peeking(one=1, two=2)


def test_a_validator_that_forgets_to_return_is_told_for_a_required_field() -> None:
    class Forgetful(BaseModel):
        _name = "core.rule_forgetful"
        name = String(required=True)
        word = String()

        @validates("name", "word")
        @staticmethod
        def nothing(value: str) -> str:
            return None  # type: ignore[return-value] # the mistake

    with pytest.raises(ValidationError, match="returned None"):
        Forgetful(name="a")


def _async(name: str) -> Any:
    async def check(self: Any, *value: Any) -> Any:
        return value

    check.__name__ = name
    return check


def test_a_rule_that_cannot_be_is_an_error_where_it_is_written() -> None:
    with pytest.raises(TypeError, match=r"takes the names of fields"):
        validates(_async("x"))
    with pytest.raises(TypeError, match=r"takes the names of fields"):
        validates()
    with pytest.raises(TypeError, match="'create', 'write' or both"):
        constrains("a", on=("delete",))  # type: ignore[arg-type] # the mistake
    with pytest.raises(TypeError, match="not above a int"):
        constrains("a")(3)
    with pytest.raises(TypeError, match="'nam', which is no field; did you mean 'name'"):
        type("A", (BaseModel,), {"name": String(), "x": constrains("nam")(lambda self: None)})
    with pytest.raises(TypeError, match="embedded object is checked when it is made"):
        type("B", (EmbeddedModel,), {"a": Int(), "x": constrains("a")(_async("x"))})
    with pytest.raises(TypeError, match="asynchronous validators stand on a model's own field"):
        type("C", (BaseModel,), {"a": List(String(validators=[no_spam]))})
    with pytest.raises(TypeError, match="asynchronous validators stand on a model's own field"):
        type("D", (EmbeddedModel,), {"a": String(validators=[no_spam])})


def test_a_model_without_rules_has_none() -> None:
    assert Shop._schema.rules is None and Item._schema.rules is not None


# -- uniqueness -----------------------------------------------------------------------------------


async def test_a_race_for_a_unique_value_has_one_winner_and_clear_losers(app: App) -> None:
    await Item.create({"name": "first"})
    made = await asyncio.gather(
        *(Item.create({"name": str(n), "code": "same"}) for n in range(8)), return_exceptions=True
    )
    assert sum(isinstance(each, Item) for each in made) == 1
    losers = [each for each in made if not isinstance(each, Item)]
    assert all(isinstance(each, DuplicateKey) and each.fields == ("code",) for each in losers)

    items = await Item.create([{"name": str(n)} for n in range(6)])
    wrote = await asyncio.gather(
        *(each.write({"code": "other"}) for each in items), return_exceptions=True
    )
    assert sorted(type(each).__name__ for each in wrote) == ["DuplicateKey"] * 5 + ["Item"]
    assert await Item.search([("code", "=", "other")]).count() == 1


async def test_a_batch_against_a_race_names_the_positions_that_lost(app: App) -> None:
    await Item.create({"name": "first"})
    made = await asyncio.gather(
        *(Item.create([{"name": "x", "code": f"c{n}"} for n in range(3)]) for _ in range(4)),
        return_exceptions=True,
    )
    losers = [each for each in made if isinstance(each, BaseException)]
    assert losers and all(isinstance(each, DuplicateKey) for each in losers)
    assert {detail["loc"][1] for each in losers for detail in each.errors()} == {"code"}  # type: ignore[attr-defined]
    assert await Item.search([("code", "!=", None)]).count() == 3

    items = await Item.create([{"name": str(n)} for n in range(3)])
    for each in items:
        each.code = "twice"
    with pytest.raises(DuplicateKey) as caught:
        await items.save()
    assert len(caught.value.errors()) == 2
