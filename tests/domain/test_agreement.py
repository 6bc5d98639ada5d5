"""The law of domains: the server's filter and the in-memory predicate find the same documents."""

from __future__ import annotations

import datetime as dt
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from bson import Binary, Decimal128, Int64, ObjectId
from bson.timestamp import Timestamp
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pymongo.collection import Collection

from earnorm.domain import (
    FALSE,
    OPERATORS,
    TRUE,
    And,
    Condition,
    Domain,
    Not,
    Or,
    condition,
    matcher,
    to_filter,
)
from earnorm.domain.values import thaw
from earnorm.exceptions import DomainError
from tests.domain.fakes import loose

EXAMPLES = int(os.environ.get("EARNORM_FUZZ_EXAMPLES", "500"))
SCHEMA = loose("abc")
PATHS = ["b", "c", "a.a", "a.b", "a.b.a", "a.0", "a.0.b", "a.1.0", "b.0.0", "b.a"]

OBJECT_ID = ObjectId("65a000000000000000000001")
# Few values on purpose: documents and conditions must meet. Neighbours across types come first.
NUMBERS = [
    *(0, 1, 2, -1, 0.0, -0.0, 1.0, 1.5, 0.1, float("nan"), float("inf"), -float("inf")),
    *(2**53, 2**53 + 1, float(2**53), 2**63 - 1, float(2**63), Int64(1), -(2**63)),
    *map(
        Decimal128,
        ["1", "1.0", "0.1", "1.5", "NaN", "Infinity", "-0", "1E+400", "9007199254740993"],
    ),
]
TEXTS = [
    *("", "a", "A", "ab", "aB", "ba", "aab", "abab", "a\nb", "a%b", "a_b", "a\\b", "a.b", "b\0a"),
    *(
        "é",
        "É",
        "ß",
        "\u1e9e",
        "ss",
        "k",
        "K",
        "\u212a",
        "\u017f",
        "\u0131",
        "\u0130",
        "i",
    ),  # Kelvin, long s, i
    *(
        "\u03c3\u03c2",
        "\u03a3\u03a3",
        "\U0001f600a",
        "\u1c90",
        "\u10d0",
    ),  # sigma, an emoji, Georgian
    *("$a", "$b", str(OBJECT_ID)),
]
OTHERS = [
    *(None, True, False, OBJECT_ID, ObjectId("65a000000000000000000002")),
    *(dt.datetime(2024, 2, 29), dt.datetime(2024, 2, 29, 0, 0, 0, 1999), dt.datetime(1969, 12, 31)),
    dt.datetime(2024, 2, 29, 7, tzinfo=dt.timezone(dt.timedelta(hours=7))),
    *(b"", b"a", b"ab", Binary(b"a", 0), Binary(b"a", 128), uuid.UUID(int=1), uuid.UUID(int=2)),
    *(Timestamp(1, 1), Timestamp(1, 2)),
]
# Values that only conditions have: a field converts them.
CONVERTED = [Decimal("0.1"), Decimal("1"), dt.date(2024, 2, 29)]
EVERYTHING = [*NUMBERS, *TEXTS, *OTHERS]
ALIKE = [None, False, 0, 0.0, "", b"", True, 1, Decimal128("1"), "a", "A", "1"]

RECIPES: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "upper": str.upper,
    "lower": str.lower,
    "begins": lambda text: text[:1] + "%",
    "ends": lambda text: "%" + text[-1:],
    "frame": lambda text: text[:1] + "%" + text[-1:],
    "any first": lambda text: "_" + text[1:],
    "any last": lambda text: text[:-1] + "_",
    "escaped": lambda text: "\\" + text,
}


@dataclass(frozen=True)
class Slot:
    """A place for one of the example's own few values, so that documents and conditions meet."""

    number: int
    recipe: str | None = None

    def filled(self, pool: Sequence[Any]) -> Any:
        value = pool[self.number % len(pool)]
        return RECIPES[self.recipe](str(value)) if self.recipe else value


def filled(template: Any, pool: Sequence[Any]) -> Any:
    match template:
        case Slot():
            return template.filled(pool)
        case list():
            return [filled(item, pool) for item in template]
        case dict():
            return {key: filled(item, pool) for key, item in template.items()}
        case Condition():
            value = filled(thaw(template.value), pool)
            return condition(template.path, template.operator, value)
        case And() | Or():
            return type(template)([filled(child, pool) for child in template.children])
        case Not():
            return Not(filled(template.child, pool))
        case tuple():
            return tuple(filled(item, pool) for item in template)
    return template


scalars = st.builds(Slot, st.integers(0, 3))
points = st.tuples(
    st.sampled_from([0, 0.001, 1, 105.85, 180, -180.0]), st.sampled_from([0, 0.5, 21.03, 90, -90.0])
).map(lambda position: {"type": "Point", "coordinates": list(position)})
flat_lists = st.lists(scalars, max_size=3)
keys = st.sampled_from(["a", "b", "c", "0", "1", "$x"])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=2),
    max_leaves=5,
)
# Embedded documents of the shape that the paths look for, alone and in lists.
embedded = st.fixed_dictionaries({"a": scalars}, optional={"b": scalars | flat_lists})
contents = (
    scalars | flat_lists | points | embedded | st.lists(embedded | scalars, max_size=3) | values
)
documents = st.fixed_dictionaries({}, optional={"a": contents, "b": contents, "c": values})

