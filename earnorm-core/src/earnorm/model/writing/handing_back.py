"""Gives the records in memory the values that document steps filled in during an operation."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from earnorm.kernel.durable import LATER, Waiting
from earnorm.kernel.held_records import HOLDERS, note_settled
from earnorm.kernel.notes import Note
from earnorm.kernel.operations import Operation, Update
from earnorm.kernel.steps import HAND_BACK, WAY, HandBack, Way
from earnorm.model.writing.pending import arrive

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel
    from earnorm.model.schema import Schema

_NOTHING: Final[Mapping[str, Any]] = {}


def on_its_way(
    bound: BoundModel, op: Operation, way: Way, later: list[Waiting] | None = None
) -> Operation:
    """Note the values' way on an operation, with a place for the values that steps hand back.

    A model without document steps needs neither of these notes.

    Args:
        bound: The operation's model.
        op: The operation.
        way: The way.
        later: Takes what is to be told once the write is durable. The caller calls ``tell(later)``
            when the records have learned that they are written, also if the write fails.
    """
    notes: dict[Note[Any], Any] = {**op.notes}
    if bound.has_document_steps:
        notes[WAY], notes[HAND_BACK] = way, HandBack()
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
    """Put the values that steps filled in into a record, for loaded fields outside the update.

    Args:
        record: The record.
        op: The write.
        update: The record's update.
        was_read_after: The record was read after the write, so its numbers have grown already.
        is_settled: The record's changes that were written are no longer pending; a change of a
            written field that still is was made meanwhile.
    """
    back = op.notes.get(HAND_BACK)
    if not back:
        return
    if HOLDERS:
        note_settled(record)
    # A versioned write hands back its revision alone, which needs nothing of what follows.
    fields, has = type(record)._schema.fields, record._fetch.has
    state = record.__dict__
    if not was_read_after:
        own_added = back.own_added.get(record.pk, _NOTHING) if back.own_added else _NOTHING
        for added in (back.added, own_added):
            for name, number in added.items():
                if has(name):
                    state[name] = (state.get(name) or 0) + number
    if not (back.common or back.every or back.own):
        return
    written = update.keys
    for name, value in back.common.items():
        if fields[name].db_name not in written and has(name):
            arrive(record, name, value)
    own = {**back.every, **back.own.get(record.pk, _NOTHING)}
    if not own:
        return
    unsaved = _computed_from_unsaved(record, () if is_settled else written)
    for name, value in own.items():
        if has(name) and name not in unsaved:
            arrive(record, name, value)


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
