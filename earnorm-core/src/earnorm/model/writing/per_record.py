"""Writes different values to many records in one round trip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

from earnorm.domain.values import stored
from earnorm.exceptions import ErrorDetail, ValidationError
from earnorm.kernel.environment import current_env
from earnorm.kernel.pauses import parts, pause
from earnorm.kernel.steps import Way
from earnorm.kernel.value_steps import ValueBatch, ValueRow, ValueSteps, ValueWays
from earnorm.model.reading.hydrate import ghosts
from earnorm.model.validation.checking import checked_plans
from earnorm.model.writing.classes import own_classes
from earnorm.model.writing.pipeline import carry_out, check_written
from earnorm.model.writing.planning import Plan, planned
from earnorm.model.writing.sending import Change, refuse_unsaved, write_each
from earnorm.model.writing.snapshots import Snapshot

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel

Values = Mapping[str, Any]


async def write_many(bound: BoundModel, values: Mapping[Any, Values]) -> int:
    """Write to each record its own values; the keys are records or ids.

    Raises:
        ValidationError: With every problem and the record's position; nothing is written.
        NotFound: Some do not exist; the others were written.
    """
    if not _is_mapping(values):
        message = "write_many() takes a dict of records or ids, each with a dict of values"
        raise ValidationError(bound.model._name, [{"loc": (), "msg": message, "type": "type"}])
    rows: list[tuple[ValueRow, Any]] = []
    seen: dict[Any, int] = {}
    items = list(values.items())
    for part in parts(items):
        for key, given in part:
            position = len(rows)
            row, pk = ValueRow({}, (position,)), None
            try:
                pk, row.record = _target(bound, key)
                if seen.setdefault(pk, position) != position:
                    raise _error(bound, f"the same record as at position {seen[pk]}", "conflict")
                if row.record is not None and _is_mapping(given):
                    row.held = Snapshot(row.record, given)
                row.values = cast("dict[str, Any]", given)  # checked, copied in checked_each()
            except ValidationError as error:
                row.add_problems(error.errors())
            rows.append((row, pk))
        if part is not items:
            await pause()
    changes, batch = await checked_each(bound, rows, Way.EACH)
    await carry_out(batch, lambda: write_each(bound, changes))
    return len(values)


async def checked_each(
    bound: BoundModel,
    rows: Sequence[tuple[ValueRow, Any]],
    way: Way,
    *,
    before: bool = True,
) -> tuple[list[Change], ValueBatch]:
    """Check the values of several records, each with its own values, by the rules of its own class.

    Args:
        bound: The model.
        rows: The values, each with the stored id of its record.
        way: EACH, BULK or UPSERT.
        before: Run the ``before`` steps as well, which see the values as they were handed in.

    Returns:
        The changes that write anything, and the batch of their steps.

    Raises:
        ValidationError: With every problem and the record's position.
    """
    if bound.classes is None:
        return await _checked_of_class(bound, rows, way, before=before)
    paths = {path for row, _ in rows if _is_mapping(row.values) for path in row.values}
    models = await own_classes(bound, [(row.record, pk) for row, pk in rows], paths)
    groups: dict[BoundModel, list[tuple[ValueRow, Any]]] = {}
    for model, given in zip(models, rows, strict=True):
        groups.setdefault(model, []).append(given)
    if len(groups) < 2:
        return await _checked_of_class(next(iter(groups), bound), rows, way, before=before)
    changes: dict[int, Change] = {}
    problems: list[ErrorDetail] = []
    together = ValueBatch(current_env(), way, bound.view, [row for row, _ in rows])
    for model, group in groups.items():
        try:
            own, batch = await _checked_of_class(model, group, way, before=before)
        except ValidationError as error:
            problems += error.errors()
            continue
        changes.update((id(change.row), change) for change in own)
        together.settling += batch.settling
    if problems:
        places = {row.loc: place for place, (row, _) in enumerate(rows)}
        problems.sort(key=lambda detail: places.get(detail["loc"][:1], 0))
        raise ValidationError(bound.model._name, problems)
    return [changes[id(row)] for row, _ in rows if id(row) in changes], together


async def _checked_of_class(
    bound: BoundModel, rows: Sequence[tuple[ValueRow, Any]], way: Way, *, before: bool
) -> tuple[list[Change], ValueBatch]:
    """Do the work of ``checked_each`` for records that one model judges."""
    batch = ValueBatch(current_env(), way, bound.view, [row for row, _ in rows])
    for row in batch.rows:
        if not _is_mapping(row.values):
            message = "write() takes a dict of field values"
            row.add_problems([{"loc": (), "msg": message, "type": "type"}])
            row.values = {}
    steps = _STEPS[way](bound.ways) if rows else None
    if steps is None or not steps.concern([row.values for row in batch.rows]):
        return await _checked_plain(bound, rows, batch), batch
    for row in batch.rows:
        row.values = dict(row.values)
    plans = await check_written(bound, steps, batch, _records(bound, rows), before=before)
    for part, plans_of_part in zip(parts(batch.rows), parts(plans), strict=True):
        for row, plan in zip(part, plans_of_part, strict=True):
            _refuse_unsaved(bound, row, plan)
        if part is not batch.rows:
            await pause()
    batch.refuse()
    changes = [Change(row, pk, plan) for (row, pk), plan in zip(rows, plans, strict=True)]
    return [change for change in changes if change.plan.operators], batch


_STEPS: Mapping[Way, Callable[[ValueWays], ValueSteps | None]] = {
    Way.EACH: attrgetter("each"),
    Way.BULK: attrgetter("bulk"),
    Way.UPSERT: attrgetter("upsert"),
}


async def _checked_plain(
    bound: BoundModel, rows: Sequence[tuple[ValueRow, Any]], batch: ValueBatch
) -> list[Change]:
    """Do the work of ``checked_each`` where no step concerns the values."""
    changes: list[Change] = []
    for part in parts(rows):
        for row, pk in part:
            if row.problems:
                continue
            try:
                plan = planned(bound.schema, row.values)
            except ValidationError as error:
                row.add_problems(error.errors())
                continue
            _refuse_unsaved(bound, row, plan)
            if plan.operators:
                changes.append(Change(row, pk, plan))
        if part is not rows:
            await pause()
    batch.refuse()
    if bound.schema.rules is None:
        return changes
    records = _records(bound, [(change.row, change.pk) for change in changes])
    given = [
        (change.row.loc, change.plan, record)
        for change, record in zip(changes, records, strict=True)
    ]
    plans, problems = await checked_plans(bound, given)
    if problems:
        raise ValidationError(bound.model._name, problems)
    return [change._replace(plan=plan) for change, plan in zip(changes, plans, strict=True)]


def _refuse_unsaved(bound: BoundModel, row: ValueRow, plan: Plan) -> None:
    if row.record is not None:
        try:
            refuse_unsaved(bound, [row.record], plan)
        except ValidationError as error:
            row.add_problems(error.errors())


def _records(bound: BoundModel, rows: Sequence[tuple[ValueRow, Any]]) -> list[BaseModel]:
    """Return the records; a ghost where only the id was given."""
    return [row.record or ghosts(bound, [pk])[0] for row, pk in rows]


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _target(bound: BoundModel, key: Any) -> tuple[Any, BaseModel | None]:
    base = bound.model._base or bound.model
    if isinstance(key, base):
        if not key.is_stored:
            raise _error(bound, "is not stored; save() it first", "unsaved")
        return key.pk, key
    try:
        pk = stored(bound.schema.fields["_id"].operand(key))
    except ValueError as error:
        raise _error(bound, str(error), "type") from None
    return pk, None


def _error(bound: BoundModel, message: str, kind: str) -> ValidationError:
    return ValidationError(bound.model._name, [{"loc": (), "msg": message, "type": kind}])
