"""Turns values and existing records into write and unlink operations.

Records, RecordSets and queries all write through here. New records go through ``creating``;
different values for each of many records go through ``per_record``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from earnorm.domain import Condition, Domain, condition
from earnorm.domain.long_lists import chunks
from earnorm.exceptions import (
    ConcurrencyError,
    DuplicateKey,
    ErrorDetail,
    NotFound,
    ValidationError,
)
from earnorm.kernel import pauses
from earnorm.kernel.environment import Env, current_env
from earnorm.kernel.notes import NO_NOTES, Note
from earnorm.kernel.operations import PLAIN, Operation, Options, PerRecord, Update
from earnorm.kernel.pauses import Finishing, free_later, parts, pause
from earnorm.kernel.steps import HAND_BACK, HandBack, Stage, Way
from earnorm.kernel.transactions.blocks import atomic
from earnorm.kernel.transactions.durable import Waiting, tell
from earnorm.kernel.value_steps import NOTHING, ValueBatch, ValueRow, ValueSteps, run_value_steps
from earnorm.model.kinds import by_model, is_mixed, model_of
from earnorm.model.slots import UNTOUCHED, Pending
from earnorm.model.validation.checking import checked_plan, narrowed, refuse_problems
from earnorm.model.writing import creating
from earnorm.model.writing import turns as turns  # whoever writes records needs it, and loads it so
from earnorm.model.writing.changed_paths import by_paths, note_paths, refuse_displaced
from earnorm.model.writing.classes import deciding, know_classes, parts_of
from earnorm.model.writing.copies import Copies, joined
from earnorm.model.writing.handing_back import give_written, on_its_way
from earnorm.model.writing.incomplete import mark_own, refused_changes
from earnorm.model.writing.merging import has_paths, put_paths, roots_of
from earnorm.model.writing.partly import find_written, name_left
from earnorm.model.writing.pending import changed_fields, unvalidated
from earnorm.model.writing.pipeline import (
    carry_out,
    check_written,
    expectations,
    to_queue_for,
    together,
)
from earnorm.model.writing.planning import Plan, is_change, planned
from earnorm.model.writing.restoring import duplicate
from earnorm.model.writing.sending import (
    FIRST,
    Change,
    check_matched,
    expected,
    lost_update,
    placed,
    refuse_outside,
    refuse_unsaved,
    relocated,
    write_all,
    write_each,
)
from earnorm.model.writing.snapshots import Snapshot, forget_taken, settle_sent
from earnorm.model.writing.tracking import env_of, pks_of, touch
from earnorm.model.writing.updates import Change as ServerChange

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel


async def save_with(record: BaseModel, values: Mapping[str, Any]) -> None:
    """Write a record's own changes and these values in one round trip; or create a new record."""
    if not record.is_stored:
        changes = [changes_are_written(n) for n, value in values.items() if is_change(n, value)]
        if changes:
            raise ValidationError(type(record)._name, changes)
        await creating.create_with(current_env().app.bind(type(record)), record, values)
        return
    names = changed_fields(record)
    if type(record)._root is not None:
        await know_classes([record], {*names, *values})
    await _write_with(record, names, values)


async def _write_with(
    record: BaseModel,
    names: Collection[str],
    values: Mapping[str, Any],
    notes: Mapping[Note[Any], Any] = NO_NOTES,
) -> int:
    """Write some of a record's own changes and these values; values for paths go into the changes."""
    schema = type(record)._schema
    if not schema.readonly.isdisjoint(names):
        raise ValidationError(schema.name, readonly_changes(schema.readonly, names))
    held = Snapshot(record, names, deep=True)
    note_paths(held)
    own = own_values(record, names)
    pending = unvalidated(record, names)
    held.known = {name: value for name, value in own.items() if name not in pending}
    if names and has_paths(values):
        values = put_paths(record, own, held, values)
    return await write([record], {**own, **values}, notes, own=held)


