"""Rules that read stored computed values hold for the values that a write leaves, on every way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import earnorm
from earnorm import (
    AccessDenied,
    App,
    Command,
    Inc,
    Int,
    List,
    Many2one,
    Mul,
    One2many,
    Principal,
    Push,
    String,
    act_as,
    depends,
    models,
    system,
)
from earnorm.plugin import Call, Layer, Middleware, Operation, hookimpl
from earnorm_security import Rule, SecurityPlugin


class Vault(models.BaseModel):
    _name = "computed_rules.vault"
    _rules = [Rule("not top", [("grade", "!=", "top")], operations=["write", "create"])]
    code = String(unique=True, sparse=True)
    label = String()
    weight = Int(default=0)
    parts = List(Int())
    note = String()
    size = Int(compute="_size", store=True)
    grade = String(compute="_grade", store=True, recompute="now")

    @depends("weight", "parts")
    def _size(self) -> int:
        return (self.weight or 0) + sum(self.parts or ())

    @depends("label", "size")
    def _grade(self) -> str:
        return "top" if self.label == "T" or self.size > 5 else "low"


class Team(models.BaseModel):
    _name = "computed_rules.team"
    color = String()


class Card(models.BaseModel):
    _name = "computed_rules.card"
    _rules = [Rule("red", [("color", "=", "red")], operations=["write", "create"])]
    text = String()
    prefix = String(default="")
    team_id = Many2one(Team)
    color = String(related="team_id.color", store=True, recompute="now")
    title = String(compute="_title", store=True)

    @depends("prefix", "team_id.color")
    def _title(self) -> str:
        return f"{self.prefix}{self.team_id.color if self.team_id else ''}"


class Titled(models.BaseModel):
    """The rule reads a value of its own fields and of another record's."""

    _name = "computed_rules.titled"
    _rules = [Rule("no blue", [("title", "!=", "xblue")])]
    prefix = String(default="")
    team_id = Many2one(Team)
    title = String(compute="_title", store=True, recompute="now")

    @depends("prefix", "team_id.color")
    def _title(self) -> str:
        return f"{self.prefix}{self.team_id.color if self.team_id else ''}"


class Order(models.BaseModel):
    """The total follows from the lines; the lines' price from the order's factor."""

    _name = "computed_rules.order"
    _rules = [Rule("small", [("total", "<", 100)], operations=["write", "create"])]
    name = String()
    factor = Int(default=1)
    line_ids = One2many("computed_rules.line", "order_id")
    total = Int(compute="_total", store=True, recompute="now")

    @depends("line_ids.price")
    def _total(self) -> int:
        return sum(line.price or 0 for line in self.line_ids)


class Line(models.BaseModel):
    _name = "computed_rules.line"
    amount = Int(default=0)
    order_id = Many2one(Order, on_delete="cascade")
    price = Int(compute="_price", store=True, recompute="now")

    @depends("amount", "order_id.factor")
    def _price(self) -> int:
        return (self.amount or 0) * (self.order_id.factor if self.order_id else 1)


@pytest.fixture(params=["transactions", "none"])
def opening(request, opened):
    """Open an App on a server with transactions, or on a database that has none."""
    if request.param == "transactions":
        return opened

    @asynccontextmanager
    async def memory(plugins: tuple[object, ...] = ()) -> Any:
        app = App("mongomock://", database="computed_rules", plugins=[SecurityPlugin(), *plugins])
        async with app:
            yield app

    return memory


async def vault(**values: Any) -> Any:
    with system(reason="test data"):
        await Vault.search().delete()
        return await Vault.create({"code": "v", "label": "L", "weight": 1, "parts": [1], **values})


async def _save(v: Any) -> None:
    v.weight = 9
    await v.save()


async def _bulk(v: Any) -> None:
    async with Vault.bulk() as bulk:
        bulk.write(v, {"weight": 9})


async def _bulk_create(v: Any) -> None:
    async with Vault.bulk() as bulk:
        bulk.create({"weight": 9})


async def _in_transaction(v: Any) -> None:
    async with earnorm.transaction():
        await v.write({"weight": 9})


