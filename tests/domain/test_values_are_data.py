"""A value is data wherever it stands: a refusal or a literal match, never an operator."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo.collection import Collection

from earnorm.domain import OPERATORS, Domain, matcher, to_filter
from earnorm.exceptions import DomainError
from tests.domain.fakes import PEOPLE, loose
from tests.domain.hostile import (
    NO_DATA,
    anything,
    areas,
    check_filter,
    hostile,
    places,
    searches,
    shapes,
)

SCHEMA = loose("ab")

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