def own_values(record: BaseModel, names: Iterable[str]) -> dict[str, Any]:
    """Return the values of changed fields, which do not change while the program goes on.

    Raises:
        ValidationError: A value would be stored without what was not fetched of it.
    """
    schema, state = type(record)._schema, record.__dict__
    mutable, to_many = schema.mutable, schema.to_many_names
    # Commands cannot be read as a value, so to-many fields are taken as they were assigned.
    values = {n: state[n] if n in to_many else getattr(record, n) for n in names}
    if not mutable.isdisjoint(values):
        values = {n: duplicate(v) if n in mutable else v for n, v in values.items()}
        parts = record._fetch.parts if record.is_stored else ()
        if parts and not values.keys().isdisjoint(parts):
            problems = refused_changes(record, names)
            if problems:
                raise ValidationError(schema.name, problems)
            for name in values.keys() & parts:
                mark_own(values[name])
    return values


async def prepared_save(
    records: Sequence[BaseModel], *, is_alone: bool = True
) -> tuple[Sequence[ValueRow], Callable[[], Awaitable[object]]] | None:
    """Check the changes of records of one model, and prepare the work that writes them.

    Args:
        records: Different objects; some of them may be copies of one record.
        is_alone: The work runs at once, and not in a transaction that is opened for more works.

    Returns:
        A row for each record that has changes, and a function that writes them in one round trip;
        None if there are no changes.

    Raises:
        ValidationError: With every problem found.
    """
    changed: list[tuple[BaseModel, list[str]]] = []
    number = len(records)
    pks: set[Any] = set()
    for part in parts(records):
        for record in part:
            names = changed_fields(record)
            if names:
                changed.append((record, names))
            if number > 1:
                pks.add(record.__dict__["_id"])
        if part is not records:
            await pause()
    if not changed:
        return None
    if len(changed) == number:
        env = env_of(records)
    else:  # what has no changes is not written, so it may be stale
        env_of([record for record, _ in changed])
        env = env_of(records, stale=True)
    bound = env.app.bind(type(records[0]))
    if bound.classes is not None and is_alone:
        for record, names in changed:
            await know_classes([record], names)
        bound = env.app.bind(type(records[0]))
    many = len(changed) > 1
    rows: list[ValueRow] = []
    unvalidated_rows: list[ValueRow] = []
    for of_part in parts(changed):
        for record, names in of_part:
            row = _changes_of(bound, record, names, (len(rows),) if many else ())
            rows.append(row)
            if row.known is not row.values or row.problems:
                unvalidated_rows.append(row)
        if of_part is not changed:
            await pause()
    copies = None
    if 0 < len(pks) < number:
        rows, copies = joined(bound, rows, records)
    steps = bound.ways.save
    if steps is None or not steps.concern([row.values for row in rows]):
        problems = await _validate_saved(bound, unvalidated_rows) if unvalidated_rows else []
        if problems or bound.schema.rules is not None:  # it saves a call
            await _refuse(bound, rows, problems)
        if is_alone:
            return rows, partial(_save, bound, rows, env, copies)
        return rows, lambda: _save(bound, rows, current_env(), copies)
    for row in rows:
        row.known = dict(row.known)
    batch = ValueBatch(current_env(), Way.SAVE, bound.view, rows)
    await run_value_steps(steps.before, batch)
    await _validate_saved(bound, rows)
    if not batch.problems:
        await run_value_steps(steps.valid, batch)
    await _refuse(bound, rows, batch.problems)
    await run_value_steps(steps.plan, batch)
    batch.refuse()
    if copies is not None:
        copies.refuse_older(bound, rows)

    def run() -> Awaitable[None]:
        return carry_out(batch, lambda: _save(bound, rows, current_env(), copies))

    return rows, lambda: together(batch, run)


