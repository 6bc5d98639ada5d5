"""``Model.bulk()``: creations, changes and deletions of one model, sent together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from earnorm.domain import Domain, condition
from earnorm.exceptions import (
    AccessDenied,
    BatchDuplicateKey,
    BatchRefused,
    ConcurrencyError,
    DuplicateKey,
    EarnORMError,
    ErrorDetail,
    NotFound,
    ValidationError,
)
from earnorm.features.bulk.collecting import Collector
from earnorm.kernel.contract.left_out import need_feature
from earnorm.kernel.environment import current_env, use_env
from earnorm.kernel.observing.denials import announce_refusal
from earnorm.kernel.operations import ASKED, Operation, Options, PerRecord, made_by
from earnorm.kernel.pauses import Finishing, parts, pause
from earnorm.kernel.steps import PreparedStep, Way
from earnorm.kernel.transactions.blocks import Transaction, atomic
from earnorm.kernel.transactions.durable import Waiting, tell
from earnorm.kernel.value_steps import (
    ValueBatch,
    ValueRow,
    Work,
    operation_of,
    run_value_steps_now,
    settle,
)
from earnorm.model.writing.classes import deciding
from earnorm.model.writing.creating import Creation, adopt, prepared
from earnorm.model.writing.handing_back import on_its_way
from earnorm.model.writing.partly import find_written, name_left
from earnorm.model.writing.per_record import checked_each
from earnorm.model.writing.pipeline import expectations, take_back, validate_row
from earnorm.model.writing.planning import Plan, plan_of, planned
from earnorm.model.writing.records import unlinking
from earnorm.model.writing.restoring import own
from earnorm.model.writing.sending import (
    Change,
    learn,
    lost_update,
    refuse_changes_outside,
    refuse_unsaved,
    updates_of,
)
from earnorm.model.writing.snapshots import Snapshot
from earnorm.model.writing.tracking import env_of, touch

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel
    from earnorm.model.recordset import RecordSet

M = TypeVar("M", bound="BaseModel")

_NOTES = {**made_by("bulk"), ASKED: True}


class Bulk(Generic[M]):
    """Collects changes of records, and sends them at the end of its block::

        async with User.bulk() as bulk:
            bulk.create({"name": "Ann"})
            bulk.write(bob, {"visits": Inc(1)})
            bulk.unlink(eve)

    It makes one call of the driver, with at most one command for each kind: first the creations,
    then the writes, then the deletions. Each kind is one operation for plugins. If a plugin runs
    operations in a transaction, all of them run in one. Deletions with consequences (``on_delete``)
    take a second call, so that they see what the block created and wrote.

    Attributes:
        created: The number of records that were created.
        written: The number of records that were written.
        deleted: The number of records that were deleted.
    """

    def __init__(self, bound: BoundModel, model: type[M]) -> None:
        need_feature("bulk", "bulk()", bound.app)
        self.created = self.written = self.deleted = 0
        self._bound = bound
        self._model = model
        self._calls = 0
        self._new: list[ValueRow] = []
        self._passed: set[int] = set()  # the new records whose values have passed the first steps
        self._settling: list[Work] = []
        self._values: dict[Any, ValueRow] = {}
        self._deletions: dict[Any, tuple[int, M]] = {}
        self._refused: list[tuple[Operation, AccessDenied]] = []
        self._unjudged: set[Any] = set()  # the ids of ghosts whose class has a say in their values

    # -- collecting ---------------------------------------------------------------------------

    def create(self, values: Mapping[str, Any] | M) -> M:
        """Create a record at the end of the block.

        Args:
            values: A mapping of field values, or an unsaved record.

        Returns:
            The record; it is stored when the block has ended.

        Raises:
            ValidationError: A value is not acceptable.
        """
        position = self._next()
        row = ValueRow({}, (position,))
        if isinstance(values, Mapping):
            row.values = dict(values)
            steps = self._bound.ways.bulk
            if steps is not None and steps.concern((values,)):
                view = self._bound.view
                batch = ValueBatch(current_env(), Way.BULK, view, [row], is_new=True)
                self._run(steps.before, batch)
                batch.refuse()
                self._settling += batch.settling
            self._passed.add(len(self._new))
            row.record = self._model(**row.values)
        elif isinstance(values, self._model) and not values.is_stored:
            row.record = values
        else:
            raise self._error(position, "create() takes a dict or an unsaved record", "type")
        self._new.append(row)
        record: M = row.record
        return record

    def write(self, records: M | RecordSet[M], values: Mapping[str, Any]) -> None:
        """Write values, or changes, to a record or to each of several at the end of the block.

        Raises:
            ValidationError: A value is not acceptable, or clashes with an earlier call.
        """
        position = self._next()
        if isinstance(values, Mapping):  # the program may change its own before the block ends
            values = {name: own(value) for name, value in values.items()}
        checks: dict[BoundModel, tuple[Mapping[str, Any], Plan, ValueRow]] = {}
        stored = list(self._stored(records, position))
        if not stored:
            self._checked(self._bound, values)
        for record in stored:
            if record.pk in self._deletions:
                raise self._error(position, "the record is deleted in the same bulk", "conflict")
            row = self._values.get(record.pk) or ValueRow({}, (position,), record)
            judge = self._judge(row, values)
            given: Mapping[str, Any] = values
            checked_row = row
            if judge is not None:
                if judge not in checks:
                    checks[judge] = self._checked(judge, values)
                given, plan, checked_row = checks[judge]
                refuse_unsaved(judge, [record], plan)
            twice = row.values.keys() & given.keys()
            if twice:
                message = f"{min(twice)!r} is written twice in the same bulk"
                raise self._error(position, message, "conflict")
            if judge is None:
                self._unjudged.add(record.pk)
            else:
                planned(judge.schema, {**row.values, **given})
                row.expected = {**row.expected, **checked_row.expected}
                row.back = {**row.back, **checked_row.back}
            row.values = {**row.values, **given}
            self._values[record.pk] = row

    def _judge(self, row: ValueRow, values: Mapping[str, Any]) -> BoundModel | None:
        """Return the model that judges values of a record: that of its own class.

        None means that only its document tells, which is read at the end of the block.
        """
        if self._bound.classes is None:
            return self._bound
        if row.record.pk in self._unjudged:
            return None
        if row.record._fetch.is_ghost and isinstance(values, Mapping):
            return None if deciding(self._bound, values) else self._bound
        return self._bound.app.bind(type(row.record))

    def _checked(
        self, bound: BoundModel, values: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], Plan, ValueRow]:
        """Run the steps for the given values, and check the values that remain."""
        steps = bound.ways.bulk
        row = ValueRow({})
        if steps is None or not isinstance(values, Mapping) or not steps.concern((values,)):
            return values, planned(bound.schema, values), row
        row.values = dict(values)
        batch = ValueBatch(current_env(), Way.BULK, bound.view, [row])
        self._run(steps.before, batch)
        given = dict(row.values)
        validate_row(bound, row)
        if not batch.problems:
            self._run(steps.valid, batch)
        batch.refuse()
        self._settling += batch.settling
        return given, plan_of(bound.schema, row.values), row

    def _run(self, steps: Sequence[PreparedStep], batch: ValueBatch) -> None:
        """Run value steps, and keep a refusal: nobody can be told of it before the block ends."""
        try:
            run_value_steps_now(steps, batch)
        except AccessDenied as error:
            self._refused.append((operation_of(batch), error))
            raise

    def unlink(self, records: M | RecordSet[M]) -> None:
        """Delete a record, or each of several, at the end of the block.

        Raises:
            ValidationError: A record is written in the same bulk.
        """
        position = self._next()
        for record in self._stored(records, position):
            if record.pk in self._values:
                raise self._error(position, "the record is written in the same bulk", "conflict")
            self._deletions.setdefault(record.pk, (position, record))

    def _next(self) -> int:
        self._calls += 1
        return self._calls - 1

    def _stored(self, records: M | RecordSet[M], position: int) -> Iterable[M]:
        stored: list[M] = [records] if isinstance(records, self._model) else list(records)  # type: ignore[arg-type] # a RecordSet is left
        for record in stored:
            if not isinstance(record, self._model) or not record.is_stored:
                message = f"takes stored records of {self._bound.model._name}"
                raise self._error(position, message, "unsaved")
        return stored

    def _error(self, position: int, message: str, kind: str) -> ValidationError:
        detail: ErrorDetail = {"loc": (position,), "msg": message, "type": kind}
        return ValidationError(self._bound.model._name, [detail])

    # -- sending ------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._bound.withholding is not None:
            await self._bound.withholding.ready(current_env())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for op, refusal in self._refused:  # also of those that the program has caught
            await announce_refusal(op, refusal)
        if error is None:
            await self._send()

    async def _send(self) -> None:
        records = [row.record for row in (*self._new, *self._values.values())]
        records += [r for _, r in self._deletions.values()]
        if not records:
            return
        env, bound = env_of(records), self._bound
        with use_env(env):
            prepared_bulk = await self._prepare()
            send = partial(self._send_together, prepared_bulk)
            needs = env.transaction is None and any(
                map(bound.needs_transaction, prepared_bulk.operations)
            )
            if not needs or "transactions" not in env.app.capabilities:
                await send()
            else:
                try:
                    await atomic(
                        send,
                        queues_for=chain.from_iterable(
                            map(bound.queues_for, prepared_bulk.operations)
                        ),
                    )
                except BaseException:
                    self.created = self.written = self.deleted = 0
                    raise
        await settle(prepared_bulk.settling)

    async def _prepare(self) -> _Prepared:
        """Check everything, and make the operations; each step runs once for its values."""
        bound, env = self._bound, current_env()
        result = _Prepared(settling=self._settling)
        result.creation = creation = await self._creation()
        if creation is not None:
            options, made = Options(ordered=False), creation.documents
            op = Operation("create", bound.model, env, Domain.TRUE, made, options, _NOTES)
            result.operations.append(op)
            if creation.batch is not None:
                result.settling += creation.batch.settling
        rows = [(row, pk) for pk, row in self._values.items()]
        for part in parts(rows):
            for row, _ in part:
                row.held = Snapshot(row.record, row.values)
            if part is not rows:
                await pause()
        result.changes = await self._checked_rows(rows, result.settling)
        if result.changes:
            updates = await updates_of(bound, result.changes)
            domain = condition("_id", "in", list(updates))
            op = Operation("write", bound.model, env, domain, updates, notes=_NOTES)
            result.operations.append(op)
            await refuse_changes_outside(bound, result.operations[-1], result.changes)
        if self._deletions:
            domain = condition("_id", "in", list(self._deletions))
            deletion = await unlinking(bound, [record for _, record in self._deletions.values()])
            if deletion is not None and any(row.expected for row in deletion.rows):
                domain &= await expectations(deletion.rows)
                result.is_expected = True
            op = Operation("unlink", bound.model, env, domain, notes=_NOTES)
            # Its consequences depend on what is stored then.
            result.deletes_last = bool(result.operations) and bound.needs_transaction(op)
            result.operations.append(op)
        return result

    async def _checked_rows(
        self, rows: Sequence[tuple[ValueRow, Any]], settling: list[Work]
    ) -> list[Change]:
        """Check the writes; those that no class has judged yet are judged by that of the document."""
        judged = [(row, pk) for row, pk in rows if pk not in self._unjudged]
        unjudged = [(row, pk) for row, pk in rows if pk in self._unjudged]
        changes: list[Change] = []
        problems: list[ErrorDetail] = []
        for part, before in ((judged, False), (unjudged, True)):
            try:
                checked, batch = await checked_each(self._bound, part, Way.BULK, before=before)
            except ValidationError as error:
                problems += error.errors()
            else:
                changes += checked
                settling += batch.settling
        if problems:
            raise ValidationError(self._bound.model._name, problems)
        if unjudged:
            order = {pk: number for number, (_, pk) in enumerate(rows)}
            changes.sort(key=lambda change: order[change.pk])
        return changes

    async def _send_together(self, given: _Prepared) -> None:
        """Send the operations; this may be tried again, so each try has its own notes."""
        bound, env = self._bound, current_env()
        written = [row.record for row in self._values.values()]
        await touch(env, [*(row.record for row in self._new), *written])
        later: list[Waiting] = []
        operations = [
            on_its_way(bound, op.replace(env=env), Way.BULK, later, written)
            for op in given.operations
        ]
        first, last = operations, list[Operation]()
        if given.deletes_last:
            first, last = operations[:-1], operations[-1:]
        try:
            collector = Collector(env.transaction)
            try:
                results = await collector.run(first)
                if last and not any(isinstance(result, BaseException) for result in results):
                    results += await self._delete_last(last, env.transaction)
            except ValidationError as error:
                if collector.refused is None:
                    raise
                positions = {
                    "create": [_position(row) for row in self._new],
                    "write": [change.position for change in given.changes],
                    "unlink": [],
                }[operations[collector.refused].name]
                raise self._located(error, positions) from None
            done: dict[str, tuple[Operation, Any]] = {
                op.name: (op, result) for op, result in zip(operations, results, strict=False)
            }
            await self._learn(done, given)
        finally:
            if later:
                await tell(later)

    async def _delete_last(
        self, deletion: list[Operation], transaction: Transaction | None
    ) -> list[Any]:
        """Delete when the creations and writes are stored, and return the result or the error."""
        try:
            return await Collector(transaction).run(deletion)
        except EarnORMError as error:
            if transaction is not None:
                raise
            return [error]  # the records that are stored must learn so before it is raised

    async def _creation(self) -> Creation | None:
        if not self._new:
            return None
        try:
            records = [row.record for row in self._new]
            return await prepared(self._bound, records, way=Way.BULK, passed=self._passed)
        except ValidationError as error:
            raise self._located(error, [_position(row) for row in self._new]) from None

    async def _learn(self, done: Mapping[str, tuple[Operation, Any]], given: _Prepared) -> None:
        """Update the records by the results, and raise the first error."""
        creation, changes, finishing = given.creation, given.changes, Finishing()
        failures: list[BaseException] = []
        if creation is not None:
            op, created = done["create"]
            numbers = list(range(len(self._new)))
            if isinstance(created, BaseException):
                failures.append(self._located(created, [_position(row) for row in self._new]))
                numbers = list(getattr(created, "written", ()) or ())
            records = [self._new[number].record for number in numbers]
            # A rolled back try must not leave its values in the states of the next one.
            assert creation.held is not None
            await finishing.wait_for(
                adopt(
                    self._bound,
                    records,
                    [dict(creation.states[number]) for number in numbers],
                    op,
                    [creation.held[number] for number in numbers],
                )
            )
            for part in parts(numbers):
                for number in part:
                    take_back(self._new[number])
                    if creation.batch is not None:
                        take_back(creation.batch.rows[number])
                if part is not numbers:
                    await finishing.pause()
            self.created = len(numbers)
        if "write" in done:
            op, matched = done["write"]
            if isinstance(matched, ConcurrencyError | NotFound):
                await self._learn_written(matched, op, changes)
                failures.append(matched)
            elif isinstance(matched, BaseException):
                if isinstance(matched, DuplicateKey):
                    await self._learn_written(matched, op, changes)
                failures.append(self._located(matched, [change.position for change in changes]))
            else:
                self.written = matched
                if matched < len(changes):
                    failures.append(await self._missing_error(op, changes, matched))
                else:
                    await finishing.wait_for(self._settle(changes, op))
        if "unlink" in done:
            op, deleted = done["unlink"]
            if isinstance(deleted, BaseException):
                failures.append(deleted)
            else:
                self.deleted = deleted
                if deleted < len(self._deletions) and given.is_expected:
                    op = op.replace(domain=condition("_id", "in", list(self._deletions)))
                    error = await lost_update(op, deleted, len(self._deletions))
                    if error is not None:
                        await name_left(error, op, list(self._deletions))
                        failures.append(error)
        finishing.end()
        if failures:
            # A refused value explains more than an error that follows from it.
            first = min(failures, key=lambda error: not isinstance(error, ValidationError))
            for other in failures:
                if other is not first and str(other) != str(first):
                    first.add_note(f"also: {other}")
            raise first

    async def _missing_error(
        self, op: Operation, changes: list[Change], matched: int
    ) -> BaseException:
        """Find the records that were not written, by one more query, and return the error."""
        bound, env = self._bound, current_env()
        pks = {change.pk: change.position for change in changes}
        domain, options = condition("_id", "in", list(pks)), Options(fields=frozenset({"_id"}))
        search = op.child("search", bound.model, domain, options=options, origin="bulk")
        existing = {document["_id"] for document in await env.app.execute(search)}
        gone = [position for pk, position in pks.items() if pk not in existing]
        await refuse_changes_outside(
            bound, search, [change for change in changes if change.pk in existing]
        )
        calls = f" (calls {', '.join(map(str, gone))})" if gone else ""
        error = await lost_update(op, matched, len(changes)) or NotFound(
            f"{bound.model._name}: {len(changes) - matched} of {len(changes)} records to write do not "
            f"exist{calls}"
        )
        await self._learn_written(error, op, changes)
        return error

    async def _learn_written(
        self,
        error: ConcurrencyError | NotFound | DuplicateKey,
        op: Operation,
        changes: list[Change],
    ) -> None:
        """Name the records that were not written in the error; the others know their new values."""
        assert isinstance(op.values, PerRecord)
        sent = [(change.row.record, op.values[change.pk]) for change in changes]
        unknown = frozenset[str]().union(*(change.plan.unknown for change in changes))
        written = await find_written(error, self._bound, op, sent, unknown)
        await self._settle([change for change in changes if change.pk in written], op)

    async def _settle(self, changes: Sequence[Change], op: Operation) -> None:
        """Make the records of changes that were written know it."""
        finishing = Finishing()
        await finishing.wait_for(learn(self._bound, changes, op))
        for part in parts(changes):
            for change in part:
                take_back(change.row)
            if part is not changes:
                await finishing.pause()
        finishing.end()

    def _located(self, error: BaseException, positions: list[int]) -> BaseException:
        """Return the same error with the positions of the calls."""
        if not isinstance(error, ValidationError) or not positions:
            return error
        details: list[ErrorDetail] = []
        for detail in error.errors():
            number, *rest = detail["loc"] or ("",)
            if isinstance(number, int):
                details.append({**detail, "loc": (positions[number], *rest)})
            else:
                details.append({**detail, "loc": (positions[0], *detail["loc"])})
        written = error.written if isinstance(error, BatchRefused) else ()
        at = None if written is None else [positions[number] for number in written]
        if isinstance(error, DuplicateKey):
            return BatchDuplicateKey(error.subject, details, fields=error.fields, written=at)
        return BatchRefused(error.subject, details, written=at)

    def __repr__(self) -> str:
        return (
            f"<Bulk {self._bound.model._name}: {len(self._new)} to create, "
            f"{len(self._values)} to write, {len(self._deletions)} to delete>"
        )


@dataclass(slots=True)
class _Prepared:
    """The checked operations of a bulk.

    Attributes:
        settling: Functions to call when everything is done.
        operations: At most one of each kind.
        creation: The new records; None if there are none.
        changes: The writes.
        is_expected: True if records to delete must still have expected values.
        deletes_last: True if the deletions have consequences that the other operations may change.
    """

    settling: list[Work]
    operations: list[Operation] = field(default_factory=list[Operation])
    creation: Creation | None = None
    changes: list[Change] = field(default_factory=list[Change])
    is_expected: bool = False
    deletes_last: bool = False


def _position(row: ValueRow) -> int:
    return int(row.loc[0])