LETTERS = "aAbBkKéÉß\u03c3%%__\\\\.*[$^\n\0"
REGEXES = r"""a ^a a$ \Aa a.b ^$ [ab]+$ a|b \$ (a)b\1b ^.{1,2}$ é \d a\nb ^\w+$ \bb ^\S*$ (?=a)ab
    (?:ab){2} [^a] \x61 ^a?b*+$ (?>a|ab)$ ^(?:.|\n)$"""
operands = scalars | flat_lists | values | st.sampled_from(CONVERTED)
patterns = st.builds(Slot, st.integers(0, 3), st.sampled_from(list(RECIPES))) | st.text(
    LETTERS, max_size=6
)
OPERANDS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(["=", "!=", "=?"], operands),
    **dict.fromkeys(["in", "not in", "all"], st.lists(operands, max_size=4) | operands),
    **dict.fromkeys([">", ">=", "<", "<="], scalars | st.sampled_from(CONVERTED)),
    **{name: patterns for name in OPERATORS if "like" in name},
    "exists": st.booleans(),
    "size": st.integers(0, 3),
    "regex": st.sampled_from(["", *REGEXES.split()]),
    "near": st.tuples(
        st.sampled_from([0, 1, 105.8, 105.85, -179.5, 180, -180]),
        st.sampled_from([0, 0.5, 21.0, 21.03, 89.9, 90, -90]),
        st.sampled_from([0, 1_000, 120_000, 5_000_000, 20_000_000]),
        st.sampled_from([0, 500]),
    ).map(lambda near: [*near[:3], min(near[2:])]),
}


def conditions(paths: list[str], operators: list[str]) -> st.SearchStrategy[Domain]:
    return st.sampled_from(operators).flatmap(
        lambda name: st.builds(condition, st.sampled_from(paths), st.just(name), OPERANDS[name])
    )


def combined(leaves: st.SearchStrategy[Domain]) -> st.SearchStrategy[Domain]:
    return st.recursive(
        leaves,
        lambda inner: (
            st.builds(Not, inner)
            | st.builds(And, st.lists(inner, max_size=4))
            | st.builds(Or, st.lists(inner, max_size=4))
        ),
        max_leaves=6,
    )


inside = conditions(["a", "b", "0", "a.0"], list(OPERANDS))
OPERANDS["elem"] = inside | combined(inside)
leaves = conditions(["a"], list(OPERANDS)) | conditions(PATHS, list(OPERANDS))
domains = leaves | combined(leaves | st.sampled_from([TRUE, FALSE]))
pools = st.one_of(
    *(st.lists(st.sampled_from(kind), min_size=2, max_size=4) for kind in (ALIKE, NUMBERS, TEXTS)),
    *(st.lists(st.sampled_from(kind), min_size=2, max_size=4) for kind in (OTHERS, EVERYTHING)),
)
Document = dict[str, Any]
Case = tuple[list[Document], list[Domain]]
cases: st.SearchStrategy[Case] = st.builds(
    filled,
    st.tuples(
        st.lists(documents, min_size=2, max_size=6), st.lists(domains, min_size=2, max_size=4)
    ),
    pools,
)


def test_every_operator_is_generated() -> None:
    # Relational ones are about records: tests/core/test_relational_agreement.py. The server alone
    # answers a full-text search and 'within'.
    here = {n for n, op in OPERATORS.items() if not (op.relational or n in ("text", "within"))}
    assert OPERANDS.keys() == here


@pytest.mark.fuzz
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(cases)
def test_the_server_and_memory_agree(collection: Collection[Document], case: Case) -> None:
    docs, several = case
    docs = [{"_id": number, **doc} for number, doc in enumerate(docs)]
    collection.delete_many({})
    collection.insert_many(docs)
    stored = list(collection.find())
    for domain in several:
        try:
            query = to_filter(domain, SCHEMA)
        except DomainError as error:
            event("refused")
            with pytest.raises(DomainError) as refused:
                matcher(domain, SCHEMA)
            assert str(refused.value) == str(error)
            continue
        found = {doc["_id"] for doc in collection.find(query, {"_id": 1})}
        matches = matcher(domain, SCHEMA)
        assert {doc["_id"] for doc in stored if matches(doc)} == found, query
        # What a record holds before it is saved decides the same.
        assert {doc["_id"] for doc in docs if matches(doc)} == found, query
        event("none" if not found else "all" if len(found) == len(docs) else "some")


@settings(max_examples=min(EXAMPLES, 200), deadline=None)
@given(cases)
def test_simplified_means_the_same(case: Case) -> None:
    docs, several = case
    for domain in filter(compiles, several):
        before, after = matcher(domain, SCHEMA), matcher(domain.simplify(), SCHEMA)
        assert [before(doc) for doc in docs] == [after(doc) for doc in docs]


@settings(max_examples=min(EXAMPLES, 200), deadline=None)
@given(cases)
def test_the_negation_is_the_complement(case: Case) -> None:
    docs, several = case
    for domain in filter(compiles, several):
        holds, fails = matcher(domain, SCHEMA), matcher(~domain, SCHEMA)
        assert all(holds(doc) is not fails(doc) for doc in docs)


@settings(max_examples=min(EXAMPLES, 200), deadline=None)
@given(domains)
def test_the_list_notation_reads_back(domain: Domain) -> None:
    once = Domain(domain.to_list())

    assert once.simplify() == domain.simplify()
    assert Domain(once.to_list()) == once
    assert hash(Domain(once.to_list())) == hash(once)
    assert once.paths() == domain.paths()


def compiles(domain: Domain) -> bool:
    try:
        to_filter(domain, SCHEMA)
    except DomainError:
        return False
    return True
