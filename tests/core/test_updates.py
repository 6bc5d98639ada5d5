"""Changes of values that the server makes, dotted paths, and what a record knows afterwards."""

from __future__ import annotations

import asyncio
import datetime
import decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import earnorm
from earnorm import (
    AddToSet,
    App,
    BaseModel,
    Change,
    ConcurrencyError,
    CurrentDate,
    DateTime,
    Decimal,
    Dict,
    Embedded,
    EmbeddedModel,
    FieldNotLoaded,
    Float,
    Inc,
    Int,
    Json,
    List,
    Many2one,
    Max,
    Min,
    Mul,
    NotFound,
    Pop,
    Pull,
    Push,
    String,
    Unset,
    UpdateItems,
    ValidationError,
)

from .conftest import Commands, drop
from .shop import Country, Stock


class Place(EmbeddedModel):
    city = String(required=True, db_name="c")
    floor = Int(min_value=0, max_value=90)


class Line(EmbeddedModel):
    sku = String(required=True)
    qty = Int(min_value=0)
    note = String()


class Item(BaseModel):
    _name = "updates.item"

    name = String(required=True, default="x")
    views = Int(db_name="v")
    stock = Int(min_value=0, max_value=100, default=0)
    weight = Float(min_value=-1.5, max_value=10)
    price = Decimal(decimal_places=2, max_digits=6)
    exact = Decimal()
    even = Int(validators=[lambda value: value])
    tags = List(String(max_length=5))
    few = List(Int(), max_length=3)
    lines = List(Embedded(Line))
    address = Embedded(Place, db_name="addr")
    prices = Dict(Decimal(min_value=0))
    extra = Json()
    seen = DateTime()
    code = String(readonly=True)
    country_id = Many2one(Country)


async def fresh(item: Item) -> Item:
    return await Item.get(item.id)


CASES: list[tuple[dict[str, Any], dict[str, Any], str, Any]] = [
    ({"views": 3}, {"views": Inc(2)}, "views", 5),
    ({}, {"views": Inc(2)}, "views", 2),
    ({"views": 3}, {"views": Inc(-5)}, "views", -2),
    ({"views": 3}, {"views": Min(1)}, "views", 1),
    ({"views": 3}, {"views": Min(9)}, "views", 3),
    ({"views": 3}, {"views": Max(9)}, "views", 9),
    ({"weight": 1.5}, {"weight": Inc(0.25)}, "weight", 1.75),
    ({"tags": ["a"]}, {"tags": Push("b", "c")}, "tags", ["a", "b", "c"]),
    ({}, {"tags": Push("b")}, "tags", ["b"]),
    ({"tags": ["a"]}, {"tags": Push("b", position=0)}, "tags", ["b", "a"]),
    ({"tags": ["a", "b"]}, {"tags": Push("c", slice=-2)}, "tags", ["b", "c"]),
    ({"few": [1, 2, 3]}, {"few": Push(4, slice=-3)}, "few", [2, 3, 4]),
    ({"tags": ["a", "b", "a"]}, {"tags": Pull("a")}, "tags", ["b"]),
    ({"tags": ["a"]}, {"tags": AddToSet("a", "b")}, "tags", ["a", "b"]),
    ({"tags": ["a", "b"]}, {"tags": Pop()}, "tags", ["a"]),
    ({"tags": ["a", "b"]}, {"tags": Pop("first")}, "tags", ["b"]),
    ({"stock": 5}, {"stock": Unset()}, "stock", 0),
    ({"extra": {"a": {"b": 1}}}, {"extra.a.b": 2}, "extra", {"a": {"b": 2}}),
    ({"prices": {}}, {"prices.vn": "1.50"}, "prices", {"vn": decimal.Decimal("1.50")}),
]


@pytest.mark.parametrize(("start", "values", "name", "result"), CASES)
async def test_a_change_is_made_by_the_server_and_known_to_the_record(
    app: App, start: dict[str, Any], values: dict[str, Any], name: str, result: Any
) -> None:
    item = await Item.create(start)
    assert await item.write(values) is item
    assert getattr(item, name) == result and not item.is_changed
    assert getattr(await fresh(item), name) == result


