"""``unique`` and ``index`` at every place of a document: what is kept, what is free, what is refused."""

from __future__ import annotations

import datetime
import decimal
import enum
import ipaddress
import sys
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from bson import ObjectId

from earnorm import (
    UUID,
    App,
    BaseModel,
    Binary,
    Boolean,
    ConfigurationError,
    Date,
    DateTime,
    Decimal,
    Dict,
    DuplicateKey,
    Duration,
    Embedded,
    EmbeddedModel,
    Enum,
    Field,
    Float,
    Int,
    IPAddress,
    Json,
    List,
    Many2many,
    Many2one,
    Money,
    MoneyValue,
    ObjectIdField,
    One2many,
    Point,
    Reference,
    Selection,
    Set,
    String,
    Time,
    ValidationError,
    Vector,
)
from earnorm.features.indexes.declarations import declared_indexes
from earnorm.fields.base import N


class Level(enum.Enum):
    LOW = 1
    HIGH = 2


class Mixed(enum.Enum):
    ONE = 1
    TWO = "two"


class Percent(Field[float, N]):
    """A kind of somebody else, that says nothing of its stored form."""

    def annotation(self) -> Any:
        return float


class Coded(BaseModel):
    _name = "places.coded"
    _id = String()


class Target(BaseModel):
    _name = "places.target"
    name = String()


class Small(EmbeddedModel):
    n = Int()


Make = Callable[..., Any]
SOME_ID, SOME_UUID = ObjectId("64" * 12), uuid.UUID(int=7)
KINDS: dict[str, tuple[Make, Any]] = {
    "string": (String, "a"),
    "selection": (lambda **o: Selection(["a", "b"], **o), "a"),
    "int": (Int, 0),
    "float": (Float, -1.5),
    "decimal": (Decimal, decimal.Decimal("1.5")),
    "boolean": (Boolean, False),
    "money": (Money, MoneyValue(1, "EUR")),
    "date": (Date, datetime.date(2024, 1, 2)),
    "datetime": (DateTime, datetime.datetime(1960, 1, 2, tzinfo=datetime.UTC)),
    "time": (Time, datetime.time(0)),
    "duration": (Duration, datetime.timedelta(seconds=-1)),
    "oid": (ObjectIdField, SOME_ID),
    "uuid": (UUID, SOME_UUID),
    "binary": (Binary, b""),
    "ip": (IPAddress, ipaddress.ip_address("10.0.0.1")),
    "level": (lambda **o: Enum(Level, **o), Level.LOW),
    "mixed": (lambda **o: Enum(Mixed, **o), Mixed.TWO),
    "percent": (Percent, 12.5),
    "json": (Json, {"a": 1}),
    "dict": (lambda **o: Dict(Int(), **o), {"a": 1}),
    "small": (lambda **o: Embedded(Small, **o), {"n": 1}),
    "packed": (lambda **o: Vector(2, packed=True, **o), [1.0, 2.0]),
    "target": (lambda **o: Many2one("places.target", **o), SOME_ID),
    "coded": (lambda **o: Many2one("places.coded", **o), "x"),
    "about": (lambda **o: Reference("places.target", **o), ("places.target", SOME_ID)),
}
LISTS: dict[str, tuple[Make, Any]] = {
    "list": (lambda **o: List(String(), **o), ["a", "b"]),
    "days": (lambda **o: Set(Date(), **o), {datetime.date(2024, 1, 2)}),
    "grid": (lambda **o: List(List(Int()), **o), [[1]]),
    "jsons": (lambda **o: List(Json(), **o), [{"a": 1}]),
    "smalls": (lambda **o: List(Embedded(Small), **o), [{"n": 1}]),
    "targets": (lambda **o: Many2many("places.target", **o), [SOME_ID]),
}


def a_class(name: str, base: type[Any], fields: dict[str, Any]) -> type[Any]:
    # It is a model of the file that asks for it; other files that take this function do not know it.
    module = sys._getframe(1).f_globals["__name__"]
    metaclass: Any = type(base)
    made: type[Any] = metaclass(name, (base,), {"__module__": module, "__slots__": (), **fields})
    return made


