"""Document steps: creates and writes in stored form, and the layer of the steps that run on them.

``steps`` describes stages, ways and steps; the steps on values are in ``value_steps``.
"""

from __future__ import annotations

import datetime
import decimal
import inspect
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from earnorm.domain import condition
from earnorm.domain.ids import ids_of
from earnorm.domain.long_lists import chunks
from earnorm.exceptions import (
    BatchRefused,
    DomainError,
    EarnORMError,
    ErrorDetail,
    ValidationError,
)
from earnorm.fields.base import MISSING
from earnorm.kernel import pauses
from earnorm.kernel.contract.step_updates import check_update, checked_amount
from earnorm.kernel.merging import ConflictingChange
from earnorm.kernel.notes import Note
from earnorm.kernel.operations import Options, PerRecord, Update
from earnorm.kernel.pauses import parts, pause, spans
from earnorm.kernel.serving.sending import RETURNED, Returned
from earnorm.kernel.steps import (
    HAND_BACK,
    UNKNOWN,
    WAY,
    Loc,
    PreparedStep,
    Stage,
    Step,
    StepFields,
    StepMistake,
    Way,
    note_failure,
    prepared_step,
    refuse_awaitable_answer,
    refuse_result,
    refused_id,
    run_in_parts,
    valid_stored,
    valid_value,
)
from earnorm.kernel.time import clock
from earnorm.kernel.views import ModelView

if TYPE_CHECKING:
    from earnorm.backends.base import Document
    from earnorm.domain import Domain
    from earnorm.fields.base import Field
    from earnorm.kernel.environment import Env
    from earnorm.kernel.operations import Call, Operation


