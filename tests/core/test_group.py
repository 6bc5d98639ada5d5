"""group(): keys, buckets of dates, aggregates, having, order; and the same computed in Python."""

from __future__ import annotations

import datetime
import decimal
import json
import statistics
from collections.abc import Callable, Iterator
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earnorm import (
    AddToSet,
    Aggregate,
    App,
    Avg,
    BaseModel,
    Count,
    Date,
    DateTime,
    Decimal,
    Embedded,
    EmbeddedModel,
    First,
    Int,
    Last,
    List,
    Many2many,
    Many2one,
    Max,
    Min,
    Money,
    MoneyValue,
    Set,
    Stats,
    String,
    Sum,
    ValidationError,
    act_as,
    hookimpl,
)

from .conftest import Keeping, default_app
from .laws import World, law, world
from .shop import Author

UTC = datetime.UTC


class Line(EmbeddedModel):
    sku = String(required=True)
    number = Int(db_name="n")


class Sale(BaseModel):
    _name = "core.sale"

    city = String(db_name="town")
    amount = Int()
    price = Decimal()
    day = Date()
    at = DateTime()
    tags = List(String())
    lines = List(Embedded(Line))
    author_id = Many2one(Author)


class Club(BaseModel):
    _name = "core.club"

    labels = Set(String())
    member_ids = Many2many(Author)
    cost = Money()


SALES: list[dict[str, Any]] = [
    {"city": "Hue", "amount": 3, "price": "1.50", "at": "2024-01-31T20:00:00Z", "tags": ["a", "b"]},
    {"city": "Hue", "amount": 5, "price": "2.50", "at": "2024-02-01T02:00:00Z", "tags": ["b"]},
    {"city": "Rome", "amount": 0, "at": "2024-02-29T23:30:00Z", "day": "2024-02-29", "tags": []},
    {"amount": 7, "price": "0.25", "day": "2024-02-05"},
]


@pytest.fixture
async def sales(app: App) -> None:
    await Sale.create(SALES)


async def test_values_are_decoded_by_their_field(sales: None) -> None:
    rows = await Sale.search().group(
        "city",
        total=Sum("price"),
        low=Min("price"),
        last_at=Max("at"),
        amounts=AddToSet("amount"),
        number=Count(),
        priced=Count("price"),
        different=Count("amount", distinct=True),
    )
    assert rows == [
        {
            "city": None,
            "total": decimal.Decimal("0.25"),
            "low": decimal.Decimal("0.25"),
            "last_at": None,
            "amounts": [7],
            "number": 1,
            "priced": 1,
            "different": 1,
        },
        {
            "city": "Hue",
            "total": decimal.Decimal("4.00"),
            "low": decimal.Decimal("1.50"),
            "last_at": datetime.datetime(2024, 2, 1, 2, tzinfo=UTC),
            "amounts": [3, 5],
            "number": 2,
            "priced": 2,
            "different": 2,
        },
        {
            "city": "Rome",
            "total": decimal.Decimal(0),
            "low": None,
            "last_at": datetime.datetime(2024, 2, 29, 23, 30, tzinfo=UTC),
            "amounts": [0],
            "number": 1,
            "priced": 0,
            "different": 1,
        },
    ]


async def test_relations_are_ids(app: App) -> None:
    ann, _ = await Author.create([{"name": "Ann"}, {"name": "Bob"}])
    await Sale.create([{"author_id": ann, "amount": 1}, {"author_id": ann, "amount": 2}])
    rows = await Sale.search().group("author_id", total=Sum("amount"), of=AddToSet("author_id"))
    assert rows == [{"author_id": ann.id, "total": 3, "of": [ann.id]}]


async def test_stats(sales: None) -> None:
    [row] = await Sale.search([("price", "!=", None)]).group(
        price=Stats("price"), n=Stats("amount")
    )
    assert row["n"] == {
        "count": 3,
        "sum": 15,
        "min": 3,
        "max": 7,
        "avg": 5.0,
        "stddev": pytest.approx(statistics.pstdev([3, 5, 7])),
    }
    assert row["price"]["sum"] == decimal.Decimal("4.25")
    assert row["price"]["max"] == decimal.Decimal("2.50")
    assert type(row["price"]["avg"]) is decimal.Decimal
    assert type(row["price"]["stddev"]) is float


