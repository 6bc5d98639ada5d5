"""Turns checked plans into write operations, and updates the records in memory afterwards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from earnorm.domain import Domain, condition
from earnorm.exceptions import (
    BatchRefused,
    ConcurrencyError,
    DuplicateKey,
    ErrorDetail,
    NotFound,
    ValidationError,
)
from earnorm.fields.base import MISSING
from earnorm.kernel import pauses
from earnorm.kernel.environment import current_env
from earnorm.kernel.notes import NO_NOTES, Note
from earnorm.kernel.operations import Operation, Options, PerRecord, Update, made_by
from earnorm.kernel.pauses import Finishing, free_later, parts, pause
from earnorm.kernel.serving.sending import RETURNED, Returned
from earnorm.kernel.steps import HAND_BACK, Loc, Way
from earnorm.kernel.transactions.durable import Waiting, tell
from earnorm.kernel.value_steps import ValueRow
from earnorm.model.reading.by_ids import by_ids
from earnorm.model.writing.changed_paths import by_paths, refuse_displaced
from earnorm.model.writing.handing_back import give_written, load_whole, on_its_way, unload
from earnorm.model.writing.partly import find_written, has_conditions
from earnorm.model.writing.pending import changed_fields
from earnorm.model.writing.planning import Guard, Plan
from earnorm.model.writing.snapshots import Snapshot, forget_taken, settle_taken
from earnorm.model.writing.tracking import env_of, pks_of, touch

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel

FIRST = Options(many=False)
_ANY = Options(limit=1)


# -- the same for all -----------------------------------------------------------------------------


async def write_all(
    bound: BoundModel,
    records: Sequence[BaseModel],
    plan: Plan,
    held: Sequence[Snapshot],
    rows: Sequence[ValueRow] = (),
    notes: Mapping[Note[Any], Any] = NO_NOTES,
) -> int:
    """Write one plan to every record and update them in memory; return the number written.

    Args:
        bound: Their model.
        records: The records.
        plan: The plan.
        held: The snapshot of each record from before the write.
        rows: Their rows, where they must still have expected values.
        notes: The notes of the operation, e.g. who makes it if not the program.
    """
    own = held[0].own
    if not plan.operators:
        if own is not None:
            forget_taken(own, plan.values)
        return len(records)
    env = env_of(records)
    update = plan.update()
    pks = [records[0].pk] if len(records) == 1 else await pks_of(records)
    await touch(env, records)
    if len(records) > pauses.EVERY:
        await pause()
    is_one = len(pks) == 1
    if own is not None and own.parts:
        update = by_paths(bound.schema, update, own, plan.values)
    if is_one:
        if rows and rows[0].expected:
            update = replace(update, expect={**update.expect, **expected(bound, rows[0])})
        domain = condition("_id", "=", pks[0])
        op = Operation("write", bound.model, env, domain, update, FIRST, notes)
    elif rows and any(row.expected for row in rows):
        updates = PerRecord()
        for part_of_rows in parts(rows):
            for row in part_of_rows:
                updates[row.record.pk] = replace(update, expect=expected(bound, row))
            if part_of_rows is not rows:
                await pause()
        domain = condition("_id", "in", pks)
        op = Operation("write", bound.model, env, domain, updates, notes=notes)
    else:
        domain = condition("_id", "in", pks)
        op = Operation("write", bound.model, env, domain, update, notes=notes)
    returned = Returned(plan.unknown) if plan.unknown and is_one else None
    if returned is not None:
        op = op.with_note(RETURNED, returned)
    later: list[Waiting] = []
    op = on_its_way(bound, op, Way.WRITE, later, records)
    failure: ConcurrencyError | NotFound | DuplicateKey | None = None
    try:
        try:
            await send(bound, op, len(pks), lambda: refuse_outside(bound, op, plan.guards))
        except ValidationError as error:
            if own is not None:
                refuse_displaced(error, [own])
            if not isinstance(error, DuplicateKey):
                raise
            failure = error
        except (ConcurrencyError, NotFound) as error:
            failure = error
        if failure is not None:
            sent = [(record, update) for record in records]
            written = await find_written(failure, bound, op, sent, plan.unknown)
            held = [h for h in held if cast("BaseModel", h.structure).pk in written]
        if own is not None and held:
            forget_taken(own, plan.values.keys() | plan.unknown)
        finishing, has_back = Finishing(), bool(op.notes.get(HAND_BACK))
        for part in parts(held):
            for before in part:
                settle_taken(before, plan.values)
                if has_back and not plan.unknown:
                    # A step may have put another value in the place of a given one.
                    give_written(before.structure, op, update)
            if part is not held:
                await finishing.pause()
        try:
            if returned is not None and returned.document is not None:
                for before in held:
                    _take_stored(bound, before, dict(returned.document), plan.unknown)
            elif plan.unknown:
                unknown = [(before, plan.unknown) for before in held]
                await finishing.wait_for(read_again(bound, unknown, made_by("model", op)))
        finally:
            if has_back and plan.unknown:
                for part in parts(held):
                    for before in part:
                        give_written(before.structure, op, update)
                    if part is not held:
                        await finishing.pause()
        if finishing.cancelled is not None:
            raise finishing.cancelled
        if failure is not None:
            raise failure
    finally:
        if later:
            await tell(later)
    return len(pks)


def expected(bound: BoundModel, row: ValueRow) -> Mapping[str, Any]:
    """Return the values that a row's record must still have, by stored key."""
    if not row.expected:
        return row.expected
    fields = bound.schema.fields
    return {fields[name].db_name: value for name, value in row.expected.items()}


