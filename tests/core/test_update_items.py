"""Changes of the items of a list that fulfil a domain: on the server, in memory, and beside other programs."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Mapping
from typing import Any

import bson
import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

import earnorm
from earnorm import (
    App,
    BaseModel,
    ConcurrencyError,
    CurrentDate,
    DateTime,
    Decimal,
    Dict,
    DomainError,
    Embedded,
    EmbeddedModel,
    Inc,
    Int,
    List,
    Many2one,
    Push,
    String,
    Toggle,
    Unset,
    UpdateItems,
    ValidationError,
    constrains,
    depends,
    validates,
)
from earnorm.fields import Boolean
from earnorm.plugin import DocumentBatch, ModelView, Stage, Step, hookimpl

from .conftest import Commands, default_app
from .laws import law, world
from .shop import Country


class Part(EmbeddedModel):
    code = String(required=True, db_name="c")
    count = Int(max_value=10)


class Size(EmbeddedModel):
    width = Int()


class Line(EmbeddedModel):
    sku = String(required=True, db_name="s")
    qty = Int(min_value=0, max_value=100, db_name="q")
    price = Decimal(decimal_places=2)
    note = String()
    done = Boolean()
    seen = DateTime()
    tags = List(String(max_length=5))
    size = Embedded(Size)
    parts = List(Embedded(Part), db_name="p")
    country_id = Many2one(Country)


class Main(EmbeddedModel):
    lines = List(Embedded(Line))


class Order(BaseModel):
    _name = "items.order"

    name = String(default="x", required=True)
    visits = Int(default=0)
    lines = List(Embedded(Line), db_name="l")
    checked = List(Embedded(Line), validators=[lambda value: value])
    fixed = List(Embedded(Line), readonly=True)
    numbers = List(Int())
    main = Embedded(Main)
    days = Dict(List(Embedded(Line)))
    country_id = Many2one(Country)


LINES: list[dict[str, Any]] = [
    {"sku": "a", "qty": 1},
    {"sku": "b", "qty": 2, "parts": [{"code": "p", "count": 1}, {"code": "q", "count": 2}]},
    {"sku": "a", "qty": 9, "note": "n"},
]


def quantities(order: Order) -> list[int | None]:
    return [line.qty for line in order.lines or []]


async def fresh(order: Order) -> Order:
    return await Order.get(order.id)


WAYS = ["record", "save", "recordset", "query", "write_many", "bulk", "upsert"]


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_to_write_changes_the_items_that_match(app: App, way: str) -> None:
    orders = await Order.create([{"name": "one", "lines": LINES}, {"name": "two"}])
    values: dict[str, Any] = {
        "lines": UpdateItems([("sku", "=", "a")], {"qty": Inc(5), "price": "1.50"}),
        "visits": Inc(1),
    }
    if way == "record":
        for order in orders:
            assert await order.write(values) is order
    elif way == "save":
        for order in orders:
            await order.save(values)
    elif way == "recordset":
        assert await orders.write(values) == 2
    elif way == "query":
        assert await Order.search().update(values) == 2
    elif way == "write_many":
        assert await Order.write_many(dict.fromkeys(orders, values)) == 2
    elif way == "bulk":
        async with Order.bulk() as bulk:
            for order in orders:
                bulk.write(order, values)
    else:
        for order in orders:
            _, is_new = await Order.upsert({"id": order.id, **values}, on="id", new={"lines": []})
            assert not is_new
    known = [] if way in ("query", "upsert") else [list(orders)]
    for one, two in [*known, [await fresh(order) for order in orders]]:
        assert quantities(one) == [6, 2, 14] and not one.is_changed
        assert one.lines is not None and one.lines[0].price is not None
        assert str(one.lines[0].price) == "1.50" and one.lines[1].price is None
        assert two.lines is None and not two.is_changed
        assert (one.visits, two.visits) == (1, 1)


async def test_the_change_of_one_record_is_one_round_trip(commands: Commands) -> None:
    order = await Order.create({"lines": LINES})
    commands.clear()
    await order.write({"lines": UpdateItems(Line.sku == "a", {"qty": 5}), "name": "n"})
    assert [name for name, _ in commands.all] == ["findAndModify"]
    assert quantities(order) == [5, 2, 5]


async def test_only_the_items_are_sent_so_the_rest_of_them_is_never_overwritten(
    app: App,
) -> None:
    order = await Order.create({"lines": LINES})
    other = await fresh(order)
    await other.write({"lines": Push({"sku": "a", "qty": 50}, position=0)})
    await other.write({"lines.1.note": "theirs"})
    await order.write({"lines": UpdateItems([("sku", "=", "a")], {"qty": Inc(1)})})
    assert quantities(order) == [51, 2, 2, 10] and order.lines is not None
    assert order.lines[1].note == "theirs"


async def test_each_of_many_tasks_changes_the_item_once(app: App) -> None:
    order = await Order.create({"lines": [{"sku": "a", "qty": 20}, {"sku": "b", "qty": 5}]})
    copies = [await fresh(order) for _ in range(25)]
    taken = await asyncio.gather(
        *(
            each.write({"lines": UpdateItems([("sku", "=", "a")], {"qty": Inc(-1)})})
            for each in copies
        ),
        return_exceptions=True,
    )
    refused = [each for each in taken if isinstance(each, ValidationError)]
    assert len(refused) == 5 and "out of bounds" in str(refused[0])
    assert quantities(await fresh(order)) == [0, 5]


async def test_parts_of_one_change_and_of_items_inside_items(app: App) -> None:
    order = await Order.create({"lines": LINES, "main": {"lines": LINES}})
    inner = UpdateItems([("count", ">", 1)], {"code": "z", "count": Inc(3)})
    await order.write(
        {
            "lines": UpdateItems([("sku", "=", "b")], {"qty": 0, "parts": inner}).also(
                [("note", "!=", None)], {"note": Unset(), "tags": Push("t")}
            ),
            "main.lines": UpdateItems([], {"parts": inner, "tags": ["u"]}),
        }
    )
    for each in (order, await fresh(order)):
        assert each.lines is not None and each.main is not None and each.main.lines is not None
        assert [line.to_dict() for line in each.lines] == [
            {**EMPTY, "sku": "a", "qty": 1},
            {
                **EMPTY,
                "sku": "b",
                "qty": 0,
                "parts": [{"code": "p", "count": 1}, {"code": "z", "count": 5}],
            },
            {**EMPTY, "sku": "a", "qty": 9, "tags": ["t"]},
        ]
        assert [line.tags for line in each.main.lines] == [["u"]] * 3
        parts = each.main.lines[1].parts
        assert parts is not None and [part.count for part in parts] == [1, 5]


EMPTY: dict[str, Any] = dict.fromkeys(Line._fields)


async def test_a_key_of_a_dict_leads_to_a_list(app: App) -> None:
    order = await Order.create({"days": {"mon": LINES, "tue": LINES}})
    await order.write({"days.mon": UpdateItems([("qty", ">", 1)], {"qty": 7})})
    assert order.days is not None
    assert [[line.qty for line in order.days[day]] for day in ("mon", "tue")] == [
        [1, 7, 7],
        [1, 2, 9],
    ]


@pytest.mark.parametrize("lines", [None, [], LINES])
async def test_where_no_item_matches_the_rest_is_written(app: App, lines: Any) -> None:
    order = await Order.create({} if lines is None else {"lines": lines})
    before = quantities(order)
    await order.write({"lines": UpdateItems([("sku", "=", "none")], {"qty": 5}), "name": "y"})
    await order.write({"lines": UpdateItems([("sku", "in", [])], {"qty": 5})})
    assert await Order.search().update({"lines": UpdateItems([("qty", ">", 99)], {"qty": 5})}) == 1
    stored = await fresh(order)
    assert quantities(order) == quantities(stored) == before
    assert order.name == stored.name == "y" and (stored.lines is None) is (lines is None)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"lines": UpdateItems([], {"qty": -1})}, "lines.qty: .*greater than or equal to 0"),
    ({"lines": UpdateItems([], {"qty": {"$gt": 1}})}, "lines.qty: .*integer"),
    ({"lines": UpdateItems([], {"sku": None})}, "lines.sku: .*string"),
    ({"lines": UpdateItems([], {"sku": Unset()})}, "required"),
    ({"fixed": UpdateItems([], {"note": "x"})}, "fixed: can be set only on a new record"),
    ({"lines": UpdateItems([], {"qyt": 1})}, "did you mean 'qty'"),
    ({"lines": UpdateItems([], {7: 1})}, "a name is a text"),  # type: ignore[dict-item] # that is the point
    ({"lines": UpdateItems([], {"price": Inc("x")})}, "lines.price: "),  # type: ignore[arg-type] # that is the point
    ({"lines": UpdateItems([], {"tags": Push("toolong")})}, "at most 5"),
    ({"lines": UpdateItems([], {"done": Toggle()})}, "Toggle does not change items"),
    ({"lines": UpdateItems([], {"parts.count": 1})}, "UpdateItems"),
    ({"lines": UpdateItems([], {"country_id.name": "x"})}, "crosses the relation"),
    ({"lines": UpdateItems([], {"size": {"width": 1}, "size.width": 2})}, "in the same write"),
    ({"lines": UpdateItems([("country_id.name", "=", "x")], {"qty": 1})}, "other records"),
    ({"lines": UpdateItems([("country_id", "any", [])], {"qty": 1})}, "other records"),
    ({"lines": UpdateItems([("*", "text", "x")], {"qty": 1})}, "whole record"),
    ({"lines": UpdateItems([], {"qty": 1}), "lines.0.qty": 2}, "in the same write"),
    ({"lines.qty": 1}, "UpdateItems"),
    ({"numbers": UpdateItems([], {"qty": 1})}, r"works on List\(Embedded\(…\)\) fields"),
    ({"name": UpdateItems([], {"qty": 1})}, r"works on List\(Embedded\(…\)\) fields"),
    ({"main": UpdateItems([], {"qty": 1})}, r"works on List\(Embedded\(…\)\) fields"),
    ({"checked": UpdateItems([], {"qty": 1})}, "cannot be checked by the field's validators"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
async def test_what_is_not_acceptable_is_refused_before_anything_is_sent(
    memory_app: App, values: dict[str, Any], message: str
) -> None:
    order = await Order.create({"lines": LINES, "checked": LINES, "main": {"lines": LINES}})
    before = (await fresh(order)).to_dict()
    with pytest.raises(ValidationError, match=message):
        await order.write({"name": "changed", **values})
    with pytest.raises(ValidationError, match=message):
        await Order.search().update({"name": "changed", **values})
    assert (await fresh(order)).to_dict() == before


async def test_a_wrong_domain_is_told_with_its_list(app: App) -> None:
    order = await Order.create({"lines": LINES})
    for domain, message in (
        ([("skuu", "=", "a")], "did you mean 'sku'"),
        ([("qty", ">", None)], "has no order"),
        ([("qty", "=", "many")], "qty"),
    ):
        with pytest.raises(ValidationError, match=message) as refused:
            await order.write({"lines": UpdateItems(domain, {"qty": 1})})
        assert refused.value.errors()[0]["loc"][0] == "lines"
    with pytest.raises(DomainError, match="no such operator"):  # a plugin may have brought it
        await order.write({"lines": UpdateItems([("qty", "~", 1)], {"qty": 1})})
    with pytest.raises(DomainError):
        UpdateItems([("qty",)], {"qty": 1})
    with pytest.raises(TypeError, match="dict of values"):
        UpdateItems([], {})
    assert repr(UpdateItems([("sku", "=", "secret")], {"note": "secret"})) == "<UpdateItems>"
    assert quantities(await fresh(order)) == [1, 2, 9]


async def test_all_problems_are_told_together(memory_app: App) -> None:
    order = await Order.create({"lines": LINES})
    change = UpdateItems([], {"qty": -1, "nope": 1}).also([("qty", ">", 1)], {"price": "x"})
    with pytest.raises(ValidationError) as refused:
        await order.write({"lines": change, "name": None})
    locs = [detail["loc"] for detail in refused.value.errors()]
    assert locs == [("name",), ("lines", "qty"), ("lines", "nope"), ("lines", "price")]


async def test_a_new_record_takes_no_change(app: App) -> None:
    with pytest.raises(ValidationError):
        await Order.create({"lines": UpdateItems([], {"qty": 1})})
    with pytest.raises(ValidationError, match="stored record"):
        await Order(name="n").save({"lines": UpdateItems([], {"qty": 1})})


async def test_nothing_is_written_where_one_item_would_go_out_of_bounds(app: App) -> None:
    orders = await Order.create([{"lines": LINES}, {"lines": [{"sku": "a", "qty": 99}]}])
    values = {"lines": UpdateItems([("sku", "=", "a")], {"qty": Inc(2)}), "name": "y"}
    for write in (orders.write, Order.search().update, orders[1].write):
        with pytest.raises(ValidationError, match="Inc would take it out of bounds"):
            await write(values)
    for order, expected in zip(orders, ([1, 2, 9], [99]), strict=True):
        assert quantities(await fresh(order)) == expected == quantities(order)
        assert (await fresh(order)).name == "x"
    # An item that does not match may be as large as it wants to.
    await orders[1].write({"lines": UpdateItems([("sku", "=", "b")], {"qty": Inc(2)})})


async def test_a_path_through_what_a_matching_item_lacks_is_refused(app: App) -> None:
    order = await Order.create({"lines": [{"sku": "a", "size": {"width": 1}}, {"sku": "b"}]})
    change = {"size.width": Inc(1)}
    await order.write({"lines": UpdateItems([("sku", "=", "a")], change)})
    with pytest.raises(ValidationError, match="an item to change does not have"):
        await order.write({"lines": UpdateItems([], change)})
    assert order.lines is not None and order.lines[0].size is not None
    assert order.lines[0].size.width == 2
    with pytest.raises(ValidationError, match="this record does not have"):
        await order.write({"main.lines": UpdateItems([], {"qty": 1})})


async def test_one_item_is_not_given_two_values(app: App) -> None:
    order = await Order.create({"lines": LINES})
    change = UpdateItems([("sku", "=", "a")], {"qty": 3})
    await order.write({"lines": change.also([("sku", "=", "b")], {"qty": 4})})
    assert quantities(order) == [3, 4, 3]
    with pytest.raises(ValidationError, match="fulfils both domains"):
        await order.write(
            {"lines": change.also([("qty", ">", 3)], {"qty": 5}).also([], {"qty": 0})}
        )
    await order.write({"lines": change.also([("qty", "=", 3)], {"note": "both"})})
    assert order.lines is not None and [line.note for line in order.lines] == ["both", None, "both"]


async def test_unsaved_changes_of_the_list_are_not_lost(app: App) -> None:
    order = await Order.create({"lines": LINES})
    assert order.lines is not None
    order.lines[0].note = "mine"
    for write in (order.write, order.save):
        with pytest.raises(ValidationError, match="changed and not saved"):
            await write({"lines": UpdateItems([], {"qty": 5})})
    assert order.is_changed and order.lines[0].note == "mine"
    await order.save()
    order.name = "z"
    await order.save({"lines": UpdateItems([("sku", "=", "a")], {"qty": 5})})
    stored = await fresh(order)
    assert quantities(order) == quantities(stored) == [5, 2, 5]
    assert stored.name == "z" and stored.lines is not None and stored.lines[0].note == "mine"


async def test_a_rollback_brings_the_list_back(server_app: App) -> None:
    order = await Order.create({"lines": LINES})
    with pytest.raises(RuntimeError):
        async with earnorm.transaction():
            await order.write({"lines": UpdateItems([], {"qty": 5})})
            assert quantities(order) == [5, 5, 5]
            raise RuntimeError
    assert quantities(order) == quantities(await fresh(order)) == [1, 2, 9]


async def test_times_and_links_of_items(app: App) -> None:
    country = await Country.create({"name": "Việt Nam"})
    order = await Order.create({"lines": [{"sku": "a", "country_id": country}, {"sku": "b"}]})
    await order.write(
        {"lines": UpdateItems([("country_id", "=", country)], {"seen": CurrentDate()})}
    )
    assert order.lines is not None
    assert order.lines[0].seen is not None and order.lines[1].seen is None
    await order.write({"lines": UpdateItems([("country_id", "=", None)], {"country_id": country})})
    assert order.lines[1].country_id is not None and order.lines[1].country_id.id == country.id


# -- beside other features ------------------------------------------------------------------------


class Counted(BaseModel):
    _name = "items.counted"
    _versioned = True

    lines = List(Embedded(Line))

    @depends("lines.qty")
    def _total(self) -> int:
        return sum(line.qty or 0 for line in self.lines or [])

    total = Int(compute="_total", store=True)


async def test_computed_fields_and_revisions_follow(app: App) -> None:
    record = await Counted.create({"lines": LINES})
    stale = await Counted.get(record.id)
    await record.write({"lines": UpdateItems([("sku", "=", "a")], {"qty": Inc(10)})})
    assert record.total == 32 and (await Counted.get(record.id)).total == 32
    with pytest.raises(ConcurrencyError):
        await stale.write({"lines": UpdateItems([], {"qty": 0})})
    assert await Counted.search().update({"lines": UpdateItems([("sku", "=", "b")], {"qty": 0})})
    assert (await Counted.get(record.id)).total == 30


class Emptying:
    """A plugin that empties the list in each write."""

    api = 1
    name = "emptying"

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> list[Step]:
        if model.name != Order._name:
            return []
        return [Step(Stage.COMPUTE, "empty", self.empty, on="write")]

    def empty(self, batch: DocumentBatch) -> None:
        for row in batch.rows:
            row.merge("$set", {"l": []})


async def test_a_step_may_put_a_whole_list_in_the_place_of_its_items(database: str) -> None:
    async with default_app("pymongo", database, [Emptying()]):
        orders = await Order.create([{"lines": LINES}, {}])
        values = {"lines": UpdateItems([], {"qty": 5}), "name": "y"}
        await orders[0].write(values)
        assert await orders.write(values) == await Order.write_many(dict.fromkeys(orders, values))
        assert await Order.search().update(values) == 2
        assert [(each.lines, each.name) for each in await Order.search()] == [([], "y")] * 2


class Whole(EmbeddedModel):
    low = Int()
    high = Int()

    @constrains("low", "high")
    def _ordered(self) -> None:
        if (self.low or 0) > (self.high or 0):
            raise ValueError("low is above high")


class Ruled(BaseModel):
    _name = "items.ruled"

    wholes = List(Embedded(Whole))
    limited = List(Embedded(Line))
    checked = List(Embedded(Line))

    @constrains("limited")
    def _limit(self) -> None:
        if sum(line.qty or 0 for line in self.limited or []) > 10:
            raise ValueError("more than ten")

    @validates("checked")
    def _check(self, value: list[Line]) -> list[Line]:
        return value


async def test_a_rule_that_looks_at_the_whole_list_or_object_refuses_the_change(app: App) -> None:
    record = await Ruled.create({"wholes": [{"low": 1, "high": 2}], "limited": LINES[:2]})
    for name, values, message in (
        ("wholes", {"low": 5}, "Whole has rules of its own"),
        ("limited", {"qty": 50}, "checks the whole new value"),
        ("checked", {"qty": 50}, "checks the whole new value"),
    ):
        with pytest.raises(ValidationError, match=message):
            await record.write({name: UpdateItems([], values)})
        with pytest.raises(ValidationError, match=message):
            await Ruled.search().update({name: UpdateItems([], values)})


class Shape(EmbeddedModel):
    kind = String()
    name = String()


class Circle(Shape):
    radius = Int()


class Square(Shape):
    side = Int()


class Drawing(BaseModel):
    _name = "items.drawing"

    shapes = List(Embedded(Shape, discriminator="kind"))


async def test_items_of_several_kinds(app: App) -> None:
    drawing = await Drawing.create({"shapes": [Circle(radius=1), Square(side=2)]})
    await drawing.write({"shapes": UpdateItems([("kind", "=", "circle")], {"radius": Inc(4)})})
    await drawing.write({"shapes": UpdateItems([], {"name": "n"})})
    circle, square = drawing.shapes or []
    assert isinstance(circle, Circle) and isinstance(square, Square)
    assert (circle.radius, circle.name, square.side, square.name) == (5, "n", 2, "n")
    with pytest.raises(ValidationError, match="an item to change does not have"):
        await drawing.write({"shapes": UpdateItems([], {"radius": 3})})
    with pytest.raises(ValidationError, match="write the whole list"):
        await drawing.write({"shapes": UpdateItems([], {"kind": "square"})})


async def test_each_record_is_written_once_while_its_list_comes_and_goes(app: App) -> None:
    orders = await Order.create([{"lines": LINES}, {"lines": LINES}])
    raw = app.dangerous_raw("another program").client[app.settings.database]
    stop = asyncio.Event()

    async def others() -> None:
        while not stop.is_set():
            result = await raw[Order._collection].update_many({}, {"$unset": {"l": ""}})
            assert result.matched_count == 2
            await raw[Order._collection].update_many({}, {"$set": {"l": [{"s": "a", "q": 1}]}})

    task, written = asyncio.ensure_future(others()), 0
    values = {"lines": UpdateItems([("sku", "=", "a")], {"qty": 5}), "visits": Inc(1)}
    for _ in range(40):
        try:
            await orders[0].write(values)
        except ConcurrencyError:
            continue
        written += 1
    stop.set()
    await task
    assert (await fresh(orders[0])).visits == orders[0].visits == written > 0


# -- the law --------------------------------------------------------------------------------------

# Documents as other programs may have left them: unset values, unknown keys, no objects at all.
QTY: Any = st.none() | st.integers(0, 4)
ITEMS: Any = st.fixed_dictionaries(
    {"s": st.sampled_from("abc")},
    optional={"q": QTY, "note": st.sampled_from(["a", None]), "other": st.just({"q": 1})},
)
STORED: Any = st.lists(ITEMS | st.none() | st.just("a") | st.just([{"s": "a", "q": 1}]), max_size=4)
DOCUMENTS: Any = st.lists(
    st.fixed_dictionaries(
        {"name": st.just("x")}, optional={"l": st.none() | STORED, "unknown": st.just([{"q": 1}])}
    ),
    min_size=1,
    max_size=3,
)

Test = Callable[[Mapping[str, Any]], bool]
CONDITIONS: list[tuple[list[Any], Test]] = [
    ([], lambda item: True),
    ([("sku", "=", "a")], lambda item: item["s"] == "a"),
    ([("sku", "!=", "a")], lambda item: item["s"] != "a"),
    ([("sku", "in", ["a", "b"])], lambda item: item["s"] in "ab"),
    ([("sku", "in", [])], lambda item: False),
    ([("qty", "=", None)], lambda item: item.get("q") is None),
    ([("qty", ">", 1)], lambda item: (item.get("q") or 0) > 1),
    ([("note", "exists", True)], lambda item: "note" in item),
    (
        ["|", ("sku", "=", "a"), ("qty", "<", 2)],
        lambda item: item["s"] == "a" or (item.get("q") is not None and item["q"] < 2),
    ),
    (
        ["!", "&", ("sku", "=", "a"), ("note", "=", "a")],
        lambda item: not (item["s"] == "a" and item.get("note") == "a"),
    ),
]
EFFECTS: list[tuple[dict[str, Any], Callable[[dict[str, Any]], object]]] = [
    ({"qty": 3}, lambda item: item.update(q=3)),
    ({"qty": None, "note": "n"}, lambda item: item.update(q=None, note="n")),
    ({"note": Unset()}, lambda item: item.pop("note", None)),
    ({"tags": ["t"], "note": ""}, lambda item: item.update(note="", tags=["t"])),
]


def reference(document: Mapping[str, Any], changes: list[tuple[Test, Any]]) -> dict[str, Any]:
    changed = copy.deepcopy(dict(document))
    lines = changed.get("l")
    for item in lines if isinstance(lines, list) else ():
        if isinstance(item, dict):
            for effect in [effect for test, effect in changes if test(item)]:
                effect(item)
    changed["visits"] = changed.get("visits", 0) + 1
    return changed


def encoded(document: Mapping[str, Any]) -> bytes:
    """Encode the document with sorted keys: the server sorts the keys that one update adds."""

    def sorted_keys(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: sorted_keys(value[key]) for key in sorted(value)}
        return [sorted_keys(each) for each in value] if isinstance(value, list) else value

    return bson.encode(sorted_keys(dict(document)))


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", ["pymongo", "memory"])
def test_exactly_the_items_that_match_are_changed(kind: str) -> None:
    """The stored documents, against Python: every other byte stays."""
    with world(kind) as outside:
        client = outside.app.dangerous_raw("documents of others").client
        collection = client[outside.app.settings.database][Order._collection]

        @law(100)
        @given(
            DOCUMENTS,
            st.sampled_from(CONDITIONS),
            st.sampled_from(EFFECTS),
            st.sampled_from(["query", "write_many", "one by one"]),
        )
        def law_of_items(documents: Any, condition: Any, effect: Any, way: str) -> None:
            domain, test = condition
            given_values, change = effect
            stored = [{"_id": ObjectId(), **copy.deepcopy(each)} for each in documents]
            values = {"lines": UpdateItems(domain, given_values), "visits": Inc(1)}

            async def example() -> None:
                await collection.delete_many({})
                await collection.insert_many(copy.deepcopy(stored))
                if way == "query":
                    assert await Order.search().update(values) == len(stored)
                elif way == "write_many":
                    await Order.write_many({each["_id"]: values for each in stored})
                else:
                    for each in stored:
                        await Order.search([("id", "=", each["_id"])]).update(values)
                found = {each["_id"]: each async for each in collection.find({})}
                for each in stored:
                    expected = reference(each, [(test, change)])
                    assert encoded(found[each["_id"]]) == encoded(expected)

            outside.run(example)

        law_of_items()
