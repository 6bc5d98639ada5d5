"""Domain.untrusted: what a client sends names what is offered, is small, and keeps its mark."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earnorm import Domain, DomainError
from earnorm.domain import And, Condition, Or, condition

FIELDS = {"name": ["=", "ilike"], "age": ["<", "in"], "author_id.name": ["="]}


def read(data: Any, **bounds: Any) -> Domain:
    return Domain.untrusted(data, fields=FIELDS, **bounds)


def test_what_is_offered_is_read_as_usual() -> None:
    data = ["|", ["name", "=", "x"], "&", ["age", "<", 3], ["author_id.name", "=", None]]
    assert read(data).simplify() == And([Domain(data)])
    assert read([]).to_list() == [] or read([]).to_list() == Domain.TRUE.prefix()
    by_names = Domain.untrusted([["name", "not in", ["a"]]], fields=["name"])
    assert list(by_names.conditions()) == list(Domain([("name", "not in", ["a"])]).conditions())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([["secret", "=", 1]], "a field that is not offered"),
        ([["name.x", "=", 1]], "a field that is not offered"),
        ([["age", "=", 1]], "an operator that is not offered"),
        ([["name", "regex", "(a+)+$"]], "an operator that is not offered"),
        ([["name", "any", [["secret", "=", 1]]]], "an operator that is not offered"),
        ([["name", "=", {"$ne": None}]], "a value is a text"),
        ({"$where": "1"}, "a value is a text"),
        ("name = 1", "a list of conditions"),
        (None, None),
        ([["name", "=", "x" * 1001]], "longer than 1000 characters"),
        ([["name", "=", "x"]] * 51, "more than 50 conditions"),
        ([["age", "in", list(range(1001))]], "more than 1000 values"),
        ([["age", "in", list(range(9999))]], "more than 1000 values"),
        ([["age", "in", [[[[[[[[[[1]]]]]]]]]]]], "more than 3 levels"),
        ([["age", "<", float("nan")]], "not finite"),
        ([["age", "<", 2**63]], "64 bits"),
        (["!", "|", ["name", "=", "x"], "&", ["name", "=", "y"], "!", ["age", "<", 1]], "3 levels"),
    ],
)
def test_what_is_not_offered_is_refused_with_one_code(data: Any, says: str | None) -> None:
    if says is None:
        assert read(data).is_untrusted
        return
    with pytest.raises(DomainError, match=says) as told:
        read(data)
    assert told.value.code == "untrusted"
    assert "secret" not in str(told.value) or "secret" in str(data)


def test_a_mistake_of_the_program_is_no_error_of_the_client() -> None:
    for fields, operators in (("name", None), (["name"], "="), (["name"], ["any"])):
        with pytest.raises(TypeError):
            Domain.untrusted([], fields=fields, operators=operators)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["name", "age", "secret", "=", "<", "in", "ilike", "&", "|", "!", "$ne"])
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(
            st.sampled_from(["name", "age", "secret"]), st.sampled_from(["=", "<", "in"]), inner
        ).map(list)
        | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=20,
)


@given(JSON)
def test_whatever_a_client_sends_is_refused_or_within_what_is_offered(data: Any) -> None:
    try:
        domain = read(data)
    except DomainError as error:
        assert error.code == "untrusted"
        return
    assert domain.is_untrusted and domain.depth <= 4
    for asked in domain.conditions():
        assert asked.operator in FIELDS[asked.path]


TRUSTED = st.sampled_from(
    [Domain.TRUE, Domain.FALSE, Domain([("a", "=", 1)]), Domain([("b", ">", 2)])]
)
SENT = [read([]), read([["name", "=", "x"]]), read(["!", ["age", "<", 3]])]


def combined(inner: st.SearchStrategy[Domain]) -> st.SearchStrategy[Domain]:
    return (
        st.lists(inner, max_size=3).map(And)
        | st.lists(inner, max_size=3).map(Or)
        | inner.map(lambda domain: ~domain)
        | inner.map(lambda domain: domain.simplify())
        | inner.map(copy.deepcopy)
        | inner.map(lambda domain: pickle.loads(pickle.dumps(domain)))
        | inner.map(Domain)
        | st.tuples(inner, inner).map(lambda two: two[0] & two[1])
        | st.tuples(inner, inner).map(lambda two: [*two] and Domain(["|", *two]))
    )


@given(st.recursive(st.sampled_from(SENT), combined, max_leaves=6))
def test_the_mark_stays_through_every_combination(domain: Domain) -> None:
    def is_sent(node: Domain) -> bool:
        children = getattr(node, "children", ()) or ([node.child] if hasattr(node, "child") else [])
        return node in SENT or any(map(is_sent, children))

    if not any(isinstance(domain, kind) and not domain.children for kind in (And, Or)):
        assert domain.is_untrusted or not is_sent(domain)
    assert domain.simplify().is_untrusted == domain.is_untrusted


@pytest.mark.parametrize("operator", ["any", "not any", "elem"])
@pytest.mark.parametrize("sent", SENT, ids=str)
def test_the_mark_stays_where_it_is_the_value_of_a_condition(sent: Domain, operator: str) -> None:
    made = [
        Domain([("x_id", operator, sent)]),
        Domain(["|", ["x_id", operator, sent], ("y", "=", 1)]),
        Condition("x_id", operator, sent),
        Domain([("x_id", operator, [("a", "=", 1), sent])]),
        pickle.loads(pickle.dumps(Domain([("x_id", operator, [("a", "=", 1), sent])]))),
        Domain([("x_id", operator, ["!", sent])]),
        Domain([("x_id", operator, [("y_id", "any", [sent])])]),
        condition("x_id", operator, sent) & Domain.TRUE,
        ~condition("x_id", operator, condition("y_id", "any", sent)),
    ]
    assert all(domain.is_untrusted for domain in made)
    assert [c.path for c in made[0].conditions()] == ["x_id"]
    assert made[0].to_list() == Domain([("x_id", operator, sent.to_list())]).to_list()
    assert not Domain([("x_id", operator, Domain([("a", "=", 1)]))]).is_untrusted


@given(st.recursive(TRUSTED, combined, max_leaves=6))
def test_what_no_client_has_sent_has_no_mark(domain: Domain) -> None:
    assert not domain.is_untrusted
