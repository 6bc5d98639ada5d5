"""Pydantic models made from fields: what a body takes and gives, records as input, FastAPI."""

from __future__ import annotations

import base64
import datetime
import decimal
import enum
import json
from typing import Annotated, Any

import pydantic
import pytest
from bson import ObjectId

from earnorm import (
    App,
    BaseModel,
    Binary,
    DateTime,
    Decimal,
    Dict,
    Duration,
    Email,
    Embedded,
    EmbeddedModel,
    Enum,
    Field,
    FieldNotLoaded,
    Int,
    IPAddress,
    Json,
    List,
    Many2one,
    Money,
    ObjectIdField,
    One2many,
    Point,
    Selection,
    Set,
    String,
    Time,
    Url,
    ValidationError,
    Vector,
)
from earnorm.fields.base import N


class Place(EmbeddedModel):
    city = String(required=True)
    zip = String(max_length=5)


class Team(BaseModel):
    _name = "core.body_team"

    name = String(required=True)
    member_ids = One2many("core.body_member", "team_id")


class Member(BaseModel):
    """Somebody who rows."""

    _name = "core.body_member"

    name = String(required=True, min_length=2, max_length=20, help="As on the passport.")
    code = String(pattern="[a-z]+")
    email = Email(required=True)
    site = Url()
    age = Int(min_value=0, max_value=150)
    level = Selection(["new", "old"], required=True, default="new")
    fee = Decimal(default=decimal.Decimal("1.50"), min_value=0)
    tags = List(String(max_length=3), default=list, max_length=2)
    scores = Dict(Int(min_value=0))
    free = Json()
    photo = Binary(max_length=4)
    other = ObjectIdField()
    joined = DateTime()
    place = Embedded(Place)
    places = List(Embedded(Place))
    team_id = Many2one(Team, string="Crew")
    json = String()


GIVEN: dict[str, Any] = {
    "name": "Ann",
    "email": "ann@example.com",
    "age": 30,
    "fee": decimal.Decimal("2.50"),
    "tags": ["a"],
    "scores": {"x": 1},
    "free": {"k": [1]},
    "photo": b"\xff\x00",
    "other": ObjectId("0" * 24),
    "joined": datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC),
    "place": {"city": "Huế"},
    "places": [{"city": "Hanoi", "zip": "1"}],
}


async def test_a_record_is_a_body_with_ids_as_text_and_embedded_objects_nested(app: App) -> None:
    team = await Team.create({"name": "Rowers"})
    made = await Member.create({**GIVEN, "team_id": team})
    Out = Member.pydantic_model()
    for record in (made, await Member.get(made.id)):
        body: Any = Out.model_validate(record)
        assert (body.id, body.team_id, body.other) == (made.id, team.id, "0" * 24)
        assert body.place.city == "Huế" and body.places[0].zip == "1"
        assert body.fee == decimal.Decimal("2.50") and body.photo == b"\xff\x00"
        assert json.loads(body.model_dump_json()) == json.loads(made.to_json())
    assert not record.is_changed


async def test_a_body_from_json_makes_a_record(app: App) -> None:
    team = await Team.create({"name": "Rowers"})
    In = Member.pydantic_model(exclude={"id"}, name="MemberIn")
    sent = {
        "name": "Ann",
        "email": "ann@example.com",
        "photo": base64.b64encode(b"abc").decode(),
        "joined": "2024-05-01T00:00:00Z",
        "fee": "3.25",
        "team_id": team.id,
        "place": {"city": "Huế"},
    }
    body = In.model_validate_json(json.dumps(sent))
    made = await Member.get((await Member.create(body.model_dump())).id)
    assert (made.photo, made.level, made.tags) == (b"abc", "new", [])
    assert made.fee == decimal.Decimal("3.25") and made.place is not None
    assert made.joined == GIVEN["joined"] and made.team_id == team


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", "A"),
        ("name", None),
        ("code", "A1"),
        ("email", "no"),
        ("site", "no"),
        ("age", -1),
        ("level", "lost"),
        ("fee", "-1"),
        ("tags", ["long"]),
        ("tags", ["a", "b", "c"]),
        ("scores", {"x": -1}),
        ("photo", "not base64!"),
        ("photo", base64.b64encode(b"12345").decode()),
        ("other", "xyz"),
        ("place", {}),
        ("places", [{"city": "Huế", "zip": "123456"}]),
        ("team_id", 1.5),
    ],
)
def test_the_constraints_of_the_fields_hold_for_the_body(name: str, value: Any) -> None:
    In = Member.pydantic_model(exclude={"id"})
    with pytest.raises(pydantic.ValidationError) as caught:
        In.model_validate({"name": "Ann", "email": "ann@example.com", name: value})
    assert {problem["loc"][0] for problem in caught.value.errors()} == {name}


