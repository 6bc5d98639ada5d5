"""The clock's fields in memory: records get the value that their own write stores.

The layer in ``builtin.timestamps`` stores it; an operation carries the time (``Options.at``), so
that both mean the same one.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from earnorm.operations import Operation

if TYPE_CHECKING:
    from earnorm.models import BaseModel
    from earnorm.schema import Schema


def clock() -> datetime.datetime:
    """The current time, in UTC."""
    return datetime.datetime.now(datetime.UTC)


def timed(op: Operation) -> Operation:
    """The operation with the time that it counts as, where its model has a use for it."""
    if not op.model._schema.generated:
        return op
    return op.replace(options=replace(op.options, at=clock()))


def stamp_new(schema: Schema, states: Iterable[dict[str, Any]], op: Operation) -> None:
    """Fill in what the layer filled in when it created the documents of these states."""
    at = op.options.at
    if at is None:
        return
    for field in schema.generated:
        value = field.at(at)
        for state in states:
            if state.get(field.name) is None:
                state[field.name] = value


def stamp_written(record: BaseModel, op: Operation, written: Collection[str]) -> None:
    """Fill in what the layer added to a write of these stored keys."""
    at = op.options.at
    if at is None:
        return
    for field in type(record)._schema.generated:
        if field.auto_now and field.db_name not in written and record._fetch.has(field.name):
            record.__dict__[field.name] = field.at(at)