def _changes_of(
    bound: BoundModel, record: BaseModel, names: Sequence[str], loc: tuple[int, ...]
) -> ValueRow:
    """Return a record's own changes as a row of values to write."""
    schema = bound.schema
    values: dict[str, Any] = {}
    row = ValueRow(values, loc, record)
    held = row.held = Snapshot(record, names, deep=True)
    if not schema.readonly.isdisjoint(names):
        row.add_problems(readonly_changes(schema.readonly, names))
    is_plain = schema.rechecked.isdisjoint(names)
    for name, value in held.held.items():
        if isinstance(value, ServerChange):
            assigned = [n for n, v in held.held.items() if isinstance(v, ServerChange)]
            row.add_problems(map(changes_are_written, assigned))
            values.clear()
            return row
        if is_plain:  # as own_values() below, for a save of plain values, which is the most common
            values[name] = getattr(record, name)
    if is_plain:
        notes: Pending = getattr(record, "_pending", UNTOUCHED)  # without a call of a function
        pending: Collection[str] = notes.refused
    else:
        if held.parts:
            note_paths(held)
        pending = unvalidated(record, names)
        try:
            values = row.values = own_values(record, names)
        except ValidationError as error:
            row.add_problems(error.errors())
    # The values of the record. Steps, which may change those of the row, get a copy.
    row.known = {n: v for n, v in values.items() if n not in pending} if pending else values
    return row


async def _validate_saved(bound: BoundModel, rows: Sequence[ValueRow]) -> list[ErrorDetail]:
    problems: list[ErrorDetail] = []
    for part in parts(rows):
        for row in part:
            if row.known is not row.values:
                try:
                    row.values = bound.schema.validate_others(row.values, row.known, "write")
                except ValidationError as error:
                    row.add_problems(error.errors())
            if row.problems:
                problems += row.problems
        if part is not rows:
            await pause()
    return problems


async def _refuse(bound: BoundModel, rows: Sequence[ValueRow], problems: list[ErrorDetail]) -> None:
    """Raise the problems, together with those that the model's rules find."""
    if problems or bound.schema.rules is not None:
        acceptable = [row for row in rows if not row.problems]
        await refuse_problems(bound, "write", acceptable, problems)


async def _save(
    bound: BoundModel, rows: Sequence[ValueRow], env: Env, copies: Copies | None
) -> None:
    """Write checked changes with one operation, and update the records in memory."""
    schema = bound.schema
    sent: list[tuple[ValueRow, Update]] = []
    saved: list[tuple[ValueRow, Update | None]] = []
    records: list[Any] = []
    for part in parts(rows):
        for row in part:
            records.append(row.record)
            if not row.values:
                saved.append((row, None))
                continue
            expect = expected(bound, row) if row.expected else NOTHING
            change = Update({"$set": schema.encode(row.values)}, expect)
            if row.held.parts:
                change = by_paths(schema, change, row.held, row.values)
            if copies is not None:
                for held in copies.of(row):
                    change = by_paths(schema, change, held, row.values)
            saved.append((row, change))
            sent.append((row, change))
        if part is not rows:
            await pause()
    if copies is not None:
        records += copies.records
    if env.transaction is not None:
        await touch(env, records)
    later: list[Waiting] = []
    try:
        failure: ConcurrencyError | NotFound | DuplicateKey | None = None
        op: Operation | None = None
        if sent:
            if len(sent) == 1:
                row, change = sent[0]
                domain = Condition("_id", "=", row.record.__dict__["_id"])
                op = Operation("write", bound.model, env, domain, change, FIRST)
            else:
                updates = PerRecord({row.record.__dict__["_id"]: change for row, change in sent})
                domain = Condition("_id", "in", list(updates))
                op = Operation("write", bound.model, env, domain, updates)
            op = on_its_way(bound, op, Way.SAVE, later, records)
            try:
                matched = await env.app.execute(op)
                if matched < len(sent):
                    await check_matched(bound, op, matched, len(sent))
            except ValidationError as error:
                refuse_displaced(error, [row.held for row in rows])
                refused = relocated(error, [row.loc for row, change in saved if change is not None])
                if not isinstance(refused, DuplicateKey):
                    raise refused from error.__cause__
                failure = refused
            except (ConcurrencyError, NotFound) as error:
                failure = error
            if failure is not None:
                written = await find_written(
                    failure, bound, op, [(row.record, update) for row, update in sent]
                )
                saved = [(row, update) for row, update in sent if row.record.pk in written]
        finishing = Finishing()
        back = None if op is None else op.notes.get(HAND_BACK)
        for of_part in parts(saved):
            for row, written_change in of_part:
                if len(row.values) != len(row.held.held):
                    forget_taken(row.held, row.values)
                settle_sent(row.held, row.values)
                if copies is not None:
                    copies.learn(bound, row)
                if back and op is not None and written_change is not None:
                    for record in (row.record, *row.copies):
                        give_written(record, op, written_change)
            if of_part is not saved:
                await finishing.pause()
        free_later(saved)
        if finishing.cancelled is not None:
            raise finishing.cancelled
        if failure is not None:
            raise failure
    finally:
        if later:
            await tell(later)


