"""What layers add to a record's own write, in memory: the clock's fields and the computed ones.

The layer in ``builtin.timestamps`` stores the time; an operation carries it (``Options.at``), so that
both mean the same one. The layer in ``builtin.recompute`` leaves what it computed (``Options.derived``).
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from earnorm.kernel.operations import Derived, Operation, Update

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel
    from earnorm.model.schema import Schema


def clock() -> datetime.datetime:
    """The current time, in UTC."""
    return datetime.datetime.now(datetime.UTC)


def timed(op: Operation) -> Operation:
    """The operation with the time that it counts as, and with places for what layers add to it, where its
    model has a use for them."""
    schema = op.model._schema
    if schema.formulas is not None and schema.formulas.stored:
        op = op.replace(options=op.options.replace(derived=Derived()))
    if not (schema.generated or schema.numbered):
        return op
    numbers: dict[Any, dict[str, Any]] | None = {} if schema.numbered else None
    return op.replace(options=op.options.replace(at=clock(), numbers=numbers))


def author_of(op: Operation) -> str | None:
    """The id of the principal that acts."""
    return None if op.env.principal is None else op.env.principal.id


def stamp_new(schema: Schema, states: Iterable[dict[str, Any]], op: Operation) -> None:
    """Fill in what the layers filled in when they created the documents of these states."""
    for author in schema.authors:
        for state in states:
            if state.get(author.name) is None:
                state[author.name] = author_of(op)
    if op.options.numbers:
        for state in states:
            state.update(op.options.numbers.get(state["_id"], {}))
    if op.options.derived:
        for state in states:
            state.update(op.options.derived.get(state["_id"], {}))
    at = op.options.at
    if at is None:
        return
    for field in schema.generated:
        value = field.at(at)
        for state in states:
            if state.get(field.name) is None:
                state[field.name] = value


def stamp_written(record: BaseModel, op: Operation, update: Update) -> None:
    """Fill in what the layers added to this update of the record."""
    if not (type(record)._schema.authors or op.options.derived or op.options.at):
        return
    written = update.keys
    for author in type(record)._schema.authors:
        if author.on_write and author.db_name not in written and record._fetch.has(author.name):
            record.__dict__[author.name] = author_of(op)
    if op.options.derived:
        unsaved = _follows_unsaved(record, written)
        for name, value in op.options.derived.get(record.pk, {}).items():
            if record._fetch.has(name) and name not in unsaved:
                record.__dict__[name] = type(record)._schema.fields[name].freeze(value)
                getattr(record, "_originals", {}).pop(name, None)
    at = op.options.at
    if at is None:
        return
    for field in type(record)._schema.generated:
        if field.auto_now and field.db_name not in written and record._fetch.has(field.name):
            record.__dict__[field.name] = field.at(at)


def _follows_unsaved(record: BaseModel, written: Collection[str]) -> Collection[str]:
    """The computed fields whose value in memory follows from what is not saved yet."""
    schema = type(record)._schema
    assert schema.formulas is not None
    left = [n for n in getattr(record, "_changes", ()) if schema.fields[n].db_name not in written]
    return {each for name in left for each in schema.formulas.stale.get(name, ())}
