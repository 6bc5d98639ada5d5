"""Factories: every kind of field gets a valid value from its declaration, or an error that says to give it."""

from __future__ import annotations

import datetime
import decimal
import enum
import os
import random
import re
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import earnorm
from earnorm import (
    Embedded,
    EmbeddedModel,
    Env,
    Field,
    Int,
    Many2one,
    RecordSet,
    Reference,
    Sequence,
    String,
    act_as,
    constrains,
    fields,
    models,
)
from earnorm.exceptions import ConfigurationError, ValidationError
from earnorm.plugin import ModelView, Stage, Step, ValueBatch, Way, hookimpl
from earnorm.testing import Factory, app_with, make
from earnorm.testing.patterns import UnknownPattern, matching
from earnorm.testing.samples import Samples

EXAMPLES = int(os.environ.get("EARNORM_FUZZ_EXAMPLES", "30"))


class Shade(enum.Enum):
    LIGHT = "light"
    DARK = "dark"


class Street(EmbeddedModel):
    name = String(required=True, min_length=3)
    number = Int(required=True, min_value=100)
    note = String()


class Stamped(models.BaseModel):
    _name = "factories.stamped"
    desk = String(required=True)
    place = String(required=True)


class Desks:
    """Fills in the desk at which who acts sits."""

    api = 1

    @hookimpl
    def register_steps(self, model: ModelView) -> list[Step]:
        if "desk" not in model.fields:
            return []
        return [Step(Stage.DEFAULT, "desk", self.fill, Way.CREATE, fills=self.fills)]

    def fills(self, env: Env) -> list[str]:
        return [] if env.principal is None else ["desk"]

    def fill(self, batch: ValueBatch) -> None:
        for row in batch.rows:
            if batch.env.principal is not None and row.values.get("desk") is None:
                row.fill("desk", f"desk of {batch.env.principal.id}")


async def test_what_a_step_says_it_fills_in_is_left_to_it() -> None:
    async with app_with(Desks):
        with act_as("ann"):
            assert (await make(Stamped)).desk == "desk of ann"
            assert (await make(Stamped, desk="d")).desk == "d"
            assert (await make(Stamped)).place
        assert "desk of" not in (await make(Stamped)).desk  # nobody fills it in


class Percent(Field[float, Any]):
    def annotation(self) -> Any:
        return Annotated[float, pydantic.Field(ge=0.25, le=1)]


class Odd(Field[int, Any]):
    def annotation(self) -> Any:
        return Annotated[int, pydantic.Field(ge=10**9, multiple_of=7)]

    def sample(self, number: int) -> int:
        return 7 * (10**9 + number)


def bounds(values: st.SearchStrategy[Any], low: str, high: str) -> st.SearchStrategy[Any]:
    """Options with a lower bound, an upper one that is not below it, both or none."""

    def named(pair: list[Any]) -> dict[str, Any]:
        first, last = sorted(pair)
        return {low: first, high: last}

    both = st.lists(values, min_size=2, max_size=2).map(named)
    return both | values.map(lambda v: {low: v}) | values.map(lambda v: {high: v}) | st.just({})


lengths = bounds(st.integers(0, 30), "min_length", "max_length").filter(
    lambda o: o.get("max_length") != 0
)
unique = st.just({}) | st.just({"unique": True})
few = bounds(st.integers(0, 3), "min_length", "max_length")
decimals = st.decimals(-1000, 1000, places=2)
durations = st.integers(-(10**7), 10**7).map(lambda n: datetime.timedelta(milliseconds=n))
days = st.dates(datetime.date(1, 1, 2), datetime.date(9999, 12, 30))