def readonly_changes(readonly: Collection[str], names: Iterable[str]) -> list[ErrorDetail]:
    """Return the errors for values that were changed in place and may not be."""
    message = "can be set only on a new record; refresh() drops the change"
    return [{"loc": (n,), "msg": message, "type": "readonly"} for n in names if n in readonly]


def changes_are_written(name: str) -> ErrorDetail:
    """Return the error for a change that was assigned, or given to a record that is not stored."""
    message = f"a change is given to write() or save() of a stored record: save({{{name!r}: …}})"
    return {"loc": (name,), "msg": message, "type": "change"}


async def write(
    records: Sequence[BaseModel],
    values: Mapping[str, Any],
    notes: Mapping[Note[Any], Any] = NO_NOTES,
    own: Snapshot | None = None,
) -> int:
    """Write the same values to every record; return the number of records written.

    Args:
        records: The records.
        values: The values of all of them.
        notes: The notes of the operation, e.g. who makes it if not the program.
        own: The snapshot of the changes of the only record that are among the values.
    """
    if not records:
        return 0
    if len(records) > 1:  # what a write adds to a record must not be added to it twice
        records = list({id(record): record for record in records}.values())
        if len(records) > pauses.EVERY:
            await pause()
    bound = _bound_of(records)
    if len(records) > pauses.EVERY:
        await pause()
    if bound.classes is not None:
        if isinstance(values, Mapping):
            await know_classes(records, values)
        if is_mixed(records):
            return await _write_by_class(records, values, notes)
        bound = _bound_of(records)
    names = values if isinstance(values, Mapping) else ()  # else it is refused below
    if own is None and len(records) == 1:
        for name in names:
            if type(name) is str and "." in name:
                record = records[0]
                changed = roots_of(record, values).intersection(changed_fields(record))
                if changed:
                    return await _write_with(record, changed, values, notes)
                break
    held: list[Snapshot] = []
    for part in parts(records):
        for record in part:  # a loop makes no function call of its own
            held.append(Snapshot(record, names, own=own))
        if part is not records:
            await pause()
    known = NOTHING if own is None else own.known
    steps = bound.ways.write
    if steps is None or not isinstance(values, Mapping) or not steps.concern((values,)):
        plan = await checked_plan(bound, planned(bound.schema, values, known), records)
        refuse_unsaved(bound, records, plan)
        number = await write_all(bound, records, plan, held, (), notes)
    else:
        run, is_one = await prepared_write(records, values, notes, held)
        number = await run() if is_one else await atomic(run, queues_for=to_queue_for(records))
    free_later(held)
    return number


async def _write_by_class(
    records: Sequence[BaseModel], values: Mapping[str, Any], notes: Mapping[Note[Any], Any]
) -> int:
    """Write records of several classes: each class has fields, rules and steps of its own."""
    run = await _prepared_by_class(records, values, notes)
    return await atomic(run, queues_for=to_queue_for(records))


