"""Computed and related fields: read in memory, written through inverses, searched, refused clearly."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from bson import ObjectId

from earnorm import (
    App,
    BaseModel,
    Boolean,
    ConfigurationError,
    DomainError,
    EmbeddedModel,
    FieldNotLoaded,
    Float,
    Inc,
    Int,
    List,
    Many2many,
    Many2one,
    One2many,
    RecordSet,
    String,
    ValidationError,
    depends,
)
from earnorm.fields.relational import Relation
from earnorm.testing import Interrupted

from .conftest import default_app, definitions
from .orders import Country, Line, Order, Partner


class Article(BaseModel):
    _name = "calc.article"

    price = Float(default=1.0)
    tax = Float(default=0.0)
    total = Float(compute="_compute_total", store=True, required=True, index=True)
    label = String(compute="_compute_label")
    with_tax = Float(compute="_compute_with_tax", inverse="_set_with_tax")
    stock = Int(compute="_compute_stock", inverse="_set_stock", store=True)
    move_ids = One2many("calc.move", "article_id")

    @depends("price", "tax")
    def _compute_total(self) -> float:
        return self.price * (1 + self.tax)  # type: ignore[operator] # the defaults are numbers

    @depends("total")
    def _compute_label(self) -> str:
        return f"{self.total:.2f}"

    @depends("price", "tax", "total")
    def _compute_with_tax(self) -> float:
        return self.total

    def _set_with_tax(self, value: float) -> None:
        self.price = value / (1 + (self.tax or 0))

    @depends("move_ids.qty")
    def _compute_stock(self) -> int:
        return sum(move.qty or 0 for move in self.move_ids)

    async def _set_stock(self, value: int) -> None:
        known = sum([move.qty or 0 async for move in Move.search([("article_id", "=", self)])])
        await Move.create({"article_id": self, "qty": value - known})


class Move(BaseModel):
    _name = "calc.move"

    article_id = Many2one(Article)
    qty = Int(default=0)


# -- in memory ------------------------------------------------------------------------------------


def test_a_record_that_is_not_stored_computes_when_it_is_read() -> None:
    article = Article(price=2.0, tax=0.5)
    assert (article.total, article.label) == (3.0, "3.00")
    article.price = 4.0
    assert (article.total, article.label) == (6.0, "6.00")
    assert "total" not in article.__dict__ and "label" not in article.to_dict(include={"price"})
    assert article.to_dict(include={"total", "label"}) == {"total": 6.0, "label": "6.00"}


async def test_what_was_changed_and_not_saved_counts_in_memory(app: App) -> None:
    article = await Article.create({"price": 2.0})
    assert article.total == 2.0
    article.price = 5.0
    assert article.total == 5.0 and (await Article.get(article.pk)).total == 2.0
    await article.write({"tax": 1.0})
    assert article.total == 10.0  # of the price that is not saved
    assert (await Article.get(article.pk)).total == 4.0
    await article.save()
    assert article.__dict__["total"] == 10.0 == (await Article.get(article.pk)).total


async def test_a_stored_value_wins_when_it_is_loaded(app: App) -> None:
    article = await Article.create({"price": 2.0})
    raw = app.dangerous_raw("write past every layer")[Article._collection]
    await raw.update_one({"_id": article.pk}, {"$set": {"total": 77.0}})
    assert (await Article.get(article.pk)).total == 77.0


async def test_a_document_without_the_value_computes_it(app: App) -> None:
    article = await Article.create({"price": 2.0})
    raw = app.dangerous_raw("write past every layer")[Article._collection]
    await raw.update_one({"_id": article.pk}, {"$unset": {"total": 1}})
    assert (await Article.get(article.pk)).total == 2.0


async def test_what_is_not_loaded_is_said_and_how_to_load_it(app: App) -> None:
    country = await Country.create({"code": "VN", "vat": 10})
    partner = await Partner.create({"country_id": country})
    await Order.create({"partner_id": partner, "fee": 1})
    [order] = await Order.search()
    with pytest.raises(FieldNotLoaded, match=r"await record.partner_id"):
        _ = order.country_id
    with pytest.raises(FieldNotLoaded, match="only"):
        _ = (await Order.search().only("state"))[0].gross
    with pytest.raises(FieldNotLoaded, match=r"calc.order.total|Order.total was not fetched"):
        _ = (await Order.search().only("state"))[0].total
    [order] = await Order.search().prefetch("partner_id.country_id")
    assert order.country_id == country
    [order] = await Order.search().only("code").prefetch("partner_id.country_id")
    assert order.code == "VN"
    with pytest.raises(FieldNotLoaded, match="only"):
        _ = order.fee
    await Article.create({"price": 3})
    [article] = await Article.search().only("label", "with_tax")
    assert (article.label, article.with_tax, article.price) == ("3.00", 3.0, 3.0)
    [article] = await Article.search().only("label")
    with pytest.raises(FieldNotLoaded, match="only"):
        _ = article.price  # the total is stored, and all that the label needs
    assert order.code == "VN"
    assert Order().code is None


async def test_an_asynchronous_formula_is_for_stored_values(app: App) -> None:
    order = await Order.create({"fee": 2})
    assert order.total == 200
    order.fee = 3
    with pytest.raises(FieldNotLoaded, match="save"):
        _ = order.total
    await order.save()
    assert order.total == 300


# -- what is written ------------------------------------------------------------------------------


def readable(record: BaseModel) -> set[str]:
    """Return the names of the computed fields that can be read."""
    names: set[str] = set()
    for name, field in type(record)._schema.fields.items():
        if field.is_derived and not name.startswith("_"):
            try:
                getattr(record, name)
            except FieldNotLoaded:
                continue
            names.add(name)
    return names


@pytest.mark.parametrize("model", [Article, Order, Line, Partner, Country])
async def test_a_dict_has_what_can_be_computed_and_no_error_is_made(
    app: App, monkeypatch: pytest.MonkeyPatch, model: type[BaseModel]
) -> None:
    country = await Country.create({"code": "VN", "vat": 10})
    order = await Order.create({"partner_id": await Partner.create({"country_id": country})})
    await Line.create({"order_id": order, "qty": 2, "price": 3})
    await Article.create({"price": 2})
    fields = model._schema.fields
    relations = [name for name, field in fields.items() if isinstance(field, Relation)]
    wholes = [model.search(), model.search().prefetch(*(n for n in relations if fields[n].stored))]
    for query in [*wholes, *(model.search().only(name) for name in fields)]:
        (record,), (twin,) = await query, await query
        expected = readable(twin)
        with monkeypatch.context() as patch:
            patch.setattr(FieldNotLoaded, "__init__", _no_error)
            derived = {name for name in record.to_dict() if name in fields}
        derived = {name for name in derived if fields[name].is_derived}
        if "with_tax" in expected - derived:  # it reads the total, which @depends does not name
            assert not record._fetch.has("price")
            expected.remove("with_tax")
        assert derived == expected


def _no_error(*arguments: object) -> None:
    raise AssertionError("an error was made where a question does")


async def test_a_computed_field_is_read_only_on_every_way(app: App) -> None:
    article = await Article.create({})
    ways: list[Callable[[], Any]] = [
        lambda: Article(total=1.0),
        lambda: setattr(article, "total", 1.0),
        lambda: setattr(article, "label", "x"),
    ]
    for way in ways:
        with pytest.raises(ValidationError, match=r"is computed by _compute_\w+\(\) and cannot be"):
            way()
    for values in ({"total": 1.0}, {"total": Inc(1.0)}, {"label": "x"}):
        with pytest.raises(ValidationError, match="is computed by"):
            await article.write(values)
        with pytest.raises(ValidationError, match="is computed by"):
            await Article.search().update(values)
        with pytest.raises(ValidationError, match="is computed by"):
            await Article.write_many({article: values})
    with pytest.raises(ValidationError, match="is computed by"):
        await Article.create([{"total": 2.0}])
    with pytest.raises(ValidationError, match=r"is computed from partner_id.country_id.code"):
        await Order.create({"code": "x"})
    assert not article.is_changed


async def test_an_inverse_takes_a_value_wherever_records_are_written(app: App) -> None:
    article = Article(with_tax=3.0, tax=0.5)
    assert article.price == 2.0 and article.with_tax == 3.0
    article.with_tax = 6.0
    assert article.price == 4.0
    await article.save()
    assert (await Article.get(article.pk)).price == 4.0
    await article.write({"with_tax": 15.0})
    assert (article.price, article.total) == (10.0, 15.0)
    await article.write({"tax": 1.0, "with_tax": 8.0})  # with the other values of the write
    assert (article.price, article.total) == (4.0, 8.0)
    article.tax = 0.0
    await article.save({"with_tax": 3.0})
    assert (await Article.get(article.pk)).price == 3.0
    article.price = 9.0
    await article.save({"with_tax": 4.0})  # what the inverse sets stands
    assert article.price == 4.0 == (await Article.get(article.pk)).price
    made = await Article.create([{"with_tax": 4.0, "tax": 1.0}, {"price": 7.0}])
    assert made.mapped("price") == [2.0, 7.0]
    await made.write({"with_tax": 20.0})
    assert (
        made.mapped("price")
        == [10.0, 20.0]
        == (await Article.search(order="price")).mapped("price")[-2:]
    )
    assert [r.total for r in made] == [20.0, 20.0]
    with pytest.raises(ValidationError, match="with_tax: Input should be a valid number"):
        await article.write({"with_tax": "many"})


async def test_an_asynchronous_inverse_is_waited_for(app: App) -> None:
    article = await Article.create({"stock": 5})
    assert (article.stock, await Move.count()) == (5, 1)
    await article.write({"stock": 3})
    assert (await Article.get(article.pk)).stock == 3
    assert [m.qty async for m in Move.search(order="_id")] == [5, -2]
    with pytest.raises(ValidationError, match=r"await record.write"):
        article.stock = 4


async def test_an_inverse_needs_known_records(app: App) -> None:
    await Article.create({})
    with pytest.raises(ValidationError, match="inverse"):
        await Article.search().update({"with_tax": 3.0})


async def test_a_copy_computes_its_own(app: App) -> None:
    article = await Article.create({"price": 2.0})
    copied = await article.copy({"price": 3.0})
    assert copied.total == 3.0


# -- searches -------------------------------------------------------------------------------------


async def test_domains_about_computed_fields(app: App) -> None:
    country = await Country.create({"code": "VN"})
    partner = await Partner.create({"country_id": country})
    await Order.create([{"fee": 1, "partner_id": partner, "state": "a"}, {"fee": 2, "state": "b"}])
    lines = [{"order_id": order, "qty": 2} for order in await Order.search()]
    await Line.create(lines)
    expected: list[tuple[Any, str]] = [
        ([("gross", "=", 4)], "b"),
        (["!", ("gross", "=", 4)], "a"),
        ([("gross", ">", 1)], "ab"),
        (Order.gross > 2, "b"),
        ([("country_id", "=", country)], "a"),
        ([("country_id.code", "=", "VN")], "a"),
        ([("country_id.code", "!=", "VN")], ""),
        ([("code", "=", "VN")], "a"),
        ([("total", ">", 300)], "b"),
        (["|", ("gross", "=", 4), ("code", "=", "VN")], "ab"),
    ]
    for domain, states in expected:
        found = await Order.search(domain, order="state")
        assert "".join(found.mapped("state")) == states, domain
    assert await Line.count([("order_id.gross", "=", 4)]) == 1
    assert await Partner.count([("order_ids.country_id.code", "=", "VN")]) == 1
    assert await Order.search([("gross", "=", 2)]).update({"state": "z"}) == 1
    [loaded] = await Order.search([("state", "=", "b")])
    assert (await Order.search()).filtered_domain([("gross", "=", 4)]) == await Order.search(
        [("state", "=", loaded.state)]
    )


async def test_a_search_by_what_is_not_stored_says_how_to_make_it_searchable(app: App) -> None:
    for path in ("per_line", "line_ids.order_id.per_line"):
        with pytest.raises(DomainError, match=r"store=True.*search="):
            await Order.search([(path, ">", 1)])
    with pytest.raises(DomainError, match="store=True"):
        await Order.search(order="per_line")
    with pytest.raises(DomainError, match="store=True"):
        await Order.search(order="gross")
    with pytest.raises(DomainError, match="store=True"):
        await Order.search().group("gross")
    with pytest.raises(DomainError, match="store=True"):
        app.check(Order, [("per_line", ">", 1)])
    app.check(Order, [("gross", ">", 1)])


async def test_a_stored_value_is_searched_itself_whatever_else_is_asked(app: App) -> None:
    with definitions():

        class Box(BaseModel):
            _name = "calc.box"

            width = Int()
            double = Int(compute="_compute_double", store=True, search="_search_double")
            box_id = Many2one("calc.box")

            @depends("width")
            def _compute_double(self) -> int:
                return 2 * (self.width or 0)

            @classmethod
            def _search_double(cls, operator: str, value: Any) -> Any:
                raise AssertionError("a stored value needs no method")

        inner = await Box.create({"width": 3})
        outer = await Box.create({"width": 4, "box_id": inner})
        asked: list[tuple[list[object], Box]] = [
            ([("double", "=", 6)], inner),
            ([("double", "=", 8), ("box_id.width", "=", 3)], outer),
            ([("box_id.double", "=", 6)], outer),
        ]
        for domain, box in asked:
            assert (await Box.search(domain)).pks == [box.pk]
        assert (await Box.search()).filtered_domain([("double", "=", 8)]).pks == [outer.pk]


async def test_order_and_group_by_a_stored_value(app: App) -> None:
    await Order.create([{"fee": 2}, {"fee": 1}, {"fee": 2}])
    assert [o.total for o in await Order.search(order="-total")] == [200, 200, 100]
    rows = await Order.search().group("total")
    assert len(rows) == 2


# -- declarations ---------------------------------------------------------------------------------


def test_a_declaration_that_cannot_work_is_refused() -> None:
    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: Int(store=True), "goes with compute="),
        (lambda: Int(compute="x", related="y"), "not both"),
        (lambda: Int(compute="x", default=3), "default"),
        (lambda: Int(compute="x", index=True), "store=True"),
        (lambda: List(Int(compute="x")), "Int"),
        (lambda: One2many("a", "b", compute="x"), "cannot be computed"),  # type: ignore[call-arg] # that is the point
        (lambda: Many2many("a", compute="x"), "cannot be computed"),  # type: ignore[call-arg] # that is the point
    ]
    for make, message in wrong:
        with pytest.raises(TypeError, match=message):
            make()


def test_a_class_with_a_formula_that_is_missing_is_refused() -> None:
    def model(**members: Any) -> Any:
        return lambda: type("Bad", (BaseModel,), {"_name": "calc.bad", **members})

    async def later(self: Any) -> int:
        return 1

    wrong = [
        (
            model(x=Int(compute="_compute_y"), _compute_x=lambda self: 1),
            "did you mean '_compute_x'",
        ),
        (model(x=Int(compute="_compute_x"), _compute_x=lambda self: 1), r"needs @depends"),
        (model(x=Int(compute="_compute_x"), _compute_x=depends()(later)), "async"),
        (model(x=Int(related="y", search="_no")), "is no method"),
    ]
    with definitions():
        for make, message in wrong:
            with pytest.raises(TypeError, match=message):
                make()
        with pytest.raises(TypeError, match="a record's own write"):
            type("Inner", (EmbeddedModel,), {"x": Int(related="y")})
        with pytest.raises(TypeError, match="takes paths"):
            depends(1)  # type: ignore[arg-type] # that is the point


async def test_an_override_adds_to_what_its_formula_depends_on(app: App) -> None:
    with definitions():

        class Base(BaseModel):
            _name = "calc.base"
            a = Int(default=1)
            x = Int(compute="_compute_x", store=True)

            @depends("a")
            def _compute_x(self) -> int:
                return self.a or 0

        class Derived(Base):
            _name = "calc.derived"
            b = Int(default=1)

            @depends("b")
            def _compute_x(self) -> int:
                return super()._compute_x() + (self.b or 0)

        record = await Derived.create({"a": 3})
        assert record.x == 4
        await Derived.search().update({"b": 5})
        assert (await Derived.get(record.pk)).x == 8


async def test_a_circle_is_refused_at_the_start(database: str) -> None:
    with definitions():

        class One(BaseModel):
            _name = "calc.one"
            two_ids = One2many("calc.two", "one_id")
            x = Int(compute="_compute_x", store=True)

            @depends("two_ids.y")
            def _compute_x(self) -> int:
                return 0

        class Two(BaseModel):
            _name = "calc.two"
            one_id = Many2one(One)
            y = Int(compute="_compute_y")

            @depends("one_id.x")
            def _compute_y(self) -> int:
                return 0

        with pytest.raises(
            ConfigurationError, match=r"calc\.(one\.x → calc\.two\.y|two\.y → calc\.one\.x)"
        ):
            async with default_app("memory", database):
                pass


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("prise", r"no such field; did you mean 'price'"),
        ("article_id.prise", "calc.article has no such field"),
        ("price.x", "has no fields of its own"),
        ("flag.x", "not stored"),
    ],
)
async def test_a_path_that_leads_nowhere_is_refused_at_the_start(
    database: str, path: str, message: str
) -> None:
    with definitions():

        class Wrong(BaseModel):
            _name = "calc.wrong"
            price = Int()
            article_id = Many2one(Article)
            flag = Boolean(compute="_compute_flag")
            x = Int(compute="_compute_x", store=True)

            @depends()
            def _compute_flag(self) -> bool:
                return True

            @depends(path)
            def _compute_x(self) -> int:
                return 0

        with pytest.raises(ConfigurationError, match=message) as caught:
            async with default_app("memory", database):
                pass
        assert "calc.wrong.x" in str(caught.value)


def test_bodies_have_what_can_be_written_and_show_the_rest_on_demand() -> None:
    body = Article.pydantic_model()
    assert "total" not in body.model_fields and "with_tax" in body.model_fields
    out = Article.pydantic_model(include=["price", "total", "label"])
    assert out.model_json_schema()["properties"]["total"]["readOnly"] is True
    given = out.model_validate(Article(price=2.0)).model_dump()
    assert given == {"price": 2.0, "total": 2.0, "label": "2.00"}
    assert '"total":2.0' in Article(price=2.0).to_json(include=["total"])


@pytest.mark.parametrize("way", ["save", "write", "set"])
async def test_a_stored_value_follows_what_was_assigned_during_a_save(app: App, way: str) -> None:
    article = await Article.create({"price": 1.0})
    article.price = 2.0
    ways: dict[str, Callable[[], Any]] = {
        "save": article.save,
        "write": lambda: article.write({"price": 2.0}),
        "set": (Article.browse([]) + article).save,
    }

    def meanwhile(wait: int) -> None:
        if wait == 0:
            article.price = 5.0

    await Interrupted(ways[way](), meanwhile)
    if article.is_changed:  # the memory answers at once
        assert (article.price, article.total) == (5.0, 5.0)
        await article.save()
    assert (await Article.get(article.id)).total == article.total == article.price


async def test_a_new_record_has_the_values_that_follow_from_its_creation(database: str) -> None:
    """Not only those that its own formulas can tell before it is stored."""
    with definitions():

        class Topic(BaseModel):
            reply_ids = One2many("reply", "topic_id")
            replies = Int(compute="_compute_replies", store=True)

            @depends("reply_ids")
            def _compute_replies(self) -> int:
                return len(self.reply_ids)

        class Reply(BaseModel):
            topic_id = Many2one(Topic, index=True)
            among = Int(related="topic_id.replies", store=True)
            friend_id = Many2one("reply", index=True)
            fan_ids = One2many("reply", "friend_id")
            fans = Int(compute="_compute_fans", store=True)

            @depends("fan_ids")
            def _compute_fans(self) -> int:
                return len(self.fan_ids)

        for kind in ("pymongo", "memory"):
            for limit in (0, 1_000):
                async with default_app(kind, database, recompute_limit=limit) as app:
                    topic = await Topic.create({})
                    first, second = ObjectId(), ObjectId()
                    pair = [{"id": first, "friend_id": second}, {"id": second, "friend_id": first}]
                    saved = Reply(topic_id=topic)
                    for make in (
                        partial(Reply.create, [{**row, "topic_id": topic} for row in pair]),
                        partial(Reply.create, {"topic_id": topic}),
                        saved.save,
                    ):
                        made = await make()
                        records = made if isinstance(made, RecordSet) else [made or saved]
                        shown = [(known(r, "among"), known(r, "fans")) for r in records]
                        await app.settled()
                        for record, values in zip(records, shown, strict=True):
                            stored = await Reply.get(record.id)
                            for value, now in zip(values, (stored.among, stored.fans), strict=True):
                                assert value == now or (value is None and limit == 0)


def known(record: BaseModel, name: str) -> Any:
    """Return a value; None if it is not known."""
    try:
        return getattr(record, name)
    except FieldNotLoaded:
        return None
