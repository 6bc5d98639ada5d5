"""Every field: what it takes, what it refuses, how it is stored, and that what is saved is what is read back."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import math
import uuid
from typing import Any

import pytest
from bson import Decimal128, Int64, ObjectId
from hypothesis import HealthCheck, given, settings
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
    Email,
    Embedded,
    Float,
    Int,
    Json,
    List,
    ObjectIdField,
    Selection,
    String,
    Text,
    Url,
    ValidationError,
)

from .conftest import drop
from .shop import Address


class Every(BaseModel):
    _name = "core.every"

    string = String(min_length=1, max_length=5, pattern="[a-z]+", strip=True)
    text = Text()
    email = Email()
    url = Url()
    selection = Selection(["draft", "done"])
    int = Int(min_value=-5, max_value=5)
    big = Int()
    float = Float(min_value=0.5)
    any_float = Float()
    decimal = Decimal(decimal_places=2)
    boolean = Boolean()
    date = Date()
    datetime = DateTime()
    uuid = UUID()
    binary = Binary(max_length=4)
    oid = ObjectIdField()
    json = Json()
    dict = Dict(Int())
    dates = List(Date(), max_length=3)
    part = Embedded(Address)
    parts = List(Embedded(Address))


UTC = datetime.UTC
OID = ObjectId()
ID = uuid.uuid4()
NOON = datetime.datetime(
    2024, 5, 6, 12, 0, 0, 123456, tzinfo=datetime.timezone(datetime.timedelta(hours=2))
)

VALID: list[tuple[str, Any, Any, Any]] = [
    # field, given, read, stored
    ("string", " abc ", "abc", "abc"),
    ("text", "Ünï\n", "Ünï\n", "Ünï\n"),
    ("email", "a.b+c@Example.org", "a.b+c@Example.org", "a.b+c@Example.org"),
    ("url", "https://example.org/a?b=c", "https://example.org/a?b=c", "https://example.org/a?b=c"),
    ("selection", "done", "done", "done"),
    ("int", "5", 5, 5),
    ("big", 2**63 - 1, 2**63 - 1, 2**63 - 1),
    ("float", 1, 1.0, 1.0),
    ("decimal", "1.50", decimal.Decimal("1.50"), Decimal128("1.50")),
    ("boolean", True, True, True),
    ("date", "2024-05-06", datetime.date(2024, 5, 6), datetime.datetime(2024, 5, 6)),
    ("datetime", NOON, datetime.datetime(2024, 5, 6, 10, 0, 0, 123000, UTC), datetime.datetime(2024, 5, 6, 10, 0, 0, 123000)),
    ("uuid", str(ID), ID, ID),
    ("binary", b"\0\xff", b"\0\xff", b"\0\xff"),
    ("oid", str(OID), OID, OID),
    ("json", {"a": [1, None, {"b": True}]}, {"a": [1, None, {"b": True}]}, {"a": [1, None, {"b": True}]}),
    ("dict", {"a": "1"}, {"a": 1}, {"a": 1}),
    ("dates", ["2024-05-06"], [datetime.date(2024, 5, 6)], [datetime.datetime(2024, 5, 6)]),
    ("part", {"city": "Rome"}, Address(city="Rome"), None),
    ("parts", [{"city": "Rome"}], [Address(city="Rome")], None),
]  # fmt: skip

INVALID: list[tuple[str, Any]] = [
    ("string", ""), ("string", "abcdef"), ("string", "ABC"), ("string", "abc\nABC"), ("string", 3), ("text", ["x"]),
    ("email", "no"), ("email", "a@b"), ("email", "a b@example.org"), ("email", "a@example.org\n"),
    ("url", "javascript:alert(1)"), ("url", "https://"), ("url", "http://a b"), ("selection", "gone"),
    ("int", 6), ("int", 1.5), ("int", "x"), ("big", 2**63), ("float", 0.1), ("float", "x"),
    ("decimal", "1.234"), ("decimal", "x"), ("boolean", "perhaps"), ("date", "2024-13-01"), ("datetime", "x"),
    ("uuid", "x"), ("binary", b"12345"), ("binary", "text"), ("oid", "x"), ("json", {"$where": 1}),
    ("json", {"a.b": 1}), ("json", {1: 1}), ("json", object()), ("json", 2**63), ("dict", {"a": "x"}),
    ("dict", {"$a": 1}), ("dates", ["x"]), ("dates", ["2024-01-01"] * 4), ("dates", "2024-01-01"),
    ("part", {}), ("part", {"city": "x", "nope": 1}), ("parts", [3]),
]  # fmt: skip


def kind(value: Any) -> type:
    return int if type(value) is Int64 else type(value)  # the driver's, an int in everything


@pytest.mark.parametrize(("name", "given", "read", "stored"), VALID, ids=[row[0] for row in VALID])
async def test_a_valid_value_is_converted_stored_and_read_back(
    app: App, name: str, given: Any, read: Any, stored: Any
) -> None:
    record = await Every.create({name: given})
    for each in (record, await Every.get(record.id)):
        value = getattr(each, name)
        assert value == read and kind(value) is kind(read)
    if stored is not None:
        found = await app.dangerous_raw("a look")["core_every"].find_one({"_id": record.pk})
        if name != "uuid":  # its representation is the client's own
            assert found[name] == stored
    if name not in ("part", "parts"):  # embedded objects are searched by the paths of their fields
        assert await Every.search([(name, "=", read)]).count() == 1


@pytest.mark.parametrize(
    ("name", "value"), INVALID, ids=[f"{n}-{str(v)[:20]!r}" for n, v in INVALID]
)
def test_an_invalid_value_is_refused_where_it_stands(name: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        Every(**{name: value})
    assert caught.value.errors()[0]["loc"][0] == name


@pytest.mark.parametrize("name", [name for name, *_ in VALID])
async def test_none_unsets_and_an_unset_field_is_none(memory_app: App, name: str) -> None:
    record = await Every.create({name: None})
    assert getattr(await Every.get(record.id), name) is None


def test_an_unknown_option_is_an_error() -> None:
    with pytest.raises(TypeError, match="'uniqe'"):
        String(uniqe=True)  # type: ignore[call-arg] # that is the point


plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
keys = plain.filter(lambda k: not k.startswith("$") and "." not in k and "\0" not in k)
numbers = st.integers(-(2**63), 2**63 - 1)
jsons = st.recursive(
    st.none() | st.booleans() | numbers | st.floats(allow_nan=False) | plain,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(keys, below, max_size=3),
    max_leaves=6,
)
times = st.datetimes(
    datetime.datetime(1, 1, 2), datetime.datetime(9999, 12, 30), timezones=st.just(UTC)
)
states = st.fixed_dictionaries(
    {},
    optional={
        "text": plain,
        "big": numbers,
        "any_float": st.floats(),
        "decimal": st.decimals(
            allow_nan=False, allow_infinity=False, places=2, min_value=-(10**20), max_value=10**20
        ),
        "date": st.dates(),
        "datetime": times,
        "uuid": st.uuids(),
        "binary": st.binary(max_size=4),
        "json": jsons,
        "dict": st.dictionaries(keys, numbers, max_size=3),
        "dates": st.lists(st.dates(), max_size=3),
        "part": st.fixed_dictionaries({"city": plain}),
    },
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return kind(one) is kind(other) and bool(one == other)


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
def test_what_is_saved_equals_what_is_read_back(mongo_uri: str, database: str, driver: str) -> None:
    with asyncio.Runner() as runner:
        app = App(mongo_uri, database=database, driver=driver, plugins=[])
        runner.run(app.start())

        async def law(values: dict[str, Any]) -> None:
            with app.activate():
                saved = await Every.create(values)
                found = await Every.get(saved.id)
                for name in Every._fields:
                    assert same(getattr(saved, name), getattr(found, name)), name
                assert not found.is_changed and not saved.is_changed

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(states)
        def check(values: dict[str, Any]) -> None:
            runner.run(law(values))

        try:
            check()
        finally:
            runner.run(drop(app))
            runner.run(app.stop())
