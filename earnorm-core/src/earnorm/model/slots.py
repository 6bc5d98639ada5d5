"""The slots of records and embedded objects, with setters for hydration without Python code."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from earnorm.fields.refused import NO_NAMES, RefusedNames


class Slots:
    """The storage of a structure: its state in ``__dict__``, and everything else in slots."""

    __slots__ = ("__dict__", "__weakref__", "_fetch", "_pending")


class Pending:
    """The notes of one structure about its unsaved changes; ``writing.pending`` describes them.

    The first note makes it. A slot for each kind of note would make all records larger, and asking a
    slot that is empty takes 0.4 µs.

    Attributes:
        changes: By name, the baseline of a field that was assigned.
        originals: By name, the baseline of a value that can change in place and was read.
        refused: The names of assigned values that the validation refused.
    """

    __slots__ = ("changes", "originals", "refused")

    def __init__(self) -> None:
        self.changes: dict[str, Any] = {}
        self.originals: dict[str, Any] = {}
        self.refused: frozenset[str] = NO_NAMES

    def refuse(self, *names: str) -> None:
        """Note that the validation refused the values of these fields."""
        self.refused = RefusedNames(self.refused.union(names))

    def accept(self, name: str) -> None:
        """Forget that the value of a field was refused."""
        self.keep_refused(self.refused.difference((name,)))

    def keep_refused(self, names: Iterable[str]) -> None:
        """Forget what was refused of all other fields than these."""
        kept = self.refused.intersection(names)
        self.refused = RefusedNames(kept) if kept else NO_NAMES


class _NoNotes(dict[str, Any]):
    """A dict that stays empty."""

    def __setitem__(self, name: str, baseline: Any) -> None:
        raise TypeError("nothing can be noted here: see _pending_or_new()")

    def setdefault(self, name: str, baseline: Any = None) -> Any:
        raise TypeError("nothing can be noted here: see _pending_or_new()")


UNTOUCHED: Final = Pending()
"""The notes of a structure that has none. Nothing can be noted in it."""
UNTOUCHED.changes = UNTOUCHED.originals = _NoNotes()

SLOTS = frozenset((*Slots.__slots__, "_drawn_id", "_undeclared"))
set_state: Callable[[Any, dict[str, Any]], None] = vars(Slots)["__dict__"].__set__
"""Set a structure's ``__dict__``: its state."""
set_fetch: Callable[[Any, Any], None] = vars(Slots)["_fetch"].__set__
"""Set a structure's ``Fetch``, the loading state that records of one query share."""
set_pending: Callable[[Any, Pending], None] = vars(Slots)["_pending"].__set__
"""Set a structure's notes about its unsaved changes."""


def pending_of(structure: object) -> Pending:
    """Return the notes of a structure about its unsaved changes.

    Nothing can be noted in them where there are none yet; ``_pending_or_new`` makes them.
    """
    pending: Pending = getattr(structure, "_pending", UNTOUCHED)
    return pending
