"""Values that steps fill in on an operation's way, given to the records that wait for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from earnorm.kernel.operations import Operation, Update
from earnorm.kernel.steps import HAND_BACK, WAY, HandBack, Way

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel
    from earnorm.model.schema import Schema


def on_its_way(bound: BoundModel, op: Operation, way: Way) -> Operation:
    """Note on an operation how its values came, and where its steps leave what the records shall hold.

    A model without document steps has no use for either.
    """
    if not bound.has_document_steps:
        return op
    return op.replace(notes={**op.notes, WAY: way, HAND_BACK: HandBack()})


def give_new(schema: Schema, states: Iterable[dict[str, Any]], op: Operation) -> None:
    """Put what was filled in into the states of new records."""
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
                # What cannot change in place needs no copy.
                state[name] = fields[name].freeze(value) if fields[name].mutable else value


def give_written(record: BaseModel, op: Operation, update: Update) -> None:
    """Let a record hold what was filled in beside its own update, as far as it has loaded these fields."""
    back = op.notes.get(HAND_BACK)
    if not back:
        return
    schema, written = type(record)._schema, update.keys
    fields, has = schema.fields, record._fetch.has
    state = record.__dict__
    for name, value in back.common.items():
        if fields[name].db_name not in written and has(name):
            state[name] = fields[name].freeze(value)
    for name, number in back.added.items():
        if has(name):
            state[name] = (state.get(name) or 0) + number
    own = back.own.get(record.pk)
    if not own:
        return
    unsaved = _follows_unsaved(record, written)
    for name, value in own.items():
        if has(name) and name not in unsaved:
            record.__dict__[name] = fields[name].freeze(value)
            getattr(record, "_originals", {}).pop(name, None)


def _follows_unsaved(record: BaseModel, written: Collection[str]) -> Collection[str]:
    """The fields whose value in memory follows from what is not saved yet."""
    schema = type(record)._schema
    if schema.derived is None:
        return ()
    fields = schema.fields
    left = [n for n in getattr(record, "_changes", ()) if fields[n].db_name not in written]
    return schema.derived.following(left)
