"""Rules judge what will be stored: times, authors, numbers, defaults and what other plugins fill in included."""

from __future__ import annotations

import datetime
from contextlib import nullcontext

import pytest

from earnorm import (
    AccessDenied,
    Command,
    Many2one,
    One2many,
    Principal,
    Sequence,
    TransactionError,
    ValidationError,
    act_as,
    depends,
    mixins,
    models,
    sequence,
    system,
    transaction,
)
from earnorm.fields import Boolean, Int, String
from earnorm.plugin import Stage, Step, hookimpl
from earnorm.testing import recording
from earnorm_security import Access, Rule

ANN, BOB = Principal("ann"), Principal("bob")
CHANGES = ["create", "write"]


class Order(mixins.Timestamps, mixins.Authors, models.BaseModel):
    """Each rule is about a field that nobody hands in."""

    _name = "filled.order"
    _rules = [
        Rule("someone", [("created_by", "!=", None)], operations=CHANGES),
        Rule("not Bob", [("updated_by", "!=", "bob")], operations=CHANGES),
        Rule("state", [("state", "in", ["draft", "done"])], operations=CHANGES),
        Rule("number", [("number", "not like", "O3")], operations=CHANGES),
        Rule("in time", lambda env: [("created_at", ">", since(env))], operations=CHANGES),
    ]
    code = String(unique=True)
    number = Sequence("O{number}", sequence="filled.orders")
    state = String(default="draft")
    size = Int(default=0)
    line_ids = One2many("filled.line", "order_id")


class Line(mixins.Authors, models.BaseModel):
    _name = "filled.line"
    _rules = [Rule("not Eve's", [("created_by", "!=", "eve")], operations=CHANGES)]
    name = String()
    order_id = Many2one(Order)


def since(env):
    days = env.context.get("days", -1)
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)


async def orders():
    with system(reason="look"):
        found = await Order.search(order="code")
        return [(o.code, o.state, o.size, o.updated_by) for o in found]


async def bulk(*calls):
    async with Order.bulk() as block:
        for call in calls:
            call(block)


CREATES = {
    "create": lambda values: Order.create(values),
    "create of several": lambda values: Order.create([{"code": "z"}, values]),
    "create_many": lambda values: Order.create_many([values]),
    "save": lambda values: Order(**values).save(),
    "upsert": lambda values: Order.upsert(values, on="code"),
    "upsert_many": lambda values: Order.upsert_many([values], on="code"),
    "bulk": lambda values: bulk(lambda block: block.create(values)),
}
WRITES = {
    "write": lambda order: order.write({"size": 5}),
    "save": lambda order: changed(order).save(),
    "write_many": lambda order: Order.write_many({order: {"size": 5}}),
    "update": lambda order: Order.search([("code", "=", order.code)]).update({"size": 5}),
    "upsert": lambda order: Order.upsert({"code": order.code, "size": 5}, on="code"),
    "upsert_many": lambda order: Order.upsert_many([{"code": order.code, "size": 5}], on="code"),
    "bulk": lambda order: bulk(lambda block: block.write(order, {"size": 5})),
}


def changed(order):
    order.size = 5
    return order


@pytest.mark.parametrize("way", CREATES)
async def test_a_new_record_is_judged_with_what_is_filled_in(opened, way):
    create = CREATES[way]
    async with opened():
        with act_as(ANN):
            await create({"code": "a"})
        assert ("a", "draft", 0, "ann") in await orders()
        before = await orders()
        refused = [
            (BOB, {}),  # he would be its author
            (None, {}),  # nobody would
            (ANN, {"days": 1}),  # the time is filled in
        ]
        for who, context in refused:
            with act_as(who, **context) if who else nullcontext():
                with pytest.raises(AccessDenied, match=r"document \d") as caught:
                    await create({"code": "b"})
                assert "bob" not in str(caught.value)
            assert await orders() == before


async def test_a_number_that_a_rule_refuses_is_lost_and_nothing_is_stored(opened):
    async with opened():
        with act_as(ANN):
            await Order.create([{"code": "a"}, {"code": "b"}])
            with pytest.raises(AccessDenied, match="document 0"):
                await Order.create([{"code": "c"}, {"code": "d"}])
            assert len(await orders()) == 2
            assert (await Order.create({"code": "e"})).number == "O5"


