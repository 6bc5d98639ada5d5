"""How an order is written: ``"-age,name"`` or ``["-age", "name"]``."""

from __future__ import annotations

from collections.abc import Sequence

Order = str | Sequence[str] | None
"""``"-age,name"`` or ``["-age", "name"]``: field paths, descending with a minus sign."""


def parse_order(*order: Order) -> tuple[tuple[str, int], ...]:
    """Paths with 1 (ascending) or -1, in order.

    The first mention of a path decides; a driver would let the last one.
    """
    found: dict[str, int] = {}
    for each in order:
        parts = (each or "").split(",") if isinstance(each, str) or each is None else each
        for part in map(str.strip, parts):
            if part:
                found.setdefault(part.lstrip("-+"), -1 if part.startswith("-") else 1)
    return tuple(found.items())


def checked_size(name: str, value: int) -> int:
    """A limit or an offset, if it can be one.

    Raises:
        ValueError: It is no whole number from 0.
    """
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} is a whole number from 0, not {value!r}")
    return value