Inner = a_class(
    "Inner", EmbeddedModel, {n: m(unique=True, db_name=n[::-1]) for n, (m, _) in KINDS.items()}
)
Needed = {
    n: a_class(f"Needed_{n}", EmbeddedModel, {n: m(unique=True, required=True, db_name=n[::-1])})
    for n, (m, _) in KINDS.items()
}
TopUnique = a_class(
    "TopUnique",
    BaseModel,
    {
        "_name": "places.top",
        **{n: m(unique=True, db_name=f"k_{n}") for n, (m, _) in (KINDS | LISTS).items()},
    },
)
InsideUnique = a_class("InsideUnique", BaseModel, {"_name": "places.inside", "o": Embedded(Inner)})
ItemsUnique = a_class(
    "ItemsUnique",
    BaseModel,
    {"_name": "places.items", **{n: List(m(unique=True)) for n, (m, _) in KINDS.items()}},
)
LinesUnique = a_class(
    "LinesUnique",
    BaseModel,
    {"_name": "places.lines", **{n: List(Embedded(Needed[n]), db_name=f"l_{n}") for n in KINDS}},
)
AT: dict[str, tuple[type[Any], Callable[[str, Any], Any], Callable[[str], str]]] = {
    "top": (TopUnique, lambda n, v: {n: v}, lambda n: n),
    "inside": (InsideUnique, lambda n, v: {"o": {n: v}}, lambda n: f"o.{n}"),
    "items": (ItemsUnique, lambda n, v: {n: None if v is None else [v]}, lambda n: n),
    "lines": (LinesUnique, lambda n, v: {n: None if v is None else [{n: v}]}, lambda n: f"{n}.{n}"),
}


@pytest.mark.parametrize("place", AT)
async def test_a_value_is_there_once_and_unset_values_do_not_collide(
    server_app: App, place: str
) -> None:
    model, values, path = AT[place]
    kinds = KINDS | LISTS if place == "top" else KINDS
    for name, (_, value) in kinds.items():
        for _ in range(2):  # a stored null, wherever it stands
            await model.create(values(name, None))
        await model.create(values(name, value))
        with pytest.raises(DuplicateKey) as caught:
            await model.create(values(name, value))
        assert caught.value.fields == (path(name),)
    for _ in range(2):
        await model.create({})
    if place == "inside":
        await model.create([{"o": {}}, {"o": None}, {"o": {}}])
    (diff,) = await server_app.indexes.diff([model])
    assert diff.is_in_step and len(diff.ok) == len(kinds)


async def test_empty_lists_do_not_collide_and_one_record_may_repeat_a_value(
    server_app: App,
) -> None:
    for model, names in ((ItemsUnique, KINDS), (LinesUnique, KINDS), (TopUnique, LISTS)):
        for _ in range(2):
            await model.create({name: set() if name == "days" else [] for name in names})
    await ItemsUnique.create({"string": ["x", "x"]})
    await LinesUnique.create({"int": [{"int": 1}, {"int": 1}]})
    with pytest.raises(DuplicateKey):
        await ItemsUnique.create({"string": ["y", "x"]})
    with pytest.raises(DuplicateKey):
        await TopUnique.create([{"list": ["a", "b"]}, {"list": ["b", "c"]}])  # an item counts


async def test_a_search_uses_the_index_where_the_kind_has_one_stored_type(server_app: App) -> None:
    slow = {"mixed", "percent", "json"}  # the planner cannot tell a value from null
    for place in ("top", "inside", "items"):
        model, _, path = AT[place]
        for name, (_, value) in KINDS.items():
            if name in ("small", "about", "packed") or name in slow:
                continue
            plan = await model.search([(path(name), "=", value)]).explain()
            assert plan.uses_index, (place, name)


async def test_a_required_field_needs_no_condition(server_app: App) -> None:
    class Part(EmbeddedModel):
        sku = String(required=True, unique=True, db_name="s")
        place = Point(index=True, db_name="p")
        note = String(sparse=True)

    class PlacesThing(BaseModel):
        _name = "places.thing"
        main = Embedded(Part, required=True, db_name="m")
        spare = Embedded(Part)
        old = List(Embedded(Part))

    found = {spec.keys[0]: dict(spec.options) for spec in declared_indexes(PlacesThing)}
    assert found == {
        ("m.s", 1): {"unique": True},
        ("m.p", "2dsphere"): {},
        ("m.note", 1): {"sparse": True},
        ("spare.s", 1): {"unique": True, "partialFilterExpression": {"spare.s": {"$gte": ""}}},
        ("spare.p", "2dsphere"): {},
        ("spare.note", 1): {"sparse": True},
        ("old.s", 1): {"unique": True, "partialFilterExpression": {"old.s": {"$gte": ""}}},
        ("old.p", "2dsphere"): {},
        ("old.note", 1): {"sparse": True},
    }
    first = await PlacesThing.create({"main": {"sku": "a", "place": (1, 2)}})
    with pytest.raises(DuplicateKey) as caught:
        await PlacesThing.create({"main": {"sku": "a"}})
    assert caught.value.fields == ("main.sku",)
    other = await PlacesThing.create({"main": {"sku": "b"}})
    with pytest.raises(DuplicateKey):
        await other.write({"main.sku": "a"})
    assert await PlacesThing.search([("main.sku", "=", "a")]).count() == 1 and first.id
    assert (await PlacesThing.search([("old.sku", "=", "a")]).explain()).uses_index