async def test_first_and_last_follow_the_query_s_order(sales: None) -> None:
    query = Sale.search([("city", "=", "Hue")])
    aggregates: dict[str, Aggregate] = {"first": First("amount"), "last": Last("amount")}
    assert await query.order("-amount").group(**aggregates) == [{"first": 5, "last": 3}]
    assert await query.order("amount").group(**aggregates) == [{"first": 3, "last": 5}]
    assert await query.group(**aggregates) == [{"first": 3, "last": 5}]
    assert await query.group(tags=First("tags")) == [{"tags": ["a", "b"]}]


async def test_a_group_of_a_window(sales: None) -> None:
    top = Sale.search().order("-amount").limit(2)
    assert await top.group(total=Sum("amount")) == [{"total": 12}]
    assert await top.offset(1).group(total=Sum("amount")) == [{"total": 8}]


async def test_nothing_that_matches_is_one_row_without_keys_and_none_with_keys(sales: None) -> None:
    nobody = Sale.search([("amount", ">", 99)])
    assert await nobody.group("city", n=Count()) == []
    assert await nobody.group(n=Count(), total=Sum("price"), low=Min("at"), s=AddToSet("city")) == [
        {"n": 0, "total": decimal.Decimal(0), "low": None, "s": []}
    ]
    assert await nobody.group(n=Count(), having=[("n", ">", 0)]) == []
    assert await Sale.search().group(n=Count(), having=[("n", ">", 3)]) == [{"n": 4}]


async def test_having_order_and_limit(sales: None) -> None:
    query = Sale.search()
    rows = await query.group("city", n=Count(), having=[("n", ">", 1), ("city", "ilike", "hu")])
    assert rows == [{"city": "Hue", "n": 2}]
    by_total = await query.group("city", total=Sum("amount"), order="-total", limit=2)
    assert by_total == [{"city": "Hue", "total": 8}, {"city": None, "total": 7}]
    named = await query.group({"town": "city"}, n=Count(), order=["-n", "-town"])
    assert [row["town"] for row in named] == ["Hue", "Rome", None]


async def test_having_compares_by_the_field_of_the_result(sales: None) -> None:
    query = Sale.search()
    priced = await query.group("city", total=Sum("price"), having=[("total", ">", 3)])
    assert [row["city"] for row in priced] == ["Hue"]
    early = [("first", "<", "2024-02-10")]
    assert await query.group("city", first=Min("day"), having=early) == [
        {"city": None, "first": datetime.date(2024, 2, 5)}
    ]


async def test_falsy_values_are_values(app: App) -> None:
    await Sale.create([{"amount": 0, "city": ""}, {"amount": 0, "city": ""}, {"amount": 1}, {}])
    aggregates = {"set": AddToSet("amount"), "n": Count("amount", distinct=True)}
    assert await Sale.search().group(**aggregates, c=AddToSet("city")) == [
        {"set": [0, 1], "n": 2, "c": [""]}
    ]


async def test_having_knows_the_parts_of_stats(sales: None) -> None:
    rows = await Sale.search().group(
        Sale.city, amount=Stats(Sale.amount), having=[("amount.avg", ">=", 4)], order="-amount.max"
    )
    assert [row["city"] for row in rows] == [None, "Hue"]


async def test_a_list_is_taken_apart_where_a_key_leads_through_it(app: App) -> None:
    await Sale.create(
        [
            {"tags": ["x", "y"], "lines": [{"sku": "s", "number": 2}, {"sku": "t", "number": 5}]},
            {"tags": ["y"], "lines": [{"sku": "s", "number": 4}]},
            {},
        ]
    )
    assert await Sale.search().group("tags", n=Count()) == [
        {"tags": None, "n": 1},
        {"tags": "x", "n": 1},
        {"tags": "y", "n": 2},
    ]
    assert await Sale.search().group("lines.sku", total=Sum("lines.number")) == [
        {"lines.sku": None, "total": 0},
        {"lines.sku": "s", "total": 6},
        {"lines.sku": "t", "total": 5},
    ]


