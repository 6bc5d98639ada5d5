"""Bodies that are declared as classes: their types, what a request and a response hold, FastAPI."""

from __future__ import annotations

import datetime
import decimal
import json
import os
import re
import subprocess
import sys
from typing import Annotated, Any, Literal

import pydantic
import pytest
from pydantic.alias_generators import to_camel

from earnorm import (
    App,
    BaseModel,
    Body,
    DateTime,
    Decimal,
    Dict,
    Email,
    Embedded,
    EmbeddedModel,
    FieldNotLoaded,
    Int,
    IPAddress,
    Json,
    List,
    Many2many,
    Many2one,
    One2many,
    Selection,
    String,
    ValidationError,
    depends,
)
from earnorm.fields.base import N

State = Literal["new", "open", "done"]


class Pin(String[N]):
    secret = True


class Place(EmbeddedModel):
    city = String(required=True, max_length=20)
    zip = String()


class Tag(BaseModel):
    _name = "core.bodies_tag"
    name = String(required=True)


class Team(BaseModel):
    _name = "core.bodies_team"
    name = String(required=True, max_length=10)
    ticket_ids = One2many("core.bodies_ticket", "team_id")


class Ticket(BaseModel):
    """A request for help."""

    _name = "core.bodies_ticket"

    title = String(required=True, min_length=2, max_length=20, help="In one line.")
    body = String(max_length=100)
    state = Selection(["new", "open", "done"], required=True, default="new")
    number = Int(min_value=1)
    email = Email(required=True)
    fee = Decimal(min_value=0)
    labels = List(String(max_length=5), max_length=2)
    scores = Dict(Int())
    place = Embedded(Place)
    places = List(Embedded(Place), max_length=1)
    more = Json()
    address = IPAddress()
    team_id = Many2one(Team)
    tag_ids = Many2many(Tag)
    pin = Pin()
    made = DateTime(auto_now_add=True)
    size = Int(compute="_size")

    @depends("title")
    def _size(self) -> int:
        return len(self.title)


class TicketIn(Body, of=Ticket, exclude={"id", "made", "tag_ids"}):
    title: str
    fee: decimal.Decimal | None
    labels: list[str] = []


class TicketPatch(Body, of=Ticket, exclude={"id", "made"}, partial=True):
    title: str | None = None
    body: str | None = None


class TeamOut(Body, of=Team):
    id: str
    name: str


class PlaceOut(Body, of=Place):
    city: str


class TagOut(Body, of=Tag):
    name: str


class TicketOut(Body, of=Ticket):
    id: str
    title: str
    size: int
    team_id: TeamOut | None
    tag_ids: list[TagOut]
    place: PlaceOut | None
    places: list[PlaceOut] | None


SENT: dict[str, Any] = {"title": "Rain", "email": "ann@example.com"}


def test_the_fields_are_the_models_in_its_order_and_named_ones_have_their_types() -> None:
    names = list(TicketIn.model_fields)
    assert names == [
        *("title", "body", "state", "number", "email", "fee", "labels", "scores", "place"),
        *("places", "more", "address", "team_id"),
    ]
    body = TicketIn.model_validate({**SENT, "fee": "1.50", "labels": ["a"], "number": 3})
    assert (body.title, body.fee, body.labels) == ("Rain", decimal.Decimal("1.50"), ["a"])
    assert (body.number, body.state, body.team_id) == (3, "new", None)
    assert "size" in TicketOut.model_fields and "size" not in TicketIn.model_fields


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("title", "R"),
        ("title", "R" * 21),
        ("title", None),
        ("title", 5),
        ("body", "x" * 101),
        ("state", "lost"),
        ("state", None),
        ("number", 0),
        ("email", "no"),
        ("fee", "-1"),
        ("labels", ["longer"]),
        ("labels", ["a", "b", "c"]),
        ("place", {"city": "x" * 21}),
        ("places", [{"city": "a"}, {"city": "b"}]),
        ("address", "nowhere"),
    ],
)
def test_the_bounds_of_the_model_hold_named_or_not(name: str, value: Any) -> None:
    for body in (TicketIn, TicketPatch):
        with pytest.raises(pydantic.ValidationError) as caught:
            body.model_validate({**SENT, name: value})
        assert {problem["loc"][0] for problem in caught.value.errors()} == {name}


