"""The one path of values to an operation: runs steps around the model's validation and rules.

Features and plugins bring the steps. A call that no step concerns only validates, and does not come
here.

New records begin in ``creating``, writes in ``records`` and ``per_record``; ``sending`` sends the
operations.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import is_
from typing import TYPE_CHECKING, Any, TypeVar

from earnorm.domain import Domain, condition
from earnorm.exceptions import ErrorDetail, ValidationError
from earnorm.fields.relational import is_record
from earnorm.kernel import pauses
from earnorm.kernel.pauses import Finishing, each_part, parts, pause
from earnorm.kernel.steps import Way
from earnorm.kernel.transactions.blocks import atomic
from earnorm.kernel.transactions.held_records import HOLDERS, note_settled
from earnorm.kernel.transactions.units import UnitOfCall
from earnorm.kernel.value_steps import (
    ValueBatch,
    ValueRow,
    ValueSteps,
    run_value_steps,
    run_work,
    settle,
)
from earnorm.model.validation.checking import check_rows, checked_plan, checked_plans
from earnorm.model.writing.pending import forget_change
from earnorm.model.writing.planning import Plan, has_changes, is_change, plan_of, validated

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel

T = TypeVar("T")


def names_of(values: Iterable[Any]) -> Iterable[Iterable[str]]:
    """Return the names of the values in each dict or unsaved record."""
    return map(_names, values)


def _names(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        return value
    return value.__dict__ if is_record(value) else ()


# -- new records ----------------------------------------------------------------------------------


async def check_new(
    bound: BoundModel,
    steps: ValueSteps,
    batch: ValueBatch,
    give_ids: Callable[[BoundModel, Sequence[dict[str, Any]]], None],
    passed: Mapping[int, Way],
) -> list[dict[str, Any]] | None:
    """Turn rows of new records into states: run every step, validate, apply the rules, give ids.

    Args:
        bound: Their model.
        steps: Its steps.
        batch: The rows.
        give_ids: Gives ids to states.
        passed: By ``id()`` of a row, the way on which it has passed the ``before`` steps of that way.

    Returns:
        The validated values of each row, with its commands; None where no transaction runs, whose
        rollback would need them.

    Raises:
        ValidationError: With every problem and its position.
    """
    rows = batch.rows
    if passed:
        await _run_others(steps, batch, passed)
    else:
        await run_value_steps(steps.before, batch)
    is_refused = bool(batch.problems)
    incomplete: list[ValueRow] = []
    for part in parts(rows):
        for row in part:
            if not _is_complete(bound, row):
                incomplete.append(row)
        if part is not rows:
            await pause()
    await _validate(bound, incomplete)
    if is_refused:  # the rules would see records without the refused values
        batch.refuse()
    for row in rows:
        row.is_valid = True
    batch.rows = [row for row in rows if not row.problems]
    await run_value_steps(steps.valid, batch)
    batch.rows = [row for row in batch.rows if not row.problems]
    for row, detail in await check_rows(bound, "create", batch.rows):
        row.problems = [*row.problems, detail]
    batch.rows = rows
    batch.refuse()
    if len(rows) <= pauses.EVERY:
        give_ids(bound, [row.values for row in rows])
    else:
        await each_part(partial(give_ids, bound), [row.values for row in rows])
    given = None if batch.env.transaction is None else [dict(row.values) for row in rows]
    await run_value_steps(steps.plan, batch)
    batch.refuse()
    return given


def _is_complete(bound: BoundModel, row: ValueRow) -> bool:
    """Return whether the row has the validated values of an unsaved record; validate changed ones."""
    known = row.known
    if row.copied is not None:
        row.copied = {n for n in row.copied if row.values.get(n) is known[n]}
        try:
            row.values = bound.schema.completed(row.values, known)
        except ValidationError as error:
            row.add_problems(error.errors())
        return True
    if not known or not known.keys() <= row.values.keys():
        return False
    if not _is_same(row.values, known):
        try:
            row.values = bound.schema.validate_others(row.values, known, "create")
        except ValidationError as error:
            row.add_problems(error.errors())
    return True


async def _run_others(steps: ValueSteps, batch: ValueBatch, passed: Mapping[int, Way]) -> None:
    """Run each ``before`` step for the rows that have not passed it."""
    rows = batch.rows
    for ready in steps.before:
        batch.rows = [row for row in rows if not ready.ways & passed.get(id(row), Way(0))]
        if batch.rows:
            await run_value_steps([ready], batch)
    batch.rows = rows


async def _validate(bound: BoundModel, rows: Sequence[ValueRow]) -> None:
    """Validate the values into complete states, and note the problems of each row."""
    if not rows:
        return
    if len(rows) > pauses.EVERY:
        for part in parts(rows):
            await _validate(bound, part)
            await pause()
        return
    try:
        if len(rows) == 1:
            rows[0].values = bound.schema.validate(rows[0].values)
            return
        states = bound.schema.validate_many([row.values for row in rows])
    except ValidationError as error:
        if len(rows) == 1:
            rows[0].add_problems(error.errors())
            return
        refused: dict[int, list[ErrorDetail]] = {}
        for detail in error.errors():
            number, *rest = detail["loc"]
            refused.setdefault(int(number), []).append({**detail, "loc": tuple(rest)})
        for number, details in refused.items():
            rows[number].add_problems(details)
        # The first pass may stop before it finds the problems of the other rows.
        await _validate(bound, [row for number, row in enumerate(rows) if number not in refused])
        return
    for row, state in zip(rows, states, strict=True):
        row.values = state


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any] | None) -> bool:
    """Return whether both have the same objects under the same names."""
    if one is other:
        return True
    if other is None or len(one) != len(other):
        return False
    if list(one) == list(other):  # as those of copies are
        return all(map(is_, one.values(), other.values()))
    return all(name in other and other[name] is value for name, value in one.items())


# -- records that exist ---------------------------------------------------------------------------


async def check_written(
    bound: BoundModel,
    steps: ValueSteps,
    batch: ValueBatch,
    records: Sequence[BaseModel] | None,
    *,
    before: bool = True,
) -> list[Plan]:
    """Run every step on the values of a write, validate them and apply the rules.

    Args:
        bound: The model.
        steps: Its steps.
        batch: The rows.
        records: Their records, for the rules; ghosts where only ids are known. None for an update
            by domain, where they are not known.
        before: Run the ``before`` steps as well, which see the values as they were handed in.

    Returns:
        A plan for each row. Rows that get the same values, as in ``write()`` of several records,
        share one plan.

    Raises:
        ValidationError: With every problem found.
    """
    if before and steps.before:
        await run_value_steps(steps.before, batch)
    await validate_written(bound, batch)
    for row in batch.rows:
        row.is_valid = True
    if len(batch.rows) > pauses.EVERY:
        await pause()
    if steps.valid and not batch.has_problems:
        await run_value_steps(steps.valid, batch)
    batch.refuse()
    if bound.schema.rules is not None:
        await _hold_to_rules(bound, batch, records)
        batch.refuse()
    if steps.plan:
        await run_value_steps(steps.plan, batch)
        batch.refuse()
    rows = batch.rows
    if len(rows) > pauses.EVERY:
        await pause()
    if _have_same_values(batch):
        return [plan_of(bound.schema, dict(rows[0].values))] * len(rows)
    plans: list[Plan] = []
    for part in parts(rows):
        for row in part:
            plans.append(plan_of(bound.schema, row.values))
        if part is not rows:
            await pause()
    return plans


def _have_same_values(batch: ValueBatch) -> bool:
    """Return whether all rows get the same values."""
    if batch.way is not Way.WRITE and batch.way is not Way.UPDATE:
        return False
    rows = batch.rows
    if len(rows) > 1:
        first = rows[0].values
        for row in rows:
            if not _is_same(row.values, first):
                return False
    return True


async def validate_written(bound: BoundModel, batch: ValueBatch) -> None:
    """Validate the values of a write, and note the problems of each row."""
    if len(batch.rows) > 1 and _have_same_values(batch):
        try:
            values = validated(bound.schema, batch.rows[0].values, batch.rows[0].known)
        except ValidationError as error:
            batch.add_problems(error.errors())
        else:
            for row in batch.rows:
                row.values = dict(values)
        return
    for part in parts(batch.rows):
        for row in part:
            validate_row(bound, row)
        if part is not batch.rows:
            await pause()


def validate_row(bound: BoundModel, row: ValueRow) -> None:
    """Validate the values of a write of one record, and note their problems."""
    try:
        row.values = validated(bound.schema, row.values, row.known)
    except ValidationError as error:
        row.add_problems(error.errors())


async def _hold_to_rules(
    bound: BoundModel, batch: ValueBatch, records: Sequence[BaseModel] | None
) -> None:
    rows = batch.rows
    if records is None or _have_same_values(batch):
        plan = await checked_plan(bound, _plan_for_rules(rows[0].values), records)
        for row in rows:
            row.values.update(plan.values)
        return
    given = [
        (row.loc, _plan_for_rules(row.values), record)
        for row, record in zip(rows, records, strict=True)
    ]
    checked, problems = await checked_plans(bound, given)
    batch.add_problems(problems)
    for row, plan in zip(rows, checked, strict=bool(not problems)):
        row.values.update(plan.values)


def _plan_for_rules(values: Mapping[str, Any]) -> Plan:
    """Return the part of a plan that the rules read."""
    if not has_changes(values):
        return Plan(values, {})
    changed = frozenset(name.partition(".")[0] for name in values if is_change(name, values[name]))
    return Plan({n: v for n, v in values.items() if not is_change(n, v)}, {}, unknown=changed)


# -- the work around an operation -----------------------------------------------------------------


async def carry_out(batch: ValueBatch, operate: Callable[[], Awaitable[T]]) -> T:
    """Run the work before a batch's operation, the operation, and the work after it."""
    if batch.work_before or batch.work_after:
        with UnitOfCall() as unit:
            for work in batch.work_before:
                await run_work(work, batch.model)
            result = await operate()
            for work in batch.work_after:
                await run_work(work, batch.model)
            await unit.check()
    else:
        result = await operate()
    finishing = Finishing()
    for part in parts(batch.rows):
        for row in part:
            if row.back:
                take_back(row)
        if part is not batch.rows:
            await finishing.pause()
    if batch.settling:
        await finishing.wait_for(settle(batch.settling))
    if finishing.cancelled is not None:
        raise finishing.cancelled
    return result