async def test_what_cannot_be_allowed_is_refused_before_a_number_is_drawn(opened):
    async with opened():
        with act_as(ANN):
            for state in ("sent", "x"):
                with pytest.raises(AccessDenied):
                    await Order.create({"code": "a", "state": state})
            assert await sequence("filled.orders").last() == 0


@pytest.mark.parametrize("way", WRITES)
async def test_a_write_is_judged_with_what_is_filled_in(opened, way):
    write = WRITES[way]
    async with opened():
        with act_as(ANN):
            order = await Order.create({"code": "a"})
        with act_as(BOB):
            with pytest.raises(AccessDenied):
                await write(order)
            assert await orders() == [("a", "draft", 0, "ann")]
        with act_as(Principal("eve")):
            await write(order)
            assert await orders() == [("a", "draft", 5, "eve")]
        with system(reason="look"):
            await order.write({"size": 6, "updated_by": "bob"})  # nobody judges the system


async def test_a_nested_record_is_judged_with_what_is_filled_in(opened):
    async with opened():
        with act_as(Principal("eve")):
            with pytest.raises(AccessDenied, match=r"filled\.line"):
                await Order.create({"code": "a", "line_ids": [Command.create({"name": "x"})]})
            assert await orders() == []
            order = await Order.create({"code": "a"})
            with pytest.raises(AccessDenied, match=r"filled\.line"):
                await order.write({"size": 5, "line_ids": [Command.create({"name": "x"})]})
        assert await orders() == [("a", "draft", 0, "eve")]
        with act_as(ANN):
            await order.write({"size": 6, "line_ids": [Command.create({"name": "x"})]})


# -- what is asked for, and what is filled in beside it -------------------------------------------


def sent(seen):
    """The operations that reached the database."""
    return [op.name for op in seen.sent]


class Paper(mixins.Authors, models.BaseModel):
    """Drafts are everybody's; what is signed is its writer's."""

    _name = "filled.paper"
    _rules = [
        Rule(
            "draft or own",
            lambda env: ["|", ("state", "=", "draft"), ("updated_by", "=", env.principal.id)],
            operations=["write", "create"],
        ),
        Rule("living", [("dead", "=", False)], operations=["write"]),
    ]
    state = String(default="draft")
    dead = Boolean(required=True, default=False)
    stars = Int(default=0)


async def test_what_is_filled_in_may_fulfil_what_the_asked_values_do_not(opened):
    async with opened():
        with act_as(BOB):
            paper = await Paper.create({"state": "draft"})
            await Paper.create({"state": "signed"})  # by him
        with act_as(ANN):
            await paper.write({"state": "signed"})  # by her, from now on
            with recording() as seen:
                await paper.write({"stars": 1})
            assert sent(seen) == ["count", "write"]
            with pytest.raises(AccessDenied):
                await Paper.search([("state", "=", "signed")]).update({"stars": 2})
            with pytest.raises(AccessDenied):
                await paper.write({"dead": True})
        with system(reason="look"):
            found = await Paper.search(order="id")
            assert [(p.updated_by, p.stars) for p in found] == [("ann", 1), ("bob", 0)]
            await paper.write({"updated_by": "bob"})
        with act_as(ANN), pytest.raises(AccessDenied):
            await paper.write({"state": "signed"})  # his: it is judged before as well


class Plain(models.BaseModel):
    _name = "filled.plain"
    _rules = [Rule("own", lambda env: [("owner", "=", env.principal.id), ("dead", "=", False)])]
    owner = String()
    dead = Boolean(required=True, default=False)
    stars = Int(default=0)


async def test_a_model_without_steps_of_its_own_asks_nothing_more(opened):
    async with opened():
        with act_as(ANN):
            with recording() as seen:
                one = await Plain.create({"owner": "ann"})
                with pytest.raises(AccessDenied):
                    await Plain.create({"owner": "bob"})
                await one.write({"stars": 1})
                await one.write({"owner": "ann"})
                await Plain.write_many({one: {"owner": "ann", "stars": 2}})
            assert sent(seen) == ["create", "write", "write", "write"]
            with recording() as seen, pytest.raises(AccessDenied):
                await one.write({"owner": "bob"})
            assert sent(seen) == ["count"]


