"""Tells observers of the calls that read or write documents.

The methods of a collection are replaced on the object while somebody observes, so that a call costs
nothing more while nobody does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from earnorm.backends.base import Collection

Hear = Callable[[str, str], None]
"""Takes the kind of a call, and the name of its collection."""

KINDS: Final[Mapping[str, str]] = {
    "find": "find",
    "open_cursor": "find",
    "count": "count",
    "aggregate": "aggregate",
    "open_pipeline": "aggregate",
    "insert": "insert",
    "update": "update",
    "find_and_update": "find_and_update",
    "bulk_write": "bulk_write",
    "delete": "delete",
}
"""The kind of call that each of these methods makes."""

_MAY_BE_EMPTY: Final = frozenset({"insert", "bulk_write"})
"""The methods that send nothing for an empty list."""


def start_hearing(collection: Collection, hearing: Sequence[Hear]) -> None:
    """Tell the functions in ``hearing`` of each call of the collection from now on."""
    for method, kind in KINDS.items():
        call = partial(getattr(type(collection), method), collection)
        object.__setattr__(
            collection, method, _told(call, kind, collection.name, hearing, method in _MAY_BE_EMPTY)
        )


def _told(
    call: Callable[..., Any], kind: str, name: str, hearing: Sequence[Hear], may_be_empty: bool
) -> Callable[..., Any]:
    def told(first: Any, /, *arguments: Any, **options: Any) -> Any:
        if first or not may_be_empty:
            for hear in tuple(hearing):
                hear(kind, name)
        return call(first, *arguments, **options)

    return told


def stop_hearing(collection: Collection) -> None:
    """Give the collection its own methods again."""
    for method in KINDS:
        vars(collection).pop(method, None)
