"""docs/domains.md, row by row: what each condition finds, on the server and in memory."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from bson import ObjectId
from pymongo.collection import Collection

from earnorm.domain import OPERATORS, Domain, matcher, to_filter
from tests.domain.fakes import PEOPLE, anything

PAGE = Path(__file__).parents[2] / "docs" / "domains.md"
NAMES = {
    "Decimal": Decimal,
    "ObjectId": ObjectId,
    "UUID": UUID,
    "datetime": dt.datetime,
    "HANOI": dt.timezone(dt.timedelta(hours=7)),
}


def rows() -> list[tuple[str, list[str]]]:
    """The four cells of every row that has a condition."""
    found = []
    for number, line in enumerate(PAGE.read_text(encoding="utf-8").splitlines(), 1):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and cells[1].startswith("`"):
            found.append((f"line {number}", cells))
    return found


def python(cell: str) -> list[Any]:
    """The values of a cell: pieces of code between backticks."""
    code = ", ".join(re.findall(r"`([^`]*)`", cell.replace(r"\|", "|")))
    return list(eval(f"[{code}]", NAMES))


def stored(document: dict[str, Any]) -> dict[str, Any]:
    return {"_id" if name == "id" else name: anything(value) for name, value in document.items()}


ROWS = rows()


def test_the_page_has_a_row_for_every_operator() -> None:
    used = {term[1] for _, cells in ROWS for term in python(cells[1]) if isinstance(term, tuple)}

    # The others need other records, or the server alone: their rows have tests of their own.
    apart = {n for n, op in OPERATORS.items() if op.relational or op.pathless} | {"within"}
    assert used == OPERATORS.keys() - apart


@pytest.mark.parametrize("cells", [cells for _, cells in ROWS], ids=[line for line, _ in ROWS])
def test_a_row_of_the_page_is_true(
    collection: Collection[dict[str, Any]], cells: list[str]
) -> None:
    _, condition, finds, leaves_out = cells
    domain = Domain(python(condition))
    expected = [stored(doc) for doc in python(finds)]
    others = [stored(doc) for doc in python(leaves_out)]
    assert expected or others
    docs = [{"_id": number, **doc} for number, doc in enumerate([*expected, *others])]
    wanted = [doc["_id"] for doc in docs[: len(expected)]]
    collection.delete_many({})
    collection.insert_many(docs)
    holds = matcher(domain, PEOPLE)

    assert [doc["_id"] for doc in collection.find(to_filter(domain, PEOPLE))] == wanted
    assert [doc["_id"] for doc in docs if holds(doc)] == wanted
    assert [doc["_id"] for doc in collection.find() if holds(doc)] == wanted
