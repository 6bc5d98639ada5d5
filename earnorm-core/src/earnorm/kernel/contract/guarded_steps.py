"""Checks of what a plugin's step puts into the rows of its batch without a method that checks it.

The steps of the core's features are not looked at, so a model without steps of plugins pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol, cast

from earnorm.fields.base import MISSING, is_async
from earnorm.kernel.steps import (
    Stage,
    Step,
    StepMistake,
    refuse_unknown,
    refused_id,
    unknown_key,
    valid_stored,
    valid_value,
)

if TYPE_CHECKING:
    from earnorm.kernel.document_steps import DocumentBatch, DocumentRow
    from earnorm.kernel.value_steps import ValueBatch, ValueRow
    from earnorm.kernel.views import ModelView


class _Look(Protocol):
    """A look at a batch before a step, and the comparison after it."""

    def compare(self) -> None:
        """Refuse a change that the step must not make.

        Raises:
            StepMistake: It has made one.
        """
        ...


def guarded(step: Step) -> Step:
    """Return the step of a plugin with a check of what it has changed."""
    run = step.run
    look: Callable[[Any], _Look] = _Values if step.stage < Stage.VALIDATE else _ValidValues
    if step.stage >= Stage.IDENTITY:
        look = _Documents if step.stage < Stage.CONFIRM else _Stored

    if is_async(run):

        @wraps(run)
        async def guard(batch: Any) -> object:
            before = look(batch)
            result = await cast("Any", run(batch))
            if result is None:
                before.compare()
            return result

        return replace(step, run=guard)

    @wraps(run)
    def guard_at_once(batch: Any) -> object:
        before = look(batch)
        result = run(batch)
        if result is None:
            before.compare()
        return result

    return replace(step, run=guard_at_once)


# -- values ---------------------------------------------------------------------------------------


class _Values:
    """Of values that will be validated, nothing is looked at but the rows and the ids."""

    def __init__(self, batch: ValueBatch) -> None:
        self.batch = batch
        self.rows = list(batch.rows)
        self.ids = [row.values.get("_id") for row in batch.rows]

    def compare(self) -> None:
        batch = self.batch
        _refuse_other_rows(self.rows, batch.rows, batch.model)
        for row, given in zip(batch.rows, self.ids, strict=True):
            pk = row.values.get("_id")
            if pk is not given and pk != given and (given is not None or not batch.is_new):
                raise refused_id(batch.model)


class _ValidValues:
    """Of valid values, those that the step gives are looked at: nobody validates them again."""

    def __init__(self, batch: ValueBatch) -> None:
        self.batch = batch
        self.rows = list(batch.rows)
        self.before = [(dict(row.values), row.expected, row.back) for row in batch.rows]

    def compare(self) -> None:
        batch = self.batch
        _refuse_other_rows(self.rows, batch.rows, batch.model)
        for row, (values, expected, back) in zip(batch.rows, self.before, strict=True):
            if row.values.get("_id") is not values.get("_id"):
                raise refused_id(batch.model)
            if row.values != values:
                self._check_values(row, values)
            if row.expected is not expected:
                _check_expected(row, expected, batch.model)
            if row.back is not back:
                _check_back(row, back, batch.model)

    def _check_values(self, row: ValueRow, before: Mapping[str, Any]) -> None:
        model = self.batch.model
        for name, value in row.values.items():
            if before.get(name, MISSING) is value:
                continue
            refuse_unknown(model, name.partition(".")[0])
            field = model.fields.get(name)
            # A change (Inc …) is checked where it is encoded; of links there are ids by now.
            if (
                field is None
                or hasattr(value, "operand")
                or name in model.cls._schema.to_many_names
            ):
                continue
            row.values[name] = valid_value(model, field, value)


def _check_expected(row: ValueRow, before: Mapping[str, Any], model: ModelView) -> None:
    for name, value in row.expected.items():
        if before.get(name, MISSING) is not value:
            refuse_unknown(model, name)
            field = model.fields.get(name)
            if field is not None:
                valid_stored(model, field, value)


def _check_back(row: ValueRow, before: Mapping[str, Any], model: ModelView) -> None:
    for name, value in row.back.items():
        if before.get(name, MISSING) is not value:
            field = model.fields.get(name)
            if name == "_id":
                raise refused_id(model)
            if field is not None and name not in model.cls._schema.to_many_names:
                valid_value(model, field, value)


# -- documents ------------------------------------------------------------------------------------


class _Stored:
    """Behind the store nothing is looked at but what is handed back."""

    def __init__(self, batch: DocumentBatch) -> None:
        self.batch = batch
        batch.checks = True

    def compare(self) -> None:
        self.batch.checks = False


class _Documents(_Stored):
    """Of documents the keys and values are looked at that the step has put there itself."""

    def __init__(self, batch: DocumentBatch) -> None:
        super().__init__(batch)
        self.is_create = isinstance(batch.op.values, list)
        self.documents = batch.documents if self.is_create else []
        self.before = [dict(document) for document in self.documents]
        if self.is_create:
            batch.seen, batch.seen_from = self.before, batch.first
        self.rows: Sequence[DocumentRow] = () if self.is_create else batch.rows
        self.ids = [row.pk for row in self.rows]

    def compare(self) -> None:
        super().compare()
        batch = self.batch
        batch.seen = None
        if not self.is_create:
            _refuse_other_rows(range(len(self.ids)), range(len(self.rows)), batch.model)
            _refuse_assigned(self.rows, self.ids, batch.model)
            return
        _refuse_other_rows(range(len(self.before)), range(len(batch.documents)), batch.model)
        if self.documents != self.before:
            for document, before in zip(self.documents, self.before, strict=True):
                self._check(document, before)
        if batch.has_rows:
            pks = [document["_id"] for document in self.before]
            _refuse_other_rows(range(len(pks)), range(len(batch.rows)), batch.model)
            _refuse_assigned(batch.rows, pks, batch.model, self.documents)

    def _check(self, document: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        model = self.batch.model
        if document.get("_id") is not before["_id"]:
            raise refused_id(model)
        for key, value in document.items():
            if before.get(key, MISSING) is value:
                continue
            field = self.batch.by_key.get(key)
            if field is None:
                raise unknown_key(model, key, self.batch.by_key)
            valid_stored(model, field, value)


def _refuse_assigned(
    rows: Iterable[DocumentRow],
    pks: Iterable[Any],
    model: ModelView,
    documents: Sequence[Any] | None = None,
) -> None:
    for number, (row, pk) in enumerate(zip(rows, pks, strict=True)):
        if row.pk is not pk:
            raise refused_id(model)
        if row.update is not row.merged or (
            documents is not None and row.document is not documents[number]
        ):
            raise StepMistake(
                f"it assigns row.document or row.update of model {model.name!r}, which changes nothing; "
                f"put(), fill(), merge() and increase() change what is written"
            ).coded("step_value")


def _refuse_other_rows(before: Sequence[Any], after: Sequence[Any], model: ModelView) -> None:
    if before != after:
        raise StepMistake(
            f"it adds or removes rows of model {model.name!r}; a step changes the rows that are there, "
            f"and row.refuse() refuses one"
        ).coded("step_value")