async def test_sets_and_many2many_are_taken_apart_like_lists(app: App) -> None:
    ann, bob = await Author.create([{"name": "Ann"}, {"name": "Bob"}])
    await Club.create(
        [
            {"labels": {"x", "y"}, "member_ids": [ann, bob], "cost": MoneyValue(1, "EUR")},
            {"labels": {"y"}, "member_ids": [bob]},
        ]
    )
    assert await Club.search().group("labels", n=Count()) == [
        {"labels": "x", "n": 1},
        {"labels": "y", "n": 2},
    ]
    rows = await Club.search().group("member_ids", n=Count())
    assert {row["member_ids"]: row["n"] for row in rows} == {ann.id: 1, bob.id: 2}
    with pytest.raises(ValidationError, match="holds no numbers"):
        await Club.search().group(total=Sum("cost"))
    with pytest.raises(ValidationError, match="no single place"):
        await Club.search(order="member_ids").paginate()


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("year", ["2024-01-01"]),
        ("quarter", ["2024-01-01"]),
        ("month", ["2024-02-01"]),
        ("week", ["2024-01-29", "2024-02-26"]),
        ("day", ["2024-02-01", "2024-03-01"]),
    ],
)
async def test_buckets_begin_in_the_context_s_time_zone(
    sales: None, unit: str, expected: list[str]
) -> None:
    # 20:00Z on 31 January is 3 in the morning of 1 February at Ho Chi Minh City.
    zone = ZoneInfo("Asia/Ho_Chi_Minh")
    key = f"at:{unit}"
    with act_as("ann", tz="Asia/Ho_Chi_Minh"):
        rows = await Sale.search([("at", "!=", None)]).group(key, n=Count())
    wanted = [datetime.datetime.fromisoformat(day).replace(tzinfo=zone) for day in expected]
    if unit == "month":
        wanted.append(datetime.datetime(2024, 3, 1, tzinfo=zone))
    assert [row[key] for row in rows] == wanted
    assert all(row[key].tzinfo == zone and row[key].hour == 0 for row in rows)
    assert sum(row["n"] for row in rows) == 3


