"""docs/domains.md, row by row: what each condition finds, on the server and in memory.

The rows about real models (other records, days) are executed in tests/core/test_domains_page.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.collection import Collection

from earnorm.domain import OPERATORS, Domain, matcher, to_filter
from earnorm.exceptions import DomainError, NotSupported
from tests.domain.fakes import PEOPLE, anything
from tests.domain.page import NAMES, REAL_MODELS, Row, python, rows, world


def stored(document: dict[str, Any]) -> dict[str, Any]:
    return {"_id" if name == "id" else name: anything(value) for name, value in document.items()}


ROWS = [row for row in rows() if row.section not in REAL_MODELS]


def test_the_page_has_a_row_for_every_operator() -> None:
    used = {
        condition.operator
        for row in rows()
        if not row.refused
        for condition in Domain(asked(row)).conditions()
    }
    assert used == OPERATORS.keys()


def asked(row: Row) -> list[Any]:
    records = {name: name for _, items in world() for name, _ in items}
    return python(row.condition, {**NAMES, **records})


def test_every_section_has_its_rows() -> None:
    assert {row.section for row in rows()} >= {*REAL_MODELS, "Places and full text", "Text"}


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_row_of_the_page_is_true(collection: Collection[dict[str, Any]], row: Row) -> None:
    domain = Domain(python(row.condition))
    if row.refused:
        with pytest.raises(DomainError):
            to_filter(domain, PEOPLE)
        with pytest.raises(NotSupported if row.server_alone else DomainError):
            matcher(domain, PEOPLE)
        return
    expected = [stored(doc) for doc in python(row.finds)]
    others = [stored(doc) for doc in python(row.leaves_out)]
    assert expected or others
    docs = [{"_id": number, **doc} for number, doc in enumerate([*expected, *others])]
    wanted = [doc["_id"] for doc in docs[: len(expected)]]
    collection.delete_many({})
    collection.insert_many(docs)
    if any(condition.operator == "text" for condition in domain.conditions()):
        collection.create_index([("name", "text")])

    assert sorted(doc["_id"] for doc in collection.find(to_filter(domain, PEOPLE))) == wanted
    if row.server_alone:
        with pytest.raises(NotSupported):
            matcher(domain, PEOPLE)
        return
    holds = matcher(domain, PEOPLE)
    assert [doc["_id"] for doc in docs if holds(doc)] == wanted
    assert [doc["_id"] for doc in collection.find() if holds(doc)] == wanted