# -- computed values ------------------------------------------------------------------------------


class Bill(models.BaseModel):
    """A small one is everybody's, a large one needs a boss."""

    _name = "filled.bill"
    _rules = [
        Rule("small", [("total", "<", 100)], roles=["clerk"], operations=CHANGES),
        Rule("all", [], roles=["boss"], operations=CHANGES),
    ]
    code = String(unique=True)
    price = Int(default=0)
    amount = Int(default=1)
    total = Int(compute="_total", store=True)
    note = String()

    @depends("price", "amount")
    def _total(self):
        if self.amount == 13:
            raise ValueError("bad luck")
        return self.price * self.amount


CLERK, BOSS = Principal("ann", roles=["clerk"]), Principal("bob", roles=["boss"])


@pytest.mark.parametrize(
    "create",
    [
        Bill.create,
        lambda values: Bill.create_many([values]),
        lambda values: Bill(**values).save(),
        lambda values: Bill.upsert(values, on="code"),
    ],
)
async def test_a_computed_value_of_a_new_record_is_judged(opened, create):
    async with opened():
        with act_as(CLERK):
            with pytest.raises(AccessDenied, match="small"):
                await create({"code": "a", "price": 50, "amount": 2})
            await create({"code": "b", "price": 50})
        with act_as(BOSS):
            await create({"code": "c", "price": 50, "amount": 2})
            assert (await Bill.search(order="code")).mapped("total") == [50, 100]


async def test_a_value_that_is_computed_in_the_same_write_is_judged(opened):
    async with opened():
        with act_as(CLERK):
            bill = await Bill.create({"code": "a", "price": 5})
            large = {"price": 50, "amount": 2}
            bill.price, bill.amount = 50, 2
            for attempt in (
                bill.save,
                lambda: bill.write(large),
                lambda: Bill.search([("code", "=", "a")]).update(large),
                lambda: Bill.write_many({bill: large}),
                lambda: Bill.upsert({"code": "a", **large}, on="code"),
            ):
                with pytest.raises(AccessDenied, match="small"):
                    await attempt()
            await bill.refresh()
            assert (bill.price, bill.amount, bill.total) == (5, 1, 5)
            with recording() as seen:
                await bill.write({"price": 6, "amount": 3})
                assert bill.total == 18
                await bill.write({"note": "x"})
            # The write rules differ from the read rules, so the record is looked at before; once.
            assert sent(seen) == ["count", "write"] * 2


async def test_a_refusal_of_what_was_asked_for_comes_before_a_value_is_computed(opened):
    class Priced(Bill):
        _name = "filled.priced"
        _rules = [Rule("no gifts", [("price", ">", 0)], operations=CHANGES)]

    async with opened():
        with act_as(CLERK):
            with pytest.raises(AccessDenied):
                await Priced.create({"price": 0, "amount": 13})
            with pytest.raises(ValidationError, match="_total"):
                await Priced.create({"price": 1, "amount": 13})


# -- steps of other plugins, and families ---------------------------------------------------------


class Stamp:
    """Fills in, and gives a number to what is created; a step of a third party."""

    api = 1
    name = "stamp"

    def __init__(self, model, field):
        self.model, self.field = model, field
        self.seen = 0

    @hookimpl
    def register_steps(self, app, model):
        return [Step(Stage.STAMP, "stamp", self.fill)] if model.name == self.model else []

    def fill(self, batch):
        self.seen += 1
        for row in batch.rows:
            row.fill(self.field, batch.env.context.get("stamp"))


class Page(models.BaseModel):
    _name = "filled.page"
    _discriminator = "kind"
    title = String(required=True)
    mark = String()
    stars = Int(default=0)


class Note(Page):
    _name = "filled.note"
    _access = [
        Access("*", read=True, write=True, create=True),
        Access("chief", unlink=True),
    ]
    _rules = [Rule("mark", [("mark", "!=", "bad")], operations=CHANGES)]