def refuse_unsaved(bound: BoundModel, records: Sequence[BaseModel], plan: Plan) -> None:
    """Refuse a path into a field with unsaved changes, which the write would lose silently."""
    inside = plan.inside
    for record in records if inside else ():
        for name in inside.intersection(changed_fields(record)):
            raise ValidationError(bound.model._name, [unsaved(name)])


def unsaved(name: str) -> ErrorDetail:
    """Return the error for a write of a part of a field that has unsaved changes."""
    message = "was changed and not saved; save() it before a part of it is written"
    return {"loc": (name,), "msg": message, "type": "unsaved"}


async def refuse_outside(bound: BoundModel, op: Operation, guards: Sequence[Guard]) -> None:
    """Raise where a record does not fulfil a guard of the write.

    The write has the guards as conditions as well, so it skips a record that changes in between.
    """
    problems: list[ErrorDetail] = []
    for guard in guards:
        domain = op.domain & ~guard.domain
        count = op.child("count", bound.model, domain, options=_ANY, origin="model")
        if await op.app.execute(count):
            problems.append(guard.detail)
    if problems:
        raise ValidationError(bound.model._name, problems)


# -- a plan for each record -----------------------------------------------------------------------


class Change(NamedTuple):
    """The write to one record.

    Attributes:
        row: Its row, with its location in the caller's input, and with the record unless only an id
            was given.
        pk: The record's stored id.
        plan: The checked values.
    """

    row: ValueRow
    pk: Any
    plan: Plan

    @property
    def position(self) -> int:
        """The record's position in the caller's input."""
        return int(self.row.loc[0]) if self.row.loc else 0


async def updates_of(bound: BoundModel, changes: Sequence[Change]) -> PerRecord:
    """Return the updates of all changes, by the records' ids."""
    updates = PerRecord()
    for part in parts(changes):
        for change in part:
            updates[change.pk] = change.plan.update(expected(bound, change.row))
        if part is not changes:
            await pause()
    return updates


