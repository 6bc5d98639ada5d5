"""The pending changes of a record: what the program has changed since memory and database agreed.

Everything that notes, sends, forgets or restores a change goes through here. The ``_pending`` of a
record, and of each embedded object, holds the *baseline*: the values that were stored when both
agreed. Its ``refused`` has the names of assigned values that were refused: they are kept as they were
given until a write, which validates them again, raises the error.

- ``changes``: by name, the baseline of a field that was assigned.
- ``originals``: by name, the baseline of a value that can change in place and was read.

A baseline is MISSING (no key), a stored value, or ``Marks`` of the embedded objects in a container:
these note their own changes, so that nothing of them is copied.

A write takes a snapshot of the fields that it is about, sends, and settles the snapshot when the
answer is there (``snapshots``). What the program has changed meanwhile stays pending.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from earnorm.fields.base import MISSING, Field, Marks, freeze, is_embedded, map_inside
from earnorm.fields.refused import NO_NAMES
from earnorm.model.reading.fetch import part_of
from earnorm.model.slots import (
    UNTOUCHED,
    Pending,
    pending_of,
    set_fetch,
    set_pending,
    set_state,
)

if TYPE_CHECKING:
    from earnorm.model.structures import Structure

# -- comparing ------------------------------------------------------------------------------------


def same(one: Any, other: Any) -> bool:
    """Return whether two stored values are equal and of the same types (1, 1.0 and True differ).

    NaN equals NaN, as in domains.
    """
    if type(one) is not type(other):
        return False
    if type(one) is dict:
        return list(one) == list(other) and all(same(v, other[k]) for k, v in one.items())
    if type(one) is list:
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (one != one and other != other)


def unvalidated(structure: Structure, names: Iterable[str]) -> set[str]:
    """Return those of the changed fields whose value has not passed the validation.

    They were refused when they were assigned, or changed in place since; commands wait for the write.
    The other values were validated when they were assigned, and are not validated again.
    """
    schema, state = type(structure)._schema, structure.__dict__
    fields, to_many = schema.fields, schema.to_many_names
    notes = pending_of(structure)
    refused, originals = notes.refused, notes.originals
    unchecked: set[str] = set()
    for name in names:
        if name in refused or name in to_many:
            unchecked.add(name)
        elif name in originals:
            if _differs(structure, fields[name], state.get(name), originals[name]):
                unchecked.add(name)
        elif is_embedded(value := state.get(name)):
            if changed_fields(value):
                unchecked.add(name)
        elif (other := getattr(value, "_fetch", None)) is not None:
            own = getattr(structure, "_fetch", None)
            if own is not None and other.app is not own.app:  # the validation refuses the link
                unchecked.add(name)
    return unchecked


def changed_fields(structure: Structure) -> list[str]:
    """Return the names of changed fields, those with values that changed in place included."""
    pending: Pending = getattr(structure, "_pending", UNTOUCHED)  # without a call of a function
    names: list[str] = list(pending.changes)
    schema, state = type(structure)._schema, structure.__dict__
    if pending.originals:
        fields = schema.fields
        for name, original in pending.originals.items():
            if name not in names and _differs(structure, fields[name], state.get(name), original):
                names.append(name)
    for field in schema.embedded:
        value: Any = state.get(field.name)
        if isinstance(value, field.model) and field.name not in names and changed_fields(value):
            names.append(field.name)
    return names


def _differs(structure: Structure, field: Field[Any, Any], value: Any, original: Any) -> bool:
    """Return whether a value that can change in place differs from its baseline."""
    if original is MISSING:
        # Reading an unset field gave its default, which is a change only if it was altered.
        default = type(structure)._schema.default_of(field)
        return not same(field.encode(value), field.encode(default))
    if type(original) is Marks:
        return _has_moved(value, original.tree)
    return not same(field.encode(value), original)


def _has_moved(value: Any, tree: Any) -> bool:
    """Return whether a container has other items than those marked, or a marked object changed."""
    if value is tree:
        return is_embedded(value) and bool(changed_fields(value))
    if is_embedded(value):
        return not (is_embedded(tree) and same(value._stored(), stored_before(tree)))
    kind = type(value)
    if kind is not type(tree):
        return True
    if kind is list:
        return len(value) != len(tree) or any(map(_has_moved, value, tree))
    if kind is dict:
        return list(value) != list(tree) or any(_has_moved(v, tree[k]) for k, v in value.items())
    return not same(value, tree)


# -- the baseline ---------------------------------------------------------------------------------


def note_assignment(structure: Structure, name: str) -> None:
    """Note the baseline of a field that is about to be given a valid value."""
    pending: Pending | None = getattr(structure, "_pending", None)
    if pending is None:
        pending = Pending()
        set_pending(structure, pending)
    changes, originals = pending.changes, pending.originals
    if name in originals:
        changes.setdefault(name, originals.pop(name))
    elif name not in changes:
        changes[name] = structure.__dict__.get(name, MISSING)
    if pending.refused:
        pending.accept(name)


def unwritten_defaults(structure: Structure) -> frozenset[str]:
    """Return the fields whose default was read and not altered, so that it is not written."""
    originals = pending_of(structure).originals
    if not originals:
        return NO_NAMES
    fields, state = type(structure)._schema.fields, structure.__dict__
    return frozenset(
        name
        for name, original in originals.items()
        if original is MISSING and not _differs(structure, fields[name], state.get(name), original)
    )


def state_before(structure: Structure) -> dict[str, Any]:
    """Return the state as it was when memory and database agreed, without any unsaved change."""
    state = dict(structure.__dict__)
    schema = type(structure)._schema
    pending = pending_of(structure)
    fetch = getattr(structure, "_fetch", None)
    parts = () if fetch is None else fetch.parts
    for name, value in (*pending.originals.items(), *pending.changes.items()):
        if value is MISSING:
            state.pop(name, None)
        elif type(value) is Marks and name in parts:
            state[name] = map_inside(value.tree, _object_before)
        else:
            state[name] = _before(schema.fields[name], value)
    for field in schema.embedded:
        value = state.get(field.name)
        if is_embedded(value) and changed_fields(value):
            state[field.name] = _object_before(value)
    return state


def _object_before(value: Any) -> Any:
    """Return an embedded object as it was, without any unsaved change.

    It is in its stored form, unless only some of its fields were fetched, which that does not tell.
    """
    if not is_embedded(value):
        return value
    if part_of(value) is None:
        return stored_before(value)
    before: Any = object.__new__(type(value))
    set_state(before, state_before(value))
    set_fetch(before, value._fetch)
    return before


def value_before(structure: Structure, name: str) -> Any:
    """Return the stored value of one field without unsaved changes; None if there is no key.

    Raises:
        KeyError: There is no such field.
    """
    field = type(structure)._schema.fields[name]
    pending = pending_of(structure)
    for known in (pending.changes, pending.originals):
        if name in known:
            value = known[name]
            return None if value is MISSING else field.encode(_before(field, value))
    value = structure.__dict__.get(name)
    return stored_before(value) if is_embedded(value) else field.encode(value)


def _before(field: Field[Any, Any], baseline: Any) -> Any:
    if type(baseline) is Marks:
        return field.encode(map_inside(baseline.tree, _unmarked))
    return field.freeze(baseline) if field.mutable else baseline


def _unmarked(value: Any) -> Any:
    """Return the baseline of an embedded object that was marked; any other value stays as it is."""
    return stored_before(value) if is_embedded(value) else value


def stored_before(embedded: Structure) -> dict[str, Any]:
    """Return the stored form of an embedded object as it was, without any unsaved change."""
    schema = type(embedded)._schema
    return embedded._with_undeclared(schema.document(state_before(embedded)))


def forget_change(structure: Structure, name: str) -> None:
    """Mark one field as stored; the next read notes its baseline."""
    pending = pending_of(structure)
    if pending is not UNTOUCHED:
        pending.changes.pop(name, None)
        pending.originals.pop(name, None)
        if pending.refused:
            pending.accept(name)


def take_back(structure: Structure, names: Iterable[str]) -> None:
    """Give fields that were assigned their baseline again."""
    changes = pending_of(structure).changes
    for name in names:
        if name in changes:
            undo_change(structure, name)


def undo_change(structure: Structure, name: str) -> None:
    """Give a changed field the value that was stored when memory and database agreed."""
    before = state_before(structure)
    forget_change(structure, name)
    if name in before:
        structure.__dict__[name] = before[name]
    else:
        structure.__dict__.pop(name, None)


def settle_all(structure: Structure) -> None:
    """Mark all values that an object holds as stored."""
    fields, state = type(structure)._schema.fields, structure.__dict__
    pending = pending_of(structure)
    if pending is not UNTOUCHED:
        pending.changes.clear()
        pending.refused = NO_NAMES
    originals = pending.originals
    for name in originals:
        originals[name] = baseline_of(fields[name], state.get(name))
        if type(originals[name]) is Marks:
            settle_inside(state[name])
    for field in type(structure)._schema.embedded:
        settle_inside(state.get(field.name))


def settle_inside(value: Any) -> None:
    """Mark all values of the embedded objects in a value as stored."""
    if is_embedded(value):
        settle_all(value)
    elif type(value) is list:
        for item in value:
            settle_inside(item)
    elif type(value) is dict:
        for item in value.values():
            settle_inside(item)


def baseline_of(field: Field[Any, Any], value: Any) -> Any:
    """Return the baseline of a stored value that can change in place, for ``originals``."""
    if field.holds_objects:
        return Marks(freeze(value))
    # The copy must be new, because the value may be changed in place later.
    return field.freeze(field.encode(value))


def arrive(structure: Structure, name: str, value: Any) -> None:
    """Give a record a value that the database has now; a pending change of the field stays.

    Args:
        structure: The record or the embedded object.
        name: The field's name.
        value: The stored value; MISSING for none.
    """
    pending = pending_of(structure)
    if name in pending.changes:
        pending.changes[name] = value
        return
    field = type(structure)._schema.fields[name]
    originals = pending.originals
    if name in originals:
        if _differs(structure, field, structure.__dict__.get(name), originals[name]):
            originals[name] = value if value is MISSING else field.freeze(field.encode(value))
            return
        del originals[name]
    elif (
        field.mutable and is_embedded(held := structure.__dict__.get(name)) and changed_fields(held)
    ):
        structure._pending_or_new().changes[name] = value
        return
    if value is MISSING:
        structure.__dict__.pop(name, None)
    else:
        structure.__dict__[name] = field.freeze(value) if field.mutable else value
