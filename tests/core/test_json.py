"""Records as dicts and as JSON: the form of every kind of value, relations to a chosen depth, and no hidden I/O."""

from __future__ import annotations

import base64
import datetime
import decimal
import enum
import json
import uuid
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from earnorm import (
    UUID,
    App,
    BaseModel,
    Binary,
    Boolean,
    Date,
    DateTime,
    Decimal,
    Dict,
    Embedded,
    Field,
    FieldNotLoaded,
    Float,
    Int,
    Json,
    List,
    ObjectIdField,
    RecordSet,
    String,
    ValidationError,
)
from earnorm.fields.base import N
from earnorm.fields.json_forms import json_form
from earnorm.model.reading.fetch import Fetch
from earnorm.testing import assert_queries

from .shop import Address, Author, Comment, Country, Person, Post

OID, ID = ObjectId(), uuid.uuid4()


class Document(BaseModel):
    _name = "core.json_document"

    text = String()
    number = Int()
    share = Float()
    price = Decimal()
    sure = Boolean()
    day = Date()
    at = DateTime()
    token = UUID()
    blob = Binary()
    other = ObjectIdField()
    free = Json()
    prices = Dict(Decimal())
    days = List(Date())
    address = Embedded(Address, db_name="addr")
    addresses = List(Embedded(Address))
    renamed = String(db_name="other_name")


VALUES: dict[str, tuple[Any, Any]] = {
    "text": ("Huế", "Huế"),
    "number": (2**60, 2**60),
    "share": (0.5, 0.5),
    "price": (decimal.Decimal("1.50"), "1.50"),
    "sure": (True, True),
    "day": (datetime.date(2024, 5, 1), "2024-05-01"),
    "at": (datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC), "2024-05-01T12:00:00Z"),
    "token": (ID, str(ID)),
    "blob": (b"\xff\x00?", base64.b64encode(b"\xff\x00?").decode()),
    "other": (OID, str(OID)),
    "free": ({"a": [1, None, {"b": "c"}]}, {"a": [1, None, {"b": "c"}]}),
    "prices": ({"a": decimal.Decimal("2.5")}, {"a": "2.5"}),
    "days": ([datetime.date(2024, 5, 1)], ["2024-05-01"]),
    "address": ({"city": "Huế"}, {"city": "Huế", "street": None}),
    "addresses": ([{"city": "Huế"}], [{"city": "Huế", "street": None}]),
    "renamed": ("x", "x"),
}


async def test_every_kind_of_value_has_its_json_form_saved_or_read_back(app: App) -> None:
    made = await Document.create({name: given for name, (given, _) in VALUES.items()})
    expected = {"id": made.id, **{name: form for name, (_, form) in VALUES.items()}}
    read = await Document.get(made.id)
    for record in (made, read):
        assert json.loads(record.to_json()) == expected
    assert not read.is_changed
    assert json.loads((await Document.search()).to_json()) == [expected]


async def test_writing_a_record_down_keeps_no_copies_for_save(memory_app: App) -> None:
    made = await Document.create({"days": [datetime.date(2024, 5, 1)], "free": [1]})
    read = await Document.get(made.id)
    found = read.to_dict()
    found["free"].append(2)
    read.to_json()
    assert read.free == [1] and not read.is_changed and found["free"] == [1, 2]


async def test_what_json_has_not_is_null(memory_app: App) -> None:
    record = Document(share=float("nan"), free=[float("inf")])
    found = json.loads(record.to_json())
    assert found["share"] is None and found["free"] == [None] and found["id"] is None


async def test_a_relation_is_an_id_and_at_a_depth_an_object_where_it_is_loaded(app: App) -> None:
    vn = await Country.create({"name": "VN"})
    ann = await Author.create({"name": "Ann", "country_id": vn})
    post = await Post.create({"title": "t", "author_id": ann})
    (read,) = await Post.search()
    assert read.to_dict() == {"id": post.id, "title": "t", "author_id": ann.id}
    assert read.to_dict(depth=5) == read.to_dict()  # a ghost stays an id
    (read,) = await Post.search().prefetch("author_id.country_id")
    assert read.to_dict()["author_id"] == ann.id
    assert read.to_dict(depth=1)["author_id"] == {
        "id": ann.id,
        "name": "Ann",
        "country_id": vn.id,
    }
    assert json.loads(read.to_json(depth=2))["author_id"]["country_id"] == {
        "id": vn.id,
        "name": "VN",
    }