async def write_each(
    bound: BoundModel,
    changes: Sequence[Change],
    way: Way = Way.EACH,
    notes: Mapping[Note[Any], Any] = NO_NOTES,
) -> Operation | None:
    """Write every change with one operation, and update the records in memory.

    Returns:
        The operation; None where nothing changes.

    Raises:
        ValidationError: A record does not fulfil a guard of its change.
        NotFound: Some do not exist; the others were written.
    """
    changes = [change for change in changes if change.plan.operators]
    if not changes:
        return None
    records = [change.row.record for change in changes if change.row.record is not None]
    env = env_of(records) if records else current_env()
    await touch(env, records)
    updates = await updates_of(bound, changes)
    domain = condition("_id", "in", list(updates))
    op = Operation("write", bound.model, env, domain, updates, notes=notes)
    later: list[Waiting] = []
    op = on_its_way(bound, op, way, later, records)
    try:
        try:
            await send(
                bound,
                op,
                len(changes),
                lambda: refuse_changes_outside(bound, op, changes),
                [change.row.loc for change in changes],
            )
        except (ConcurrencyError, NotFound, DuplicateKey) as error:
            known = [change for change in changes if change.row.record is not None]
            unknown = frozenset[str]().union(*(change.plan.unknown for change in known))
            sent = [(change.row.record, updates[change.pk]) for change in known]
            others = {c.pk: updates[c.pk] for c in changes if c.row.record is None}
            written = await find_written(error, bound, op, sent, unknown, others)
            await learn(bound, [change for change in known if change.pk in written], op)
            raise
        await learn(bound, changes, op)
    finally:
        if later:
            await tell(later)
    return op


async def learn(bound: BoundModel, changes: Sequence[Change], op: Operation) -> None:
    """Update the records in memory; fetch in one query the values that only the server knows."""
    finishing = Finishing()
    unknown: list[tuple[Snapshot, frozenset[str]]] = []
    incomplete: list[Change] = []
    for part in parts(changes):
        for change in part:
            row = change.row
            if row.record is not None:
                before = Snapshot(row.record, ()) if row.held is None else row.held
                settle_taken(before, change.plan.values)
                if change.plan.unknown:
                    unknown.append((before, change.plan.unknown))
                    incomplete.append(change)
                else:
                    give_written(row.record, op, Update(change.plan.operators))
        if part is not changes:
            await finishing.pause()
    try:
        await finishing.wait_for(read_again(bound, unknown, made_by("model", op)))
    finally:
        for part in parts(incomplete):
            for change in part:
                give_written(change.row.record, op, Update(change.plan.operators))
            if part is not incomplete:
                await finishing.pause()
    free_later([*changes])
    finishing.end()


async def refuse_changes_outside(
    bound: BoundModel, op: Operation, changes: Sequence[Change]
) -> None:
    """Raise where a record does not fulfil a guard of its change."""
    guarded = {change.pk: change for change in changes if change.plan.guards}
    if not guarded:
        return
    outside = Domain.FALSE
    for pk, change in guarded.items():
        outside |= condition("_id", "=", pk) & ~change.plan.where
    options = Options(fields=frozenset({"_id"}))
    search = op.child("search", bound.model, outside, options=options, origin="model")
    refused = [guarded[document["_id"]] for document in await op.app.execute(search)]
    if refused:
        raise ValidationError(
            bound.model._name,
            [
                {**guard.detail, "loc": (change.position, *guard.detail["loc"])}
                for change in sorted(refused, key=lambda change: change.position)
                for guard in change.plan.guards
            ],
        )


# -- sending, and the results ---------------------------------------------------------------------


async def send(
    bound: BoundModel,
    op: Operation,
    expected: int,
    refuse: Callable[[], Awaitable[None]],
    locs: Sequence[Loc] = (),
) -> None:
    """Execute a write of known records, and raise where not all of them were written.

    Args:
        bound: Their model.
        op: The write.
        expected: The number of records.
        refuse: Raises where a record does not fulfil a guard of the write. For several records it
            is called before the write, so that none of them is written.
        locs: The location of each record in the caller's input, if each has its own values.
    """
    if expected > 1:
        await refuse()
    try:
        matched = await op.app.execute(op)
    except ConcurrencyError:
        await refuse()
        raise
    except ValidationError as error:
        raise relocated(error, locs) from error.__cause__
    if matched < expected:
        await refuse()
    await check_matched(bound, op, matched, expected)


def relocated(error: ValidationError, locs: Sequence[Loc]) -> ValidationError:
    """Return an error about the values of an operation, with locations in the caller's input.

    An error of the database names its documents in its own attributes as well, and stays as it is.
    """
    if not any(locs) or isinstance(error, BatchRefused | DuplicateKey):
        return error
    return ValidationError(error.subject, placed(error.errors(), locs))