WRONG: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "create": lambda v: Vault.create({"label": "T"}),
    "create many": lambda v: Vault.create_many([{"label": "L"}, {"parts": [3, 3]}]),
    "bulk create": _bulk_create,
    "write": lambda v: v.write({"label": "T"}),
    "write of another input": lambda v: v.write({"weight": 9}),
    "all inputs": lambda v: v.write({"label": "T", "weight": 0, "parts": []}),
    "add": lambda v: v.write({"weight": Inc(4)}),
    "multiply": lambda v: v.write({"weight": Mul(5)}),
    "push": lambda v: v.write({"parts": Push(4)}),
    "an item": lambda v: v.write({"parts.0": 5}),
    "save": _save,
    "update": lambda v: Vault.search().update({"weight": Inc(4)}),
    "write many": lambda v: Vault.write_many({v.pk: {"weight": 9}}),
    "upsert": lambda v: Vault.upsert({"code": "v", "weight": 9}, on="code"),
    "upsert many": lambda v: Vault.upsert_many([{"code": "v", "weight": 9}], on="code"),
    "upsert of a new one": lambda v: Vault.upsert({"code": "new", "weight": 9}, on="code"),
    "bulk": _bulk,
}
RIGHT: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "create": lambda v: Vault.create({"label": "M", "weight": 5}),
    "write": lambda v: v.write({"label": "M"}),
    "add": lambda v: v.write({"weight": Inc(3)}),
    "push": lambda v: v.write({"parts": Push(1, 2)}),
    "update": lambda v: Vault.search().update({"weight": Inc(2)}),
    "write many": lambda v: Vault.write_many({v.pk: {"weight": 4}}),
    "upsert": lambda v: Vault.upsert({"code": "v", "weight": 4}, on="code"),
    "bulk": lambda v: _bulk_right(v),
    "other": lambda v: v.write({"note": "n"}),
}


async def _bulk_right(v: Any) -> None:
    async with Vault.bulk() as bulk:
        bulk.write(v, {"weight": 4})


async def test_no_way_stores_a_computed_value_against_a_rule(opening):
    async with opening() as app:
        raw = app.dangerous_raw("to look at what is stored")[Vault._collection]
        wrong: list[Any] = []
        for name, way in {**WRONG, "in a transaction": _in_transaction}.items():
            if name == "in a transaction" and "transactions" not in app.capabilities:
                continue
            record = await vault()
            before = await raw.find({}).to_list(None)
            try:
                await way(record)
            except AccessDenied:
                pass
            else:
                wrong.append((name, "not refused"))
            if await raw.find({}).to_list(None) != before:
                wrong.append((name, "stored"))
        for name, way in RIGHT.items():
            record = await vault()
            try:
                await way(record)
            except Exception as error:
                wrong.append((name, error))
            for stored in await Vault.search():
                if stored.grade != "low" or stored.size != stored.weight + sum(stored.parts or ()):
                    wrong.append((name, stored.to_dict()))
        assert wrong == []


async def test_several_records_are_judged_each_by_its_own_values(opening):
    async with opening():
        first = await vault()
        with system(reason="test data"):
            second = await Vault.create({"weight": 4})
        assert await Vault.search().update({"weight": Inc(1)}) == 2
        assert [v.size for v in await Vault.search(order="_id")] == [3, 5]
        with pytest.raises(AccessDenied):
            await Vault.search().update({"weight": Inc(1)})
        assert [v.weight for v in await Vault.search(order="_id")] == [2, 5]
        with pytest.raises(AccessDenied):
            await Vault.write_many({first.pk: {"weight": 1}, second.pk: {"weight": 6}})
        assert await Vault.search([("id", "=", first.id)]).update({"weight": Inc(1)}) == 1


async def test_a_record_in_memory_learns_the_computed_values(opening):
    async with opening():
        record = await vault()
        await record.write({"weight": Inc(2)})
        assert (record.weight, record.size, record.grade) == (3, 4, "low")


