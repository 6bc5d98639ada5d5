"""The option law of what a kind of field has of its own: each bound is kept at each place and on each way.

Or the class is a TypeError. test_option_law.py has the options that all kinds take.
"""

from __future__ import annotations

import datetime
import enum
import inspect
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bson import ObjectId

import earnorm
from earnorm import UUID as UUIDField  # the module has uuid's, too
from earnorm import (
    App,
    BaseModel,
    Binary,
    Boolean,
    Color,
    Date,
    DateTime,
    Decimal,
    Dict,
    Duration,
    Email,
    Embedded,
    EmbeddedModel,
    Enum,
    Field,
    Float,
    Geo,
    Int,
    IPAddress,
    Json,
    List,
    Many2one,
    Money,
    ObjectIdField,
    Phone,
    Reference,
    Selection,
    Set,
    Slug,
    String,
    Text,
    Time,
    Url,
    ValidationError,
    Vector,
)

from .test_option_law import PLACES, embedded, with_id
from .test_unique_places import a_class


class Grade(enum.Enum):
    GOOD = "good"


class Shape(EmbeddedModel):
    kind = String()
    size = Int()


class Circle(Shape):
    radius = Int()


class Target(BaseModel):
    _name = "bound.target"
    _id = String()


ONE, TWO = uuid.UUID(int=1), uuid.UUID(int=2)
IDS = ObjectId(), ObjectId()
DAY, SECOND = datetime.datetime(2024, 1, 1), datetime.timedelta(seconds=1)
EURO = {"amount": "1.5", "currency": "EUR"}


def money(amount: str, currency: str = "EUR") -> dict[str, str]:
    return {"amount": amount, "currency": currency}


def reference(pk: str, model: str = Target._name) -> dict[str, str]:
    return {"model": model, "id": pk}


