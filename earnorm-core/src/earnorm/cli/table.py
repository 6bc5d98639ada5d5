"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

STYLES: Mapping[str, str] = {
    "active": "green",
    "ok": "green",
    "warning": "yellow",
    "not selected": "yellow",
    "disabled": "yellow",
    "error": "bold red",
    "not installed": "bold red",
}


def print_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, status: int | None = None
) -> None:
    """Print rows under headings.

    Args:
        headings: The names of the columns.
        rows: The cells of each row.
        status: The column whose words have colours; None means that there is none.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        # Text, not str, because rich would read a message in brackets as markup.
        cells = [Text(cell) for cell in row]
        if status is not None:
            cells[status].stylize(STYLES.get(row[status], ""))
        table.add_row(*cells)
    Console().print(table)
