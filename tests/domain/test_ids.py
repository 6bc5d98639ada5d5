"""The law of named ids: every document that matches has one of them, and the domain falls into them and a rest."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from bson import Decimal128, Int64, ObjectId
from hypothesis import example, given
from hypothesis import strategies as st

from earnorm.domain import FALSE, TRUE, And, Condition, Domain, Not, Or, condition, matcher
from earnorm.domain.ids import ID_TYPES, ids_of, split_ids
from tests.domain.fakes import FakeSchema, anything, object_id, of_type

FIRST, SECOND = ObjectId("65a000000000000000000001"), ObjectId("65a000000000000000000002")
# Neighbours across types: equal to Python, or to the server, or to both.
IDS = [
    *(FIRST, SECOND, str(FIRST), "a", "A", "", 0, 1, 2, Int64(1), 1.0, True, False, None),
    *(Decimal128("1"), Decimal128("1.0"), uuid.UUID(int=1), {"a": 1}),
]


def text_or_number(value: Any) -> Any:
    """Ids that people write in another form than the stored one."""
    return value.lower() if isinstance(value, str) else of_type(int, float)(value)


def schema_of(convert: Callable[[Any], Any]) -> FakeSchema:
    return FakeSchema(
        {**dict.fromkeys(["_id", "id", "pk"], convert), "n": anything},
        db_names={"id": "_id", "pk": "_id"},
    )


SCHEMAS = [schema_of(convert) for convert in (anything, object_id, text_or_number)]

ids = st.sampled_from(IDS)
lists = st.lists(ids, max_size=4)
about_ids = st.builds(
    condition, st.sampled_from(["_id", "id", "pk"]), st.sampled_from(["=", "in"]), ids | lists
)
about_others = st.builds(
    condition,
    st.sampled_from(["_id", "id", "n"]),
    st.sampled_from(["=", "!=", "in", "not in", "=?"]),
    ids | lists,
)
leaves = about_ids | about_others | st.sampled_from([TRUE, FALSE])
domains = st.recursive(
    leaves,
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(And, st.lists(inner, max_size=3))
        | st.builds(Or, st.lists(inner, max_size=3))
    ),
    max_leaves=5,
)
documents = st.fixed_dictionaries({"_id": ids}, optional={"n": ids})


def judged(domain: Domain, schema: FakeSchema, document: dict[str, Any]) -> bool | None:
    """Whether the document matches; None where no filter can be made of the domain."""
    try:
        return matcher(domain, schema)(document)
    except ValueError:
        return None


@given(domains, st.sampled_from(SCHEMAS), documents)
@example(condition("id", "in", [FIRST, str(FIRST)]), SCHEMAS[1], {"_id": FIRST})
@example(And([condition("id", "in", [1, 2]), condition("_id", "=", 1)]), SCHEMAS[0], {"_id": 1})
@example(condition("_id", "=", "A"), SCHEMAS[2], {"_id": "a"})
def test_a_document_that_matches_has_one_of_the_ids(
    domain: Domain, schema: FakeSchema, document: dict[str, Any]
) -> None:
    found = ids_of(domain, schema)
    if found is None:
        return
    assert set(map(type, found)) <= ID_TYPES
    assert len(set(found)) == len(found)
    if judged(domain, schema, document):
        assert document["_id"] in found


@given(domains, st.sampled_from(SCHEMAS), documents)
def test_the_ids_and_the_rest_mean_the_same_as_the_domain(
    domain: Domain, schema: FakeSchema, document: dict[str, Any]
) -> None:
    split = split_ids(domain, schema)
    if split is None:
        assert ids_of(domain, schema) is None
        return
    named, rest = split
    assert ids_of(domain, schema) == named
    expected = judged(domain, schema, document)
    if expected is not None:
        assert judged(And([Condition("_id", "in", named), rest]), schema, document) is expected


@pytest.mark.parametrize(
    ("domain", "named"),
    [
        ([("id", "=", FIRST)], [FIRST]),
        ([("pk", "in", [str(FIRST), FIRST, SECOND])], [FIRST, SECOND]),
        ([("_id", "in", FIRST)], [FIRST]),
        ([("_id", "in", [])], []),
        ([("n", "=", 1), ("id", "in", [FIRST, SECOND])], [FIRST, SECOND]),
        ([("id", "in", [FIRST, SECOND]), ("id", "=", str(SECOND))], [SECOND]),
        ([("id", "=", "no ObjectId")], ["no ObjectId"]),
        ([], None),
        ([("n", "=", 1)], None),
        ([("id", "!=", FIRST)], None),
        ([("id", "=", None)], None),
        ([("id", "=", [FIRST])], None),
        ([("id", "=", 1.5)], None),
        (["|", ("id", "=", FIRST), ("n", "=", 1)], None),
        (["!", ("id", "=", FIRST)], None),
    ],
)
def test_these_are_the_ids_of_these_domains(domain: Any, named: list[Any] | None) -> None:
    assert ids_of(Domain(domain), SCHEMAS[1]) == named
