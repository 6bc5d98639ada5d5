"""The names of assigned values that the validation refused; a record keeps such values as given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Self

REFUSED: Final[set[int]] = set()
"""The ``id()`` of each :class:`RefusedNames` that lives.

A field asks it before it asks a record, whose slot is nearly always empty: that takes 0.4 µs.
"""


class RefusedNames(frozenset[str]):
    """The names of a structure's fields whose assigned values were refused, at least one."""

    __slots__ = ()

    def __new__(cls, names: frozenset[str]) -> Self:
        self = super().__new__(cls, names)
        REFUSED.add(id(self))
        return self

    def __del__(self, forget: Callable[[int], None] = REFUSED.discard) -> None:
        forget(id(self))


NO_NAMES: Final[frozenset[str]] = frozenset()