def test_a_field_has_to_be_given_unless_its_type_has_none_or_the_model_a_default() -> None:
    class Asking(Body, of=Ticket, include=["title", "body", "state", "number"]):
        body: str
        state: State
        number: int | None

    assert {n for n, f in Asking.model_fields.items() if f.is_required()} == {"title", "body"}
    asked: Asking = Asking.model_validate({"title": "Rain", "body": "x"})
    assert (asked.state, asked.number) == ("new", None)
    with pytest.raises(pydantic.ValidationError):
        Asking.model_validate({"title": "Rain", "body": None})


def test_a_partial_body_tells_what_was_sent_and_refuses_none_where_a_value_is_required() -> None:
    assert TicketPatch.model_validate({}).to_values() == {}
    assert TicketPatch.model_validate({"body": None}).to_values() == {"body": None}
    assert TicketPatch.model_validate({"number": 2}).to_values() == {"number": 2}
    for name in ("title", "email", "state"):
        with pytest.raises(pydantic.ValidationError):
            TicketPatch.model_validate({name: None})

    class Closing(Body, of=Ticket, include={"state", "body", "number"}, partial={"body"}):
        state: State

    required = {n for n, f in Closing.model_fields.items() if f.is_required()}
    assert required == set() and Closing.model_validate({}).state == "new"


@pytest.mark.parametrize("field", ["title", "state", "number"])
def test_a_field_of_a_partial_body_has_none_in_its_type_or_a_default(field: str) -> None:
    kind = {"title": "str", "state": "Literal['new', 'open', 'done']", "number": "int"}[field]
    written = re.escape(f"{field}: {kind} | None = None")
    types: dict[str, Any] = {"title": str, "state": State, "number": int}

    def declare(base: type[Body], options: dict[str, Any], value: Any = ...) -> type[Body]:
        body = {"__module__": __name__, "__annotations__": {field: types[field]}}
        return type(Body)(
            "Named", (base,), body | ({} if value is ... else {field: value}), **options
        )

    class Patch(Body, of=Ticket, partial=True):
        pass

    partial: tuple[bool | set[str], ...] = (True, {field})
    for base, options in [(Body, {"of": Ticket, "partial": p}) for p in partial] + [(Patch, {})]:
        for value in (..., pydantic.Field(description="x")):
            with pytest.raises(TypeError, match=f"Named.{field}: .*'{written}'"):
                declare(base, options, value)
    assert declare(Body, {"of": Ticket, "partial": {"body"}}).model_fields[field]

    types[field] = types[field] | None
    for base, options in ((Body, {"of": Ticket, "partial": True}), (Patch, {})):
        patch = declare(base, options, None)
        left_out = patch.model_validate({"body": "x"})
        assert left_out.to_values() == {"body": "x"} and getattr(left_out, field) is None
        assert not patch.model_fields[field].is_required()
        if field != "number":
            with pytest.raises(pydantic.ValidationError):
                patch.model_validate({field: None})


def test_a_default_of_a_partial_body_is_read_and_not_sent() -> None:
    class Opening(Body, of=Ticket, partial=True):
        state: State = "open"

    left_out = Opening.model_validate({"number": 1})
    assert (left_out.state, left_out.to_values()) == ("open", {"number": 1})