async def test_buckets_of_days_are_days_in_every_zone(sales: None) -> None:
    with act_as("ann", tz="America/Lima"):
        rows = await Sale.search().group("day:month", days=AddToSet("day"))
    assert rows == [
        {"day:month": None, "days": []},
        {
            "day:month": datetime.date(2024, 2, 1),
            "days": [datetime.date(2024, 2, 5), datetime.date(2024, 2, 29)],
        },
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q: q.group("citty"), "did you mean 'city'"),
        (lambda q: q.group("at:mont"), "did you mean 'month'"),
        (lambda q: q.group("city:month"), "no buckets"),
        (lambda q: q.group("day:hour"), "no buckets"),
        (lambda q: q.group("lines.0.sku"), "every item"),
        (lambda q: q.group("city", "city"), "a key already"),
        (lambda q: q.group("city", city=Count()), "a key already"),
        (lambda q: q.group(3), "no field's path"),
        (lambda q: q.group(n="amount"), "takes an aggregate"),
        (lambda q: q.group(n=Sum("city")), "holds no numbers"),
        (lambda q: q.group(n=Stats("day")), "holds no numbers"),
        (lambda q: q.group(n=Sum("lines.number")), "leads through the list"),
        (lambda q: q.group(n=First("lines.number")), "leads through the list"),
        (lambda q: q.group(n=Min(3)), "takes a field's path"),
        (lambda q: q.group("city", having=[("m", ">", 1)]), "no result is named 'm'"),
        (lambda q: q.group("city", n=Count(), having=[("n", "=", {"$gt": 1})]), "n"),
        (lambda q: q.group("city", n=Count(), order="nn"), "did you mean 'n'"),
        (lambda q: q.group("city", n=Stats("amount"), order="n"), "no result is named"),
        (lambda q: q.group("author_id.nam"), "did you mean 'name'"),
    ],
)
async def test_what_does_not_fit_is_a_clear_error(
    memory_app: App, call: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        await call(Sale.search())


async def test_an_unknown_time_zone_is_a_clear_error(app: App) -> None:
    for zone in ("Mars/Olympus", "../etc/passwd", 7):
        with act_as("ann", tz=zone), pytest.raises(ValidationError, match="no time zone"):
            await Sale.search().group("at:day")


def test_count_distinct_needs_a_field() -> None:
    with pytest.raises(ValueError, match="needs the field"):
        Count(distinct=True)


class Narrowing:
    """A layer that hides records and fields."""

    api = 1
    name = "narrowing"

    @hookimpl
    def wrap_operation(self, app: App, model: type, operation: str) -> list[Any]:
        async def narrow(op: Any, call_next: Any) -> Any:
            domain = op.domain & (Sale.city == "Hue")
            fields = frozenset({"city", "amount"})
            options = type(op.options)(group=op.options.group, fields=fields)
            seen.append(op.options.group.paths)
            return await call_next(op.replace(domain=domain, options=options))

        seen.clear()
        return [(100, narrow)] if operation == "group" and model._name == Sale._name else []


seen: list[frozenset[str]] = []


async def test_layers_narrow_a_group_and_hide_fields_from_it(database: str) -> None:
    async with default_app("pymongo", database, [Narrowing()]):
        await Sale.create(SALES)
        rows = await Sale.search().group("city", n=Sum("amount"), p=Sum("price"), d=AddToSet("at"))
        assert rows == [{"city": "Hue", "n": 8, "p": decimal.Decimal(0), "d": []}]
        assert seen == [frozenset({"town", "amount", "price", "at"})]


async def test_rows_are_the_callers_and_those_of_a_layer_stay_as_they_are(database: str) -> None:
    async with default_app("pymongo", database, [Keeping("group")]):
        await Sale.create(SALES)
        first = await Sale.search().group("city", total=Sum("amount"), price=Sum("price"))
        expected = [dict(row) for row in first]
        for row in first:
            row.clear()
        again = await Sale.search().group("city", total=Sum("amount"), price=Sum("price"))
        assert again == expected and type(again[0]["price"]) is decimal.Decimal


# -- the law --------------------------------------------------------------------------------------

MOMENTS = st.datetimes(datetime.datetime(2023, 12, 20), datetime.datetime(2024, 4, 10)).map(
    lambda at: at.replace(microsecond=0, tzinfo=UTC)
)
RECORDS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "city": st.none() | st.sampled_from(["", "Hue", "Rome", "éa"]),
            "amount": st.none() | st.integers(-3, 3),
            "price": st.none() | st.decimals(-2, 2, places=1),
            "day": st.none() | st.dates(datetime.date(2024, 1, 1), datetime.date(2024, 2, 9)),
            "at": st.none() | MOMENTS,
            "tags": st.none() | st.lists(st.sampled_from(["x", "y"]), max_size=3),
        },
    ),
    max_size=8,
)
KEYS = st.lists(
    st.sampled_from(
        [
            *("city", "amount", "price", "day", "tags", "day:month", "day:week"),
            *(f"at:{unit}" for unit in ("year", "quarter", "month", "week", "day", "hour")),
        ]
    ),
    max_size=2,
    unique=True,
)
ZONES = st.sampled_from([None, "UTC", "Asia/Ho_Chi_Minh", "Europe/Berlin", "Asia/Kolkata"])
HAVING = st.sampled_from([[], [("n", ">", 1)], [("low", "=", None)], ["!", ("total", ">=", 1)]])