def placed(details: Sequence[ErrorDetail], locs: Sequence[Loc]) -> list[ErrorDetail]:
    """Add each record's location in the caller's input to the problems of a batch."""
    if len(locs) == 1:
        return [{**detail, "loc": (*locs[0], *detail["loc"])} for detail in details]
    return [
        {**detail, "loc": (*locs[detail["loc"][0]], *detail["loc"][1:])}
        if detail["loc"] and isinstance(detail["loc"][0], int)
        else detail
        for detail in details
    ]


async def check_matched(bound: BoundModel, op: Operation, matched: int, expected: int) -> None:
    """Raise where a write matched fewer records than it should have.

    Raises:
        ConcurrencyError: Some of them no longer have the expected values.
        NotFound: Some do not exist.
    """
    if matched >= expected:
        return
    error = await lost_update(op, matched, expected)
    if error is not None:
        raise error
    name, lost = bound.model._name, expected - matched
    if expected == 1:
        raise NotFound(f"{name}: the record to write does not exist")
    raise NotFound(
        f"{name}: {lost} of {expected} records to write do not exist; the others were written"
    )


async def lost_update(
    op: Operation, done: int, expected: int, *, origin: str = "model"
) -> ConcurrencyError | None:
    """Return the error if records that exist no longer fulfil the conditions of a change.

    Args:
        op: The write or deletion, with a domain that names the records and nothing more.
        done: The number of records that were written or deleted.
        expected: The number that should have been.
        origin: The name of the feature that asks.
    """
    if op.name == "write" and not has_conditions(op):
        return None
    # The count tells changed records, which still exist, from deleted ones.
    count = op.child("count", op.model, op.domain, origin=origin)
    existing: int = await op.app.execute(count)
    if op.name == "unlink":
        text = f"{existing} of {expected} records were changed since they were read and are left"
        left = existing
    else:
        text = (
            f"{expected - done} of {expected} records were changed or deleted since they were read"
        )
        left = existing - done
    if left <= 0:
        return None
    return ConcurrencyError(f"{op.model._name}: {text}; refresh() them and try again")


def _take_stored(
    bound: BoundModel, before: Snapshot, document: dict[str, Any], names: frozenset[str]
) -> None:
    """Give a record the stored values of some of its fields, of which a write changed a part."""
    state = bound.schema.state(document)
    settle_taken(before, {name: state.get(name, MISSING) for name in names}, names)
    record: Any = before.structure
    for name in names.intersection(record._fetch.parts):
        load_whole(record, name)


async def read_again(
    bound: BoundModel,
    unknown: Sequence[tuple[Snapshot, frozenset[str]]],
    notes: Mapping[Note[Any], Any],
) -> None:
    """Fetch the values that only the server knows; unload them where the record is not found.

    Args:
        bound: The records' model.
        unknown: Snapshots of records from before the write, each with the names of such fields.
        notes: The notes of the searches, which say who makes them.
    """
    if not unknown:
        return
    if bound.classes is not None:  # a field may belong to the class of some of the records only
        groups: dict[BoundModel, list[tuple[Snapshot, frozenset[str]]]] = {}
        for before, names in unknown:
            model = bound.app.bind(cast("type[BaseModel]", type(before.structure)))
            groups.setdefault(model, []).append((before, names))
        for model, group in groups.items():
            await _read_again(model, group, notes)
    else:
        await _read_again(bound, unknown, notes)


async def _read_again(
    bound: BoundModel,
    unknown: Sequence[tuple[Snapshot, frozenset[str]]],
    notes: Mapping[Note[Any], Any],
) -> None:
    """Do the work of ``read_again`` for records of one class."""
    records: list[Any] = [before.structure for before, _ in unknown]
    env = env_of(records)
    pks = await pks_of(records)
    names = frozenset({"_id"}).union(*(names for _, names in unknown))
    documents = await by_ids(bound, "_id", pks, env=env, fields=names, notes=notes)
    documents_by_id = {document["_id"]: document for document in documents}
    finishing = Finishing()
    for part in parts(unknown):
        for before, names in part:
            record: Any = before.structure
            document = documents_by_id.get(record.pk)
            _take_stored(bound, before, document or {}, names)
            if document is None:
                unload(record, names)
        if part is not unknown:
            await finishing.pause()
    finishing.end()