# The options of each kind, so drawn that there is a valid value.
KINDS: dict[str, st.SearchStrategy[Field[Any, Any]]] = {
    "String": st.builds(
        lambda o, u, case, strip: fields.String(case=case, strip=strip, **o, **u),
        lengths, unique, st.sampled_from([None, "lower", "upper"]), st.booleans(),
    ),
    "choices": st.lists(st.text(min_size=1), min_size=1, max_size=3, unique=True).map(
        lambda choices: fields.String(choices=choices)
    ),
    "pattern": st.sampled_from(
        [r"[A-Z]{3}-\d{4}", r"(red|green)(er)?", r"\w+@\w+\.(com|org)", r"a{2,}b*c?", r"[^a-z]x"]
    ).map(lambda pattern: fields.String(pattern=pattern)),
    "Text": lengths.map(lambda o: fields.Text(**o)),
    "Email": unique.map(lambda u: fields.Email(**u)),
    "Url": unique.map(lambda u: fields.Url(**u)),
    "Slug": st.builds(lambda u: fields.Slug(unicode=u), st.booleans()),
    "Phone": st.sampled_from(["", "84", "1", "+49"]).map(lambda c: fields.Phone(country=c)),
    "Color": st.builds(fields.Color),
    "Selection": st.builds(lambda: fields.Selection(["draft", "done"])),
    "Int": st.builds(
        lambda o, u: fields.Int(**o, **u),
        bounds(st.integers(-(2**63), 2**63 - 1), "min_value", "max_value"), unique,
    ),
    "Float": bounds(st.floats(-1e12, 1e12), "min_value", "max_value").map(
        lambda o: fields.Float(**o)
    ),
    "Decimal": bounds(decimals, "min_value", "max_value").map(
        lambda o: fields.Decimal(decimal_places=2, **o)
    ),
    "Boolean": st.builds(fields.Boolean),
    "Date": st.builds(fields.Date),
    "DateTime": st.builds(fields.DateTime),
    "Time": st.builds(fields.Time),
    "Duration": bounds(durations, "min_value", "max_value").map(lambda o: fields.Duration(**o)),
    "UUID": st.builds(fields.UUID),
    "ObjectIdField": st.builds(fields.ObjectIdField),
    "Binary": st.integers(1, 9).map(lambda n: fields.Binary(max_length=n)),
    "Json": st.builds(fields.Json),
    "Dict": st.builds(lambda: fields.Dict(fields.Duration(), keys=fields.Date())),
    "List": few.map(lambda o: fields.List(fields.String(max_length=5), **o)),
    "Set": few.map(lambda o: fields.Set(fields.Int(), **o)),
    "Embedded": st.builds(lambda: Embedded(Street)),
    "Enum": st.builds(lambda: fields.Enum(Shade)),
    "IPAddress": st.sampled_from([None, 4, 6]).map(lambda v: fields.IPAddress(version=v)),
    "Money": bounds(decimals, "min_value", "max_value").map(
        lambda o: fields.Money(currency="VND", decimal_places=2, **o)
    ),
    "Vector": st.integers(1, 9).map(fields.Vector),
    "Point": st.builds(fields.Point),
    "LineString": st.builds(fields.LineString),
    "Polygon": st.builds(fields.Polygon),
    "MultiPolygon": st.builds(fields.MultiPolygon),
    "Geo": st.lists(st.sampled_from(fields.Geo.default_kinds), min_size=1).map(
        lambda kinds: fields.Geo(kinds=kinds)
    ),
    "Percent": st.builds(Percent),
    "Odd": st.builds(Odd),
}  # fmt: skip
# What is filled in by a feature, made as a record of its own, or no kind of a stored value.
NOT_MADE = {
    *("File", "Many2many", "Many2one", "One2many", "Reference", "Sequence"),
    *(
        "Command",
        "ConvertingField",
        "Field",
        "FieldOptions",
        "Geometry",
        "MoneyValue",
        "MutableField",
        "N",
        "ValueOptions",
    ),
}