async def test_values_make_and_change_records_and_leave_out_what_nobody_writes(app: App) -> None:
    class Whole(Body, of=Ticket):
        password: str = pydantic.Field(default="x")
        state: State = "open"

    body = Whole.model_validate({**SENT, "id": "0" * 24, "made": "2024-05-01T00:00:00Z"})
    assert body.to_values() == {**SENT, "state": "open"}
    made = await Ticket.create(body.to_values())
    assert made.id != "0" * 24 and made.state == "open"
    await made.write(TicketPatch.model_validate({"title": "Snow", "fee": "2.50"}).to_values())
    read = await Ticket.get(made.id)
    assert (read.title, read.fee, read.state) == ("Snow", decimal.Decimal("2.50"), "open")


async def test_new_records_of_a_relation_are_bodies_inside(app: App) -> None:
    class TicketInTeam(Body, of=Ticket, include=["title", "email", "place"], extra="forbid"):
        place: PlaceOut

    class TeamIn(Body, of=Team, extra="forbid"):
        name: str
        ticket_ids: list[TicketInTeam]

    inside = {**SENT, "place": {"city": "Huế"}}
    body = TeamIn.model_validate({"name": "Rowers", "ticket_ids": [inside]})
    assert body.ticket_ids[0].place.city == "Huế"
    team = await Team.create(body.to_values())
    (ticket,) = await Ticket.search([("team_id", "=", team.id)])
    assert ticket.title == "Rain" and ticket.place is not None and ticket.place.city == "Huế"
    with pytest.raises(pydantic.ValidationError, match="Extra inputs"):
        TeamIn.model_validate({"name": "x", "ticket_ids": [{**inside, "state": "done"}]})


async def test_a_response_nests_the_records_that_are_loaded(app: App) -> None:
    team = await Team.create({"name": "Rowers"})
    tag = await Tag.create({"name": "wet"})
    values = {**SENT, "team_id": team, "tag_ids": [tag], "place": {"city": "Huế"}}
    made = await Ticket.create({**values, "places": [{"city": "Hanoi"}], "pin": "1234"})
    (read,) = await Ticket.search().prefetch("team_id", "tag_ids")
    out = TicketOut.model_validate(read)
    assert out.team_id is not None and (out.team_id.id, out.team_id.name) == (team.id, "Rowers")
    assert [each.name for each in out.tag_ids] == ["wet"] and out.size == 4
    assert out.place is not None and out.place.city == "Huế"
    shown = json.loads(out.model_dump_json())
    assert shown["team_id"] == {"id": team.id, "name": "Rowers"}
    assert shown["tag_ids"] == [{"id": tag.id, "name": "wet"}]
    assert shown["place"] == {"city": "Huế", "zip": None} and shown["places"] == [
        shown["place"] | {"city": "Hanoi"}
    ]
    assert "pin" not in shown and shown["id"] == made.id
    (bare,) = await Ticket.search()
    with pytest.raises(FieldNotLoaded, match="prefetch"):
        TicketOut.model_validate(bare)
    for dump in (out.model_dump(), repr(out)):
        assert "1234" not in str(dump)


def test_a_wrong_type_is_one_error_that_says_what_the_model_has() -> None:
    wrong: list[tuple[Any, str, str]] = [
        (int, "title", "Wrong.title: int does not fit Ticket.title: it is str"),
        (str, "number", "Wrong.number: str does not fit Ticket.number: it is int"),
        (float, "fee", "Wrong.fee: float does not fit Ticket.fee: it is Decimal"),
        (
            list[int],
            "labels",
            r"Wrong.labels: list\[int\] does not fit Ticket.labels: it is list\[str\]",
        ),
        (list, "labels", r"Wrong.labels: list does not fit Ticket.labels: it is list\[str\]"),
        (dict[str, str], "scores", r"Wrong.scores: dict\[str, str\] .*: it is dict\[str, int\]"),
        (Literal["new", "lost"], "state", "'lost' is no value of Literal"),
        (Literal["much too long a title"], "title", "'much too long a title' is no value of str"),
        (str | None, "title", "Ticket.title is required, and so its type is without None"),
        (TeamOut, "tag_ids", "TeamOut is a body of Team, and not of 'core.bodies_tag'"),
        (TagOut, "tag_ids", r"it is list\[TagOut\]"),
        (list[TeamOut], "team_id", "it is TeamOut"),
        (PlaceOut, "title", "PlaceOut does not fit Ticket.title: it is str"),
        (TagOut, "place", "TagOut does not fit Ticket.place: it is Place"),
        (int, "id", "Wrong.id: int does not fit Ticket.id: it is str"),
        (datetime.date, "made", "it is datetime"),
    ]
    for kind, name, message in wrong:
        with pytest.raises(TypeError, match=message):
            type(Body)("Wrong", (Body,), _class_body(**{name: kind}), of=Ticket)


