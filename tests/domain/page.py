"""The tables of docs/domains.md, as rows that a test executes."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from bson import ObjectId

PAGE = Path(__file__).parents[2] / "docs" / "domains.md"
NAMES: Mapping[str, Any] = {
    "Decimal": Decimal,
    "ObjectId": ObjectId,
    "UUID": UUID,
    "date": dt.date,
    "datetime": dt.datetime,
    "HANOI": dt.timezone(dt.timedelta(hours=7)),
}
REAL_MODELS = {"Other records": "records", "Days and points in time": "days"}
"""Sections whose rows are about real models; the others are about documents."""


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        line: Its number in the page.
        section: The heading that it stands under.
        rule, condition, finds, leaves_out: Its cells.
    """

    line: int
    section: str
    rule: str
    condition: str
    finds: str
    leaves_out: str

    @property
    def refused(self) -> bool:
        """Whether the condition is a mistake."""
        return self.finds == "refused"

    @property
    def server_alone(self) -> bool:
        """Whether memory says that it cannot answer."""
        return "server alone" in self.rule

    @property
    def zone(self) -> str | None:
        """The time zone of the one who asks."""
        found = re.search(r'`tz="([^"]+)"`', self.rule)
        return found and found[1]

    def __str__(self) -> str:
        return f"line {self.line}"


def rows() -> list[Row]:
    """Every row that has a condition."""
    found, section = [], ""
    for number, line in enumerate(PAGE.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("## "):
            section = line[3:]
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and cells[1].startswith("`"):
            found.append(Row(number, section, *cells))
    return found


def python(cell: str, names: Mapping[str, Any] = NAMES) -> list[Any]:
    """The values of a cell: pieces of code between backticks."""
    code = ", ".join(re.findall(r"`([^`]*)`", cell.replace(r"\|", "|")))
    return list(eval(f"[{code}]", dict(names)))


def world() -> list[tuple[str, list[tuple[str, str]]]]:
    """The records of the section "Other records": a model's name, its records' names and values."""
    section = PAGE.read_text(encoding="utf-8").split("\n## Other records\n")[1]
    block = re.search(r"^```text\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert block is not None
    found = []
    for line in block[1].splitlines():
        model, *items = re.split(r"\s{2,}", line.strip())
        found.append((model, [(item.split("(")[0], item.partition("(")[2]) for item in items]))
    return found
