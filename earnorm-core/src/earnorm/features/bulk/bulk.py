"""``Model.bulk()``: creations, changes and deletions of one model, sent together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from earnorm.domain import condition
from earnorm.exceptions import (
    BatchDuplicateKey,
    BatchRefused,
    ConcurrencyError,
    DuplicateKey,
    ErrorDetail,
    NotFound,
    ValidationError,
)
from earnorm.features.bulk.collecting import Collector, OwnTransactionError
from earnorm.kernel.environment import current_env
from earnorm.kernel.operations import Operation, Options, PerRecord
from earnorm.kernel.steps import Way
from earnorm.kernel.transactions import transactional
from earnorm.model.writing.creating import adopt, plain_documents
from earnorm.model.writing.handing_back import on_its_way
from earnorm.model.writing.per_record import (
    Change,
    checked_changes,
    learn,
    planned_one,
    refuse_outside,
)
from earnorm.model.writing.records import refuse_unsaved, same_revisions
from earnorm.model.writing.tracking import env_of, touch

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel
    from earnorm.model.recordset import RecordSet

M = TypeVar("M", bound="BaseModel")

_RETRIES = 10


class Bulk(Generic[M]):
    """Collects what shall happen to records, and sends it at the end of its block::

        async with User.bulk() as bulk:
            bulk.create({"name": "Ann"})
            bulk.write(bob, {"visits": Inc(1)})
            bulk.unlink(eve)

    It is one call of the driver, and at most one command for each kind: first what is created, then
    what is written, then what is deleted. Each kind is one operation for plugins. Where a plugin
    runs operations in a transaction, all of it runs in one.

    Attributes:
        created: How many were created.
        written: How many were written.
        deleted: How many were deleted.
    """

    def __init__(self, bound: BoundModel, model: type[M]) -> None:
        self.created = self.written = self.deleted = 0
        self._bound = bound
        self._model = model
        self._calls = 0
        self._new: list[tuple[int, M]] = []
        self._values: dict[Any, tuple[int, M, dict[str, Any]]] = {}
        self._gone: dict[Any, tuple[int, M]] = {}

    # -- collecting ---------------------------------------------------------------------------

    def create(self, values: Mapping[str, Any] | M) -> M:
        """Create a record at the end of the block.

        Args:
            values: A mapping of field values, or an unsaved record.

        Returns:
            The record; it is stored once the block has ended.

        Raises:
            ValidationError: A value is not acceptable.
        """
        position = self._next()
        if isinstance(values, Mapping):
            record: M = self._model(**values)
        elif isinstance(values, self._model) and not values.is_stored:
            record = values
        else:
            raise self._refused(position, "create() takes a dict or an unsaved record", "type")
        self._new.append((position, record))
        return record

    def write(self, records: M | RecordSet[M], values: Mapping[str, Any]) -> None:
        """Write values, or changes, to a record or to each of several at the end of the block.

        Raises:
            ValidationError: A value is not acceptable, or clashes with an earlier call.
        """
        position = self._next()
        plan = planned_one(self._bound, values)
        for record in self._stored(records, position):
            if record.pk in self._gone:
                raise self._refused(position, "the record is deleted in the same bulk", "conflict")
            refuse_unsaved(self._bound, [record], plan)
            _, _, known = self._values.setdefault(record.pk, (position, record, {}))
            twice = known.keys() & values.keys()
            if twice:
                message = f"{min(twice)!r} is written twice in the same bulk"
                raise self._refused(position, message, "conflict")
            planned_one(self._bound, {**known, **values})
            known.update(values)

    def unlink(self, records: M | RecordSet[M]) -> None:
        """Delete a record, or each of several, at the end of the block.

        Raises:
            ValidationError: It is written in the same bulk.
        """
        position = self._next()
        for record in self._stored(records, position):
            if record.pk in self._values:
                raise self._refused(position, "the record is written in the same bulk", "conflict")
            self._gone.setdefault(record.pk, (position, record))

    def _next(self) -> int:
        self._calls += 1
        return self._calls - 1

    def _stored(self, records: M | RecordSet[M], position: int) -> Iterable[M]:
        found: list[M] = [records] if isinstance(records, self._model) else list(records)  # type: ignore[arg-type] # a RecordSet is left
        for record in found:
            if not isinstance(record, self._model) or not record.is_stored:
                message = f"takes stored records of {self._bound.model._name}"
                raise self._refused(position, message, "unsaved")
        return found

    def _refused(self, position: int, message: str, kind: str) -> ValidationError:
        detail: ErrorDetail = {"loc": (position,), "msg": message, "type": kind}
        return ValidationError(self._bound.model._name, [detail])

    # -- sending ------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self._send()

    async def _send(self) -> None:
        records = [r for _, r in self._new] + [r for _, r, _ in self._values.values()]
        records += [r for _, r in self._gone.values()]
        if not records:
            return
        bound, is_inside = self._bound, env_of(records).transaction is not None
        if is_inside or not bound.bulks_in_transaction:
            try:
                await self._send_together()
            except OwnTransactionError:
                bound.bulks_in_transaction = True  # nothing was sent; from now on begin with one
            else:
                return
        try:
            await transactional(retries=_RETRIES)(self._send_together)()
        except BaseException:
            self.created = self.written = self.deleted = 0
            raise

    async def _send_together(self) -> None:
        bound, env = self._bound, current_env()
        states, documents = await self._documents()
        changes = [
            Change(position, pk, planned_one(bound, values), record)
            for pk, (position, record, values) in self._values.items()
        ]
        changes = [change for change in changes if change.plan.operators]
        changes = list(await checked_changes(bound, changes))
        touch(env, [r for _, r in self._new] + [r for _, r, _ in self._values.values()])
        operations: list[Operation] = []
        if documents:
            op = Operation("create", bound.model, env, values=documents)
            op = op.replace(options=Options(ordered=False))
            operations.append(on_its_way(bound, op, Way.BULK))
        if changes:
            updates = PerRecord({change.pk: change.update for change in changes})
            domain = condition("_id", "in", list(updates))
            op = Operation("write", bound.model, env, domain, updates)
            operations.append(on_its_way(bound, op, Way.BULK))
            await refuse_outside(bound, operations[-1], changes)
        if self._gone:
            gone = [record for _, record in self._gone.values()]
            domain = condition("_id", "in", list(self._gone))
            if bound.model._versioned:
                domain &= same_revisions(gone)
            operations.append(Operation("unlink", bound.model, env, domain))
        results = await Collector(env.transaction).run(operations)
        done: dict[str, tuple[Operation, Any]] = {
            op.name: (op, result) for op, result in zip(operations, results, strict=True)
        }
        await self._learn(done, states, changes)

    async def _documents(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        if not self._new:
            return [], []
        try:
            return await plain_documents(self._bound, [record for _, record in self._new])
        except ValidationError as error:
            raise self._located(error, [position for position, _ in self._new]) from None

    async def _learn(
        self,
        done: Mapping[str, tuple[Operation, Any]],
        states: list[dict[str, Any]],
        changes: list[Change],
    ) -> None:
        """Let the records know what became of them, and raise what went wrong."""
        failures: list[BaseException] = []
        if "create" in done:
            op, created = done["create"]
            numbers = list(range(len(states)))
            if isinstance(created, BaseException):
                failures.append(self._located(created, [position for position, _ in self._new]))
                numbers = list(getattr(created, "written", ()) or ())
            records = [self._new[number][1] for number in numbers]
            adopt(self._bound, records, [states[number] for number in numbers], op)
            self.created = len(numbers)
        if "write" in done:
            op, matched = done["write"]
            if isinstance(matched, BaseException):
                failures.append(self._located(matched, [change.position for change in changes]))
            else:
                self.written = matched
                if matched < len(changes):
                    failures.append(await self._why(changes, len(changes) - matched))
                else:
                    await learn(self._bound, changes, op)
        if "unlink" in done:
            _, deleted = done["unlink"]
            if isinstance(deleted, BaseException):
                failures.append(deleted)
            else:
                self.deleted = deleted
                if deleted < len(self._gone) and self._bound.model._versioned:
                    failures += await self._left()
        if failures:
            # What a value was refused for says more than what followed from it.
            first = min(failures, key=lambda error: not isinstance(error, ValidationError))
            for other in failures:
                if other is not first and str(other) != str(first):
                    first.add_note(f"also: {other}")
            raise first

    async def _left(self) -> list[BaseException]:
        """The error of versioned records that were changed, and so not deleted."""
        bound, env = self._bound, current_env()
        domain = condition("_id", "in", list(self._gone))
        left = await env.app.execute(Operation("count", bound.model, env, domain))
        if not left:
            return []
        message = (
            f"{left} of {len(self._gone)} records were changed since they were read and are left"
        )
        return [ConcurrencyError(f"{bound.model._name}: {message}; refresh() them and try again")]

    async def _why(self, changes: list[Change], short: int) -> BaseException:
        """Which records were not written: one more query."""
        bound, env = self._bound, current_env()
        pks = {change.pk: change.position for change in changes}
        look = Operation("search", bound.model, env, condition("_id", "in", list(pks)))
        look = look.replace(options=Options(fields=frozenset({"_id"})))
        there = {document["_id"] for document in await env.app.execute(look)}
        gone = [position for pk, position in pks.items() if pk not in there]
        await refuse_outside(bound, look, [change for change in changes if change.pk in there])
        where = f" (calls {', '.join(map(str, gone))})" if gone else ""
        return NotFound(
            f"{bound.model._name}: {short} of {len(changes)} records to write do not exist{where}"
        )

    def _located(self, error: BaseException, positions: list[int]) -> BaseException:
        """The same error with the positions of the calls."""
        if not isinstance(error, ValidationError):
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
            f"{len(self._values)} to write, {len(self._gone)} to delete>"
        )