def _class_body(**annotations: Any) -> dict[str, Any]:
    return {"__module__": __name__, "__qualname__": "Wrong", "__annotations__": annotations}


def test_an_unknown_name_is_one_error_with_the_nearest() -> None:
    with pytest.raises(
        TypeError, match=r"Wrong.titel: Ticket has no such field; did you mean 'title'\?"
    ):

        class Wrong(Body, of=Ticket):
            titel: str

    for option in ("include", "exclude", "partial"):
        with pytest.raises(ValidationError, match="did you mean 'title'"):
            type(Body)("Wrong", (Body,), _class_body(), of=Ticket, **{option: {"titel"}})


def test_contradictions_of_a_declaration_are_refused() -> None:
    with pytest.raises(TypeError, match="named and excluded"):

        class Wrong(Body, of=Ticket, exclude={"title"}):
            title: str

    with pytest.raises(TypeError, match=r"Narrow.state: it is named, and include= is without it"):

        class Narrow(Body, of=Ticket, include={"title"}):
            state: str

    with pytest.raises(TypeError, match=r"Nothing.size: it is named, and include= is without it"):

        class Nothing(Body, of=Ticket, include=()):
            size: int

    with pytest.raises(TypeError, match="go with of="):

        class WithoutModel(Body, exclude={"title"}):
            pass

    with pytest.raises(TypeError, match="inherits from no other that has it"):

        class Other(TicketIn, of=Team):
            pass

    with pytest.raises(TypeError, match="takes a model, not 'ticket'"):

        class OfText(Body, of="ticket"):  # type: ignore[arg-type] # a mistake
            pass

    with pytest.raises(TypeError, match="unknown option 'execlude'; did you mean 'exclude'"):

        class Misspelt(Body, of=Ticket, execlude={"title"}):  # type: ignore[call-arg] # a mistake
            pass

    with pytest.raises(TypeError, match="'Later' is not defined; define it before the body"):

        class TooEarly(Body, of=Ticket):
            team_id: Later | None  # type: ignore[name-defined] # noqa: F821 # a mistake

    with pytest.raises(TypeError, match="the default 'lost' is not valid"):

        class BadDefault(Body, of=Ticket):
            state: str = "lost"


def test_narrower_types_keep_the_bounds_of_the_model_and_their_own() -> None:
    class Settings(pydantic.BaseModel):
        dark: bool

    class Narrow(Body, of=Ticket):
        title: Annotated[str, pydantic.Field(max_length=200, pattern="^R")]
        state: Literal["new", "open"]
        body: str = pydantic.Field(max_length=3, description="A few letters.")
        number: Annotated[int, pydantic.Field(ge=-5, description="Of the month.")]
        labels: list[Literal["a", "b"]]
        more: Settings | None
        email: Any

    given = {**SENT, "body": "abc", "number": 1, "labels": ["a"], "more": {"dark": True}}
    made = Narrow.model_validate(given)
    assert made.more is not None and made.more.dark and made.state == "new"
    assert made.to_values()["more"] == {"dark": True}
    assert json.loads(made.model_dump_json())["more"] == {"dark": True}
    for name, value in {
        "title": "R" * 21,
        "state": "done",
        "body": "abcd",
        "number": 0,
        "labels": ["c"],
        "more": {"dark": "blue"},
        "email": "no",
    }.items():
        with pytest.raises(pydantic.ValidationError) as caught:
            Narrow.model_validate({**given, name: value})
        assert {problem["loc"][0] for problem in caught.value.errors()} == {name}
    with pytest.raises(pydantic.ValidationError):
        Narrow.model_validate({**given, "title": "Sun"})
    with pytest.raises(pydantic.ValidationError):
        Narrow.model_validate({**given, "labels": ["a", "b", "a"]})
    shown = Narrow.model_json_schema()["properties"]
    assert shown["body"]["maxLength"] == 3 and shown["body"]["description"] == "A few letters."
    assert shown["number"]["description"] == "Of the month." and shown["title"]["pattern"] == "^R"
    assert shown["title"]["description"] == "In one line." and shown["title"]["title"] == "Title"