def test_required_optional_and_default_are_as_in_the_fields() -> None:
    fields = Member.pydantic_model().model_fields
    assert {n for n, f in fields.items() if f.is_required()} == {"name", "email"}
    body: Any = Member.pydantic_model()(name="Ann", email="ann@example.com")
    assert (body.id, body.age, body.level, body.tags) == (None, None, "new", [])
    assert body.fee == decimal.Decimal("1.50")
    with pytest.raises(pydantic.ValidationError):
        Member.pydantic_model()(name="Ann", email="ann@example.com", level=None)


def test_an_optional_body_tells_what_was_sent() -> None:
    Patch = Member.pydantic_model(exclude=["id"], optional=True, name="MemberPatch")
    assert Patch.model_validate({"age": 3}).model_dump(exclude_unset=True) == {"age": 3}
    assert Patch.model_validate({}).model_dump(exclude_unset=True) == {}
    some = Member.pydantic_model(optional=["email"])
    assert {n for n, f in some.model_fields.items() if f.is_required()} == {"name"}


def test_a_body_is_made_once_for_the_same_arguments() -> None:
    assert Member.pydantic_model() is Member.pydantic_model()
    one = Member.pydantic_model(include=["name", "age"], optional={"name"})
    assert one is Member.pydantic_model(include=("name", "age"), optional=["name"])
    assert list(one.model_fields) == ["name", "age"]
    assert Member.pydantic_model(name="X").__name__ == "X"
    assert Member.pydantic_model().__name__ == "Member"


@pytest.mark.parametrize("option", ["include", "exclude", "optional"])
def test_an_unknown_name_is_an_error_with_the_nearest(option: str) -> None:
    with pytest.raises(ValidationError, match="did you mean 'email'"):
        Member.pydantic_model(**{option: ["emial"]})  # type: ignore[arg-type] # one of three


async def test_what_was_not_fetched_is_a_clear_error_and_no_default(app: App) -> None:
    await Member.create({**GIVEN, "age": 30})
    (read,) = await Member.search().only("name", "email")
    with pytest.raises(FieldNotLoaded, match=r"only\(...\)|refresh"):
        Member.pydantic_model().model_validate(read)
    few: Any = Member.pydantic_model(include=["id", "name"]).model_validate(read)
    assert (few.id, few.name) == (read.id, "Ann")


async def test_records_that_point_here_are_ids_where_they_are_asked_for(app: App) -> None:
    team = await Team.create({"name": "Rowers"})
    ann = await Member.create({**GIVEN, "team_id": team})
    assert "member_ids" not in Team.pydantic_model().model_fields
    Out = Team.pydantic_model(include=["name", "member_ids"])
    (read,) = await Team.search()
    with pytest.raises(FieldNotLoaded, match="prefetch"):
        Out.model_validate(read)
    (read,) = await Team.search().prefetch("member_ids")
    body: Any = Out.model_validate(read)
    assert body.member_ids == [ann.id]


