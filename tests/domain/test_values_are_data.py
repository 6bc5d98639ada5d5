"""A value is data wherever it stands: a refusal or a literal match, never an operator."""

from __future__ import annotations

import re
from typing import Any

import pytest
from bson import Code, DBRef, Decimal128, MaxKey, MinKey, ObjectId, Regex
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo.collection import Collection

from earnorm.domain import OPERATORS, Domain, matcher, to_filter
from earnorm.exceptions import DomainError
from tests.domain.fakes import PEOPLE, loose

SCHEMA = loose("ab")

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


# A regular expression is code; a relational domain becomes ids first (tests/core); text has a path
# of its own.
APART = {"regex", "text", *(name for name, op in OPERATORS.items() if op.relational)}


@settings(
    max_examples=1000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.sampled_from([name for name in OPERATORS if name not in APART]), anything, st.booleans())
def test_a_hostile_value_is_refused_or_literal(
    collection: Collection[dict[str, Any]], operator: str, value: Any, negate: bool
) -> None:
    try:
        domain = Domain([*["!"] * negate, ("a", operator, value), ("b", "=", 1)])
        query = to_filter(domain, SCHEMA)
    except DomainError:
        return
    check_filter(query)
    if operator != "within":
        matcher(domain, SCHEMA)
    collection.find_one(query)  # and the server accepts it


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


@settings(
    max_examples=1000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.sampled_from(["near", "within", "text"]), places | areas | shapes | searches | hostile)
def test_a_hostile_place_or_search_is_refused_or_literal(operator: str, value: Any) -> None:
    try:
        query = to_filter(Domain([("*" if operator == "text" else "a", operator, value)]), SCHEMA)
    except DomainError:
        return
    check_filter(query)


@settings(max_examples=1000, deadline=None)
@given(anything, anything, anything)
def test_a_hostile_path_or_operator_is_refused(path: Any, operator: Any, value: Any) -> None:
    for condition in [(path, "=", 1), ("name", operator, value), (path, operator, value)]:
        try:
            query = to_filter(Domain([condition]), PEOPLE)
        except DomainError:
            continue
        check_filter(query)


@settings(max_examples=1000, deadline=None)
@given(anything)
def test_a_hostile_source_is_refused_or_a_domain(source: Any) -> None:
    try:
        query = to_filter(Domain(source), PEOPLE)
    except DomainError:
        return
    check_filter(query)


@pytest.mark.parametrize("value", NO_DATA[:8], ids=repr)
@pytest.mark.parametrize("nest", [lambda v: v, lambda v: [v], lambda v: [[v]], lambda v: {"x": v}])
@pytest.mark.parametrize("operator", ["=", "!=", ">", "in", "not in", "all", "=?", "like"])
def test_what_has_a_meaning_of_its_own_is_refused_everywhere(
    operator: str, nest: Any, value: object
) -> None:
    with pytest.raises(DomainError):
        to_filter(Domain([("a", operator, nest(value))]), SCHEMA)


def test_a_careless_field_cannot_let_an_operator_through() -> None:
    class Careless:
        name = "a"

        def operand(self, value: object) -> object:
            return re.compile(str(value))

    class Schema:
        name = "careless"

        def resolve(self, path: str) -> Any:
            from earnorm.domain import Path

            return Path(path, Careless())

    for operator in ("=", "!=", "in", "not in", "all", ">"):
        with pytest.raises(DomainError, match="no value that is stored"):
            to_filter(Domain([("a", operator, "x")]), Schema())


@pytest.mark.parametrize(
    "value",
    [
        *({"$gt": 1}, {"$ne": None}, {"$where": "1"}, {"$ref": "a", "$id": 1}, {"$regex": "."}),
        *({"x": {"$gt": 1}}, [{"$gt": 1}], [[{"$gt": 1}]], {"x": 1, "$gt": 2}, {}, "$b", ["$b"]),
    ],
    ids=repr,
)
def test_a_dollar_in_a_value_matches_itself_only(
    collection: Collection[dict[str, Any]], value: Any
) -> None:
    docs = [{"_id": 0, "a": value}, {"_id": 1, "a": 5, "b": 5}, {"_id": 2}, {"_id": 3, "a": "x"}]
    collection.delete_many({})
    collection.insert_many(docs)
    for operator, expected in (("=", [0]), ("!=", [1, 2, 3])):
        domain = Domain([("a", operator, value)])
        check_filter(to_filter(domain, SCHEMA))
        assert [doc["_id"] for doc in collection.find(to_filter(domain, SCHEMA))] == expected
        assert [doc["_id"] for doc in docs if matcher(domain, SCHEMA)(doc)] == expected


def test_a_generator_is_refused_because_it_can_be_read_only_once() -> None:
    with pytest.raises(DomainError, match="give a list"):
        Domain([("a", "in", (number for number in range(3)))])


@pytest.mark.parametrize("operator", ["in", "not in", "all"])
def test_a_dict_that_looks_like_an_operator_cannot_stand_in_a_list(operator: str) -> None:
    with pytest.raises(DomainError, match="begins with '\\$'"):
        to_filter(Domain([("a", operator, [1, {"$gt": 1}])]), SCHEMA)