def begin(day: datetime.date, unit: str) -> datetime.date:
    if unit == "week":
        return day - datetime.timedelta(days=day.weekday())
    month = {"year": 1, "quarter": (day.month - 1) // 3 * 3 + 1, "month": day.month}.get(unit)
    return day if month is None else datetime.date(day.year, month, 1)


def key_values(record: Sale, key: str, zone: ZoneInfo) -> list[Any]:
    path, _, unit = key.partition(":")
    value = getattr(record, path)
    if path == "tags":
        return value or [None]
    if value is None or not unit:
        return [value]
    if path == "day":
        return [begin(value, unit)]
    local = value.astimezone(zone)
    if unit == "hour":
        return [local.replace(minute=0, second=0)]
    day = begin(local.date(), unit)
    return [datetime.datetime(day.year, day.month, day.day, tzinfo=zone)]


def in_order(value: Any) -> tuple[bool, Any]:
    return (value is not None, 0 if value is None else value)


def grouped(records: list[Sale], keys: list[str], zone: ZoneInfo) -> list[dict[str, Any]]:
    groups: dict[tuple[Any, ...], list[Sale]] = {} if keys else {(): []}
    for record in records:
        combinations: list[tuple[Any, ...]] = [()]
        for key in keys:
            values = key_values(record, key, zone)
            combinations = [(*done, value) for done in combinations for value in values]
        for combination in combinations:
            groups.setdefault(combination, []).append(record)
    rows = []
    for combination in sorted(groups, key=lambda row: [in_order(value) for value in row]):
        members = groups[combination]
        amounts = [m.amount for m in members if m.amount is not None]
        prices = [m.price for m in members if m.price is not None]
        rows.append(
            {
                **dict(zip(keys, combination, strict=True)),
                "n": len(members),
                "set": len(amounts),
                "kinds": len(set(amounts)),
                "total": sum(prices, decimal.Decimal(0)),
                "low": min(prices, default=None),
                "high": max(amounts, default=None),
                "mean": statistics.fmean(amounts) if amounts else None,
                "first": members[0].amount if members else None,
                "last": members[-1].city if members else None,
                "cities": sorted({m.city for m in members if m.city is not None}),
                "stats": {
                    "count": len(amounts),
                    "sum": sum(amounts),
                    "min": min(amounts, default=None),
                    "max": max(amounts, default=None),
                    "avg": statistics.fmean(amounts) if amounts else None,
                    "stddev": statistics.pstdev(amounts) if amounts else None,
                },
            }
        )
    return rows


def close(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means as the database's arithmetic may round them."""
    for row in rows:
        for part, name in ((row, "mean"), (row["stats"], "avg"), (row["stats"], "stddev")):
            part[name] = part[name] if part[name] is None else pytest.approx(part[name])
    return rows


class Depot(BaseModel):
    _name = "core.group.depot"
    _id = Int()
    tag = String()


class Drive(BaseModel):
    _name = "core.group.drive"
    depot_id = Many2one(Depot)
    via_ids = Many2many(Depot)
    before_id = Many2one("core.group.drive")


async def test_ids_in_rows_are_the_text_of_records(server_app: App) -> None:
    one, two = await Depot.create([{"_id": 1, "tag": "a"}, {"_id": 2, "tag": "b"}])
    first = await Drive.create({"depot_id": one, "via_ids": [two, one]})
    await Drive.create({"depot_id": one, "before_id": first})
    rows = await Drive.search(order="id").group(
        "depot_id",
        having=[("first", "=", first.id)],
        first=First("id"),
        via=First("via_ids"),
        befores=AddToSet("before_id"),
    )
    expected = {"depot_id": one.id, "first": first.id, "via": [two.id, one.id]}
    assert rows == [{**expected, "befores": [first.id]}]
    assert json.loads(json.dumps(rows)) == rows
    assert await Drive.search([("depot_id", "=", rows[0]["depot_id"])]).count() == 2
    by_via = await Drive.search().group("via_ids", n=Count())
    assert by_via == [{"via_ids": name, "n": 1} for name in (None, one.id, two.id)]
    assert await Depot.search([("id", "=", 2)]).group("id") == [{"id": "2"}]


@pytest.fixture(scope="module")
def server() -> Iterator[World]:
    with world() as started:
        yield started


@pytest.mark.fuzz
def test_group_gives_what_python_computes_over_the_same_records(server: World) -> None:
    @law()
    @given(RECORDS, KEYS, ZONES, HAVING, st.sampled_from([[], [("amount", ">", 0)]]))
    def holds(values: Any, keys: list[str], tz: str | None, having: Any, domain: Any) -> None:
        async def check() -> None:
            await Sale.search().delete()
            await Sale.create(values)
            records = list(await Sale.search(domain, order="id"))
            query = Sale.search(domain)
            with act_as("ann", tz=tz):
                rows = await query.group(
                    *keys,
                    having=having,
                    n=Count(),
                    set=Count("amount"),
                    kinds=Count("amount", distinct=True),
                    total=Sum("price"),
                    low=Min("price"),
                    high=Max("amount"),
                    mean=Avg("amount"),
                    first=First("amount"),
                    last=Last("city"),
                    cities=AddToSet("city"),
                    stats=Stats("amount"),
                )
            expected = close(grouped(records, keys, ZoneInfo(tz or "UTC")))
            tests = {
                "n": lambda row: row["n"] > 1,
                "low": lambda row: row["low"] is None,
                "!": lambda row: not row["total"] >= 1,
            }
            if having:
                name = having[0] if having[0] == "!" else having[0][0]
                expected = [row for row in expected if tests[name](row)]
            assert rows == expected

        server.run(check)

    holds()
