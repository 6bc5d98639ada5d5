"""Document steps: creates and writes in stored form, and the layer of the steps that run on them.

``steps`` describes stages, ways and steps; the steps on values are in ``value_steps``.
"""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import BatchRefused, ErrorDetail, ValidationError
from earnorm.fields.base import MISSING
from earnorm.kernel.notes import Note
from earnorm.kernel.operations import PerRecord, Update
from earnorm.kernel.steps import (
    HAND_BACK,
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
    refuse_result,
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

    __slots__ = ("_batch", "document", "pk", "position", "update")

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
            raise StepMistake(
                f"it changes the id of model {batch.model.name!r}; ids are given before Stage.PLAN: a "
                f"value step fills in '_id' at Stage.DEFAULT"
            ).coded("step_value")
        stored = field.encode(valid_value(batch.model, field, value))
        if self.document is not None:
            self.document[field.db_name] = stored
        else:
            self.merge("$set", {field.db_name: stored})
        if field.stored:
            self.hand_back(name, stored)

    def merge(self, operator: str, values: Mapping[str, Any]) -> None:
        """Add one of MongoDB's update operators to the change, with stored keys."""
        assert self.update is not None
        self.update = self.update.merged(operator, values)
        self._batch.is_changed = True

    def hand_back(self, name: str, value: Any) -> None:
        """Set a stored value on the record that waits for the operation; this writes nothing."""
        back = self._batch.back
        self._batch.key(name)  # an unknown name is refused, whether or not a record waits
        if back is None:
            return
        if self.pk is None:
            back.every[name] = value
        else:
            back.give(self.pk, {name: value})

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
    """

    __slots__ = (
        "_documents",
        "_narrowed",
        "_now",
        "_rows",
        "back",
        "fields",
        "is_changed",
        "model",
        "notes",
        "op",
        "problems",
        "result",
        "way",
    )

    def __init__(
        self, op: Operation, model: ModelView, fields: Mapping[str, Field[Any, Any]], way: Way
    ) -> None:
        self.op, self.model, self.fields, self.way = op, model, fields, way
        self.back = op.notes.get(HAND_BACK)
        self.is_changed = False
        self.result: Any = None
        self.notes: dict[Note[Any], Any] = {}
        self.problems: list[ErrorDetail] = []
        self._documents: list[Document] | None = None
        self._narrowed: Domain | None = None
        self._rows: list[DocumentRow] | None = None
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
        if self._documents is None:
            assert isinstance(self.op.values, list)
            self._documents = list(map(dict, self.op.values))
            self.is_changed = True
        return self._documents

    @property
    def rows(self) -> Sequence[DocumentRow]:
        """One row for each document, or for each change."""
        if self._rows is None:
            values = self.op.values
            if isinstance(values, list):
                self._rows = [
                    DocumentRow(self, position, document["_id"], document, None)
                    for position, document in enumerate(self.documents)
                ]
            elif isinstance(values, PerRecord):
                self._rows = [
                    DocumentRow(self, position, pk, None, update)
                    for position, (pk, update) in enumerate(values.items())
                ]
            else:
                assert isinstance(values, Update)
                self._rows = [DocumentRow(self, 0, None, None, values)]
        return self._rows

    def fill(self, name: str, value: Any) -> None:
        """Set a field in every row that has no value for it, and hand the value back."""
        field = self.fields[name]
        key, stored = field.db_name, field.encode(valid_value(self.model, field, value))
        if isinstance(self.op.values, list):
            for document in self.documents:
                if document.get(key) is None:
                    document[key] = stored
        else:
            for row in self.rows:
                assert row.update is not None
                if key not in row.update.keys:
                    row.merge("$set", {key: stored})
        if self.back is not None:
            self.back.common[name] = stored

    def narrow(self, domain: Domain) -> None:
        """Restrict a write to the records that match a domain, as a part of the write itself."""
        narrowed = self.op.domain if self._narrowed is None else self._narrowed
        self._narrowed = narrowed & domain
        if self.back is not None:
            self.back.is_narrowed = True

    def increase(self, name: str, by: int = 1) -> None:
        """Increase a number of every record of a write, and update the record objects in memory."""
        key = self.fields[name].db_name
        for row in self.rows:
            row.merge("$inc", {key: by})
        if self.back is not None:
            self.back.added[name] = self.back.added.get(name, 0) + by

    @property
    def operation(self) -> Operation:
        """The operation with the changes of the steps."""
        op = self.op if self._narrowed is None else replace(self.op, domain=self._narrowed)
        if not self.is_changed:
            return op
        values: Any = self._documents
        if values is None:
            rows = self._rows or self.rows
            if isinstance(self.op.values, PerRecord):
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
        self._atomic = [step.atomic for step in steps if step.atomic is not None]
        self._is_plain = not any(step.waits for step in self._before) and not (
            self._after or self._durable
        )

    @property
    def may_need_transaction(self) -> bool:
        """True if any step can demand a transaction."""
        return bool(self._atomic)

    def needs_transaction(self, op: Operation) -> bool:
        """Return whether the operation and the work of its steps must be one transaction."""
        return any(ask(op) for ask in self._atomic)

    def __call__(self, op: Operation, call_next: Call) -> Awaitable[Any]:
        """Run the steps before and after the rest of the operation."""
        way = op.notes.get(WAY, self._default)
        batch = DocumentBatch(op, self._model, self._fields, way)
        if not self._is_plain:
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
        return call_next(batch.operation)

    async def _wait(self, batch: DocumentBatch, way: Way, call_next: Call) -> Any:
        await _run(self._before, batch, way)
        try:
            batch.result = await call_next(batch.operation)
        except BatchRefused:
            if batch.env.transaction is None:  # a part of the batch may have been stored
                await _run([r for r in self._after if r.step.also_refused], batch, way)
            raise
        await _run(self._after, batch, way)
        for step in self._durable:
            if way in step.ways:
                batch.op.after_durable(partial(step.run, batch))
        return batch.result


async def _run(steps: Sequence[PreparedStep], batch: DocumentBatch, way: Way) -> None:
    for prepared in steps:
        if way in prepared.ways:
            try:
                result: Any = prepared.step.run(batch)
                if prepared.waits:
                    result = await result
            except Exception as error:
                note_failure(error, prepared.step, batch.model)
                raise
            if result is not None:
                refuse_result(result, prepared.step, batch.model)
        if prepared.ends_stage and batch.problems:
            raise ValidationError(batch.model.name, batch.problems)