async def test_an_older_index_at_the_place_is_a_difference(server_app: App) -> None:
    raw = server_app.dangerous_raw("an older index")["places_inside"]
    await raw.create_index([("o.gnirts", 1)], unique=True, sparse=True)
    with pytest.raises(ConfigurationError, match=r"o\.gnirts"):
        await InsideUnique.count()
    await server_app.indexes.sync([InsideUnique], replace=True)
    assert await InsideUnique.count() == 0


def deep(field: Any) -> Any:
    return Embedded(a_class("Deep", EmbeddedModel, {"f": field}))


REFUSED: dict[str, Callable[[], Any]] = {
    "Dict": lambda: Dict(String(unique=True)),
    "an object in a Dict": lambda: Dict(deep(String(index=True))),
    "a list in a Dict": lambda: Dict(List(String(sparse=True))),
    "a list in a list": lambda: List(List(String(index=True))),
    "the inner list": lambda: List(List(String(), index=True)),
    "an object in a list in a list": lambda: List(List(deep(String(index=True)))),
    "on_delete in a Dict": lambda: Dict(Many2one("places.target", on_delete="restrict")),
    "on_delete below a Dict": lambda: Dict(deep(Many2one("places.target", on_delete="restrict"))),
    "on_delete in a list in a list": lambda: List(
        List(Many2one("places.target", on_delete="restrict"))
    ),
    "not required in a list": lambda: List(deep(String(unique=True))),
    "not required around it": lambda: List(deep(deep(String(unique=True, required=True)))),
    "two lists": lambda: List(deep(List(String(unique=True)))),
    "a list that is unique in a list": lambda: List(
        deep(List(String(), unique=True, required=True))
    ),
    "cascade in a list": lambda: List(Many2one("places.target", on_delete="cascade")),
    "set_null in a list that keeps some": lambda: List(
        Many2one("places.target", on_delete="set_null"), min_length=1
    ),
    "index of what is not stored": lambda: One2many("places.target", "x", index=True),
    "a key of what is not stored": lambda: One2many("places.target", "x", db_name="k"),
    "unique of what is not stored": lambda: Many2many("places.target", inverse="x", unique=True),
    "readonly inside": lambda: deep(String(readonly=True)),
    "One2many inside": lambda: deep(One2many("places.target", "x")),
    "the other side inside": lambda: deep(Many2many("places.target", inverse="x")),
    "links in a list": lambda: List(Many2many("places.target")),
    "links in a Dict": lambda: Dict(One2many("places.target", "x")),
    "default of an item": lambda: List(String(default="x")),
    "default of a value": lambda: Dict(String(default="x")),
    "readonly of an item": lambda: Set(String(readonly=True)),
    "copy of an item": lambda: List(String(copy=False)),
    "db_name of an item": lambda: List(String(db_name="x")),
    "help of an item": lambda: List(String(help="x")),
    "string of a value": lambda: Dict(String(string="x")),
    "unique of a key": lambda: Dict(Int(), keys=String(unique=True)),
    "a vector's numbers": lambda: Vector(2, unique=True),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_kept_is_refused_where_the_class_is_made(what: str) -> None:
    with pytest.raises(
        TypeError, match=r"cannot|needs|no meaning|has no|compares|belongs|takes the link"
    ):
        a_class("PlacesRefused", BaseModel, {"_abstract": True, "f": REFUSED[what]()})


async def test_a_plugins_kind_may_say_the_lowest_value_itself(server_app: App) -> None:
    class Share(Percent[N]):
        index_floor = float("-inf")

    class PlacesShare(BaseModel):
        _name = "places.share"
        share = Share(unique=True)

    await PlacesShare.create([{"share": None}, {"share": 1.0}, {}])
    assert (await PlacesShare.search([("share", "=", 1.0)]).explain()).uses_index
    with pytest.raises(ValidationError):
        await PlacesShare.create({"share": "x"})