async def test_a_part_of_a_change_of_the_root_is_judged_for_what_its_own_steps_fill_in(opened):
    heard = []

    class Listener:
        api = 1
        name = "listener"

        @hookimpl
        def access_denied(self, op, error):
            heard.append(op.model._name)

    stamp = Stamp("filled.note", "mark")
    async with opened(plugins=(stamp, Listener())):
        with act_as(ANN, stamp="bad"):
            await Page.create({"title": "page"})  # no step of the note's
            with pytest.raises(AccessDenied):
                await Note.create({"title": "note"})
        with act_as(ANN, stamp="good"):
            await Note.create({"title": "note"})
            await Page.search().update({"stars": 1})
        assert heard == ["filled.note"]
        heard.clear()
        with act_as(ANN, stamp="bad"):
            with pytest.raises(AccessDenied):
                await Page.search([("title", "=", "note")]).update({"stars": 2})
            assert await Page.search([("title", "=", "page")]).update({"stars": 2}) == 1
        assert heard == ["filled.page"]
        with system(reason="look"):
            found = await Page.search(order="title")
            assert [(p.title, p.stars, p.mark) for p in found] == [
                ("note", 1, "good"),
                ("page", 2, None),
            ]


async def test_steps_run_for_what_may_be_allowed_only(opened):
    """What is refused for what was asked tells nothing of what a step finds out."""

    class Failing(Stamp):
        def fill(self, batch):
            self.seen += 1
            raise ValidationError("filled.plain", [{"loc": (), "msg": "secret", "type": "secret"}])

    failing = Failing("filled.plain", "stars")
    async with opened(plugins=(failing,)):
        with act_as(ANN):
            with pytest.raises(AccessDenied):
                await Plain.create({"owner": "bob"})
            assert failing.seen == 0
            with pytest.raises(ValidationError):
                await Plain.create({"owner": "ann"})


class Pet(models.BaseModel):
    _name = "filled.pet"
    _discriminator = "kind"
    name = String(unique=True)
    size = Int(default=0)


class Hound(mixins.Authors, Pet):
    """Only this class has a rule and a step; the rule is judged when another class's part is done."""

    _name = "filled.hound"
    _rules = [Rule("small", [("size", "<", 50)], operations=["write"])]


class Kitten(Pet):
    _name = "filled.kitten"


async def pets_by_write_many(kitten, hound):
    await Pet.write_many({hound: {"size": 77}, kitten: {"size": 1}})


async def pets_by_bulk(kitten, hound):
    async with Pet.bulk() as bulk:
        bulk.write(hound, {"size": 77})
        bulk.write(kitten, {"size": 1})


async def pets_by_update(kitten, hound):
    await Pet.search().update({"size": 77})


async def pets_by_record_set(kitten, hound):
    await (await Pet.search()).write({"size": 77})


@pytest.mark.parametrize(
    "change", [pets_by_write_many, pets_by_bulk, pets_by_update, pets_by_record_set]
)
async def test_what_a_rule_of_one_class_refuses_leaves_no_part_of_another_class_written(
    opened, change
):
    async with opened():
        with act_as(ANN):
            hound = await Hound.create({"name": "h"})
            kitten = await Kitten.create({"name": "k"})
            with pytest.raises(AccessDenied):
                await change(kitten, hound)
            assert (await Pet.search()).mapped("size") == [0, 0]
            assert (kitten.size, hound.size) == (0, 0)


class Slip(models.BaseModel):
    _name = "filled.slip"
    _rules = [Rule("no two", [("number", "!=", "2")])]
    number = Sequence("{number}", gap_free=True)


async def test_a_refused_record_leaves_no_gap_in_numbers_that_have_none(opened):
    async with opened():
        async with transaction():
            await Slip.create({})
        with pytest.raises(TransactionError, match="gap-free"):
            async with transaction():
                with pytest.raises(AccessDenied):
                    await Slip.create({})
                await Slip.create({})
        assert (await Slip.search()).mapped("number") == ["1"]
        assert await sequence("filled.slip.number").last() == 1