async def test_mul_multiplies_and_takes_nothing_for_zero(app: App) -> None:
    item = await Item.create({"views": 3})
    await item.write({"views": Mul(4), "weight": Mul(3)})
    assert (item.views, item.weight) == (12, 0)


@pytest.mark.parametrize("way", ["record", "save", "recordset", "query"])
async def test_every_way_to_write_takes_changes(app: App, way: str) -> None:
    items = await Item.create([{"views": 1, "tags": ["a"]}, {"views": 2, "tags": ["b"]}])
    values = {"views": Inc(10), "tags": Push("z"), "name": "new"}
    if way == "record":
        await items[0].write(values)
        await items[1].write(values)
    elif way == "save":
        for item in items:
            item.stock = 7
            await item.save(values)
            assert not item.is_changed and item.stock == 7
    elif way == "recordset":
        assert await items.write(values) == 2
    else:
        assert await Item.search().update(values) == 2
        await items.refresh()
    for each in (items, await Item.search(order="views")):
        assert each.mapped("views") == [11, 12] and each.mapped("name") == ["new", "new"]
        assert each.mapped("tags") == [["a", "z"], ["b", "z"]]


async def test_a_counter_gives_each_of_many_tasks_a_number_of_its_own(server_app: App) -> None:
    item = await Item.create({"views": 0})
    copies = [await fresh(item) for _ in range(20)]
    await asyncio.gather(*(copy.write({"views": Inc()}) for copy in copies))
    assert sorted(copy.views or 0 for copy in copies) == list(range(1, 21))


async def test_a_change_of_one_record_is_one_round_trip(commands: Commands) -> None:
    item = await Item.create({"views": 1, "tags": ["a"]})
    commands.clear()
    await item.write({"views": Inc(1), "tags": Push("b"), "name": "n"})
    assert [name for name, _ in commands.all] == ["findAndModify"]
    assert (item.views, item.tags, item.name) == (2, ["a", "b"], "n")


async def test_plain_values_are_sent_as_ever(commands: Commands) -> None:
    item = await Item.create({})
    commands.clear()
    await item.write({"views": 4})
    assert [name for name, _ in commands.all] == ["update"]


async def test_current_date_is_the_servers(server_app: App) -> None:
    item = await Item.create({})
    await item.write({"seen": CurrentDate()})
    assert item.seen is not None and item.seen.tzinfo is datetime.UTC
    assert (await fresh(item)).seen == item.seen


async def test_decimals_are_added_exactly(server_app: App) -> None:
    item = await Item.create({"price": "0.10"})
    await item.write({"price": Inc(decimal.Decimal("0.20"))})
    assert item.price == decimal.Decimal("0.30")


async def test_a_path_leads_into_embedded_objects_lists_and_dicts(app: App) -> None:
    item = await Item.create(
        {
            "address": {"city": "Huế", "floor": 3},
            "lines": [{"sku": "a", "qty": 1}, {"sku": "b", "qty": 2}],
            "tags": ["a", "b"],
        }
    )
    await item.write({"address.city": "Hội An", "lines.1.qty": Inc(5), "tags.0": "z"})
    for each in (item, await fresh(item)):
        assert each.address is not None and each.lines is not None
        assert (each.address.city, each.address.floor) == ("Hội An", 3)
        assert [line.qty for line in each.lines] == [1, 7] and each.tags == ["z", "b"]
    await item.write({"lines.0.note": "n"})
    await item.write({"lines.0.note": Unset()})
    assert item.lines is not None and item.lines[0].note is None