async def _prepared_by_class(
    records: Sequence[BaseModel], values: Mapping[str, Any], notes: Mapping[Note[Any], Any]
) -> Callable[[], Awaitable[int]]:
    groups = by_model(records)
    refused: list[tuple[list[BaseModel], list[ErrorDetail]]] = []
    runs: list[Callable[[], Awaitable[int]]] = []
    for group in groups:
        try:
            runs.append((await prepared_write(group, values, notes))[0])
        except ValidationError as error:
            refused.append((group, error.errors()))
    if refused:
        raise ValidationError(model_of(records)._name, _of_classes(records, groups, refused))

    async def run() -> int:
        return sum([await write_group() for write_group in runs])

    return run


def _of_classes(
    records: Sequence[BaseModel],
    groups: Sequence[Sequence[BaseModel]],
    refused: Sequence[tuple[Sequence[BaseModel], list[ErrorDetail]]],
) -> list[ErrorDetail]:
    """Return the problems of all classes; one that every class has is told once, for all records."""
    first, *others = [details for _, details in refused]
    common = [d for d in first if len(refused) == len(groups) and all(d in o for o in others)]
    positions = {id(record): place for place, record in enumerate(records)}
    problems = list(common)
    for group, details in refused:
        own = [detail for detail in details if detail not in common]
        has_positions = any(d["loc"] and isinstance(d["loc"][0], int) for d in own)
        if len(group) == 1 or has_positions:
            own = placed(own, [(positions[id(record)],) for record in group])
        problems += own
    return problems


def _bound_of(records: Sequence[BaseModel]) -> BoundModel:
    bound = env_of(records).app.bind(model_of(records))
    for record in records:
        if not hasattr(record, "_fetch"):
            detail: ErrorDetail = {
                "loc": (),
                "msg": "write() needs saved records; save() it first",
                "type": "unsaved",
            }
            raise ValidationError(bound.model._name, [detail])
    return bound


async def prepared_write(
    records: Sequence[BaseModel],
    values: Mapping[str, Any],
    notes: Mapping[Note[Any], Any] = NO_NOTES,
    held: Sequence[Snapshot] | None = None,
) -> tuple[Callable[[], Awaitable[int]], bool]:
    """Check a write, and prepare the work around it.

    Args:
        records: The records.
        values: The values of all of them.
        notes: The notes of the operation, e.g. who makes it if not the program.
        held: The snapshots of the records from before the write, if there are some already.

    Returns:
        A function that does all the work, and whether that is one operation. The caller opens a
        transaction for several.

    Raises:
        ValidationError: With every problem found.
    """
    bound = _bound_of(records)
    if bound.classes is not None and isinstance(values, Mapping):
        await know_classes(records, values)
        if is_mixed(records):
            return await _prepared_by_class(records, values, notes), False
        bound = _bound_of(records)
    if held is None:
        own_held: list[Snapshot] = []
        for part in parts(records):
            for record in part:
                own_held.append(Snapshot(record, values))
            if part is not records:
                await pause()
        held = own_held
    before = held
    steps = bound.ways.write
    if steps is None or not steps.need_transaction(values, bound.view):
        batch, plans = await _checked_write(bound, steps, before, values)
        return (lambda: _carry_out(bound, batch, plans, notes)), not batch.has_work
    # The steps run inside the transaction; refuse invalid values before it is opened.
    names = bound.schema.fields.keys() & values.keys()
    plain = {n: values[n] for n in names if not is_change(n, values[n])}
    bound.schema.validate_others(plain, _known(held), "write")

    async def run() -> int:
        batch, plans = await _checked_write(bound, steps, before, values)
        return await _carry_out(bound, batch, plans, notes)

    return run, False


def _known(held: Sequence[Snapshot]) -> Mapping[str, Any]:
    """Return the values of a write that were validated when they were assigned."""
    own = held[0].own
    return NOTHING if own is None else own.known