BOUNDS: dict[str, tuple[Callable[[], Any], Any, Any]] = {
    # a field with one bound, a value that keeps it and one that does not
    "choices of texts": (lambda: String(choices=["a", "b"]), "a", "c"),
    "choices of numbers": (lambda: Int(choices=[1, 2]), "1", 3),
    "choices of booleans": (lambda: Boolean(choices=[True]), True, False),
    "choices of floats": (lambda: Float(choices=[1.5]), "1.5", 2),
    "choices of decimals": (lambda: Decimal(choices=[1.5]), "1.50", 2),  # type: ignore[list-item] # converted
    "choices of days": (lambda: Date(choices=[DAY.date()]), "2024-01-01", "2024-01-02"),
    "choices of times": (lambda: DateTime(choices=[DAY]), "2024-01-01T01:00+01:00", DAY + SECOND),
    "choices of hours": (lambda: Time(choices=[datetime.time(1)]), "01:00", "02:00"),
    "choices of durations": (lambda: Duration(choices=[SECOND]), 1, 2),
    "choices of UUIDs": (lambda: UUIDField(choices=[ONE]), str(ONE), TWO),
    "choices of ids": (lambda: ObjectIdField(choices=[IDS[0]]), str(IDS[0]), IDS[1]),
    "choices of JSON": (lambda: Json(choices=[{"a": 1}]), {"a": 1}, {"a": 2}),
    "choices of addresses": (lambda: IPAddress(choices=["10.0.0.1"]), "10.0.0.1", "10.0.0.2"),  # type: ignore[list-item] # converted
    "choices of colors": (lambda: Color(choices=["#FFFFFF"]), "#ffFFff", "#000000"),
    "choices of emails": (lambda: Email(choices=["a@b.co"]), "a@b.co", "c@b.co"),
    "choices in one case": (lambda: String(case="upper", choices=["ab"]), "aB", "x"),
    "choices without spaces": (lambda: Text(strip=True, choices=["a"]), " a ", "a a"),
    "choices of a pattern": (lambda: Url(pattern=".*/", choices=["http://a/"]), "http://a/", "x/"),
    "selection": (lambda: Selection(["a", "b"]), "a", "c"),
    "min_value": (lambda: Int(min_value=3), 3, 2),
    "max_value": (lambda: Int(max_value=3), 3, 4),
    "min_value of a float": (lambda: Float(min_value=0.5), 0.5, 0.25),
    "max_value of a float": (lambda: Float(max_value=0.5), 0.5, 0.75),
    "min_value of a decimal": (lambda: Decimal(min_value=3), 3, 2),
    "max_value of a decimal": (lambda: Decimal(max_value=3), 3, 4),
    "max_digits": (lambda: Decimal(max_digits=3), "1.25", "12.345"),
    "decimal_places": (lambda: Decimal(decimal_places=1), "1.5", "1.25"),
    "rounding": (
        lambda: Decimal(decimal_places=1, rounding="ROUND_HALF_UP", max_value=2),
        "2.04",
        "2.05",
    ),
    "min_value of a duration": (lambda: Duration(min_value=SECOND), 1, 0.5),
    "max_value of a duration": (lambda: Duration(max_value=SECOND), 1, 2),
    "currency": (lambda: Money(currency="EUR"), EURO, money("1", "USD")),
    "currencies": (lambda: Money(currencies=("EUR",)), EURO, money("1", "USD")),
    "min_value of money": (lambda: Money(min_value=1), EURO, money("0.5")),
    "max_value of money": (lambda: Money(max_value=2), EURO, money("2.5")),
    "decimal_places of money": (lambda: Money(decimal_places=1), EURO, money("1.25")),
    "rounding of money": (
        lambda: Money(decimal_places=0, rounding="ROUND_HALF_UP", max_value=2),
        money("2.4"),
        money("2.5"),
    ),
    "min_length": (lambda: String(min_length=2), "ab", "a"),
    "max_length": (lambda: String(max_length=2), "ab", "abc"),
    "pattern": (lambda: String(pattern="a.*"), "ab", "ba"),
    "strip": (lambda: String(strip=True, max_length=1), " a ", " ab "),
    "case": (lambda: String(case="lower", pattern="[a-z]+"), "AB", "1"),
    "max_length of bytes": (lambda: Binary(max_length=2), b"ab", b"abc"),
    "max_length of a slug": (lambda: Slug(max_length=3), "A b", "abcd"),
    "unicode": (lambda: Slug(unicode=True, max_length=4), "Hàng", "Hàng Đ"),
    "country": (lambda: Phone(country="84"), "024 3825 1234", "x"),
    "no country": (lambda: Phone(), "+842438251234", "024 3825 1234"),
    "version": (lambda: IPAddress(version=4), "10.0.0.1", "::1"),
    "enum": (lambda: Enum(Grade), "good", "bad"),
    "dimensions": (lambda: Vector(2), [1, 2], [1, 2, 3]),
    "packed": (lambda: Vector(2, packed=True), [1, 2], [1, 2, 3]),
    "kinds": (
        lambda: Geo(kinds=["Point"]),
        {"type": "Point", "coordinates": [1, 2]},
        {"type": "LineString", "coordinates": [[1, 2], [3, 4]]},
    ),
    "min_length of a list": (lambda: List(Int(), min_length=2), [1, 2], [1]),
    "max_length of a list": (lambda: List(Int(), max_length=2), [1, 2], [1, 2, 3]),
    "min_length of a set": (lambda: Set(Int(), min_length=2), [1, 2], [1]),
    "max_length of a set": (lambda: Set(Int(), max_length=2), [1, 2], [1, 2, 3]),
    "the bound of an item": (lambda: List(Int(max_value=3)), [3], [3, 4]),
    "the bound of an item of a set": (lambda: Set(Int(max_value=3)), [3], [3, 4]),
    "the bound of a value": (lambda: Dict(values=Int(max_value=3)), {"k": 3}, {"k": 4}),
    "keys": (lambda: Dict(Int(), keys=Int()), {"1": 1}, {"x": 1}),
    "the bound of a key": (lambda: Dict(Int(), keys=String(max_length=1)), {"k": 1}, {"kk": 1}),
    "the bound of an inner field": (
        lambda: Embedded(embedded(g=Int(max_value=3))),
        {"g": 3},
        {"g": 4},
    ),
    "discriminator": (
        lambda: Embedded(Shape, discriminator="kind"),
        {"kind": "circle", "radius": 1},
        {"kind": "other"},
    ),
    "no discriminator": (lambda: Embedded(Shape), {"size": 1}, {"radius": 1}),
    "exists": (lambda: Many2one(Target, exists=True), "here", "gone"),
    "exists of a reference": (
        lambda: Reference(Target, exists=True),
        reference("here"),
        reference("gone"),
    ),
    "models": (lambda: Reference(Target), reference("here"), reference("here", "bound.other")),
}
ELSEWHERE = {
    # by class, the options of its own that say nothing about a single value: other tests hold them
    "Date": {"auto_now", "auto_now_add"},
    "DateTime": {"auto_now", "auto_now_add"},
    "File": {"content_types", "max_size", "bucket"},  # a content comes by write() only
    "Many2many": {"inverse", "through", "near", "far", "order", "exists"},
    "One2many": {"inverse", "order"},
    "Sequence": {"format", "gap_free", "scope", "sequence"},
}
OF_ALL = {"required", "default", "validators", "on_delete", "comodel", "comodels"}
"""The options in test_option_law.py, and the other model of a link."""


