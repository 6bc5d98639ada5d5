"""One field of every kind, with what it is given, what it reads, and what it refuses."""

from __future__ import annotations

import datetime
import enum
import ipaddress
import math
from array import array
from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import strategies as st

from earnorm import (
    UUID,
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
    Float,
    Geo,
    Geometry,
    Int,
    IPAddress,
    Json,
    LineString,
    List,
    Money,
    MoneyValue,
    MultiPolygon,
    ObjectIdField,
    Phone,
    Point,
    Polygon,
    Selection,
    Set,
    Slug,
    String,
    Text,
    Time,
    Url,
    Vector,
)


class Level(enum.Enum):
    LOW = 1
    HIGH = "high"


class Mood(enum.StrEnum):
    GOOD = "good"
    BAD = "bad"


class Rank(enum.IntEnum):
    FIRST = 1
    SECOND = 2


class Line(EmbeddedModel):
    sku = String(required=True, db_name="s")
    price = Money()
    tags = List(String(), default=list)
    seen = Set(Date())


class Kinds(BaseModel):
    _name = "core.kinds"

    string = String(min_length=1, max_length=5)
    lower = String(case="lower", strip=True)
    upper = String(case="upper")
    text = Text()
    email = Email(case="lower")
    url = Url()
    slug = Slug(max_length=20)
    letters = Slug(unicode=True)
    phone = Phone(country="84")
    color = Color()
    selection = Selection(["draft", "done"])
    level = Enum(Level)
    mood = Enum(Mood)
    rank = Enum(Rank)
    int = Int()
    float = Float()
    decimal = Decimal(decimal_places=2)
    rounded = Decimal(decimal_places=2, rounding="ROUND_HALF_UP")
    money = Money(decimal_places=3)
    euros = Money(currency="EUR", decimal_places=2, rounding="ROUND_HALF_EVEN", min_value=0)
    boolean = Boolean()
    date = Date()
    datetime = DateTime()
    time = Time()
    duration = Duration()
    uuid = UUID()
    oid = ObjectIdField()
    binary = Binary()
    ip = IPAddress()
    ip4 = IPAddress(version=4)
    json = Json()
    dict = Dict(Duration())
    by_int = Dict(Int(), keys=Int())
    by_day = Dict(Money(), keys=Date())
    by_id = Dict(keys=UUID())
    by_level = Dict(String(), keys=Enum(Level))
    list = List(Duration())
    lines = List(Embedded(Line))
    line = Embedded(Line)
    nested = List(List(Int()))
    set = Set(String())
    days = Set(Date())
    vector = Vector(3)
    packed = Vector(3, packed=True)
    place = Point()
    way = LineString()
    area = Polygon()
    areas = MultiPolygon()
    shape = Geo()


class Kind(NamedTuple):
    """What a field takes, and what it refuses."""

    given: st.SearchStrategy[Any]
    refused: tuple[Any, ...]
    searched: bool = True
    """A condition finds the value; embedded objects are searched by their fields' paths."""


def float32(value: float) -> float:
    return array("f", [value])[0]


plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
names = st.text("abcXYZ", min_size=1, max_size=5)
keys = plain.filter(lambda k: not k.startswith("$") and "." not in k and "\0" not in k)
numbers = st.integers(-(2**63), 2**63 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
decimals = st.decimals(
    allow_nan=False, allow_infinity=False, places=2, min_value=-(10**20), max_value=10**20
)
times = st.datetimes(
    datetime.datetime(1, 1, 2), datetime.datetime(9999, 12, 30), timezones=st.just(datetime.UTC)
)
spans = st.timedeltas(datetime.timedelta(-(10**6)), datetime.timedelta(10**6))
money = st.builds(MoneyValue, decimals, st.sampled_from(["EUR", "VND", "USD"]))
positions = st.tuples(st.floats(-180, 180), st.floats(-90, 90))
ways = st.lists(positions, min_size=2, max_size=4, unique=True)
rings = st.lists(positions, min_size=3, max_size=5, unique=True).map(lambda ps: [*ps, ps[0]])
areas = st.lists(rings, min_size=1, max_size=2)
lines = st.fixed_dictionaries(
    {"sku": plain},
    optional={
        "price": money,
        "tags": st.lists(plain, max_size=2),
        "seen": st.sets(st.dates(), max_size=3),
    },
)
jsons = st.recursive(
    st.none() | st.booleans() | numbers | finite | plain,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(keys, below, max_size=3),
    max_leaves=6,
)


def geo(kind: str, coordinates: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    mapping = st.fixed_dictionaries({"type": st.just(kind), "coordinates": coordinates})
    return mapping | mapping.map(Geometry.of)


square = [(0, 0), (1, 0), (1, 1), (0, 0)]
KINDS: dict[str, Kind] = {
    "string": Kind(names, ("", "abcdef", 3)),
    "lower": Kind(plain.map(lambda t: f" {t}\t"), (3,)),
    "upper": Kind(plain, (["x"],)),
    "text": Kind(plain, (3, ["x"])),
    "email": Kind(names.map(lambda n: f"{n}@Example.org"), ("no", "a@b", 3)),
    "url": Kind(names.map(lambda n: f"https://example.org/{n}"), ("ftp://x", "x")),
    "slug": Kind(plain.map(lambda t: f"a {t}"), ("", "-!-", 3, "a" * 21)),
    "letters": Kind(plain.map(lambda t: f"Ж {t}"), ("", "_-_")),
    "phone": Kind(
        st.from_regex(r"\A(\+|00)?[1-9][0-9]{7,9}\Z").map(lambda n: n[:5] + " -." + n[5:]),
        ("", "12", "+84x", "+" + "1" * 16, "++8412345678", 84123456789),
    ),
    "color": Kind(st.from_regex(r"\A#([0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})\Z"),
                  ("red", "#12", "#12345", "#ggg", "123456", 255)),
    "selection": Kind(st.sampled_from(["draft", "done"]), ("gone", 1)),
    "level": Kind(st.sampled_from([*Level, 1, "high"]), ("LOW", 2, 1.5)),
    "mood": Kind(st.sampled_from([*Mood, "good"]), ("GOOD", 1)),
    "rank": Kind(st.sampled_from([*Rank, 1]), (3, "x")),
    "int": Kind(numbers, (1.5, "x", 2**63)),
    "float": Kind(st.floats(), ("x",)),
    "decimal": Kind(decimals, ("1.234", "x", "NaN")),
    "rounded": Kind(st.decimals(-(10**9), 10**9), ("x", "1e40", "Infinity")),
    "money": Kind(money | money.map(lambda m: {"amount": str(m.amount), "currency": m.currency}),
                  (12, "12 EUR", {"amount": 1}, {"amount": 1, "currency": "eur"},
                   {"amount": "1.2345", "currency": "EUR"}, {"amount": "NaN", "currency": "EUR"},
                   {"amount": 1, "currency": "EUR", "$x": 1})),
    "euros": Kind(st.decimals(0, 10**9) | st.builds(MoneyValue, st.integers(0, 9), st.just("EUR")),
                  (MoneyValue(1, "USD"), -1, "x", {"amount": -1, "currency": "EUR"})),
    "boolean": Kind(st.booleans(), ("perhaps",)),
    "date": Kind(st.dates(), ("2024-13-01", "x")),
    "datetime": Kind(times, ("x", "2024-13-01T00:00:00")),
    "time": Kind(st.times(), ("25:00", "x", datetime.time(1, tzinfo=datetime.UTC))),
    "duration": Kind(spans, ("x", [1])),
    "uuid": Kind(st.uuids(), ("x", 3)),
    "oid": Kind(st.binary(min_size=12, max_size=12).map(lambda b: b.hex()), ("x", 3)),
    "binary": Kind(st.binary(max_size=9), ("text", 3)),
    "ip": Kind(st.ip_addresses() | st.ip_addresses().map(str),
               ("1.2.3", "1.2.3.4/8", "fe80::1%eth0", 3, "x")),
    "ip4": Kind(st.ip_addresses(v=4), ("::1", ipaddress.IPv6Address("::1"))),
    "json": Kind(jsons, ({"$where": 1}, {"a.b": 1}, {1: 1}, object(), 2**63), searched=False),
    "dict": Kind(st.dictionaries(keys, spans, max_size=3), ({"$a": 1}, {"a.b": 1}, {"a": "x"}, [1])),
    "by_int": Kind(st.dictionaries(numbers, numbers, max_size=3), ({"x": 1}, {1: "x"})),
    "by_day": Kind(st.dictionaries(st.dates(), money, max_size=3), ({"x": MoneyValue(1, "EUR")},)),
    "by_id": Kind(st.dictionaries(st.uuids(), plain, max_size=3), ({"x": 1},)),
    "by_level": Kind(st.dictionaries(st.sampled_from(Level), plain, max_size=3), ({"LOW": "x"},)),
    "list": Kind(st.lists(spans, max_size=3), (["x"], "x")),
    "lines": Kind(st.lists(lines, max_size=3), ([{}], [{"sku": "x", "nope": 1}]), searched=False),
    "line": Kind(lines, ({}, {"sku": 3}), searched=False),
    "nested": Kind(st.lists(st.lists(numbers, max_size=2), max_size=2), ([1], [["x"]])),
    "set": Kind(st.sets(plain, max_size=4) | st.lists(plain, max_size=4), (["x", 3], "x", {"x": 1})),
    "days": Kind(st.sets(st.dates(), max_size=4), (["x"],)),
    "vector": Kind(st.lists(finite, min_size=3, max_size=3),
                   ([1, 2], [1, 2, 3, 4], [1, 2, math.nan], [1, 2, math.inf], "abc", [1, 2, "x"])),
    "packed": Kind(st.lists(st.floats(-1e30, 1e30), min_size=3, max_size=3), ([1, 2, 1e39], [1, 2])),
    "place": Kind(positions | geo("Point", positions),
                  ((181, 0), (0, 91), (0,), (0, 0, 0), ("0", "1"), (math.nan, 0),
                   {"type": "Point"}, {"type": "Polygon", "coordinates": [square]},
                   {"type": "Point", "coordinates": [0, 0], "crs": 1}, "0,0", {"$near": 1})),
    "way": Kind(geo("LineString", ways), ({"type": "LineString", "coordinates": [(0, 0)]},
                {"type": "LineString", "coordinates": [(0, 0), (0, 0)]}, (0, 0))),
    "area": Kind(geo("Polygon", areas),
                 ({"type": "Polygon", "coordinates": [square[:3]]}, {"type": "Polygon", "coordinates": []},
                  {"type": "Polygon", "coordinates": [[(0, 0), (1, 0), (1, 1), (9, 9)]]})),
    "areas": Kind(geo("MultiPolygon", st.lists(areas, min_size=1, max_size=2)),
                  ({"type": "MultiPolygon", "coordinates": [square]},)),
    "shape": Kind(geo("Point", positions) | geo("MultiPoint", ways) | geo("Polygon", areas),
                  ({"type": "Circle", "coordinates": [0, 0]}, {"type": ["Point"], "coordinates": [0, 0]})),
}  # fmt: skip

Given = Callable[[str], st.SearchStrategy[Any]]
