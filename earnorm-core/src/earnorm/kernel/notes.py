"""Notes: typed values that one layer or step leaves on an operation for another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")


class Note(Generic[T]):
    """The key of a note. Two notes with one name are different: a reader imports the key itself.

    Options say how to do an operation; a note is information from one of its layers for another::

        APPROVED: Note[str] = Note("approved_by")

        op = op.with_note(APPROVED, "ann")   # a copy, as by op.replace()
        op.note(APPROVED)                    # "ann"; None if there is no such note

    Args:
        name: The name that a repr shows.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<Note {self.name}>"


class _NoNotes(dict[Note[Any], Any]):
    # A dict is the fastest mapping to read; a dataclass takes only a hashable one as a default.
    __hash__ = object.__hash__  # type: ignore[assignment] # dict has none


NO_NOTES: Final[Mapping[Note[Any], Any]] = _NoNotes()
"""The notes of an operation that has none."""