async def _checked_write(
    bound: BoundModel,
    steps: ValueSteps | None,
    held: Sequence[Snapshot],
    values: Mapping[str, Any],
) -> tuple[ValueBatch, list[Plan]]:
    records: list[Any] = [before.structure for before in held]
    many, known = len(records) > 1, _known(held)
    rows: list[ValueRow] = []
    for part in parts(held):
        for before in part:
            row = ValueRow(dict(values), (len(rows),) if many else (), before.structure)
            row.held, row.known = before, known
            rows.append(row)
        if part is not held:
            await pause()
    batch = ValueBatch(current_env(), Way.WRITE, bound.view, rows)
    plans = await check_written(bound, steps or NO_STEPS, batch, records)
    if plans[0] is plans[-1]:
        refuse_unsaved(bound, records, plans[0])
    else:
        for row, plan in zip(rows, plans, strict=True):
            refuse_unsaved(bound, [row.record], plan)
    return batch, plans


async def _carry_out(
    bound: BoundModel, batch: ValueBatch, plans: Sequence[Plan], notes: Mapping[Note[Any], Any]
) -> int:
    rows = batch.rows
    records = [row.record for row in rows]
    if len(records) > pauses.EVERY:
        await pause()
    await touch(env_of(records), records)

    async def operate() -> int:
        if plans[0] is plans[-1]:  # all records share one plan
            held = [row.held for row in rows]
            return await write_all(bound, records, plans[0], held, rows, notes)
        changes = [Change(row, row.record.pk, plan) for row, plan in zip(rows, plans, strict=True)]
        await write_each(bound, changes, Way.WRITE, notes)
        return len({change.pk for change in changes})

    return await carry_out(batch, operate)


NO_STEPS = ValueSteps(())


async def update(op: Operation, values: Mapping[str, Any]) -> int:
    """Write the same values to every record that a domain matches."""
    bound = op.app.bind(op.model)
    deciders = deciding(bound, values) if isinstance(values, Mapping) else []
    if not deciders:
        return await (await _prepared_update(bound, op, values))()
    runs: list[Callable[[], Awaitable[int]]] = []
    for domain, judge in parts_of(bound, deciders):
        part = op.replace(domain=op.domain & domain)
        try:
            runs.append(await _prepared_update(judge, part, values))
        except ValidationError:
            if judge is bound or await _has_any(part):
                raise  # a class that has no record to write has no say

    async def run() -> int:
        return sum([await write_group() for write_group in runs])

    return await atomic(run)


async def _has_any(op: Operation) -> bool:
    count = op.child("count", op.model, op.domain, options=Options(limit=1), origin="model")
    return bool(await op.app.execute(count))


async def _prepared_update(
    bound: BoundModel, op: Operation, values: Mapping[str, Any]
) -> Callable[[], Awaitable[int]]:
    """Check the values of an update by domain, and prepare the work.

    Args:
        bound: The model that judges the values: that of the operation, or a subclass.
        op: The operation.
        values: The values.

    Raises:
        ValidationError: With every problem of the values.
    """
    steps = bound.ways.update
    if steps is None or not isinstance(values, Mapping) or not steps.concern((values,)):
        only = await checked_plan(bound, planned(bound.schema, values))
        return lambda: _update(bound, op, only)
    row = ValueRow(dict(values))
    batch = ValueBatch(op.env, Way.UPDATE, bound.view, [row])
    (plan,) = await check_written(bound, steps, batch, None)
    return lambda: carry_out(batch, lambda: _update(bound, op, plan, expected(bound, row)))


async def _update(
    bound: BoundModel, op: Operation, plan: Plan, expect: Mapping[str, Any] | None = None
) -> int:
    if not plan.operators:
        return 0
    await refuse_outside(bound, op, plan.guards)
    matched = 0
    for part in await narrowed(op, bound, plan.values):
        values, options, notes = plan.update(expect), part.options, part.notes
        changed = Operation("write", op.model, op.env, part.domain, values, options, notes)
        matched += await op.app.execute(changed)
    return matched


