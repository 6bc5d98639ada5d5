"""Finds the changes in place of read-only fields, which a save refuses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from earnorm.exceptions import ErrorDetail
from earnorm.fields.base import Marks, is_embedded
from earnorm.model.writing.pending import changed_fields

if TYPE_CHECKING:
    from earnorm.model.structures import Structure

_NONE: Final[Mapping[str, Any]] = {}


def readonly_changes(structure: Structure, names: Iterable[str]) -> list[ErrorDetail]:
    """Return the problems of changed fields that are read-only, embedded objects included.

    Args:
        structure: A stored record, or an embedded object of one.
        names: The names of its changed fields.
    """
    fields, state = type(structure)._schema.fields, structure.__dict__
    details: list[ErrorDetail] = []
    for name in names:
        field = fields[name]
        if field.readonly:
            message = "can be set only on a new record; refresh() drops the change"
            details.append({"loc": (name,), "msg": message, "type": "readonly"})
            continue
        if name in getattr(structure, "_changes", _NONE):
            continue  # another object was assigned; its values are those of a new object
        original = getattr(structure, "_originals", _NONE).get(name)
        if is_embedded(state.get(name)):
            _readonly_inside(state[name], (name,), details)
        elif type(original) is Marks:
            known: set[int] = set()
            _collect(original.tree, known)
            _readonly_items(state.get(name), known, (name,), details)
    return details


def _readonly_inside(embedded: Any, loc: tuple[str | int, ...], details: list[ErrorDetail]) -> None:
    for detail in readonly_changes(embedded, changed_fields(embedded)):
        details.append({**detail, "loc": (*loc, *detail["loc"])})


def _readonly_items(
    value: Any, known: set[int], loc: tuple[str | int, ...], details: list[ErrorDetail]
) -> None:
    if is_embedded(value):
        if id(value) in known:
            _readonly_inside(value, loc, details)
        return
    pairs: Iterable[tuple[str | int, Any]] = ()
    if type(value) is list:
        pairs = enumerate(value)
    elif type(value) is dict:
        pairs = value.items()
    for key, item in pairs:
        _readonly_items(item, known, (*loc, key), details)


def _collect(tree: Any, known: set[int]) -> None:
    if is_embedded(tree):
        known.add(id(tree))
    elif type(tree) is list:
        for item in tree:
            _collect(item, known)
    elif type(tree) is dict:
        for item in tree.values():
            _collect(item, known)
