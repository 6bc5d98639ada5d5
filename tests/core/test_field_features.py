"""What kinds of fields can do beyond holding a value: arithmetic, paths, ranges, indexes, options."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earnorm import (
    AddToSet,
    App,
    BaseModel,
    Decimal,
    Dict,
    DomainError,
    DuplicateKey,
    Duration,
    Embedded,
    EmbeddedModel,
    Enum,
    Geometry,
    Int,
    IPAddress,
    List,
    Money,
    MoneyValue,
    Phone,
    Point,
    Pull,
    Push,
    Set,
    Slug,
    String,
    Time,
    ValidationError,
    Vector,
)

from .kinds import Level, Mood, money


class Part(EmbeddedModel):
    name = String(required=True)
    price = Money()
    notes = List(String(), default=list)


class Feature(BaseModel):
    _name = "core.feature"

    code = String(unique=True)
    email = String(case="lower", sparse=True)
    serial = Int(unique=True, sparse=True)
    price = Money(index=True)
    ip = IPAddress(index=True)
    place = Point(index=True)
    parts = List(Embedded(Part), default=list)
    tags = Set(String())
    limits = Dict(Duration(), keys=Int())
    opens = Time()
    level = Enum(Level)
    mood = Enum(Mood)
    slug = Slug()
    phone = Phone(country="84")
    vector = Vector(2, packed=True)


def euros(amount: str) -> MoneyValue:
    return MoneyValue(amount, "EUR")


# -- money ----------------------------------------------------------------------------------------


def test_money_computes_with_its_own_currency_only() -> None:
    assert euros("1.10") + euros("2.20") == euros("3.30")
    assert euros("1") - euros("2.5") == euros("-1.5") == -euros("1.5")
    assert 3 * euros("1.10") == euros("3.30") == euros("1.10") * decimal.Decimal(3)
    assert euros("10") / 4 == euros("2.5")
    assert sum([euros("1"), euros("2")]) == euros("3")
    assert euros("1.005").round(2) == euros("1.00") and not euros("0")
    assert max(euros("1"), euros("2")) == euros("2") and str(euros("1.50")) == "1.50 EUR"
    assert len({euros("1"), euros("1.0"), MoneyValue(1, "USD")}) == 2
    for compute in (
        lambda a, b: a + b,
        lambda a, b: a - b,
        lambda a, b: a < b,
        lambda a, b: a >= b,
    ):
        with pytest.raises(ValueError, match="EUR and USD"):
            compute(euros("1"), MoneyValue(1, "USD"))
        with pytest.raises(TypeError):
            compute(euros("1"), 1)
    for wrong in (1.5, True, "2"):
        with pytest.raises(TypeError):
            euros("1") * wrong  # type: ignore[operator] # that is the point
    for args in (("1", "eur"), ("x", "EUR"), (1.5, "EUR"), ("NaN", "EUR"), (True, "EUR")):
        with pytest.raises(ValueError, match=r"amount|currency"):
            MoneyValue(*args)  # type: ignore[arg-type] # that is the point
    with pytest.raises(AttributeError):
        euros("1").amount = decimal.Decimal(2)  # type: ignore[misc] # that is the point


@given(money, money)
def test_money_keeps_what_it_adds(one: MoneyValue, other: MoneyValue) -> None:
    if one.currency == other.currency:
        assert one + other - other == one
        assert (one < other) is (one.amount < other.amount)


async def test_money_is_searched_by_its_parts(server_app: App) -> None:
    await Feature.create([{"price": euros("9.50")}, {"price": MoneyValue(20, "USD")}, {}])
    assert await Feature.search([("price.amount", ">", 9)]).count() == 2
    found = await Feature.search((Feature.price.amount >= 9) & (Feature.price.currency == "EUR"))
    assert [each.price for each in found] == [euros("9.50")]
    assert await Feature.search(Feature.price == euros("9.5")).count() == 1
    with pytest.raises(DomainError, match="amount"):
        await Feature.search([("price.amout", ">", 9)])
    with pytest.raises(DomainError, match="no order"):
        await Feature.search([("price", ">", euros("1"))])


class Sum(BaseModel):
    _name = "features.sum"

    most = Decimal()
    thirty = Decimal(max_digits=30)
    price = Money()


EXACT = decimal.Context(prec=50)
SIGNIFICANT = st.tuples(
    st.integers(-(10**36), 10**36).map(lambda n: n * 10 + 1), st.integers(-33, 0)
).map(lambda each: decimal.Decimal(each[0]).scaleb(each[1], EXACT))


@given(SIGNIFICANT)
def test_a_decimal_that_has_too_many_digits_is_refused_and_none_is_rounded(
    value: decimal.Decimal,
) -> None:
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    number = max(len(digits), -exponent)  # 0.001 has three
    for name, most in (("most", 34), ("thirty", 30), ("price", 34)):
        given = MoneyValue(value, "EUR") if name == "price" else value
        if number <= most:
            record = Sum(**{name: given})
            assert getattr(record, name) == given
            assert record._stored()[name] is not None
        else:
            with pytest.raises(ValidationError, match="digits") as caught:
                Sum(**{name: given})
            assert caught.value.errors()[0]["loc"][0] == name


# -- conditions -----------------------------------------------------------------------------------


async def test_a_network_is_a_range_of_addresses(app: App) -> None:
    ips = ["10.0.0.1", "10.255.255.255", "11.0.0.0", "9.255.255.255", "2001:db8::1", "10.0.0.9"]
    await Feature.create([{"ip": ip} for ip in ips])
    found = await Feature.search(Feature.ip.in_network("10.0.0.0/8")).order("ip")
    assert [str(each.ip) for each in found] == ["10.0.0.1", "10.0.0.9", "10.255.255.255"]
    found = await Feature.search(Feature.ip.in_network(ipaddress.ip_network("2001:db8::/32")))
    assert [str(each.ip) for each in found] == ["2001:db8::1"]
    with pytest.raises(ValueError, match="host bits"):
        Feature.ip.in_network("10.0.0.1/8")
    with pytest.raises(DomainError, match="IP address"):
        await Feature.search([("ip", "=", "10.0.0")])


async def test_conditions_take_what_a_value_is_given_as(app: App) -> None:
    await Feature.create(
        {
            "email": "Ann@Example.org",
            "phone": "024 3825-1234",
            "slug": "Hàng Đào",
            "level": "high",
            "mood": "good",
            "opens": "08:30",
            "limits": {5: datetime.timedelta(seconds=1.5)},
            "tags": ["b", "a", "b"],
        }
    )
    for domain in (
        [("email", "=", "ANN@example.org")],
        [("email", "in", ["ANN@example.org"])],
        [("phone", "=", "+84 24 3825 1234")],
        [("slug", "=", "hang dao")],
        [("level", "=", Level.HIGH)],
        [("level", "in", ["high", 1])],
        [("mood", "=", Mood.GOOD)],
        [("opens", "<", datetime.time(9))],
        [("limits.5", ">", datetime.timedelta(seconds=1))],
        [("tags", "=", {"a", "b"})],
        [("tags", "=", "a")],
        Feature.level == Level.HIGH,
    ):
        assert await Feature.search(domain).count() == 1, domain
    for domain, message in (
        ([("level", "=", True)], "member of Level"),
        ([("level", "=", Mood.GOOD)], "member of Level"),
        ([("opens", "=", 5)], "time"),
        ([("opens", "=", "25:00")], "ISO 8601"),
        ([("limits.5", "=", 3)], "timedelta"),
        ([("vector", "=", [1])], "2 numbers"),
        ([("place", "=", {"$near": 1})], "GeoJSON"),
    ):
        with pytest.raises(DomainError, match=message):
            await Feature.search(domain)


# -- changes in place -----------------------------------------------------------------------------


async def test_changes_inside_collections_are_noticed_and_reading_is_none(app: App) -> None:
    given = {
        "parts": [{"name": "a", "price": euros("1")}, {"name": "b"}],
        "tags": {"x", "y"},
        "limits": {1: datetime.timedelta(1)},
        "vector": [1, 2],
    }
    record = await Feature.get((await Feature.create(given)).id)
    assert record.parts is not None and record.tags is not None and record.vector is not None
    assert [part.notes for part in record.parts] == [[], []]
    assert record.parts[0].price == euros("1") and record.tags == {"x", "y"}
    assert record.limits == {1: datetime.timedelta(1)} and record.vector == [1.0, 2.0]
    assert not record.is_changed
    for change in (
        lambda r: setattr(r.parts[1], "name", "c"),
        lambda r: r.parts[0].notes.append("n"),
        lambda r: r.parts.reverse(),
        lambda r: r.tags.add("z"),
        lambda r: r.limits.pop(1),
        lambda r: r.vector.__setitem__(0, 5.0),
    ):
        change(record)
        assert record.is_changed
        await record.save()
        assert not record.is_changed
    found = await Feature.get(record.id)
    assert [(part.name, part.notes) for part in found.parts or ()] == [("c", []), ("a", ["n"])]
    assert (found.tags, found.limits, found.vector) == ({"x", "y", "z"}, {}, [5.0, 2.0])


async def test_a_list_item_with_a_wrong_value_is_refused_at_its_place(app: App) -> None:
    record = await Feature.create({"parts": [{"name": "a"}]})
    record.parts[0].price = "much"  # type: ignore[index, assignment] # that is the point
    with pytest.raises(ValidationError) as caught:
        await record.save()
    assert caught.value.errors()[0]["loc"][:2] == ("parts", 0)


async def test_a_set_of_another_programs_order_is_no_change(app: App) -> None:
    record = await Feature.create({"tags": {"a"}})
    raw = app.dangerous_raw("another program")["core_feature"]
    await raw.update_one({"_id": record.pk}, {"$set": {"tags": ["b", "a", "b"]}})
    await record.refresh()
    assert record.tags == {"a", "b"} and not record.is_changed


async def test_a_set_takes_changes_on_the_server_that_keep_it_a_set(app: App) -> None:
    record = await Feature.create({"tags": {"b"}})
    await record.write({"tags": AddToSet("a", "b")})
    assert (await Feature.get(record.id)).tags == {"a", "b"}
    await record.write({"tags": Pull("b")})
    assert (await Feature.get(record.id)).tags == {"a"}
    with pytest.raises(ValidationError, match="tags"):
        await record.write({"tags": Push("a")})


async def test_a_part_of_a_dict_is_written_by_a_key_of_its_kind(app: App) -> None:
    record = await Feature.create({"limits": {1: datetime.timedelta(1)}})
    await record.write({"limits.7": datetime.timedelta(7)})
    found = await Feature.get(record.id)
    assert found.limits == {1: datetime.timedelta(1), 7: datetime.timedelta(7)}
    for name in ("limits.x", "limits.$x", "limits.1.5"):
        with pytest.raises(ValidationError, match="limits"):
            await record.write({name: datetime.timedelta(1)})
    assert (await Feature.get(record.id)).limits == found.limits


# -- indexes --------------------------------------------------------------------------------------


async def test_indexes_are_of_the_fields_kind(server_app: App) -> None:
    await Feature.create({"place": (105.85, 21.03)})
    raw = server_app.dangerous_raw("a look")["core_feature"]
    indexes = await raw.index_information()
    assert indexes["place_2dsphere"]["key"] == [("place", "2dsphere")]
    assert indexes["email_1"]["sparse"] and "unique" not in indexes["email_1"]
    assert indexes["serial_1"]["partialFilterExpression"] and indexes["serial_1"]["unique"]
    assert "sparse" not in indexes["price_1"]
    near = {"place": {"$near": {"$geometry": Geometry.point(105.8, 21.0).geojson}}}
    assert (await raw.find_one(near))["place"] == {"type": "Point", "coordinates": [105.85, 21.03]}


async def test_a_race_for_a_unique_value_has_one_winner_and_one_duplicate_key(app: App) -> None:
    await Feature.create({})  # the indexes exist
    for number in range(5):
        tries = [Feature.create({"code": f"c{number}"}) for _ in range(2)]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        errors: list[Any] = [each for each in outcomes if isinstance(each, BaseException)]
        assert [type(error) for error in errors] == [DuplicateKey]
        assert errors[0].fields == ("code",)
        assert await Feature.search([("code", "=", f"c{number}")]).count() == 1


# -- declarations ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: String(case="title"), "case"),  # type: ignore[arg-type]
        (lambda: Phone(country="vn"), "calling code"),
        (lambda: Set(List(String())), "immutable"),
        (lambda: Set(String), "takes a field"),  # type: ignore[arg-type]
        (lambda: Dict(keys=Duration()), "keys="),
        (lambda: Enum(["a"]), "enum class"),  # type: ignore[arg-type, type-var]
        (lambda: Vector(0), "dimensions"),
        (lambda: Money(currency="euro"), "currency"),
        (lambda: Point(unique=True), "unique"),
        (lambda: IPAddress(version=5), "version"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_declaration_fails_where_it_stands(declare: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        declare()
