"""Values that are written to computed fields: their inverses turn them into values of other fields."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import NotFound
from earnorm.kernel.transactions import atomic
from earnorm.model.reading.by_ids import by_ids
from earnorm.model.reading.hydrate import hydrate, slots
from earnorm.model.writing import creating
from earnorm.model.writing import records as writing
from earnorm.model.writing.per_record import Change, planned_one, write_each
from earnorm.model.writing.planning import is_change
from earnorm.model.writing.tracking import changed_fields

if TYPE_CHECKING:
    from earnorm.features.computed.computing import Formulas
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel


def new_states(bound: BoundModel, states: Sequence[dict[str, Any]]) -> None:
    """Take the values for inverses out of the validated states of new records, and hand them on.

    Raises:
        ValidationError: What an inverse sets is not acceptable.
    """
    formulas = bound.schema.formulas
    assert formulas is not None
    set_state, _ = slots()
    for state in states:
        if formulas.inverses.isdisjoint(state):
            continue
        preview = object.__new__(bound.model)
        set_state(preview, state)
        formulas.settle_new(preview)
        set_by_it = {name: getattr(preview, name) for name in changed_fields(preview)}
        state.update(bound.schema.validate_partial(set_by_it))


def has_late(bound: BoundModel, values: Sequence[Any]) -> bool:
    """Whether new records have values for inverses that are coroutines."""
    formulas = bound.schema.formulas
    return formulas is not None and any(
        isinstance(each, Mapping) and not formulas.late_inverses.isdisjoint(each) for each in values
    )


async def create(bound: BoundModel, values: Sequence[Any]) -> list[Any]:
    """Create records, then wait for their inverses: all of it or nothing, where there are transactions."""
    assert bound.schema.formulas is not None
    names = bound.schema.formulas.late_inverses
    late = [
        {n: v for n, v in each.items() if n in names} if isinstance(each, Mapping) else {}
        for each in values
    ]
    plain = [
        {n: v for n, v in each.items() if n not in names} if isinstance(each, Mapping) else each
        for each in values
    ]
    for each in late:
        bound.schema.validate_partial(each)

    async def run() -> list[Any]:
        records = await creating.create(bound, plain)
        for record, own in zip(records, late, strict=True):
            if own:
                await write([record], own)
        return records

    return await atomic(run)


async def write(records: Sequence[BaseModel], values: Mapping[str, Any]) -> int:
    """Write values to records, some of them to computed fields.

    Each inverse gets a record as it is stored, with the other values of the write; what it sets is written.
    """
    bound = records[0]._fetch.app.bind(type(records[0]))
    formulas = bound.schema.formulas
    assert formulas is not None
    plain = {n: v for n, v in values.items() if n not in formulas.inverses}
    given = bound.schema.validate_partial(
        {n: v for n, v in values.items() if n in formulas.inverses}
    )
    own = bound.schema.validate_partial({n: v for n, v in plain.items() if not is_change(n, v)})

    async def run() -> int:
        written = await _write(bound, formulas, records, plain, own, given)
        if not formulas.late_inverses.isdisjoint(given):
            # They write other records, on which these depend.
            names = {name for name in given if bound.schema.fields[name].stored}
            await writing.read_computed(bound, records, names)
        return written

    return await atomic(run)


async def _write(
    bound: BoundModel,
    formulas: Formulas,
    records: Sequence[BaseModel],
    plain: Mapping[str, Any],
    own: Mapping[str, Any],
    given: Mapping[str, Any],
) -> int:
    pks = list(dict.fromkeys(record.pk for record in records))
    previews = {each.pk: each for each in hydrate(bound, await by_ids(bound, "_id", pks))}
    if len(previews) < len(pks):
        raise NotFound(
            f"{bound.model._name}: {len(pks) - len(previews)} of {len(pks)} records to write do not exist"
        )
    written: dict[Any, dict[str, Any]] = {}
    for pk, preview in previews.items():
        for name, value in own.items():
            setattr(preview, name, value)
        for name, value in given.items():
            result = formulas.invert(preview, name, value)
            if inspect.isawaitable(result):
                await result
        # What an inverse sets stands, also against a value of the same write.
        changed = {name: preview.__dict__[name] for name in changed_fields(preview)}
        written[pk] = {**plain, **changed}
    if len(records) == 1:
        return await writing.write(records, written[pks[0]])
    changes = [
        Change(position, record.pk, planned_one(bound, written[record.pk]), record)
        for position, record in enumerate(records)
    ]
    await write_each(bound, [change for change in changes if change.plan.operators])
    return len(pks)