async def test_a_cycle_ends_at_the_record_that_it_began_with(app: App) -> None:
    ann = await Author.create({"name": "Ann"})
    posts = await Post.create([{"title": t, "author_id": ann} for t in "ab"])
    await Comment.create({"text": "c", "post_id": posts[0]})
    found = (await Author.search().prefetch("post_ids.comment_ids"))[0].to_dict(depth=99)
    assert [p["title"] for p in found["post_ids"]] == ["a", "b"]
    assert {p["author_id"] for p in found["post_ids"]} == {ann.id}
    assert found["post_ids"][0]["comment_ids"][0]["post_id"] == posts[0].id


async def test_serialising_asks_nothing_of_the_database(app: App) -> None:
    ann = await Author.create({"name": "Ann"})
    await Post.create({"title": "t", "author_id": ann})
    posts = await Post.search()
    with assert_queries(0):
        posts.to_json(depth=3)
        posts.to_dict(depth=3)
    assert "post_ids" not in (await Author.search())[0].to_dict(depth=1)


async def test_fields_are_chosen_by_include_and_exclude(memory_app: App) -> None:
    ann = await Person.create({"name": "Ann", "age": 30})
    assert ann.to_dict(include=["name", "age"]) == {"name": "Ann", "age": 30}
    assert list(ann.to_dict(include=("id", "name"), exclude=["name"])) == ["id"]
    assert "age" not in json.loads(ann.to_json(exclude=["age"]))
    people = RecordSet(Person, [ann, ann])
    assert people.to_dict(include=iter(["name"])) == [{"name": "Ann"}] * 2
    for option in ("include", "exclude"):
        with pytest.raises(ValidationError, match="'nam'; did you mean 'name'"):
            ann.to_dict(**{option: ["nam"]})  # type: ignore[arg-type] # one of two keywords


async def test_a_field_that_was_not_fetched_is_left_out_or_an_error_where_it_is_named(
    app: App,
) -> None:
    await Person.create({"name": "Ann", "age": 30})
    (read,) = await Person.search().only("name")
    assert set(read.to_dict()) == {"id", "name"}
    with pytest.raises(FieldNotLoaded, match="age"):
        read.to_dict(include=["age"])


async def test_leaving_out_what_was_not_fetched_makes_no_errors(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    await Person.create({"name": "Ann", "age": 30})
    (read,) = await Person.search().only("name")
    monkeypatch.delattr(Fetch, "how_to_load")  # the message of the error
    assert set(read.to_dict()) == {"id", "name"} == set(json.loads(read.to_json()))


async def test_a_field_of_ones_own_says_its_json_form(memory_app: App) -> None:
    class Secret(Field[str, N]):
        python_type = str

        def to_json(self, value: Any) -> Any:
            return "***"

    class CoreSecret(BaseModel):
        _name = "core.json_secret"
        word = Secret()
        words = List(Secret())

    record = CoreSecret(word="a", words=["a", "b"])
    found = json.loads(record.to_json())
    assert (found["word"], found["words"]) == ("***", ["***", "***"])
    assert record.to_dict()["word"] == "a"


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


def test_json_forms_go_by_type_and_by_base_type() -> None:
    class Text(str):
        pass

    assert json_form(Colour.RED) == "red" and type(json_form(Colour.RED)) is str
    assert json_form(Level.LOW) == 1
    assert json_form(datetime.timedelta(days=1, seconds=1)) == "P1DT1S"
    assert json_form({3, 1}) == [1, 3] and json_form((1, b"")) == [1, ""]
    assert json_form({OID: Text("x")}) == {str(OID): "x"}
    with pytest.raises(TypeError, match="object has no JSON form"):
        json_form(object())


@given(
    st.datetimes(timezones=st.sampled_from([None, datetime.UTC]) | st.timezones()).filter(
        lambda d: d.year > 1 and d.year < 9999
    )
)
def test_a_time_in_json_reads_back_as_the_same_instant(value: datetime.datetime) -> None:
    text = json_form(value)
    aware = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
    assert text.endswith("Z") and datetime.datetime.fromisoformat(text) == aware.astimezone(
        datetime.UTC
    )
