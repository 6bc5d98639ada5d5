"""Gives the records in memory the values that document steps filled in during an operation."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from earnorm.fields.base import MISSING
from earnorm.kernel.durable import LATER, Waiting
from earnorm.kernel.held_records import HOLDERS, note_settled
from earnorm.kernel.notes import Note
from earnorm.kernel.operations import Operation, Update
from earnorm.kernel.steps import HAND_BACK, UNKNOWN, WAY, HandBack, Way
from earnorm.model.reading.fetch import Fetch
from earnorm.model.slots import set_fetch
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
    notes: dict[Note[Any], Any] = {**op.notes}
    if bound.has_document_steps:
        notes[WAY], notes[HAND_BACK] = way, HandBack(records)
    if later is not None and op.name not in bound.unheard:
        notes[LATER] = later
    return op if len(notes) == len(op.notes) else op.replace(notes=notes)


def give_new(schema: Schema, states: Iterable[dict[str, Any]], op: Operation) -> None:
    """Put the values that steps filled in into the states of new records."""
    back = op.notes.get(HAND_BACK)
    if back is None:
        return
    fields = schema.fields
    for name, value in back.common.items():
        for state in states:
            if state.get(name) is None:
                state[name] = fields[name].freeze(value)
    if back.own:
        for state in states:
            for name, value in back.own.get(state["_id"], {}).items():
                # A value that cannot change in place needs no copy.
                state[name] = fields[name].freeze(value) if fields[name].mutable else value


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
    has = record._fetch.has
    unsaved = _computed_from_unsaved(record, () if is_settled else update.keys)
    for name, value in back.of(record.pk).items():
        if not has(name) or name in unsaved:
            continue
        if value is not UNKNOWN:
            arrive(record, name, value)
        elif not was_read_after:
            arrive(record, name, MISSING)  # a pending change of it stays
            unload(record, frozenset({name}))


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
    left = [n for n in getattr(record, "_changes", ()) if fields[n].db_name not in settling]
    return schema.derived.following(left)
