"""Domains as values: immutable, hashable, combined with &, | and ~, and printable."""

from __future__ import annotations

import copy
import datetime as dt
import pickle

import pytest
from bson import Decimal128, ObjectId

from earnorm.domain import FALSE, TRUE, And, Condition, Domain, Not, Or, condition
from earnorm.domain.ast import MAX_DEPTH
from earnorm.exceptions import DomainError, LimitExceeded

A, B, C = condition("a", "=", 1), condition("b", ">", 2), condition("c.d", "in", [1, 2])


def test_a_domain_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        A.path = "b"  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="immutable"):
        del (A & B).children  # type: ignore[attr-defined]


def test_a_domain_has_no_dict() -> None:
    for domain in (TRUE, A, A & B, A | B, ~A):
        assert not hasattr(domain, "__dict__")


@pytest.mark.parametrize("domain", [TRUE, FALSE, A, A & B, A | B, ~A, ~(A & (B | ~C))], ids=repr)
def test_a_domain_survives_copies_and_pickles(domain: Domain) -> None:
    for copied in (copy.copy(domain), copy.deepcopy(domain), pickle.loads(pickle.dumps(domain))):
        assert copied == domain
        assert hash(copied) == hash(domain)


def test_the_operators_flatten_what_is_associative() -> None:
    assert A & B & C == And([A, B, C]) == A & (B & C)
    assert A | B | C == Or([A, B, C]) == A | (B | C)
    assert ~~A is A
    assert ~TRUE is FALSE


def test_a_side_may_be_a_list() -> None:
    assert A & [("b", ">", 2)] == A & B
    assert [("b", ">", 2)] | A == B | A


def test_python_s_and_and_or_are_refused_with_the_way_out() -> None:
    with pytest.raises(TypeError, match=r"combine domains with &, \| and ~"):
        A and B  # noqa: B018
    with pytest.raises(TypeError):
        bool(~A)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (0, False),
        (1, 1.0),
        ("1", 1),
        ([1], [True]),
        ({"x": 1}, {"x": True}),
        (b"", ""),
        ({"x": 1, "y": 2}, {"y": 2, "x": 1}),
    ],
)
def test_values_that_mean_different_things_make_different_domains(
    one: object, other: object
) -> None:
    assert condition("a", "=", one) != condition("a", "=", other)


@pytest.mark.parametrize(
    "value",
    [
        [1, [2, {"x": [3]}]],
        {"x": {"y": 1}},
        Decimal128("1.0"),
        [Decimal128("1")],
        ObjectId("6" * 24),
        {"x": Decimal128("1")},
        dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        None,
        {1, 2},
    ],
    ids=repr,
)
def test_equal_conditions_have_equal_hashes(value: object) -> None:
    one, other = condition("a", "=", value), condition("a", "=", copy.deepcopy(value))

    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other}) == 1


def test_a_condition_keeps_no_hold_of_the_list_that_it_was_given() -> None:
    values = [1, [2]]
    domain = condition("a", "in", values)
    values.append(3)

    assert domain.to_list() == [("a", "in", [1, [2]])]


def test_the_same_set_makes_the_same_domain() -> None:
    assert condition("a", "in", {"x", "y", "z"}) == condition("a", "in", frozenset("zyx"))


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        (TRUE, []),
        (FALSE, [(0, "=", 1)]),
        (A & C, [("a", "=", 1), ("c.d", "in", [1, 2])]),
        (A | B | C, ["|", "|", ("a", "=", 1), ("b", ">", 2), ("c.d", "in", [1, 2])]),
        (~(A & B), ["!", "&", ("a", "=", 1), ("b", ">", 2)]),
        ((A | B) & ~C, ["|", ("a", "=", 1), ("b", ">", 2), "!", ("c.d", "in", [1, 2])]),
        (TRUE | A, ["|", (1, "=", 1), ("a", "=", 1)]),
        (condition("l", "elem", A & B), [("l", "elem", [["a", "=", 1], ["b", ">", 2]])]),
    ],
)
def test_a_domain_prints_as_the_list_that_it_reads_from(
    domain: Domain, expected: list[object]
) -> None:
    assert domain.to_list() == expected
    assert repr(domain) == f"Domain({expected!r})"
    assert Domain(expected) == domain


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        (A & TRUE, A),
        (A & FALSE & B, FALSE),
        (A | FALSE, A),
        (A | TRUE | B, TRUE),
        (And([]), TRUE),
        (Or([]), FALSE),
        (Not(Not(A)), A),
        (Not(And([TRUE])), FALSE),
        (A & B & A, A & B),
        (And([Or([And([A, B])]), C]), A & B & C),
        (~(A & TRUE), ~A),
    ],
)
def test_simplify_folds_constants_and_repetitions(domain: Domain, expected: Domain) -> None:
    assert domain.simplify() == expected


def test_paths_are_the_model_s_own_fields() -> None:
    assert (A & ~(B | C)).paths() == {"a", "b", "c"}
    assert TRUE.paths() == frozenset()


def test_conditions_come_from_left_to_right() -> None:
    assert list((A & ~(B | C)).conditions()) == [A, B, C]


def test_depth_is_bounded_whichever_way_a_domain_grows() -> None:
    domain = A
    with pytest.raises(LimitExceeded, match=f"deeper than {MAX_DEPTH} levels"):
        for _ in range(MAX_DEPTH + 1):
            domain = ~(domain & B)
    value: object = 1
    with pytest.raises(DomainError, match="nested deeper"):
        for _ in range(100):
            value = [value]
            condition("a", "=", value)


def test_width_is_not_bounded() -> None:
    domain = TRUE
    for number in range(3000):
        domain |= condition("a", "=", number)
    assert domain.depth == 2


@pytest.mark.parametrize(
    ("path", "operator", "message"),
    [
        ("", "=", "name of a field"),
        (None, "=", "name of a field"),
        ("a", None, "operator is a text"),
    ],
)
def test_a_condition_needs_two_names(path: object, operator: object, message: str) -> None:
    with pytest.raises(DomainError, match=message):
        Condition(path, operator, 1)  # type: ignore[arg-type]


def test_only_domains_are_combined() -> None:
    with pytest.raises(DomainError, match="made of domains"):
        And([A, ("b", "=", 1)])  # type: ignore[list-item]
