"""Paths through values that have no fields, which a server refuses and mongomock passes over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from earnorm.backends.base import Document
from earnorm.domain.paths import is_position

_CREATING: Final = frozenset(
    {"$set", "$inc", "$mul", "$min", "$max", "$push", "$addToSet", "$currentDate"}
)
"""The operators that make what is missing on the way to their place."""


def changed_paths(update: Mapping[str, Any]) -> list[str]:
    """Return the paths of an update that lead into other values."""
    return [
        path
        for operator, values in update.items()
        if operator in _CREATING
        for path in values
        if "." in path
    ]


def dead_end(documents: Iterable[Document], paths: Iterable[str]) -> str | None:
    """Return the first of the paths that no update can follow in one of the documents."""
    paths = list(paths)
    for document in documents:
        for path in paths:
            if not _is_viable(document, path.split(".")):
                return path
    return None


def _is_viable(value: Any, parts: list[str]) -> bool:
    for part in parts:
        if isinstance(value, Mapping):
            if part not in value:
                return True
            value = value[part]
        elif isinstance(value, list) and is_position(part):
            if int(part) >= len(value):
                return True
            value = value[int(part)]
        else:
            return False
    return True