async def test_a_path_through_what_is_not_there_is_refused_and_writes_nothing(app: App) -> None:
    item = await Item.create({"lines": [{"sku": "a"}]})
    for path, value in {"address.city": "x", "lines.1.sku": "x", "tags.0": "x"}.items():
        with pytest.raises(ValidationError, match="does not have"):
            await item.write({path: value, "name": "changed"})
        with pytest.raises(ValidationError, match="does not have"):
            await Item.search().update({path: value, "name": "changed"})
    assert (await fresh(item)).to_dict() == {**(await Item.get(item.id)).to_dict(), "name": "x"}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"name": Inc(1)}, "Inc works on Int, Float and Decimal fields, and this is a String"),
    ({"views": Inc(1.5)}, "integer"),
    ({"views": Inc("many")}, "integer"),  # type: ignore[arg-type] # that is the point
    ({"views": Inc(True)}, "not a bool"),
    ({"weight": Inc(float("nan"))}, "finite"),
    ({"views": Inc(2**63)}, "less than or equal"),
    ({"price": Inc(decimal.Decimal("0.001"))}, "decimal places"),
    ({"exact": Inc(decimal.Decimal("10000000000000000000000000000000.001"))}, "34 digits"),
    ({"price": Mul(decimal.Decimal("0.5"))}, "more decimal places"),
    ({"even": Inc(2)}, "cannot be checked"),
    ({"stock": Max(101)}, "less than or equal to 100"),
    ({"stock": Min(None)}, "comparable"),
    ({"tags": Max("a")}, "comparable"),
    ({"tags": Push("toolong")}, "at most 5"),
    ({"tags": Push(None)}, "string"),
    ({"tags": Push({"$each": ["a"]})}, "string"),
    ({"name": Push("a")}, "Push works on List fields"),
    ({"few": Push(1)}, "max_length"),
    ({"few": AddToSet(1)}, "max_length"),
    ({"few": Push(1, slice=-4)}, "max_length"),
    ({"tags": Push("a", sort={"x": 1})}, "sort="),
    ({"lines": Push({"sku": "a", "qty": -1})}, "greater than or equal to 0"),
    ({"name": Unset()}, "required"),
    ({"tags.0": Unset()}, "Pull it"),
    ({"lines.0.sku": Unset()}, "required"),
    ({"name": CurrentDate()}, "CurrentDate works on DateTime"),
    ({"code": Unset()}, "only on a new record"),
    ({"id": Inc(1)}, "only on a new record"),
    ({"_id.x": 1}, "only on a new record"),
    ({"nmae": Inc(1)}, "did you mean 'name'"),
    ({"address.ctiy": "x"}, "did you mean 'city'"),
    ({"address.city": None}, "string"),
    ({"address.floor": 91}, "less than or equal to 90"),
    ({"lines.qty": 1}, "name the position of an item, 'lines.0.qty'"),
    ({"name.x": 1}, "has no fields of its own"),
    ({"country_id.name": "x"}, "crosses the relation"),
    ({"extra.$set": 1}, "must not start with"),
    ({"extra.": 1}, "empty"),
    ({"extra.a": {"$inc": 1}}, "must not start with"),
    ({"address": {"city": "x"}, "address.floor": 1}, "in the same write"),
    ({"extra.a": 1, "extra.a.b": 1}, "in the same write"),
    ({"lines.0.qty": Inc(1), "lines": Push({"sku": "a"})}, "in the same write"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
async def test_what_is_not_acceptable_is_refused_before_anything_is_sent(
    memory_app: App, values: dict[str, Any], message: str
) -> None:
    item = await Item.create({"lines": [{"sku": "a", "qty": 1}]})
    for attempt in (
        lambda: item.write({**values, "seen": None}),
        lambda: item.save(values),
        lambda: Item.search().update(values),
    ):
        with pytest.raises(ValidationError, match=message) as caught:
            await attempt()
        (problem,) = caught.value.errors()
        assert problem["loc"][0] in {path.partition(".")[0] for path in values}
    assert (await fresh(item)).to_dict() == item.to_dict()


async def test_all_problems_of_a_write_are_told_together(memory_app: App) -> None:
    item = await Item.create({})
    with pytest.raises(ValidationError) as caught:
        await item.write({"stock": -1, "name": Inc(1), "address.nope": 1, "nope": 2})
    assert {problem["loc"][0] for problem in caught.value.errors()} == {
        "stock",
        "name",
        "address",
        "nope",
    }


async def test_a_result_out_of_bounds_is_refused(app: App) -> None:
    item = await Item.create({"stock": 95})
    with pytest.raises(ValidationError, match="stock: Inc would take it out of bounds: at least 0"):
        await item.write({"stock": Inc(6), "name": "changed"})
    with pytest.raises(ValidationError, match="at most 100"):
        await item.write({"stock": Inc(60)})
    assert (await fresh(item)).stock == 95 and (await fresh(item)).name == "x"
    await item.write({"stock": Inc(5)})
    assert item.stock == 100


async def test_of_many_records_none_is_written_when_one_would_go_out_of_bounds(app: App) -> None:
    items = await Item.create([{"stock": 1}, {"stock": 5}])
    for attempt in (
        lambda: items.write({"stock": Inc(-2)}),
        lambda: Item.search().update({"stock": Inc(-2)}),
    ):
        with pytest.raises(ValidationError, match="out of bounds"):
            await attempt()
    assert (await Item.search(order="stock")).mapped("stock") == [1, 5]
    assert items.mapped("stock") == [1, 5]


async def test_stock_never_falls_below_zero_however_many_take_from_it(server_app: App) -> None:
    item = await Item.create({"stock": 5})

    async def take() -> bool:
        try:
            await (await fresh(item)).write({"stock": Inc(-1)})
        except ValidationError:
            return False
        return True

    assert sum(await asyncio.gather(*(take() for _ in range(12)))) == 5
    assert (await fresh(item)).stock == 0


async def test_a_change_of_what_is_gone_is_not_found(app: App) -> None:
    item = await Item.create({"stock": 5})
    await item.unlink()
    for values in ({"views": Inc(1)}, {"stock": Inc(1)}):
        with pytest.raises(NotFound):
            await item.write(values)


async def test_a_change_that_does_not_go_with_null_says_so_without_the_value(
    server_app: App,
) -> None:
    item = await Item.create({"views": None, "tags": None, "extra": {"secret": "s3cret"}})
    for values in ({"views": Inc(1)}, {"tags": Push("a")}, {"extra.secret.deep": 1}):
        for attempt in (lambda v=values: item.write(v), lambda v=values: Item.search().update(v)):  # type: ignore[misc] # no type for a default
            with pytest.raises(ValidationError, match="not of the kind") as caught:
                await attempt()
            assert "s3cret" not in str(caught.value) and str(item.id) not in str(caught.value)


async def test_a_change_belongs_into_write_or_save(app: App) -> None:
    item = await Item.create({"views": 1})
    item.views = Inc(1)  # type: ignore[assignment] # that is the point
    with pytest.raises(ValidationError, match=r"save\(\{'views': …\}\)"):
        await item.save()
    with pytest.raises(ValidationError):
        Item(views=Inc(1))
    with pytest.raises(ValidationError, match="of a stored record"):
        await Item().save({"views": Inc(1)})
    new = await Item().save({"views": 4})
    assert (await fresh(new)).views == 4


async def test_an_unsaved_change_is_not_lost_to_a_change_of_its_inside(app: App) -> None:
    item = await Item.create({"address": {"city": "a", "floor": 1}})
    assert item.address is not None
    item.address.floor = 2
    with pytest.raises(ValidationError, match="was changed and not saved"):
        await item.write({"address.floor": Inc(1)})
    assert (item.address.city, item.address.floor, item.is_changed) == ("a", 2, True)
    await item.write({"address.city": "b"})
    assert (item.address.city, item.address.floor, item.is_changed) == ("b", 2, False)
    assert (await fresh(item)).address.to_dict() == {"city": "b", "floor": 2}
    item.address.floor = 3
    with pytest.raises(ValidationError, match="was changed and not saved"):
        await (await Item.search() + item).write({"address.city": "c"})


async def test_a_versioned_record_counts_its_changes(app: App) -> None:
    mine = await Stock.create({"number": 1})
    theirs = await Stock.get(mine.id)
    await theirs.write({"number": Inc(1)})
    with pytest.raises(ConcurrencyError):
        await mine.write({"number": Inc(1)})
    await theirs.write({"number": Inc(1)})
    assert theirs.number == 3
    both = await Stock.search()
    await both.write({"number": Inc(3)})
    assert both[0].number == 6
    both[0].name = "n"
    await both[0].save({"number": Inc(1)})
    assert (await Stock.get(mine.id)).number == 7


async def test_records_that_are_not_found_again_have_the_field_not_loaded(app: App) -> None:
    a, b = await Item.create([{"views": 1}, {"views": 2}])
    await b.unlink()
    with pytest.raises(NotFound, match="1 of 2"):
        await earnorm.RecordSet(Item, [a, b]).write({"views": Inc(1)})
    assert issubclass(FieldNotLoaded, AttributeError)


async def test_a_rollback_brings_the_value_back(server_app: App) -> None:
    item = await Item.create({"views": 1})
    with pytest.raises(RuntimeError):
        async with earnorm.transaction():
            await item.write({"views": Inc(5)})
            assert item.views == 6
            raise RuntimeError
    assert item.views == 1 and (await fresh(item)).views == 1


async def test_a_change_keeps_the_items_that_it_was_made_of(app: App) -> None:
    values: dict[str, Any] = {"sku": "a", "qty": 1}
    line, sort = Line(sku="b", qty=2), {"qty": 1}
    more = {"note": "n"}
    pull, add = Pull(line), AddToSet(values)
    push, update = Push(values, line, sort=sort), UpdateItems([("sku", "=", "a")], more)
    nested = UpdateItems([("sku", "=", "b")], {"qty": 5}).also([("sku", "=", "a")], more)
    values["qty"], line.qty, sort["qty"], more["note"] = 8, 9, -1, "later"
    item = await Item.create({"lines": []})
    kept = [Line(sku="a", qty=1), Line(sku="b", qty=2)]
    await item.write({"lines": push})
    await item.write({"lines": add})
    assert (await fresh(item)).lines == kept
    await item.write({"lines": pull})
    assert (await fresh(item)).lines == kept[:1]
    for change in (update, nested):
        await item.write({"lines.0.note": None})
        await item.write({"lines": change})
        assert (await fresh(item)).lines == [Line(sku="a", qty=1, note="n")]


async def test_a_change_of_what_contains_itself_is_refused_by_the_write(app: App) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValidationError):
        await (await Item.create({})).write({"tags": Push(endless)})


