"""Reads the tables of a page."""

from __future__ import annotations

import re

from tests.docs.blocks import ROOT

_CELL = re.compile(r"(?<!\\)\|")


def rows(page: str, heading: str, nth: int = 0) -> list[list[str]]:
    """Return the cells of a table's rows, without its head.

    Args:
        page: The page's path from the root.
        heading: The heading above the table, with its signs.
        nth: Which table below that heading, from 0.
    """
    text = (ROOT / page).read_text()
    below = text.split(f"\n{heading}\n", 1)[1]
    below = re.split(r"\n#+ ", below, maxsplit=1)[0]
    tables = re.findall(r"(?:^\|.*\|\n)+", below, re.MULTILINE)
    _, _, *lines = tables[nth].strip().splitlines()
    return [[cell.strip() for cell in _CELL.split(line)[1:-1]] for line in lines]