async def together(
    batch: ValueBatch,
    run: Callable[[], Awaitable[T]],
    queues_for: Iterable[tuple[str, Any]] | None = None,
) -> T:
    """Run in one transaction where the batch has work beside its operation.

    Args:
        batch: The batch.
        run: Does all of it.
        queues_for: The records that the transaction queues for; by default those of the batch.
    """
    if not batch.has_work:
        return await run()
    if queues_for is None:
        queues_for = to_queue_for([row.record for row in batch.rows])
    return await atomic(run, queues_for=queues_for)


def to_queue_for(records: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Yield what a transaction queues for that writes these records: the stored ones of them."""
    for record in records:
        if record is not None and record.is_stored:
            yield type(record)._name, record.pk


def take_back(row: ValueRow) -> None:
    """Put the values that a row's steps handed back into its record and the copies of it."""
    if row.record is None:
        return
    for record in (row.record, *row.copies):
        if HOLDERS:
            note_settled(record)
        for name, value in row.back.items():
            forget_change(record, name)
            record.__dict__[name] = value


async def expectations(rows: Sequence[ValueRow]) -> Domain:
    """Return the domain of the rows' records that still have their expected values."""
    groups: dict[tuple[tuple[str, Any], ...], list[Any]] = {(): []}
    for part_of_rows in parts(rows):
        for row in part_of_rows:
            groups.setdefault(tuple(row.expected.items()), []).append(row.record.pk)
        if part_of_rows is not rows:
            await pause()
    domain = Domain.FALSE
    for expected, pks in groups.items():
        if pks:
            part: Domain = condition("_id", "in", pks)
            for name, value in expected:
                part &= condition(name, "=", value)
            domain |= part
    return domain.simplify()