def test_a_change_shows_no_value() -> None:
    assert repr(Inc(42)) == "<Inc>" and repr(Push("secret")) == "<Push>"
    assert issubclass(Inc, Change)
    with pytest.raises(TypeError, match="at least one item"):
        Push()
    with pytest.raises(ValueError, match="first"):
        Pop("middle")  # type: ignore[arg-type] # that is the point


numbers = st.integers(-60, 160)
amounts = st.integers(-120, 120)
floats = st.floats(-20, 20, allow_nan=False)


def test_a_result_is_refused_exactly_where_it_is_out_of_bounds(
    mongo_uri: str, database: str
) -> None:
    """The condition of the write, against arithmetic: ints, floats and unset values."""

    async def law(start: Any, field: str, change: Change, expected: Any) -> None:
        await Item.search().delete()
        item = await Item.create({} if start is None else {field: start})
        stored = Item._fields[field]
        low, high = stored.min_value, stored.max_value  # type: ignore[attr-defined] # of numbers
        if low <= expected <= high:
            await item.write({field: change})
            assert getattr(await fresh(item), field) == expected == getattr(item, field)
        else:
            with pytest.raises(ValidationError, match="out of bounds"):
                await item.write({field: change})
            assert getattr(await fresh(item), field) == getattr(item, field)

    with asyncio.Runner() as runner:
        started = runner.run(earnorm.App(mongo_uri, database=database, plugins=[]).start())

        async def run(*args: Any) -> None:
            with started.activate():
                await law(*args)

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.integers(0, 100), amounts, st.booleans())
        def whole(start: int, amount: int, multiply: bool) -> None:
            change = Mul(amount % 7 - 3) if multiply else Inc(amount)
            expected = start * (amount % 7 - 3) if multiply else start + amount
            runner.run(run(start, "stock", change, expected))

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.none() | st.floats(-1.5, 10), floats, st.booleans())
        def floating(start: float | None, amount: float, multiply: bool) -> None:
            base = 0.0 if start is None else start
            change = Mul(amount) if multiply else Inc(amount)
            expected = base * amount if multiply else base + amount
            runner.run(run(start, "weight", change, expected))

        try:
            whole()
            floating()
        finally:
            runner.run(drop(started))
            runner.run(started.stop())
