"""Notes: typed values that one layer or step leaves on an operation for another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")


class Note(Generic[T]):
    """The key of a note. Two notes of one name are two notes: whoever shall read one, imports its key.

    Options say how an operation is done; a note says something that its layers have to know of each other::

        APPROVED: Note[str] = Note("approved_by")

        op = op.with_note(APPROVED, "ann")   # a copy, as by op.replace()
        op.note(APPROVED)                    # "ann"; None where nobody left one

    Args:
        name: The name that a repr shows.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<Note {self.name}>"


class _NoNotes(dict[Note[Any], Any]):
    # A dict, because nothing is read faster; hashable, so that a dataclass takes it as a default.
    __hash__ = object.__hash__  # type: ignore[assignment] # dict has none


NO_NOTES: Final[Mapping[Note[Any], Any]] = _NoNotes()
"""The notes of an operation on which nobody left any."""
