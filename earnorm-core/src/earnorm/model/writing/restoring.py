"""Copies the state of a record, its pending changes included, to restore it after a rollback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from earnorm.fields.base import Marks, is_embedded, map_inside
from earnorm.model.slots import UNTOUCHED, Pending, pending_of, set_state

if TYPE_CHECKING:
    from earnorm.model.structures import Structure


def duplicate(value: Any) -> Any:
    """Copy a value and what it holds, the pending changes of embedded objects included."""
    kind = type(value)
    if kind is list:
        return list(map(duplicate, value))
    if kind is tuple:
        return tuple(map(duplicate, value))
    if kind is dict:
        return {key: duplicate(item) for key, item in value.items()}
    if kind is set:
        return set(value)
    if is_embedded(value):
        copied = object.__new__(kind)
        restore_into(copied, *copied_state(value))
        copied._take_undeclared(value)
        return copied
    return value


def own(value: Any) -> Any:
    """Copy a value that a program gave for later, so that its changes do not reach the copy."""
    try:
        return duplicate(value)
    except RecursionError:  # it contains itself, or is too deep: the validation refuses it
        return value


def copied_state(structure: Structure) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return copies of a structure's state and of its slots, which share nothing that can change."""
    fields = type(structure)._schema.fields
    copies: dict[int, Any] = {}

    def copy_at(name: str, value: Any) -> Any:
        field = fields.get(name)
        if field is None or not field.mutable:
            return value
        copied = duplicate(value)
        _note_copies(value, copied, copies)
        return copied

    def copy_of(marked: Any) -> Any:
        known = copies.get(id(marked)) if is_embedded(marked) else marked
        return duplicate(marked) if known is None else known

    state = {name: copy_at(name, value) for name, value in structure.__dict__.items()}
    slots: dict[str, Any] = {}
    pending = pending_of(structure)
    if pending is not UNTOUCHED:
        copied = slots["_pending"] = Pending()
        for noted, own_notes in (
            (pending.changes, copied.changes),
            (pending.originals, copied.originals),
        ):
            for name, v in noted.items():
                own_notes[name] = Marks(map_inside(v.tree, copy_of)) if type(v) is Marks else v
        copied.refused = pending.refused
    fetch = getattr(structure, "_fetch", None)
    if fetch is not None:
        slots["_fetch"] = fetch
    return state, slots


def _note_copies(value: Any, copied: Any, copies: dict[int, Any]) -> None:
    if is_embedded(value):
        copies[id(value)] = copied
    elif type(value) is list:
        for one, other in zip(value, copied, strict=True):
            _note_copies(one, other, copies)
    elif type(value) is dict:
        for key, one in value.items():
            _note_copies(one, copied[key], copies)


def restore_into(structure: Structure, state: dict[str, Any], slots: Mapping[str, Any]) -> None:
    """Give a structure a state and slots."""
    set_state(structure, state)
    for slot in ("_pending", "_fetch"):
        if slot in slots:
            object.__setattr__(structure, slot, slots[slot])
        elif hasattr(structure, slot):
            object.__delattr__(structure, slot)
