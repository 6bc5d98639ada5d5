"""Saves a set of records: each record once, its copies together, and several models all or nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import ErrorDetail, ValidationError
from earnorm.kernel.environment import current_env
from earnorm.kernel.transactions.blocks import atomic
from earnorm.model.identity import find_id
from earnorm.model.kinds import by_model
from earnorm.model.writing import creating, records
from earnorm.model.writing.classes import know_classes
from earnorm.model.writing.pending import changed_fields
from earnorm.model.writing.pipeline import to_queue_for

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel

Work = tuple[Sequence["BaseModel"], Callable[[], Awaitable[object]]]


async def save(model: type[BaseModel], given: Sequence[BaseModel]) -> int:
    """Write each record's changes, and create the new records; return the number of records.

    Everything is checked before anything is written.

    Args:
        model: The model of the set.
        given: Its records; a record may be there several times, and so may copies of it.

    Raises:
        ValidationError: A value is not valid, or copies of one record contradict each other.
    """
    distinct = list({id(record): record for record in given}.values())
    if model._root is not None:
        await know_classes(
            distinct, {name for record in distinct for name in changed_fields(record)}
        )
    new: list[BaseModel] = []
    stored: list[BaseModel] = []
    for record in distinct:
        (stored if record.is_stored else new).append(record)
    _refuse_copies(model, new)
    works: list[Work] = []
    creations: list[Work] = []
    for group in by_model(new):
        creation = await creating.prepared(current_env().app.bind(type(group[0])), group)
        creations.append((group, creation.execute))
    for group in by_model(stored):
        saving = await records.prepared_save(group, is_alone=False)
        if saving is not None:
            rows, run = saving
            works.append(([row.record for row in rows], run))
    works += creations
    if len(works) == 1:
        await works[0][1]()
    elif works:
        await atomic(lambda: _run(works), queues_for=to_queue_for(distinct))
    return sum(len(saved) for saved, _ in works)


async def _run(works: Sequence[Work]) -> None:
    """Do several works; without a transaction an error says which of them are done."""
    done: list[BaseModel] = []
    for saved, run in works:
        try:
            await run()
        except Exception as error:
            if done and current_env().transaction is None:
                names = ", ".join(f"{type(record)._name} {record.id}" for record in done)
                error.add_note(f"written before, and there are no transactions here: {names}")
            raise
        done += saved


def _refuse_copies(model: type[BaseModel], new: Sequence[BaseModel]) -> None:
    """Refuse several new records with one id, of which only one can be inserted."""
    positions: dict[Any, int] = {}
    problems: list[ErrorDetail] = []
    for position, record in enumerate(new):
        if find_id(record) is not None and positions.setdefault(record, position) != position:
            message = f"another new record, at position {positions[record]}, has the same id"
            problems.append({"loc": (position, "_id"), "msg": message, "type": "conflict"})
    if problems:
        raise ValidationError(model._name, problems)
