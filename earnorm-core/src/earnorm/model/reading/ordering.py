"""Parses orders: ``"-age,name"`` or ``["-age", "name"]``."""

from __future__ import annotations

from collections.abc import Sequence

Order = str | Sequence[str] | None
"""``"-age,name"`` or ``["-age", "name"]``: field paths, descending with a minus sign."""


def parse_order(*order: Order) -> tuple[tuple[str, int], ...]:
    """Return paths with 1 (ascending) or -1, in their order.

    The first mention of a path decides; in a driver, the last one would.
    """
    directions: dict[str, int] = {}
    for one_order in order:
        parts = (
            (one_order or "").split(",")
            if isinstance(one_order, str) or one_order is None
            else one_order
        )
        for part in map(str.strip, parts):
            if part:
                directions.setdefault(part.lstrip("-+"), -1 if part.startswith("-") else 1)
    return tuple(directions.items())


def checked_size(name: str, value: int) -> int:
    """Return a limit or an offset, and refuse an invalid one.

    Raises:
        ValueError: It is not a whole number from 0.
    """
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} is a whole number from 0, not {value!r}")
    return value