def own_options() -> Iterator[tuple[type[Any], str]]:
    """Yield each option that an exported kind of field has of its own."""
    for name in sorted(set(earnorm.__all__)):
        cls = getattr(earnorm, name)
        if isinstance(cls, type) and issubclass(cls, Field) and cls is not Field:
            for parameter in inspect.signature(cls).parameters.values():
                # One without a default is in every line of its kind.
                is_named = parameter.default is not parameter.empty
                if is_named and parameter.name not in OF_ALL | ELSEWHERE.get(name, set()):
                    yield cls, parameter.name


def test_every_option_of_every_kind_takes_part() -> None:
    # What a line of BOUNDS names: the classes, and the keywords of their calls.
    named = [(make.__code__.co_names, make.__code__.co_consts) for make, _, _ in BOUNDS.values()]
    missing = {
        f"{cls.__name__}.{option}"
        for cls, option in own_options()
        if not any(
            any(
                issubclass(cls, kind) or issubclass(kind, cls)
                for name in names
                if isinstance(kind := globals().get(name), type)
            )
            and any(isinstance(each, tuple) and option in each for each in constants)
            for names, constants in named
        )
    }
    assert missing == set()


async def hold(number: int, place: str, make: Callable[[], Any], good: Any, bad: Any) -> None:
    """Hold one bound at one place to the law, on every way."""
    name = f"{number}_{place}".replace(" ", "_")
    if place == "_id":
        await hold_of_id(name, make, good, bad)
        return
    try:
        field = PLACES[place][0](make())
    except TypeError:
        assert place == "set"
        assert make().mutable or make().bson_schema().get("bsonType") in ("object", None)
        return
    wrap = PLACES[place][1]
    attributes = {"_name": f"bound.{name}", "key": Int(unique=True), "f": field}
    model = a_class(f"Bound_{name}", BaseModel, attributes)
    record = await model.create({"key": 1, "f": wrap(good)})
    before = await model.get(record.pk)

    async def assigned() -> None:
        record.f = wrap(bad)
        await record.save()

    async def batched() -> None:
        async with model.bulk() as bulk:
            bulk.write(record, {"f": wrap(bad)})

    for way in (
        lambda: model.create({"f": wrap(bad)}),
        lambda: model.create_many([{"f": wrap(bad)}]),
        lambda: record.write({"f": wrap(bad)}),
        lambda: model.write_many({record.id: {"f": wrap(bad)}}),
        lambda: model.search().update({"f": wrap(bad)}),
        lambda: model.upsert({"key": 1, "f": wrap(bad)}, on="key"),
        batched,
        assigned,
    ):
        with pytest.raises(ValidationError):
            await way()
    assert (await model.get(record.pk))._stored() == before._stored()
    assert await model.count() == 1


async def hold_of_id(name: str, make: Callable[[], Any], good: Any, bad: Any) -> None:
    try:
        keyed = with_id(f"bound_{name}", make())
    except TypeError as error:
        assert "the id of a record cannot be of kind" in str(error)
        return
    assert (await keyed.create({"_id": good})).is_stored
    for way in (
        lambda: keyed.create({"_id": bad}),
        lambda: keyed.upsert({"_id": bad}, on="_id"),
    ):
        with pytest.raises(ValidationError):
            await way()
    assert await keyed.count() == 1


@pytest.mark.parametrize("place", [*PLACES, "_id"])
async def test_a_bound_is_kept_on_every_way_at_every_place(memory_app: App, place: str) -> None:
    await Target.create({"_id": "here"})
    for number, (bound, (make, good, bad)) in enumerate(BOUNDS.items()):
        try:
            await hold(number, place, make, good, bad)
        except BaseException as error:
            error.add_note(bound)
            raise


WRONG: dict[str, Callable[[], Any]] = {
    "too long": lambda: String(choices=["abc"], max_length=2),
    "no number": lambda: Int(choices=["x"]),  # type: ignore[list-item] # a mistake
    "too large": lambda: Int(choices=[5], max_value=3),
    "no text": lambda: Selection(["a", 5]),  # type: ignore[list-item] # a mistake
    "no time": lambda: DateTime(choices=["later"]),  # type: ignore[list-item] # a mistake
    "no storable text": lambda: Selection(["\ud800"]),
}


@pytest.mark.parametrize("place", ["top", "item", "in a dict"])
@pytest.mark.parametrize("case", WRONG)
def test_choices_that_are_no_values_of_the_field_are_refused(case: str, place: str) -> None:
    with pytest.raises(TypeError, match="choices= cannot be kept"):
        a_class("Wrong", BaseModel, {"_abstract": True, "f": PLACES[place][0](WRONG[case]())})