async def refuse_fixed(bound: BoundModel, record: BaseModel, name: str) -> None:
    """Run the steps that say who may set a field, for a value that comes on a way of its own.

    Raises:
        AccessDenied: Who acts may not set it.
    """
    steps = bound.ways.write
    if steps is not None:
        deciding = [ready for ready in steps.before if ready.step.stage == Stage.CLASS]
        batch = ValueBatch(
            current_env(), Way.WRITE, bound.view, [ValueRow({name: None}, (), record)]
        )
        await run_value_steps(deciding, batch)


async def write_stored(
    record: BaseModel,
    values: Mapping[str, Any],
    expect: Mapping[str, Any],
    notes: Mapping[Note[Any], Any],
) -> int:
    """Write stored values to a record that still has the expected ones; return 1 if so, else 0.

    Args:
        record: A stored record.
        values: Stored values by stored key.
        expect: By stored key or path, the stored values that the record must still have.
        notes: The notes of the operation, which say who makes it.
    """
    bound = env_of([record]).app.bind(type(record))
    row = ValueRow({}, (), record)
    steps = bound.ways.write
    if steps is not None:
        batch = ValueBatch(current_env(), Way.WRITE, bound.view, [row])
        await run_value_steps(steps.plan, batch)
        batch.refuse()
    env = env_of([record])
    change = Update({"$set": values}, {**expected(bound, row), **expect})
    domain = condition("_id", "=", record.pk)
    op = Operation("write", bound.model, env, domain, change, FIRST, notes)
    later: list[Waiting] = []
    op = on_its_way(bound, op, Way.WRITE, later, [record])
    await touch(env, [record])
    try:
        matched: int = await env.app.execute(op)
        if matched:
            give_written(record, op, change, is_settled=False)
        return matched
    finally:
        if later:
            await tell(later)


# -- unlink ---------------------------------------------------------------------------------------


async def unlink(records: Sequence[BaseModel]) -> int:
    """Delete the records; return the number deleted."""
    stored = [record for record in records if hasattr(record, "_fetch")]
    if not stored:
        return 0
    bound = env_of(stored).app.bind(model_of(stored))
    batch = await unlinking(bound, stored)
    if batch is None:
        return await _unlink(bound, stored, ())
    return await together(
        batch, lambda: carry_out(batch, lambda: _unlink(bound, stored, batch.rows))
    )


async def unlinking(bound: BoundModel, records: Sequence[BaseModel]) -> ValueBatch | None:
    """Return the batch of records to delete; None if no step concerns the deletion."""
    steps = bound.ways.unlink
    if steps is None or not steps.concern(()):
        return None
    rows = [ValueRow({}, (), record) for record in records]
    batch = ValueBatch(current_env(), Way.UNLINK, bound.view, rows)
    for part in (steps.before, steps.valid, steps.plan):
        await run_value_steps(part, batch)
    batch.refuse()
    return batch


async def _unlink(bound: BoundModel, records: Sequence[BaseModel], rows: Sequence[ValueRow]) -> int:
    env = env_of(records)
    if len(records) > pauses.EVERY:
        await pause()
    pks = [records[0].pk] if len(records) == 1 else await pks_of(records)
    if len(pks) > pauses.EVERY:
        await pause()
    notes = {HAND_BACK: HandBack(records)} if bound.names_others("unlink") else NO_NOTES
    deleted = 0
    for chunk in chunks(pks):
        one = len(chunk) == 1
        domain = condition("_id", "=", chunk[0]) if one else condition("_id", "in", chunk)
        options = FIRST if one else PLAIN
        unchanged = Domain.TRUE
        if any(row.expected for row in rows):
            its_rows = rows
            if len(chunk) < len(pks):
                pks_of_chunk = set(chunk)
                its_rows = [row for row in rows if row.record.pk in pks_of_chunk]
            unchanged = await expectations(its_rows)
        op = Operation("unlink", bound.model, env, domain & unchanged, None, options, notes)
        number: int = await env.app.execute(op)
        deleted += number
        if number < len(chunk) and unchanged is not Domain.TRUE:
            error = await lost_update(op.replace(domain=domain), number, len(pks))
            if error is not None:
                await name_left(error, op, pks)
                raise error
    return deleted