def test_unknown_keys_are_refused_at_every_depth_where_a_body_forbids_them() -> None:
    class Strict(Body, of=Ticket, extra="forbid"):
        title: str

    for wrong in (
        {"admin": 1},
        {"place": {"city": "a", "x": 1}},
        {"places": [{"city": "a", "x": 1}]},
    ):
        TicketIn.model_validate({**SENT, **wrong})
        with pytest.raises(pydantic.ValidationError, match="Extra inputs are not permitted"):
            Strict.model_validate({**SENT, **wrong})
    assert Strict.model_json_schema()["additionalProperties"] is False
    assert Strict.model_json_schema()["$defs"]["Place"]["additionalProperties"] is False
    Ticket.pydantic_model().model_validate({**SENT, "place": {"city": "a", "x": 1}})


def test_a_base_of_ones_own_has_settings_and_fields_and_a_subclass_more_fields() -> None:
    class Api(Body, extra="forbid", alias_generator=to_camel):
        title: str
        trace: str = ""

    class In(Api, of=Ticket, include=["title", "team_id"]):
        """What the page sends."""

    assert In.model_validate({"title": "Rain", "teamId": "0" * 24}).team_id == "0" * 24
    with pytest.raises(pydantic.ValidationError):
        In.model_validate({"title": "R"})
    record = Ticket(title="Rain", email="a@b.cd")
    assert In.model_validate(record).title == "Rain"

    class More(In):
        number: int | None

    assert More.model_validate({"title": "Rain", "number": 2}).to_values() == {
        "title": "Rain",
        "number": 2,
    }
    with pytest.raises(pydantic.ValidationError):
        More.model_validate({"title": "Rain", "number": 0})
    with pytest.raises(TypeError, match="is made of no model"):
        Api.model_validate({"title": "x"}).to_values()
    with pytest.raises(TypeError, match=r"str does not fit Ticket\.number"):

        class Wrong(In):
            number: str


def test_a_validator_of_a_body_may_be_of_a_field_that_it_does_not_name() -> None:
    class Checked(Body, of=Ticket):
        @pydantic.field_validator("number")
        @classmethod
        def even(cls, value: int | None) -> int | None:
            if value is not None and value % 2:
                raise ValueError("it is odd")
            return value

    with pytest.raises(pydantic.ValidationError, match="it is odd"):
        Checked.model_validate({**SENT, "number": 3})


def test_a_tree_is_a_body_in_itself() -> None:
    class CoreBodiesNode(BaseModel):
        _name = "core.bodies_node"
        name = String(required=True)
        parent_id = Many2one(lambda: CoreBodiesNode)
        child_ids = One2many(lambda: CoreBodiesNode, "parent_id")

    class NodeIn(Body, of=CoreBodiesNode, include=["name", "child_ids"]):
        name: str
        child_ids: list[NodeIn] = []

    body = NodeIn.model_validate({"name": "a", "child_ids": [{"name": "b"}]})
    assert body.child_ids[0].name == "b"
    assert body.to_values() == {"name": "a", "child_ids": [{"name": "b", "child_ids": []}]}


