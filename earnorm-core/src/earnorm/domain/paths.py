"""The parts of dotted paths: which of them are positions, and whether two paths are about one value."""

from __future__ import annotations

from typing import Final

from earnorm.exceptions import LimitExceeded, cut

__all__ = ["check_length", "is_position", "is_too_long", "overlap", "without_positions"]


def is_position(part: str) -> bool:
    """Return whether a part of a path means a position in a list; to a server ``01`` is a key."""
    return part.isascii() and part.isdecimal() and len(part) < 10 and part == str(int(part))


def without_positions(path: str) -> str:
    """Return ``lines.qty`` for ``lines.0.qty`` and for ``lines.$[i0].qty``."""
    parts = path.split(".")
    return ".".join(part for part in parts if not (is_position(part) or part.startswith("$[")))


MAX_LENGTH: Final = 1_000
"""The most characters of a path."""
MAX_PARTS: Final = 100
"""The most names in a path; a server takes 200, and adds some of its own."""
TOO_LONG: Final = f"a path has at most {MAX_LENGTH:,} characters and {MAX_PARTS} names"


def is_too_long(path: str) -> bool:
    """Return whether a path is longer than a server, or an error about it, can stand."""
    return len(path) > MAX_LENGTH or path.count(".") >= MAX_PARTS


def check_length(path: str) -> None:
    """Refuse a path that is too long.

    Raises:
        LimitExceeded: It is.
    """
    if is_too_long(path):
        raise LimitExceeded(f"{cut(path)!r}: {TOO_LONG}")


def overlap(one: str, other: str) -> bool:
    """Return whether two paths are about one value, or one of them leads into that of the other."""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")