def test_the_law_is_about_every_kind() -> None:
    assert set(fields.__all__) - NOT_MADE <= KINDS.keys()


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", KINDS)
@given(
    data=st.data(), numbers=st.lists(st.integers(1, 10_000), min_size=1, max_size=3, unique=True)
)
@settings(max_examples=EXAMPLES)
def test_every_kind_gets_a_valid_value_or_the_error(
    kind: str, data: st.DataObject, numbers: list[int]
) -> None:
    field = data.draw(KINDS[kind])
    field.__set_name__(Street, "value")
    adapter = pydantic.TypeAdapter[Any](field.value_annotation())
    samples, seen = Samples(), []
    for number in numbers:
        try:
            value = samples.value(field, number)
        except ConfigurationError as error:
            assert error.code == "no_sample" and "value=..." in str(error)
            assert field.unique and seen  # of few values; every field here has at least one
            return
        stored = adapter.validate_python(value)
        seen.append(stored)
        assert repr(Samples().value(field, number)) == repr(value) or field.unique
    if field.unique:
        assert len(set(map(repr, seen))) == len(numbers)


@pytest.mark.parametrize(
    "pattern",
    [
        r"\d{4}-[A-F0-9]+",
        r"^x(?:ab|c)*$",
        r"[\w.-]{2,3}",
        r"(?P<y>a)|b",
        r"[]a]",
        r"a??",
        r"\+\.\$",
    ],
)
@given(st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_a_text_of_a_pattern_matches_it(pattern: str, source: Any) -> None:
    assert re.fullmatch(pattern, matching(pattern, source))


@pytest.mark.parametrize(
    "pattern", [r"(?=a)b", r"\p{L}", r"(a)\1", r"[a&&b]", r"(", r"a{x}", r"*a", r"a)"]
)
def test_an_unknown_pattern_is_said_to_be_one(pattern: str) -> None:
    with pytest.raises(UnknownPattern):
        matching(pattern, random.Random(0))


# -- records ----------------------------------------------------------------------------------------


class Writer(models.BaseModel):
    _name = "testing.factories.writer"
    name = String(required=True)
    email = fields.Email(required=True, unique=True)
    code = String(required=True, unique=True, pattern=r"[A-Z]{2}\d{3}")
    street = Embedded(Street, required=True)
    joined = fields.Date(required=True, default=datetime.date(2024, 1, 1))
    note = String()


class Post(models.BaseModel):
    _name = "testing.factories.post"
    title = String(required=True)
    number = Sequence("P-{number}")
    writer_id = Many2one(Writer, required=True)
    about = Reference(Writer, required=True)
    made = fields.DateTime(auto_now_add=True, required=True)


class Chapter(models.BaseModel):
    _name = "testing.factories.chapter"
    _inherits = {"testing.factories.post": "post_id"}
    post_id = Many2one(Post, required=True)
    page = Int(required=True, min_value=1)


class Own(models.BaseModel):
    _name = "testing.factories.own"
    _id = String()
    words = Int(required=True)

    @constrains("words")
    def few(self) -> None:
        if self.words == 13:
            raise ValueError("not thirteen")


class Ring(models.BaseModel):
    _name = "testing.factories.ring"
    next_id = Many2one("testing.factories.ring", required=True)


@pytest.fixture(autouse=True)
async def app() -> AsyncIterator[earnorm.App]:
    async with app_with() as started:
        yield started


async def test_a_record_has_what_it_must_have_and_what_is_given() -> None:
    ann = await make(Writer, name="Ann")
    assert (ann.name, ann.email, ann.note) == ("Ann", "email1@example.org", None)
    assert re.fullmatch(r"[A-Z]{2}\d{3}", ann.code)
    assert ann.street.number == 101 or ann.street.number >= 100
    assert ann.joined == datetime.date(2024, 1, 1)
    assert await Writer.count() == 1


async def test_required_links_are_made_along() -> None:
    post = await make(Post)
    assert (await post.writer_id).email
    assert (await post.about).is_stored
    assert post.number == "P-1" and post.made is not None
    assert await Writer.count() == 2
    writer = await make(Writer)
    posts = await Factory(Post, writer_id=writer, about=writer).create(3, title="T")
    assert isinstance(posts, RecordSet) and len(posts) == 3
    assert {post.title for post in posts} == {"T"}
    assert await Writer.count() == 3


async def test_defaults_are_values_functions_of_the_number_and_factories() -> None:
    writers = Factory(Writer, name=lambda number: f"Writer {number}")
    posts = Factory(Post, writer_id=writers, about=Factory(Writer, name="Bo"))
    post = await posts.create()
    assert (await post.writer_id).name.startswith("Writer ")
    assert (await post.about).name == "Bo"
    assert repr(posts) == "<Factory of testing.factories.post>"


async def test_a_variant_has_the_defaults_of_its_factory_and_its_own() -> None:
    posts = Factory(Post, title="T", writer_id=Factory(Writer, name="Bo"))
    drafts = posts.variant(title=lambda number: f"Draft {number}")
    draft = await drafts.create()
    assert draft.title == "Draft 1" and (await draft.writer_id).name == "Bo"
    assert (await posts.create()).title == "T"
    assert (await drafts.create()).title == "Draft 3"


async def test_what_is_delegated_goes_into_the_record_that_is_made() -> None:
    chapter = await make(Chapter, title="One", page=3)
    assert chapter.title == "One"
    assert (await chapter.post_id).title == "One"


async def test_own_ids_are_made_and_a_refused_record_says_what_was_made() -> None:
    one, other = await Factory(Own).create(2)
    assert one.id != other.id
    with pytest.raises(ValidationError, match="not thirteen") as refused:
        await make(Own, words=13)
    assert refused.value.__notes__ == ["made by the factory of Own: _id"]


async def test_the_same_seed_gives_the_same_records() -> None:
    first = [writer.to_dict() for writer in await Factory(Writer, seed=5).create(3)]
    async with app_with():
        again = [writer.to_dict() for writer in await Factory(Writer, seed=5).create(3)]
    assert [{**d, "id": ""} for d in first] == [{**d, "id": ""} for d in again]
    async with app_with():
        other = [writer.to_dict() for writer in await Factory(Writer, seed=6).create(3)]
    assert [d["code"] for d in other] != [d["code"] for d in first]


async def test_two_factories_of_one_app_do_not_collide() -> None:
    await Factory(Writer).create(2)
    await Factory(Writer, name="Bo").create(2)
    await make(Writer)
    assert await Writer.count() == 5


async def test_built_records_are_not_stored() -> None:
    writer = Factory(Writer).build(name="Ann")
    assert writer.name == "Ann" and writer.email and not writer.is_stored
    await writer.save()
    with pytest.raises(
        ConfigurationError, match=r"build\(\) makes no other records: give Post\.writer_id"
    ):
        Factory(Post).build()


async def test_a_link_that_never_ends_and_one_to_any_model_are_to_be_given() -> None:
    with pytest.raises(ConfigurationError, match=r"leads back to testing\.factories\.ring: give"):
        await make(Ring)

    class Pin(models.BaseModel):
        _name = "testing.factories.pin"
        on = Reference(required=True)

    with pytest.raises(ConfigurationError, match=r"make\(Pin, on=\.\.\.\)"):
        await make(Pin)


async def test_a_value_that_cannot_be_found_is_to_be_given() -> None:
    class Even(models.BaseModel):
        _name = "testing.factories.even"
        code = String(required=True, pattern=r"\p{L}+")

    told = r"no valid value was found for Even\.code \(String\): give it, as in make\(Even, code=\.\.\.\)"
    with pytest.raises(ConfigurationError, match=told):
        await make(Even)
    assert (await make(Even, code="é")).code == "é"


@pytest.mark.parametrize("number", [1, 2, 500])
def test_bounds_at_the_end_of_a_kind_leave_a_value(number: int) -> None:
    for field in (Int(min_value=2**63 - 1), Int(max_value=-(2**63)), Int(min_value=7, max_value=7)):
        field.__set_name__(Street, "edge")
        assert Samples().value(field, number) in (2**63 - 1, -(2**63), 7)


def test_uuids_and_amounts_are_drawn_by_the_number() -> None:
    field = fields.UUID()
    field.__set_name__(Street, "key")
    assert isinstance(Samples().value(field, 1), uuid.UUID)
    assert Samples().value(field, 1) != Samples(seed=1).value(field, 1)
    price = fields.Money(currency="EUR", min_value=decimal.Decimal("9.99"))
    price.__set_name__(Street, "price")
    assert str(Samples().value(price, 2)) == "10.99 EUR"
