"""Gives the records in memory the values that document steps filled in during an operation."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from earnorm.fields.base import MISSING, freeze, is_embedded
from earnorm.kernel.notes import Note
from earnorm.kernel.operations import Operation, Update
from earnorm.kernel.steps import HAND_BACK, UNKNOWN, WAY, HandBack, Way
from earnorm.kernel.transactions.durable import LATER, Waiting
from earnorm.kernel.transactions.held_records import HOLDERS, note_settled
from earnorm.model.reading.fetch import Fetch, part_of
from earnorm.model.slots import pending_of, set_fetch
from earnorm.model.writing.pending import arrive

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel
    from earnorm.model.schema import Schema


def on_its_way(
    bound: BoundModel,
    op: Operation,
    way: Way,
    later: list[Waiting] | None = None,
    records: Sequence[Any] = (),
) -> Operation:
    """Note the values' way on an operation, with a place for the values that steps hand back.

    A model without document steps needs neither of these notes.

    Args:
        bound: The operation's model.
        op: The operation.
        way: The way.
        later: Takes what is to be told once the write is durable. The caller calls ``tell(later)``
            when the records have learned that they are written, also if the write fails.
        records: The records of a write that wait for values.
    """
    if not bound.has_document_steps and (later is None or op.name in bound.unheard):
        return op
    notes: dict[Note[Any], Any] = {**op.notes}
    if bound.has_document_steps:
        back = HandBack(records)
        if bound.withholding is not None:
            back.withheld = bound.withholding.altered(op.env)
        notes[WAY], notes[HAND_BACK] = way, back
    if later is not None and op.name not in bound.unheard:
        notes[LATER] = later
    return replace(op, notes=notes)


def give_new(schema: Schema, states: Iterable[dict[str, Any]], op: Operation) -> bool:
    """Put the values that steps filled in into the states of new records.

    Returns:
        Whether a value of one is not known; :func:`unload_unknown` is for them when they are made.
    """
    back, is_unknown = op.notes.get(HAND_BACK), False
    if back is None:
        return False
    fields, withheld = schema.fields, back.withheld
    for name, value in back.common.items():
        if name in withheld:
            continue
        for state in states:
            if state.get(name) is None:
                state[name] = fields[name].freeze(value)
    if back.own:
        for state in states:
            for name, value in back.own.get(state["_id"], {}).items():
                if name in withheld:
                    continue
                if value is UNKNOWN:
                    state.pop(name, None)
                    is_unknown = True
                else:
                    # A value that cannot change in place needs no copy.
                    state[name] = fields[name].freeze(value) if fields[name].mutable else value
    return is_unknown


def unload_unknown(records: Iterable[Any], op: Operation) -> None:
    """Make those fields of new records not loaded whose values are not known."""
    handed_back = op.notes[HAND_BACK].own
    for record in records:
        own = handed_back.get(record.__dict__["_id"], {})
        unknown = frozenset(name for name, value in own.items() if value is UNKNOWN)
        if unknown:
            unload(record, unknown)


def give_written(
    record: Any,
    op: Operation,
    update: Update,
    *,
    was_read_after: bool = False,
    is_settled: bool = True,
) -> None:
    """Put the values that steps changed into a record, for fields that it has loaded.

    A field whose value is not known is not loaded any more. A pending change stays pending.

    Args:
        record: The record.
        op: The write.
        update: The record's update.
        was_read_after: The record was read after the write, so it has what only the server knows.
        is_settled: The record's changes that were written are no longer pending; a change of a
            written field that still is was made meanwhile.
    """
    back = op.notes.get(HAND_BACK)
    if not back:
        return
    if HOLDERS:
        note_settled(record)
    knows, withheld = record._fetch.knows, back.withheld
    unsaved = _computed_from_unsaved(record, () if is_settled else update.keys)
    for name, value in back.of(record.pk).items():
        if not knows(name) or name in unsaved:
            continue
        if name in withheld:  # who acts may hold a record that somebody else has loaded
            arrive(record, name, MISSING)
            unload(record, frozenset({name}))
        elif value is not UNKNOWN:
            if name in record._fetch.parts and not _arrive_inside(record, name, value):
                load_whole(record, name)
            if name not in record._fetch.parts:
                arrive(record, name, value)
        elif not was_read_after:
            arrive(record, name, MISSING)  # a pending change of it stays
            unload(record, frozenset({name}))


def _arrive_inside(structure: Any, name: str, value: Any) -> bool:
    """Give an object of which only some fields were fetched their values in a stored one.

    Returns:
        False if there is no such object any more, or the field holds something else.
    """
    held = structure.__dict__.get(name)
    if type(value) is not dict or not is_embedded(held) or part_of(held) is None:
        return False
    fresh: Any = type(structure)._schema.fields[name].decode(freeze(cast("Any", value)))
    if type(fresh) is not type(held):
        return False
    part: Any = held._fetch
    for inner in type(held)._schema.stored:
        own = inner.name
        if part.knows(own) or own in held.__dict__:
            stored = fresh.__dict__.get(own, MISSING)
            if not (own in part.parts and _arrive_inside(held, own, stored)):
                arrive(held, own, stored)
    return True


def load_whole(record: Any, name: str) -> None:
    """Make a field of which only a part was fetched one that is loaded."""
    fetch = record._fetch
    loaded = Fetch(fetch.app, None if fetch.loaded is None else fetch.loaded | {name})
    loaded.parts = {n: part for n, part in fetch.parts.items() if n != name}
    set_fetch(record, loaded)


def forget(record: Any, names: frozenset[str]) -> None:
    """Drop values that are not known any more; the fields are not loaded then."""
    if names:
        if HOLDERS:
            note_settled(record)
        for name in names:
            arrive(record, name, MISSING)
        unload(record, names)


def unload(record: Any, names: frozenset[str]) -> None:
    """Make fields of a record ones that were not fetched."""
    fetch = record._fetch
    known = frozenset(type(record)._schema.fields) if fetch.loaded is None else fetch.loaded
    unloaded = Fetch(fetch.app, known - names)
    unloaded.parts = {n: part for n, part in fetch.parts.items() if n not in names}
    set_fetch(record, unloaded)


def _computed_from_unsaved(record: BaseModel, settling: Collection[str]) -> Collection[str]:
    """Return the fields whose value in memory is computed from unsaved changes.

    Args:
        record: The record.
        settling: Stored keys whose pending changes have been written.
    """
    schema = type(record)._schema
    if schema.derived is None:
        return ()
    fields = schema.fields
    left = [n for n in pending_of(record).changes if fields[n].db_name not in settling]
    return schema.derived.following(left)