def test_a_secret_field_is_taken_and_not_shown() -> None:
    class WithPin(Body, of=Ticket, include=["title", "pin"]):
        pin: str

    body = WithPin.model_validate({"title": "Rain", "pin": "1234"})
    assert body.pin == "1234" and body.to_values()["pin"] == "1234"
    assert "1234" not in repr(body) and "1234" not in body.model_dump_json()
    assert WithPin.model_json_schema()["properties"]["pin"]["writeOnly"] is True


ORDER = """if True:
    from earnorm import BaseModel, Body, Int, String
    class Wide(BaseModel):
        b = Int(); a = Int(); d = String(); c = String()
    class Some(Body, of=Wide, include={"a", "b", "c", "d"}, partial={"c", "d"}):
        c: str | None = None
    print(*Wide.pydantic_model(include={"c", "d", "a", "b"}).model_fields, *Some.model_fields)
    try:
        Wide.pydantic_model(exclude={"x", "y", "z"})
    except ValueError as error:
        print(error)
"""


def test_the_order_of_fields_does_not_change_with_the_hash_seed() -> None:
    said = {
        subprocess.run(
            [sys.executable, "-c", ORDER],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(4)
    }
    assert len(said) == 1
    assert said.pop().startswith("b a d c b a d c")
    listed = Ticket.pydantic_model(include=["number", "title"])
    assert list(listed.model_fields) == ["number", "title"]


async def test_fastapi_takes_and_gives_bodies(app: App) -> None:
    from fastapi import FastAPI, HTTPException
    from httpx import ASGITransport, AsyncClient

    api = FastAPI()

    @api.post("/tickets", response_model=TicketOut, status_code=201)
    async def create(body: TicketIn) -> Any:
        with app.activate():
            made = await Ticket.create(body.to_values())
            return (await Ticket.search([("id", "=", made.id)]).prefetch("team_id", "tag_ids"))[0]

    @api.patch("/tickets/{id}", response_model=TicketOut)
    async def change(id: str, body: TicketPatch) -> Any:
        with app.activate():
            found = await Ticket.search([("id", "=", id)]).prefetch("team_id", "tag_ids")
            if not found.exists():
                raise HTTPException(404)
            await found[0].write(body.to_values())
            return found[0]

    client = AsyncClient(transport=ASGITransport(api), base_url="http://test")
    made = await client.post("/tickets", json={**SENT, "fee": "1.50", "place": {"city": "Huế"}})
    assert made.status_code == 201, made.text
    assert (made.json()["fee"], made.json()["place"]["city"]) == ("1.50", "Huế")
    refused = await client.post("/tickets", json={**SENT, "title": "R"})
    assert refused.status_code == 422 and refused.json()["detail"][0]["loc"] == ["body", "title"]
    url = f"/tickets/{made.json()['id']}"
    changed = await client.patch(url, json={"body": "Much of it."})
    assert (changed.json()["body"], changed.json()["title"]) == ("Much of it.", "Rain")
    assert (await client.patch(url, json={"title": None})).status_code == 422
    assert (await client.patch(url, json={"body": None})).json()["body"] is None

    page = (await client.get("/openapi.json")).json()
    schemas = page["components"]["schemas"]
    asked = schemas["TicketIn"]
    assert asked["required"] == ["title", "email"] and next(iter(asked["properties"])) == "title"
    assert asked["properties"]["title"] == {
        "type": "string",
        "minLength": 2,
        "maxLength": 20,
        "title": "Title",
        "description": "In one line.",
    }
    assert asked["properties"]["state"]["enum"] == ["new", "open", "done"]
    patch = schemas["TicketPatch"]
    assert "required" not in patch and patch["properties"]["title"]["type"] == "string"
    assert not [name for name, shown in patch["properties"].items() if "default" in shown]
    answer = schemas["TicketOut"]["properties"]
    assert answer["tag_ids"]["items"] == {"$ref": "#/components/schemas/TagOut"}
    assert answer["id"]["readOnly"] is True and answer["size"]["type"] == "integer"