class DocumentRow:
    """One document to create, or one change of existing records, in stored form.

    Attributes:
        document: The document of a create; None for a write. A step may change it.
        update: The change of a write; None for a create.
        pk: The record's stored id; None if a change is about all records that match a domain.
        position: The position in the operation's values.
    """

    __slots__ = ("_batch", "_touched", "document", "merged", "pk", "position", "update")

    def __init__(
        self,
        batch: DocumentBatch,
        position: int,
        pk: Any,
        document: Document | None,
        update: Update | None,
    ) -> None:
        self._batch, self.position, self.pk = batch, position, pk
        self.document, self.update = document, update
        self.merged = update
        """The change as the methods of the row have made it; an assigned one is no part of it."""
        self._touched: frozenset[str] = frozenset()

    def get(self, name: str) -> Any:
        """Return the stored value that the operation gives a field.

        MISSING if it gives none, or if only the server will know the value.
        """
        key = self._batch.key(name)
        if self.document is not None:
            return self.document.get(key, MISSING)
        assert self.update is not None
        return self.update.operators.get("$set", {}).get(key, MISSING)

    def has(self, name: str) -> bool:
        """Return whether the operation changes the field or gives it a value.

        None in a create is no value.
        """
        key = self._batch.key(name)
        if self.document is not None:
            return self.document.get(key) is not None
        assert self.update is not None
        return key in self.update.keys

    def fill(self, name: str, value: Any) -> None:
        """Set a field that the operation gives no value, and hand the value back to the record."""
        if not self.has(name):
            self.put(name, value)

    def put(self, name: str, value: Any) -> None:
        """Set a field, even if a value was given, and hand the value back to the record."""
        batch = self._batch
        field = batch.fields[name]
        if name == "_id":
            raise refused_id(batch.model)
        stored = field.encode(valid_value(batch.model, field, value))
        if self.document is None:
            self._merge("$set", {field.db_name: stored})
            return
        self.document[field.db_name] = stored
        if batch.seen is not None:
            batch.seen[self.position - batch.seen_from][field.db_name] = stored
        if field.stored and batch.back is not None:
            batch.back.give(self.pk, {name: stored})

    def merge(self, operator: str, values: Mapping[str, Any]) -> None:
        """Add one of MongoDB's update operators to the change, with stored keys.

        It is applied after what the program and earlier steps change: two numbers are added, items
        are appended after items. What cannot be combined is an error. The record gets the values.
        """
        batch = self._batch
        if batch.checks:
            check_update(batch.model, batch.by_key, operator, values)
        self._merge(operator, values)

    def _merge(self, operator: str, values: Mapping[str, Any]) -> None:
        update, batch = self.update, self._batch
        if update is None:
            raise StepMistake(
                f"it merges {operator} into a new document of model {batch.model.name!r}; "
                f'merge() and increase() are for writes: Step(on="write"), or put() a value'
            ).coded("step_value")
        try:
            self.update = self.merged = update.merged(operator, values)
        except ConflictingChange as conflict:
            raise StepMistake(_conflict(batch.model, conflict)).coded("step_conflict") from None
        self._touched = self._touched.union(key.partition(".")[0] for key in values)
        batch.is_changed = True

    def of_one(self, position: int, pk: Any) -> DocumentRow:
        """Return a row with the same change, for one of the records."""
        row = DocumentRow(self._batch, position, pk, None, self.update)
        row._touched = self._touched
        return row

    def expect(self, values: Mapping[str, Any]) -> None:
        """Demand that the record of a write still has these stored values, by stored key.

        The write skips a record that has others.
        """
        update = self.update
        if update is None:
            raise StepMistake(
                f"it expects values of a new document of model {self._batch.model.name!r}; expect() "
                f'is for writes: Step(on="write")'
            ).coded("step_value")
        self.update = self.merged = replace(update, expect={**update.expect, **values})
        self._batch.is_changed = True

    def changed_values(self) -> dict[str, Any]:
        """Return the stored values by name that steps gave to fields of a write.

        MISSING for a field without a key afterwards, UNKNOWN where only the server knows the value.
        """
        values: dict[str, Any] = {}
        update, schema = self.update, self._batch.model.cls._schema
        assert update is not None
        for key in self._touched:
            name = schema.renamed.get(key, key)
            if name in schema.fields and schema.fields[name].stored:
                values[name] = _value_after(update, key)
        return values

    def hand_back(self, name: str, value: Any) -> None:
        """Set a stored value on the record that waits for the operation; this writes nothing."""
        back = self._batch.back
        self._batch.key(name)  # an unknown name is refused, whether or not a record waits
        if self._batch.checks:
            self._check_back(name, value)
        if back is None:
            return
        if self.pk is None:
            back.every[name] = value
        else:
            back.give(self.pk, {name: value})

    def _check_back(self, name: str, value: Any) -> None:
        model, field = self._batch.model, self._batch.fields[name]
        if name == "_id":
            raise refused_id(model)
        if value is not MISSING and value is not UNKNOWN:
            valid_stored(model, field, value)

    def refuse(self, loc: str | Loc, message: str, kind: str) -> None:
        """Add a problem; the operation is refused with all problems of the stage.

        Args:
            loc: The field's name, or the place inside the record.
            message: The problem and its remedy.
            kind: The problem's type, a short code.
        """
        inside = (loc,) if isinstance(loc, str) else loc
        place = (self.position,) if self._batch.is_many else ()
        self._batch.problems.append({"loc": (*place, *inside), "msg": message, "type": kind})


