"""Odoo's list notation, and what a malformed one is answered with."""

from __future__ import annotations

from typing import Any

import pytest

from earnorm.domain import FALSE, TRUE, And, Domain, Not, Or, condition
from earnorm.exceptions import DomainError, LimitExceeded

A, B, C, D = (condition(name, "=", 1) for name in "abcd")
a, b, c, d = (tuple(x.to_list()[0]) for x in (A, B, C, D))  # type: ignore[arg-type]  # conditions


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, TRUE),
        ([], TRUE),
        ((), TRUE),
        (True, TRUE),
        (False, FALSE),
        ([a], A),
        ([a, b], And([A, B])),
        ([list(a), list(b)], And([A, B])),
        ((a, b), And([A, B])),
        (["|", a, b], Or([A, B])),
        (["!", a], Not(A)),
        (["!", "!", a], A),
        ([["!", "!", a]], A),
        ([a, "!", b], And([A, Not(B)])),
        ([["!", a], b, c], And([Not(A), B, C])),
        (["&", "|", a, b, c], And([Or([A, B]), C])),
        (["|", a, "|", b, c], Or([A, B, C])),
        (["|", "|", a, b, "|", c, d], Or([A, B, C, D])),
        (["|", a, b, c], And([Or([A, B]), C])),
        (["!", "|", a, b], Not(Or([A, B]))),
        (["|", [a, b], c], Or([And([A, B]), C])),
        (["&", a, ["&", b, c]], And([A, B, C])),
        ([[a], [[b]]], And([A, B])),
        ([A, "|", B, c], And([A, Or([B, C])])),
        ([True], TRUE),
        (["|", False, a], Or([FALSE, A])),
        ([(1, "=", 1)], TRUE),
        ([(0, "=", 1), a], And([FALSE, A])),
        ([[]], TRUE),
    ],
)
def test_notation(source: Any, expected: Domain) -> None:
    assert Domain(source) == expected


def test_a_domain_is_returned_as_it_is() -> None:
    assert Domain(A) is A


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a = 1", "a list of conditions, not 'a = 1'"),
        (a, r"write \[\('a', '=', 1\)\]"),
        (list(a), r"write \[\('a', '=', 1\)\]"),
        ({"a": 1}, "a list of conditions"),
        (7, "a list of conditions"),
        (["|", a], "'|' stands before 2 terms, but only 1 follows"),
        (["|"], "only 0 follow"),
        (["!"], "'!' stands before 1 term, but only 0 follow"),
        ([a, "|", b], "only 1 follows; signs come before their terms"),
        ([a, "and", b], "'and' is none of the signs"),
        ([("a", "=")], r"three parts \(path, operator, value\), not 2"),
        ([("a", "=", 1, 2)], "not 4"),
        ([("a",)], "not 1"),
        ([(1, "=", 2)], "name of a field, not 1"),
        ([(5, "=", 1)], "name of a field, not 5"),
        ([("a", 5, 1)], "operator is a text, not 5"),
        ([("", "=", 1)], "name of a field, not ''"),
        ([None], "None is no condition"),
        ([{"a": 1}], "is no condition"),
        ([(None, "=", 1)], "name of a field, not None"),
    ],
)
def test_a_malformed_domain_says_what_to_write(source: Any, message: str) -> None:
    with pytest.raises(DomainError, match=message):
        Domain(source)


def test_a_long_row_of_negations_needs_no_recursion() -> None:
    assert Domain(["!"] * 10_000 + [a]) == A
    assert Domain(["!"] * 10_001 + [a]) == Not(A)


@pytest.mark.parametrize("sign", ["&", "|"])
def test_a_long_chain_of_signs_is_flat(sign: str) -> None:
    leading = Domain([sign] * 99_999 + [a] * 100_000)
    trailing = Domain([part for _ in range(99_999) for part in (sign, a)] + [a])

    assert leading == trailing
    assert leading.depth == 2


def test_alternating_signs_are_bounded_in_depth() -> None:
    with pytest.raises(LimitExceeded, match="nested deeper"):
        Domain([part for _ in range(5_000) for part in ("&", a, "|", b)] + [c])


def test_nested_lists_are_bounded_in_depth() -> None:
    source: list[Any] = [a]
    for _ in range(10_000):
        source = [source]
    with pytest.raises(LimitExceeded, match="nested deeper"):
        Domain(source)


def test_a_list_that_contains_itself_is_bounded_too() -> None:
    source: list[Any] = [a]
    source.append(source)
    with pytest.raises(LimitExceeded, match="nested deeper"):
        Domain(source)