async def test_a_value_of_another_record_is_judged_as_it_is(opening):
    async with opening():
        with system(reason="test data"):
            red, blue = await Team.create([{"color": "red"}, {"color": "blue"}])
        card = await Card.create({"team_id": red})
        for way in (
            lambda: card.write({"team_id": blue}),
            lambda: card.write({"team_id": None}),
            lambda: Card.search().update({"team_id": blue.pk}),
            lambda: Card.create({"team_id": blue}),
            lambda: Card.create({"text": "no team"}),
        ):
            with pytest.raises(AccessDenied):
                await way()
        await card.write({"team_id": red, "text": "t"})
        assert [(c.color, c.text) for c in await Card.search()] == [("red", "t")]
        titled = await Titled.create({"prefix": "y", "team_id": blue})
        with pytest.raises(AccessDenied):
            await titled.write({"prefix": "x"})  # the team is not a part of the write
        await titled.write({"prefix": "z"})
        assert [t.title for t in await Titled.search()] == ["zblue"]


async def test_values_that_follow_by_way_of_others_are_judged_in_the_transaction(opened):
    async with opened():
        order = await Order.create({"name": "o", "line_ids": [{"amount": 60}]})
        assert (await Order.get(order.pk)).total == 60
        with pytest.raises(AccessDenied):
            await Order.create({"line_ids": [{"amount": 60}, {"amount": 60}]})
        with pytest.raises(AccessDenied):
            await order.write({"factor": 2})  # the lines cost more, and so does the order
        with pytest.raises(AccessDenied):
            await order.write({"name": "p", "line_ids": [Command.create({"amount": 50})]})
        await order.write({"name": "q", "line_ids": [Command.create({"amount": 30})]})
        assert [(o.name, o.total, o.factor) for o in await Order.search()] == [("q", 90, 1)]
        assert await Line.count() == 2


async def test_a_refusal_of_what_was_stored_ends_the_transaction_around_it(opened):
    async with opened():
        order = await Order.create({"line_ids": [{"amount": 60}]})
        with pytest.raises(earnorm.TransactionError):
            async with earnorm.transaction():
                with pytest.raises(AccessDenied):
                    await order.write({"factor": 2})
        assert (await Order.get(order.pk)).factor == 1


class Meanwhile:
    """Changes an input once, after it was read and before the write."""

    api = 1
    name = "meanwhile"

    def __init__(self, app: list[App]) -> None:
        self.app, self.left, self.by = app, 0, 0

    @hookimpl
    def wrap_operation(self, model: Any, operation: str) -> Iterable[tuple[int, Middleware]]:
        if model._name != Vault._name or operation != "write":
            return ()

        async def change(op: Operation, call_next: Call) -> Any:
            if self.left:
                self.left -= 1
                raw = op.app.dangerous_raw("somebody else")[Vault._collection]
                await raw.update_one({"code": "v"}, {"$inc": {"weight": self.by, "size": self.by}})
            return await call_next(op)

        return [(Layer.DEFAULT, change)]


@pytest.mark.parametrize(("by", "allowed"), [(1, True), (4, False)])
async def test_a_change_of_an_input_meanwhile_is_judged_anew(opening, by, allowed):
    meanwhile = Meanwhile([])
    async with opening(plugins=(meanwhile,)):
        record = await vault()
        meanwhile.left, meanwhile.by = 1, by
        if allowed:
            assert await Vault.search().update({"label": "M"}) == 1
        else:
            with pytest.raises(AccessDenied):
                await Vault.search().update({"label": "M"})
        stored = await Vault.get(record.pk)
        assert (stored.label, stored.weight) == ("M" if allowed else "L", 1 + by)


async def test_what_only_the_server_can_compute_is_judged_when_it_is_stored(opened):
    async with opened():
        record = await vault()
        await record.write({"parts": Push(2, sort=1)})
        assert (await Vault.get(record.pk)).size == 4
        with pytest.raises(AccessDenied):
            await record.write({"parts": Push(9, sort=1)})
        assert (await Vault.get(record.pk)).parts == [1, 2]


async def test_what_only_the_server_can_compute_is_refused_without_transactions():
    async with App("mongomock://", database="computed_rules", plugins=[SecurityPlugin()]):
        record = await vault()
        with pytest.raises(AccessDenied, match="only the server knows"):
            await record.write({"parts": Push(2, sort=1)})


async def test_the_system_stores_what_it_likes(opening):
    async with opening():
        record = await vault()
        with system(reason="test"):
            await record.write({"label": "T"})
        with act_as(Principal("eve")), pytest.raises(AccessDenied):
            await record.write({"note": "n"})
