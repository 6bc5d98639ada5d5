"""Values that nobody should send, and what a filter may look like whatever came."""

from __future__ import annotations

import re
from typing import Any

from bson import Code, DBRef, Decimal128, MaxKey, MinKey, ObjectId, Regex
from hypothesis import strategies as st

from earnorm.domain import Domain

LOGICAL = {"$and", "$or", "$nor"}
# What a condition may compile to, and whether data stands behind it.
WITH_DATA = {
    "$eq",
    "$ne",
    "$gt",
    "$gte",
    "$lt",
    "$lte",
    "$in",
    "$nin",
    "$all",
    "$regex",
    "$size",
    "$exists",
}
WITH_FILTER = {"$elemMatch"}
WITH_OPERATORS = {"$not"}

NO_DATA = [
    *(re.compile("a"), re.compile(b"a"), Regex("a"), Code("1"), Code("1", {"x": 1})),
    *(DBRef("a", 1), MinKey(), MaxKey(), len, object(), Domain.TRUE, ...),
]
HOSTILE_TEXTS = [
    *(
        "$where",
        "$gt",
        "$ne",
        "$expr",
        "$$ROOT",
        "$a",
        "a.b",
        "",
        "\0",
        "/a/",
        ".*",
        "(",
        "\ud800",
        "*" * 2000,
    ),
    *("&", "|", "!", "=", "1; return true", "{$gt: ''}"),
]
texts = st.sampled_from(HOSTILE_TEXTS) | st.text(max_size=5)
KEYS = [
    "$canary",
    "$canary.a",
    "$gt",
    "$ne",
    "$where",
    "$regex",
    "$options",
    "$elemMatch",
    "$not",
    "$expr",
    "$in",
    "$ref",
    "$id",
    "$eq",
    "a",
    "a.b",
    "$",
]
keys = st.sampled_from([*KEYS, "", "\0"])
SCALARS = [None, True, 0, 1.5, 2**70, b"$", Decimal128("1"), ObjectId("6" * 24)]
# By position, because hypothesis looks into the values that it samples, and some are not what they seem.
no_data = st.integers(0, len(NO_DATA) - 1).map(NO_DATA.__getitem__)
atoms = texts | no_data | st.sampled_from(SCALARS)
hostile = st.recursive(
    atoms,
    lambda inner: (
        st.dictionaries(keys, inner, max_size=2)
        | st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=6,
)
anything = hostile | st.dictionaries(keys, hostile, min_size=1, max_size=2)


def check_filter(query: Any) -> None:
    """Walk a filter as the server reads it; whatever stands where data is expected isn't walked."""
    assert isinstance(query, dict)
    for key, value in query.items():
        if key == "$text":
            check_text(value)
        elif key.startswith("$"):
            assert key in LOGICAL
            assert isinstance(value, list) and value
            for part in value:
                check_filter(part)
        elif isinstance(value, dict):
            check_operators(value)
        else:
            check_plain(value)


def check_geo(shape: Any) -> None:
    """Numbers and the names of shapes, whatever was given."""
    ((kind, value),) = shape.items()
    if kind == "$centerSphere":
        assert all(type(n) is float for n in (*value[0], value[1]))
        return
    assert kind == "$geometry" and value.keys() == {"type", "coordinates"}
    assert value["type"] in {"Polygon", "MultiPolygon"}
    levels = value["coordinates"]
    while isinstance(levels, list):
        levels = levels[0]
    assert type(levels) is float


def check_text(search: dict[str, Any]) -> None:
    allowed = {
        "$search": str,
        "$language": str,
        "$caseSensitive": bool,
        "$diacriticSensitive": bool,
    }
    for option, value in search.items():
        assert type(value) is allowed[option]


def check_operators(operators: dict[str, Any]) -> None:
    assert operators, "an empty dict would be a literal"
    for sign, operand in operators.items():
        assert sign in WITH_DATA | WITH_FILTER | WITH_OPERATORS | {"$geoWithin"}
        if sign == "$geoWithin":
            check_geo(operand)
        elif sign in WITH_OPERATORS:
            check_operators(operand)
        elif sign in WITH_FILTER:
            check_filter(operand)
        elif sign in {"$in", "$nin", "$all"}:
            for item in operand:
                check_data(item)
                assert not (isinstance(item, dict) and next(iter(item), "").startswith("$"))
        else:
            check_data(operand)


def check_plain(value: Any) -> None:
    assert not isinstance(value, dict | list | tuple)
    check_data(value)


def check_data(value: Any) -> None:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            check_data(item)
    else:
        assert not isinstance(value, re.Pattern | Regex | Code | DBRef | MinKey | MaxKey | Domain)


numbers = st.sampled_from([0, 1.5, 90, 180, -200, 2**70, True]) | st.floats()
places = st.lists(numbers | hostile, max_size=5)
areas = st.lists(places | hostile, max_size=5)
shapes = st.fixed_dictionaries(
    {"type": st.sampled_from(["Polygon", "MultiPolygon", "Point"]) | hostile, "coordinates": areas},
    optional={"$maxDistance": hostile},
)
searches = st.dictionaries(
    st.sampled_from(["words", "language", "case_sensitive", "$search", "diacritic_sensitive"]),
    hostile | st.booleans(),
    max_size=3,
)
