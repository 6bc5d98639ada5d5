"""Snapshots: the values of a record when a write or a reading began, and what its answer changes.

``pending`` describes what they leave and what they change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from itertools import repeat
from operator import is_
from typing import TYPE_CHECKING, Any, Final

from earnorm.fields.base import MISSING, Field, Marks, is_embedded, map_inside
from earnorm.kernel.transactions.held_records import HOLDERS, note_settled
from earnorm.model.reading.fetch import part_of
from earnorm.model.slots import UNTOUCHED, Pending, pending_of, set_state
from earnorm.model.writing.pending import (
    arrive,
    baseline_of,
    forget_change,
    same,
    settle_all,
    settle_inside,
    undo_change,
)

if TYPE_CHECKING:
    from earnorm.model.structures import Structure

_NONE: Final[Mapping[str, Any]] = {}


class Snapshot:
    """The values of some fields when a write or a reading began.

    Args:
        structure: The record or the embedded object.
        names: Names of fields, or paths into them.
        deep: A save sends the fields, and the program keeps the objects that it holds; else they
            get new values from elsewhere.
        own: The snapshot of the record's own changes, where they are written together with others.

    Attributes:
        structure: The record or the embedded object.
        held: The values by name; MISSING where the state had none.
        forms: The stored forms of those that can change in place.
        parts: By name, the snapshots of the embedded objects in a value, in the value's shape.
        own: The snapshot of the record's own changes that go with a write; None without any.
        sent: The names of the fields of an embedded object that were sent, each by its own path;
            None if the object was sent as a whole.
        changed: The names of the changed fields of an embedded object that was loaded; None where
            it is written whole.
        before: The stored form of such an object without its changes.
        known: Those of the values to write that were validated when they were assigned.
    """

    __slots__ = (
        "before",
        "changed",
        "forms",
        "held",
        "known",
        "own",
        "parts",
        "sent",
        "structure",
    )

    def __init__(
        self,
        structure: Structure,
        names: Collection[str],
        *,
        deep: bool = False,
        own: Snapshot | None = None,
    ) -> None:
        schema, state = type(structure)._schema, structure.__dict__
        self.structure = structure
        self.own = own
        self.known: Mapping[str, Any] = _NONE
        self.sent: frozenset[str] | None = None
        self.changed: list[str] | None = None
        self.before: Mapping[str, Any] = _NONE
        # Most snapshots need none, and each dict more is work for the garbage collector.
        self.forms: Mapping[str, Any] = _NONE
        self.parts: Mapping[str, Any] = _NONE
        if deep and schema.mutable.isdisjoint(names):  # a save's names are those of fields
            self.held = dict(zip(names, map(state.get, names, repeat(MISSING)), strict=False))
            return
        held: dict[str, Any] = {}
        self.held = held
        fields = schema.fields
        forms: dict[str, Any] | None = None
        parts: dict[str, Any] | None = None
        for name in names:
            if type(name) is str and "." in name:  # the caller refuses others
                name = name.partition(".")[0]
            held[name] = value = state.get(name, MISSING)
            field = fields.get(name)
            if field is None or not field.mutable or value is None or value is MISSING:
                continue
            if name in pending_of(structure).refused:  # it may have no stored form
                continue
            if forms is None or parts is None:
                forms, parts = {}, {}
            if deep:  # the program gets the object that this read makes, if it reads later
                held[name] = value = getattr(structure, name)
                if field.holds_objects or is_embedded(value):
                    parts[name] = map_inside(value, _part)
            elif is_embedded(value):
                parts[name] = Snapshot(value, list(value.__dict__))
            forms[name] = field.freeze(field.encode(value))
        if forms is not None and parts is not None:
            self.forms, self.parts = forms, parts

    def is_unchanged(self, name: str) -> bool:
        """Return whether the program still holds the value of the snapshot."""
        held = self.held[name]
        now = self.structure.__dict__.get(name, MISSING)
        field = type(self.structure)._schema.fields.get(name)
        if name in self.forms:
            assert field is not None
            return (
                now is not None and now is not MISSING and same(field.encode(now), self.forms[name])
            )
        if now is held:
            return True
        if field is None or now is MISSING or held is MISSING or now is None or held is None:
            return False
        # A value that was read meanwhile may have been converted by that.
        return field.converts and same(field.encode(now), field.encode(held))


def _part(value: Any) -> Any:
    """Return the snapshot of an embedded object; any other value stays as it is."""
    return Snapshot(value, list(value.__dict__), deep=True) if is_embedded(value) else value


def forget_taken(sent: Snapshot, values: Collection[str]) -> None:
    """Settle the fields of a save whose values steps took, so that nothing of them was sent.

    A value that a step writes in another way (commands, what an inverse or another record gets)
    counts as stored. A field of the document has its stored value again.

    Args:
        sent: The snapshot of the save.
        values: The names of the values that were sent.
    """
    structure = sent.structure
    schema = type(structure)._schema
    for name in sent.held:
        if name in values or not sent.is_unchanged(name):
            continue
        field = schema.fields[name]
        if not field.stored or field.is_derived or name in schema.to_many_names:
            forget_change(structure, name)
        else:
            undo_change(structure, name)


def settle_sent(sent: Snapshot, values: Mapping[str, Any]) -> None:
    """Mark what a save sent as stored, if the program still holds it.

    A value that can change in place stays the object that the program holds; the validated value is
    filled into it.

    Args:
        sent: The snapshot of the save.
        values: The validated values that were sent, by name.
    """
    structure, held = sent.structure, sent.held
    if HOLDERS:
        note_settled(structure)
    state = structure.__dict__
    pending: Pending = getattr(structure, "_pending", UNTOUCHED)  # without a call of a function
    changes, forms = pending.changes, sent.forms  # all of its parts have forms
    names = held.keys()
    if (
        not forms
        and names <= values.keys()
        and all(map(is_, map(state.get, held, repeat(MISSING)), held.values()))
    ):  # the program has changed nothing meanwhile, so nothing is to be looked at one by one
        own = values if len(values) == len(names) else {name: values[name] for name in names}
        state.update(own)
        if changes.keys() <= names:
            changes.clear()
        else:
            deque(map(changes.pop, names, repeat(None)), maxlen=0)
        if own is values:
            if pending.refused:
                pending.keep_refused(changes)
            return
        values = {name: values[name] for name in values.keys() - names}
    fields = type(structure)._schema.fields
    for name, fresh in values.items():
        if name not in held:
            arrive(structure, name, fresh)
        elif name not in forms and state.get(name, MISSING) is held[name]:
            changes.pop(name, None)
            state[name] = fresh
        elif name in sent.parts:
            _settle_parts(sent, fields[name], fields[name].decode(fresh))
        elif sent.is_unchanged(name):
            field = fields[name]
            if field.mutable:
                structure._pending_or_new().originals[name] = baseline_of(field, fresh)
                fresh = renewed(state.get(name), field.decode(fresh))
            state[name] = fresh
            changes.pop(name, None)
        else:
            _keep_pending(sent, fields[name], fields[name].encode(fresh))
    if pending.refused:
        pending.keep_refused(changes)


def _settle_parts(sent: Snapshot, field: Field[Any, Any], fresh: Any) -> None:
    """Settle a value with embedded objects, each of which notes its own changes."""
    structure, name = sent.structure, field.name
    parts, now = sent.parts[name], structure.__dict__.get(name)
    if _settle_each(parts, fresh):
        if type(parts) is Snapshot:
            if now is parts.structure:
                pending_of(structure).changes.pop(name, None)
            else:
                structure._pending_or_new().changes[name] = parts.structure
            return
        pending = structure._pending_or_new()
        marks = Marks(map_inside(parts, _object))
        if now is sent.held[name]:
            pending.originals[name] = marks
            pending.changes.pop(name, None)
        else:
            pending.changes[name] = marks
    elif sent.is_unchanged(name):  # a validator made another shape
        value = structure.__dict__[name] = renewed(now, fresh)
        settle_inside(value)
        pending_of(structure).changes.pop(name, None)
        if field.holds_objects:
            structure._pending_or_new().originals[name] = baseline_of(field, value)
    else:
        _keep_pending(sent, field, field.encode(fresh))


def _settle_each(parts: Any, fresh: Any) -> bool:
    """Settle the objects in a value with those that were sent; return whether the shapes match."""
    pairs: list[tuple[Any, Any]] = []
    if not _pair(parts, fresh, pairs):
        return False
    for sent, part in pairs:
        values = dict(part.__dict__)
        if sent.sent is not None:
            settle_sent(sent, {name: values[name] for name in sent.sent if name in values})
            continue
        settle_sent(sent, values)
        for name in sent.held.keys() - values.keys():  # a default that was only read
            if sent.is_unchanged(name):
                sent.structure.__dict__.pop(name, None)
                forget_change(sent.structure, name)
        sent.structure._take_undeclared(part)
    return True


def _pair(parts: Any, fresh: Any, pairs: list[tuple[Any, Any]]) -> bool:
    if type(parts) is Snapshot:
        pairs.append((parts, fresh))
        return type(fresh) is type(parts.structure)
    kind = type(parts)
    if kind is not type(fresh):
        return False
    if kind is list:
        return len(parts) == len(fresh) and all(
            _pair(p, f, pairs) for p, f in zip(parts, fresh, strict=True)
        )
    if kind is dict:
        return list(parts) == list(fresh) and all(
            _pair(p, fresh[k], pairs) for k, p in parts.items()
        )
    return same(parts, fresh)


def _object(part: Any) -> Any:
    return part.structure if type(part) is Snapshot else part


def settle_new(sent: Snapshot, state: Mapping[str, Any]) -> None:
    """Give a record that was created its stored state; what was changed meanwhile stays pending.

    Args:
        sent: The snapshot of the whole record.
        state: The values that were stored and handed back.
    """
    structure = sent.structure
    for name in sent.held.keys() - state.keys():  # commands, which steps have carried out
        if sent.is_unchanged(name):
            structure.__dict__.pop(name, None)
            forget_change(structure, name)
        else:  # other commands were assigned meanwhile
            structure._pending_or_new().changes[name] = MISSING
    settle_sent(sent, state)


def settle_taken(before: Snapshot, values: Mapping[str, Any], kept: Collection[str] = ()) -> None:
    """Give a record values that the database has now, if the program has not changed them meanwhile.

    Args:
        before: The snapshot from before the write or the reading.
        values: Values or stored values by name; MISSING where there is none. Values of the record's
            own changes are settled as those of a save.
        kept: The names of fields of which only a part was written, so that the program's embedded
            object stays the record's own.
    """
    structure, held, own = before.structure, before.held, before.own
    if HOLDERS:
        note_settled(structure)
    if own is not None:
        settle_sent(own, {n: v for n, v in values.items() if n in own.held})
        values = {n: v for n, v in values.items() if n not in own.held}
    fields, state = type(structure)._schema.fields, structure.__dict__
    pending = pending_of(structure)
    for name, value in values.items():
        is_changed = name in held and not before.is_unchanged(name)
        if is_changed or name in kept:
            field = fields[name]
            stored = value if value is MISSING else field.freeze(field.encode(value))
            if _merge_embedded(before, field, stored):
                continue
            if not is_changed and name in before.forms and same(stored, before.forms[name]):
                _settle_held(structure, field)
                continue
            if is_changed:
                _keep_pending(before, field, stored)
                continue
        pending.changes.pop(name, None)
        pending.originals.pop(name, None)
        if value is MISSING:
            state.pop(name, None)
        elif (field := fields[name]).mutable:
            # Each record gets its own copy, because one list in two records would change in both.
            state[name] = field.freeze(field.encode(value))
        else:
            state[name] = value
    if pending.refused:
        pending.keep_refused(pending.changes)


def _settle_held(structure: Structure, field: Field[Any, Any]) -> None:
    """Mark a value that can change in place as stored, because the database has the same."""
    name, value = field.name, structure.__dict__[field.name]
    forget_change(structure, name)
    settle_inside(value)
    if not is_embedded(value):
        structure._pending_or_new().originals[name] = baseline_of(field, value)


def _merge_embedded(before: Snapshot, field: Field[Any, Any], stored: Any) -> bool:
    """Give an embedded object the stored values, except those that the program changed meanwhile.

    Returns:
        False if the field holds another object than before, or the stored value is of another class.
    """
    part, name = before.parts.get(field.name), field.name
    if part is None or before.structure.__dict__.get(name) is not part.structure:
        return False
    fresh: Any = field.decode(stored)
    if type(fresh) is not type(part.structure):
        return False
    state = fresh.__dict__
    settle_taken(part, {n: state.get(n, MISSING) for n in (*part.held, *state)}, part.held)
    held: Any = part.structure
    held._take_undeclared(fresh)
    if part_of(held) is not None:
        object.__delattr__(held, "_fetch")  # it has all of its fields now
    forget_change(before.structure, name)
    return True


def renew_state(
    structure: Structure, state: dict[str, Any], before: Snapshot | None = None
) -> None:
    """Give a record a state that was read; what was changed since the snapshot stays pending.

    Args:
        structure: The record.
        state: Its state.
        before: The snapshot of all of its fields; None where every change stays pending.
    """
    if HOLDERS:
        note_settled(structure)
    pending: Pending = getattr(structure, "_pending", UNTOUCHED)  # without a call of a function
    changes = pending.changes
    kept: dict[str, Any] = {}
    if before is None:
        names: Iterable[str] = changes
    else:
        held = before.held
        names = [n for n in held if not before.is_unchanged(n)]
        names += [n for n in changes if n not in held]
    for name in names:
        kept[name] = structure.__dict__.get(name)
    set_state(structure, state)
    if pending is UNTOUCHED:
        if not kept:
            return
        pending = structure._pending_or_new()
    pending.changes, pending.originals = {}, {}
    if pending.refused:
        pending.keep_refused(kept)
    fields = type(structure)._schema.fields
    for name, value in kept.items():
        stored = state.get(name, MISSING)
        mutable = fields[name].mutable and not is_embedded(value)
        noted = pending.originals if mutable else pending.changes
        noted[name] = fields[name].freeze(stored)
        state[name] = value


def _keep_pending(before: Snapshot, field: Field[Any, Any], stored: Any) -> None:
    """Keep a value that the program has changed meanwhile, and note what is stored now."""
    structure, name = before.structure, field.name
    baseline = field.freeze(stored) if field.mutable else stored
    pending = structure._pending_or_new()
    if name in pending.originals and name not in pending.changes:
        pending.originals[name] = baseline  # it was changed in place
    else:
        pending.changes[name] = baseline


def renewed(held: Any, fresh: Any) -> Any:
    """Fill a value that the program holds with another one; return the other where that cannot be."""
    kind = type(held)
    if held is fresh or kind is not type(fresh):
        return fresh
    if kind is list:
        held[:] = [*map(renewed, held, fresh), *fresh[len(held) :]]
    elif kind is dict:
        items = {k: renewed(held[k], v) if k in held else v for k, v in fresh.items()}
        held.clear()
        held.update(items)
    elif kind is set:
        held.clear()
        held.update(fresh)
    elif is_embedded(held):
        fields, state = kind._schema.fields, held.__dict__
        values = {
            name: renewed(getattr(held, name), value)
            if name in state and fields[name].mutable
            else value
            for name, value in fresh.__dict__.items()
        }
        state.clear()
        state.update(values)
        held._take_undeclared(fresh)
        settle_all(held)
    else:
        return fresh
    return held