def test_the_json_schema_shows_the_constraints() -> None:
    for mode in ("validation", "serialization"):
        shown = Member.json_schema(mode=mode)  # type: ignore[arg-type] # both literals
        fields = shown["properties"]
        assert shown["description"] == "Somebody who rows."
        assert {"name", "email"} <= set(shown["required"])
        assert fields["name"]["maxLength"] == 20
        assert fields["name"]["description"] == "As on the passport."
        assert fields["team_id"]["title"] == "Crew"
        assert fields["email"]["format"] == "email"
        assert fields["code"]["anyOf"][0]["pattern"] == "^(?:[a-z]+)$"
        assert fields["photo"]["anyOf"][0]["contentEncoding"] == "base64"
        assert fields["id"]["readOnly"] is True
        assert set(shown["$defs"]["Place"]["properties"]) == {"city", "zip"}


def test_a_field_of_ones_own_without_json_schema_lets_all_pass_and_is_written_by_its_form() -> None:
    class Point(Field[complex, N]):
        def annotation(self) -> Any:
            return Annotated[complex, pydantic.PlainValidator(complex)]

        def to_json(self, value: Any) -> Any:
            return [value.real, value.imag]

    class CorePoint(BaseModel):
        _name = "core.body_point"
        at = Point(required=True)
        more = List(Point())

    body: Any = CorePoint.pydantic_model().model_validate({"at": 1, "more": [2j]})
    assert json.loads(body.model_dump_json()) == {
        "id": None,
        "at": [1.0, 0.0],
        "more": [[0.0, 2.0]],
    }
    assert "at" in CorePoint.json_schema()["required"]


MemberIn: Any = Member.pydantic_model(exclude={"id"}, name="MemberIn")
MemberOut: Any = Member.pydantic_model()


async def test_what_the_clock_fills_in_is_part_of_the_answer_and_not_asked_for(app: App) -> None:
    class CoreStamped(BaseModel):
        _name = "core.body_stamped"
        name = String(required=True)
        at = DateTime(required=True, auto_now_add=True)

    body: Any = CoreStamped.pydantic_model(exclude={"id"})(name="a")
    made = await CoreStamped.create(body.model_dump())
    out: Any = CoreStamped.pydantic_model().model_validate(await CoreStamped.get(made.id))
    assert out.at is not None and out.at.tzinfo is not None
    assert CoreStamped.json_schema()["properties"]["at"]["readOnly"] is True


class Level(enum.StrEnum):
    LOW = "low"


class Rich(BaseModel):
    _name = "core.body_rich"

    level = Enum(Level)
    time = Time()
    long = Duration()
    address = IPAddress()
    price = Money(currency="EUR")
    prices = List(Money(currency="EUR"))
    at = Point()
    vector = Vector(2)
    numbers = Set(Int())


async def test_every_kind_of_value_goes_out_as_json_and_comes_back(app: App) -> None:
    made = await Rich.create(
        {
            "level": "low",
            "time": "10:00",
            "long": 60,
            "address": "::1",
            "price": 3,
            "prices": [1],
            "at": (1, 2),
            "vector": [1, 2],
            "numbers": [1, 2],
        }
    )
    Body = Rich.pydantic_model()
    read = await Rich.get(made.id)
    text = Body.model_validate(read).model_dump_json()
    assert json.loads(text) == json.loads(read.to_json())
    again = Rich.pydantic_model(exclude={"id"}).model_validate_json(text).model_dump()
    assert Rich(**again).to_dict(exclude=["id"]) == read.to_dict(exclude=["id"])


def test_fastapi_takes_and_gives_them(memory_app: App) -> None:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    api = FastAPI()

    @api.post("/members", response_model=MemberOut)
    async def create(body: MemberIn) -> Any:
        return Member(**body.model_dump())

    @api.get("/members", response_model=list[MemberOut])
    async def every() -> Any:
        return [Member(name="Ann", email="ann@example.com")]

    client = TestClient(api)
    made = client.post("/members", json={"name": "Ann", "email": "a@b.cd", "photo": "/w=="})
    assert made.status_code == 200 and made.json()["photo"] == "/w=="
    refused = client.post("/members", json={"name": "A", "email": "a@b.cd"})
    assert refused.status_code == 422 and refused.json()["detail"][0]["loc"] == ["body", "name"]
    assert client.get("/members").json()[0]["name"] == "Ann"
    names = client.get("/openapi.json").json()["components"]["schemas"]
    assert {"Member", "MemberIn"} <= set(names)
