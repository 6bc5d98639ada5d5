"""The table of docs/typing.md says what the files of tests/mistakes say, which both checkers are held to."""

from __future__ import annotations

import re

from tests.docs.blocks import ROOT
from tests.mistakes.__main__ import MARK

ROW = re.compile(r"^\| (\d+) \| (.+?) \| (flagged|-) \| (flagged|-) \|", re.MULTILINE)
SUM = re.compile(r"^\| \| together, of 45 \| (\d+) \| (\d+) \|", re.MULTILINE)


def marks(style: str) -> dict[int, tuple[str, str]]:
    """Return what each mistake is, and if it is flagged, by its number."""
    lines = (ROOT / "tests" / "mistakes" / f"{style}.py").read_text().splitlines()
    found = [mark for line in lines if (mark := MARK.search(line)) is not None]
    return {int(mark[1][1:]): (mark[3], "-" if mark[2] else "flagged") for mark in found}


def test_the_table_of_mistakes_is_the_one_that_the_checkers_are_held_to() -> None:
    page = (ROOT / "docs" / "typing.md").read_text()
    documented, annotated = marks("documented"), marks("annotated")
    assert len(documented) == len(annotated) == 45
    shown = {int(row[0]): row[1:] for row in ROW.findall(page)}
    assert shown == {
        number: (text, seen, annotated[number][1]) for number, (text, seen) in documented.items()
    }
    flagged = [
        sum(seen == "flagged" for _, seen in each.values()) for each in (documented, annotated)
    ]
    sums = SUM.search(page)
    assert sums is not None and [int(sums[1]), int(sums[2])] == flagged == [28, 37]