class DocumentBatch:
    """A create or a write in stored form, before and after the store.

    Attributes:
        op: The operation, as it came to the steps.
        model: The model.
        way: The way on which the values came.
        back: The collected values for the waiting records; None if no record waits.
        fields: The model's fields by name.
        problems: The problems that steps add; the operation is refused with all of a stage.
        result: The operation's result, for steps after the store.
        notes: Values that one step leaves for another step of the same operation.
        checks: True while the step of a plugin runs, whose values are checked.
        seen: The documents as that step has found them and as fill() and put() have changed them,
            from the row ``seen_from`` on; None while no such step creates.
    """

    __slots__ = (
        "_by_key",
        "_documents",
        "_is_split",
        "_narrowed",
        "_now",
        "_part",
        "_rows",
        "back",
        "checks",
        "fields",
        "is_changed",
        "model",
        "notes",
        "op",
        "problems",
        "result",
        "seen",
        "seen_from",
        "way",
    )

    def __init__(
        self, op: Operation, model: ModelView, fields: Mapping[str, Field[Any, Any]], way: Way
    ) -> None:
        self.op, self.model, self.fields, self.way = op, model, fields, way
        self.back = op.notes.get(HAND_BACK)
        self.is_changed = False
        self.result: Any = None
        self.checks = False
        self.seen: list[Document] | None = None
        self.seen_from = 0
        self.notes: dict[Note[Any], Any] = {}
        self.problems: list[ErrorDetail] = []
        self._by_key: Mapping[str, Field[Any, Any]] | None = None
        self._documents: list[Document] | None = None
        self._is_split = False
        self._narrowed: Domain | None = None
        self._rows: list[DocumentRow] | None = None
        self._part: slice | None = None
        self._now: datetime.datetime | None = None

    @property
    def now(self) -> datetime.datetime:
        """The one time of the whole operation, in UTC and, as the database stores it, in
        milliseconds."""
        if self._now is None:
            now = clock()
            self._now = now.replace(microsecond=now.microsecond // 1000 * 1000)
        return self._now

    @property
    def by_key(self) -> Mapping[str, Field[Any, Any]]:
        """The stored fields by stored key."""
        if self._by_key is None:  # each row with a change of a plugin's step asks for it
            self._by_key = self.model.stored
        return self._by_key

    @property
    def first(self) -> int:
        """The position of the first row that is shown."""
        return 0 if self._part is None else self._part.start or 0

    @property
    def has_rows(self) -> bool:
        """True if a step has asked for the rows."""
        return self._rows is not None

    @property
    def env(self) -> Env:
        """The Env of the operation."""
        return self.op.env

    @property
    def is_many(self) -> bool:
        """True if there are several documents, or separate changes for several records."""
        values = self.op.values
        return not isinstance(values, Update) and values is not None and len(values) > 1

    def key(self, name: str) -> str:
        """Return the stored key of a field."""
        return self.fields[name].db_name

    @property
    def documents(self) -> list[Document]:
        """The documents of a create: the operation's own copies, which steps may change."""
        documents = self._documents
        if documents is None:
            assert isinstance(self.op.values, list)
            documents = self._documents = list(map(dict, self.op.values))
            self.is_changed = True
        return documents if self._part is None else documents[self._part]

    @property
    def rows(self) -> Sequence[DocumentRow]:
        """One row for each document, or for each change."""
        rows = self._rows
        if rows is None:
            part, self._part = self._part, None
            rows = self._rows = self._all_rows()
            self._part = part
        return rows if self._part is None else rows[self._part]

    def _all_rows(self) -> list[DocumentRow]:
        values = self.op.values
        if isinstance(values, list):
            return [
                DocumentRow(self, position, document["_id"], document, None)
                for position, document in enumerate(self.documents)
            ]
        if isinstance(values, PerRecord):
            return [
                DocumentRow(self, position, pk, None, update)
                for position, (pk, update) in enumerate(values.items())
            ]
        assert isinstance(values, Update)
        return [DocumentRow(self, 0, None, None, values)]

    def split(self, pks: Sequence[Any]) -> Sequence[DocumentRow]:
        """Give each of these records a row of its own, in a write that changes all alike.

        The write is about no other records from then on.

        Args:
            pks: The stored ids of the records.

        Raises:
            StepMistake: It is no such write.
        """
        if not isinstance(self.op.values, Update):
            raise StepMistake(
                f"it splits an operation on model {self.model.name!r} that is no change of all its "
                f"records alike"
            ).coded("step_value")
        (whole,) = self.rows
        self._rows = [whole.of_one(position, pk) for position, pk in enumerate(pks)]
        self._is_split = self.is_changed = True
        return self._rows

    def parts(self) -> Iterator[None]:
        """Show one part of many rows and documents after the other."""
        assert isinstance(self.op.values, list | PerRecord)
        try:
            for part in spans(len(self.op.values)):
                self._part = part
                yield
        finally:
            self._part = None

    def fill(self, name: str, value: Any) -> None:
        """Set a field in every row that has no value for it, and hand the value back."""
        field = self.fields[name]
        if name == "_id":
            raise refused_id(self.model)
        key, stored = field.db_name, field.encode(valid_value(self.model, field, value))
        if isinstance(self.op.values, list):
            for document, seen in zip(self.documents, self.seen or self.documents, strict=True):
                if document.get(key) is None:
                    document[key] = seen[key] = stored
        else:
            for row in self.rows:
                assert row.update is not None
                if key not in row.update.keys:
                    row._merge("$set", {key: stored})
            return
        if self.back is not None:
            self.back.common[name] = stored

    def narrow(self, domain: Domain) -> None:
        """Restrict a write to the records that match a domain, as a part of the write itself."""
        if self.checks:
            self._check_domain(domain)
        narrowed = self.op.domain if self._narrowed is None else self._narrowed
        self._narrowed = narrowed & domain
        if self.back is not None:
            self.back.is_narrowed = True

    def increase(self, name: str, by: int | float | decimal.Decimal = 1) -> None:
        """Increase a number of every record of a write; the record objects get the sum.

        An amount that the program adds is added as well, and a value that it gives is increased.
        """
        field = self.fields[name]
        if name == "_id":
            raise refused_id(self.model)
        if self.checks:
            by = checked_amount(self.model, field, by)
        for row in self.rows:
            row._merge("$inc", {field.db_name: by})

    def _check_domain(self, domain: Domain) -> None:
        try:
            self.op.app.bind(self.model.cls).filter(domain)
        except DomainError as error:
            raise StepMistake(f"it narrows the write of model {self.model.name!r}: {error}").coded(
                "step_value"
            ) from None

    @property
    def takes_changes(self) -> bool:
        """True if the steps changed a write for which records wait."""
        return self.back is not None and self.is_changed and self.op.name == "write"

    def hand_back_changes(self, rows: Sequence[DocumentRow]) -> frozenset[str]:
        """Hand back what the steps changed in rows of a write.

        Returns:
            The names of the fields that a waiting record has loaded and only the server will know.
        """
        back, unknown = self.back, dict[Any, set[str]]()
        if back is None or not self.takes_changes:
            return frozenset()
        for row in rows:
            values = row.changed_values()
            if row.pk is not None:
                back.give(row.pk, values)
            else:
                back.every.update(values)
            if UNKNOWN in values.values():
                unknown[row.pk] = {name for name, value in values.items() if value is UNKNOWN}
        if not unknown:
            return frozenset()
        return frozenset(
            name
            for record in back.records
            for name in unknown.get(None, ()) or unknown.get(record.pk, ())
            if record._fetch.knows(name)
        )

    @property
    def operation(self) -> Operation:
        """The operation with the changes of the steps."""
        op = self.op if self._narrowed is None else replace(self.op, domain=self._narrowed)
        if not self.is_changed:
            return op
        values: Any = self._documents
        if values is None:
            rows = self._rows or self.rows
            if self._is_split or isinstance(self.op.values, PerRecord):
                values = PerRecord({row.pk: row.update for row in rows})
            else:
                values = rows[0].update
        return replace(op, values=values)


class DocumentSteps:
    """The layer of the document steps of one model and operation.

    Args:
        model: The model.
        default: The way of an operation that has no ``WAY`` note.
        steps: The model's document steps for this operation, in order.
    """

    def __init__(self, model: ModelView, default: Way, steps: Sequence[Step]) -> None:
        self._model, self._fields, self._default = model, StepFields(model), default
        before = [step for step in steps if step.stage < Stage.CONFIRM]
        self._before = [prepared_step(step, before, number) for number, step in enumerate(before)]
        after = [step for step in steps if Stage.CONFIRM <= step.stage < Stage.DURABLE]
        self._after = [prepared_step(step, after, number) for number, step in enumerate(after)]
        self._durable = [step for step in steps if step.stage >= Stage.DURABLE]
        self._atomic = [(step, step.atomic) for step in steps if step.atomic is not None]
        self._queueing = [step for step in steps if step.queues_for is not None]
        self._is_plain = not any(step.waits for step in self._before) and not (
            self._after or self._durable
        )

    @property
    def may_need_transaction(self) -> bool:
        """True if any step can demand a transaction."""
        return bool(self._atomic)

    def needs_transaction(self, op: Operation) -> bool:
        """Return whether the operation and the work of its steps must be one transaction."""
        answer: Any
        for step, atomic in self._atomic:
            try:
                answer = atomic(op)
            except Exception as error:
                note_failure(error, step, self._model, "atomic= of ")
                raise
            if answer:
                if answer is not True:
                    refuse_awaitable_answer(answer, step, self._model)
                return True
        return False

    def queues_for(self, op: Operation) -> Iterator[tuple[str, Any]]:
        """Yield the records that the steps will write, as far as they are known beforehand."""
        for step in self._queueing:
            assert step.queues_for is not None
            try:
                yield from step.queues_for(op)
            except Exception as error:
                note_failure(error, step, self._model, "queues_for= of ")
                raise

    def __call__(self, op: Operation, call_next: Call) -> Awaitable[Any]:
        """Run the steps before and after the rest of the operation."""
        way = op.notes.get(WAY, self._default)
        batch = DocumentBatch(op, self._model, self._fields, way)
        if not self._is_plain or _is_large(op):
            return self._wait(batch, way, call_next)
        for prepared in self._before:
            if way in prepared.ways:
                try:
                    result = prepared.step.run(batch)
                except Exception as error:
                    note_failure(error, prepared.step, self._model)
                    raise
                if result is not None:
                    refuse_result(result, prepared.step, self._model)
            if prepared.ends_stage and batch.problems:
                raise ValidationError(self._model.name, batch.problems)
        if batch.is_changed and batch.back is not None and op.name == "write":
            return _send(batch, call_next)
        return call_next(batch.operation)

    async def _wait(self, batch: DocumentBatch, way: Way, call_next: Call) -> Any:
        await _run(self._before, batch, way)
        try:
            batch.result = await _send(batch, call_next)
        except BatchRefused:
            if batch.env.transaction is None:  # a part of the batch may have been stored
                await _run([r for r in self._after if r.step.also_refused], batch, way)
                self._wait_until_durable([s for s in self._durable if s.also_refused], batch, way)
            raise
        await _run(self._after, batch, way)
        self._wait_until_durable(self._durable, batch, way)
        return batch.result

    @staticmethod
    def _wait_until_durable(steps: Iterable[Step], batch: DocumentBatch, way: Way) -> None:
        for step in steps:
            if way in step.ways:
                batch.op.after_durable(partial(_run_durable, step, batch))


async def _run_durable(step: Step, batch: DocumentBatch) -> None:
    try:
        result = step.run(batch)
        if inspect.isawaitable(result):
            await result
    except Exception as error:
        note_failure(error, step, batch.model)
        raise


def _is_large(op: Operation) -> bool:
    """Return whether the work on an operation's values has to pause."""
    values = op.values
    return isinstance(values, list | PerRecord) and len(values) > pauses.EVERY


def _send(batch: DocumentBatch, call_next: Call) -> Awaitable[Any]:
    """Pass the operation on with the changes of the steps."""
    if _is_large(batch.op):
        return _send_many(batch, call_next)
    unknown = batch.hand_back_changes(batch.rows)
    return _send_and_read(batch, unknown, call_next) if unknown else call_next(batch.operation)


async def _send_many(batch: DocumentBatch, call_next: Call) -> Any:
    unknown: frozenset[str] = frozenset()
    if batch.takes_changes:
        for part in parts(batch.rows):
            unknown |= batch.hand_back_changes(part)
            await pause()
    await pause()
    if unknown:
        return await _send_and_read(batch, unknown, call_next)
    return await call_next(batch.operation)


async def _send_and_read(batch: DocumentBatch, names: frozenset[str], call_next: Call) -> Any:
    """Pass a write on, and hand back the values that only the server knows."""
    op, back, fields = batch.operation, batch.back, batch.fields
    assert back is not None
    names -= back.withheld  # the records learn that these are not known any more
    if isinstance(op.values, PerRecord) or not _is_of_one(op):
        result = await call_next(op)
        documents = await _read(op, names, [record.pk for record in back.records])
    else:
        returned = op.notes.get(RETURNED)
        if returned is None:
            returned = Returned(names)
            op = replace(op.with_note(RETURNED, returned), options=op.options.replace(many=False))
        else:
            returned.fields |= names
        result = await call_next(op)
        documents = [] if returned.document is None else [returned.document]
    for document in documents:
        values = {name: document.get(fields[name].db_name, MISSING) for name in names}
        back.give(document["_id"], values)
    return result


def _is_of_one(op: Operation) -> bool:
    """Return whether a write can be sent as one of one record."""
    if not op.options.many:
        return True
    pks = ids_of(op.domain, op.model._schema)
    return pks is not None and len(pks) == 1


async def _read(
    op: Operation, names: frozenset[str], pks: Sequence[Any]
) -> list[Mapping[str, Any]]:
    """Return the waiting records as they are after a write; none of them if they cannot be read."""
    options = Options(fields=names | {"_id"})
    documents: list[Mapping[str, Any]] = []
    try:
        for chunk in chunks(list(dict.fromkeys(pks))):
            domain = condition("_id", "in", list(chunk))
            search = op.child("search", op.model, domain, options=options, origin="model")
            documents += await op.app.execute(search)
    except EarnORMError:
        if op.env.transaction is not None:
            raise
        # The write is durable, so it has not failed; the records say that the values are not loaded.
    return documents


def _value_after(update: Update, key: str) -> Any:
    """Return the value under a stored key after an update; UNKNOWN if only the server knows it."""
    changes = [
        (name, path, spec[path])
        for name, spec in update.operators.items()
        for path in spec
        if path.startswith(key) and (path == key or path.startswith(f"{key}."))
    ]
    if len(changes) == 1 and changes[0][1] == key:
        operator, _, operand = changes[0]
        if operator == "$set":
            return operand
        if operator == "$unset":
            return MISSING
        if operator == "$inc" and key in update.expect:
            return (update.expect[key] or 0) + operand  # of a record that still has this value
    return UNKNOWN


def _conflict(model: ModelView, conflict: ConflictingChange) -> str:
    first, dot, rest = conflict.path.partition(".")
    name = model.cls._schema.renamed.get(first, first) + dot + rest
    return (
        f"it changes {name!r} of model {model.name!r} with {conflict.operator} beside "
        f"{conflict.other}, which the program or another step has given, and the two cannot be one "
        f"change; row.has({first!r}) tells it, and put() gives a value whatever was given"
    )


async def _run(steps: Sequence[PreparedStep], batch: DocumentBatch, way: Way) -> None:
    is_large = _is_large(batch.op)
    result: Any
    for prepared in steps:
        if is_large:
            await pause()
        if way in prepared.ways:
            try:
                if is_large and prepared.step.in_parts:
                    result = await run_in_parts(prepared, batch)
                else:
                    result = prepared.step.run(batch)
                    if prepared.waits:
                        result = await result
            except Exception as error:
                note_failure(error, prepared.step, batch.model)
                raise
            if result is not None:
                refuse_result(result, prepared.step, batch.model)
        if prepared.ends_stage and batch.problems:
            raise ValidationError(batch.model.name, batch.problems)
