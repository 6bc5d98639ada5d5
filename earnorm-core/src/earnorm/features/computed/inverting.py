"""Writes of computed fields: steps whose inverses turn the values into values of other fields."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import ErrorDetail, NotFound, ValidationError
from earnorm.features.computed.computing import formulas_of
from earnorm.features.computed.recomputing import lagging_fields
from earnorm.kernel.environment import current_env
from earnorm.kernel.operations import made_by
from earnorm.kernel.pauses import parts, pause
from earnorm.kernel.steps import TAKING_MORE, Stage, Step, Way
from earnorm.kernel.value_steps import ValueBatch
from earnorm.model.reading.by_ids import by_ids
from earnorm.model.reading.hydrate import hydrate
from earnorm.model.slots import pending_of, set_state
from earnorm.model.writing import records as writing
from earnorm.model.writing.handing_back import forget
from earnorm.model.writing.pending import changed_fields, unvalidated
from earnorm.model.writing.planning import is_change
from earnorm.model.writing.sending import read_again
from earnorm.model.writing.snapshots import Snapshot

if TYPE_CHECKING:
    from earnorm.features.computed.computing import Formulas
    from earnorm.features.computed.dependencies import Graph
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.views import ModelView

_NOTES = made_by("computed")
_NEW = Way.CREATE | Way.CREATE_MANY | Way.BULK


def inverse_steps(model: ModelView, graph: Graph) -> Iterable[Step]:
    """Yield the steps that call inverses for written values, and those that read values again."""
    formulas = formulas_of(model.cls._schema)
    if formulas is None:
        return
    if formulas.inverses:
        names = formulas.inverses
        others = ~TAKING_MORE
        yield Step(Stage.SPLIT, "inverses", _refuse, others, names=names, in_parts=True)
        yield Step(Stage.VALIDATE, "inverses", _invert_new, _NEW, names=names, in_parts=True)
        yield Step(
            Stage.VALIDATE,
            "inverses",
            partial(_invert_written, graph),
            Way.WRITE,
            names=names,
            atomic=lambda _: True,
        )
    if formulas.late_inverses:
        yield Step(
            Stage.PLAN,
            "inverses",
            _invert_late,
            Way.CREATE,
            after=("commands", "computed elsewhere"),
            names=formulas.late_inverses,
        )
    if formulas.elsewhere or formulas.has_along:
        yield Step(
            Stage.PLAN,
            "computed elsewhere",
            partial(_read_elsewhere, graph),
            Way.CREATE | Way.SAVE | Way.WRITE,
            after=("commands",),
            names=(),  # this step runs only if another step runs for the given values
        )


def _bound(batch: ValueBatch) -> tuple[BoundModel, Formulas]:
    bound = batch.env.app.bind(batch.model.cls)
    formulas = formulas_of(bound.schema)
    assert formulas is not None
    return bound, formulas


def _refuse(batch: ValueBatch) -> None:
    """Refuse values for inverses if the records are unknown: an inverse is a record's method."""
    if batch.is_new:
        return
    _, formulas = _bound(batch)
    message = "has an inverse, which is for known records: await the query, and write() to them"
    for row in batch.rows:
        for name in formulas.inverses.intersection(row.values):
            del row.values[name]
            row.refuse(name, message, "compute")


def _invert_new(batch: ValueBatch) -> None:
    """Call the inverses on a preview of a new record, and add the values that they set."""
    if not batch.is_new:
        return
    bound, formulas = _bound(batch)
    later = formulas.late_inverses if batch.takes_more else frozenset[str]()
    for row in batch.rows:
        if (formulas.inverses - later).isdisjoint(row.values):
            continue
        late = {name: row.values.pop(name) for name in later.intersection(row.values)}
        preview = object.__new__(bound.model)
        set_state(preview, row.values)
        try:
            formulas.settle_new(preview)
            row.values.update(_set_by_inverses(bound, preview))
        except ValidationError as error:
            row.add_problems(error.errors())
        row.values.update(late)


def _invert_late(batch: ValueBatch) -> None:
    """Call the inverses that are coroutine functions after the creation."""
    _, formulas = _bound(batch)
    for row in batch.rows:
        late = formulas.take(row.values)  # the others have run
        if late:
            batch.after(lambda row=row, late=late: writing.write([row.record], late, _NOTES))  # type: ignore[misc] # mypy infers no type for the defaults


async def _invert_written(graph: Graph, batch: ValueBatch) -> None:
    """Call the inverses on each stored record with the other values of the write.

    A value that an inverse sets wins over a value of the same write.
    """
    bound, formulas = _bound(batch)
    rows = [row for row in batch.rows if not formulas.inverses.isdisjoint(row.values)]
    pks = list(dict.fromkeys(row.record.pk for row in rows))
    documents = await by_ids(bound, "_id", pks, notes=_NOTES)
    shown = bound.shown(batch.env)
    previews: dict[Any, Any] = {r.pk: r for r in hydrate(bound, documents, shown)}
    if len(previews) < len(pks):
        raise NotFound(
            f"{bound.model._name}: {len(pks) - len(previews)} of {len(pks)} records to write do not exist"
        )
    names: set[str] = set()
    done: dict[Any, dict[str, Any]] = {}
    for part in parts(rows):
        for row in part:
            given = formulas.take(row.values)
            names.update(given)
            preview = previews[row.record.pk]
            if preview.pk not in done:
                try:
                    done[preview.pk] = await _inverted(bound, formulas, preview, given, row.values)
                except ValidationError as error:
                    row.add_problems(error.errors())
                    continue
            row.values.update(done[preview.pk])
        if part is not rows:
            await pause()
    late = formulas.late_inverses & names
    if late:  # such inverses write other records, on which fields of these may depend
        stored = {name for name in names if bound.schema.fields[name].stored}
        batch.after(_ReadAgain(batch, graph, bound, formulas, formulas.elsewhere.union(stored)))


async def _inverted(
    bound: BoundModel,
    formulas: Formulas,
    preview: Any,
    given: Mapping[str, Any],
    values: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what the inverses set, which run in their order after the other values are set.

    Raises:
        ValidationError: An inverse refuses, or sets a field that the server changes in this write.
    """
    changes: dict[str, None] = {}
    for name, value in values.items():
        if is_change(name, value):
            changes[name.partition(".")[0]] = None
        else:
            preview._set_valid(name, value)
    for name, value in given.items():
        result = formulas.invert(preview, name, value)
        if inspect.isawaitable(result):
            await result
    set_by_them = _set_by_inverses(bound, preview)
    message = (
        f"is set by the inverse of {' or '.join(given)} in the same write; write them one by one"
    )
    if problems := [_change_lost(name, message) for name in changes if name in set_by_them]:
        raise ValidationError(bound.model._name, problems)
    return set_by_them


def _change_lost(name: str, message: str) -> ErrorDetail:
    return {"loc": (name,), "msg": message, "type": "change"}


def _set_by_inverses(bound: BoundModel, preview: Any) -> dict[str, Any]:
    """Return the validated values that inverses have set in a preview."""
    state, to_many = preview.__dict__, bound.schema.to_many_names
    # Commands cannot be read as a value, so to-many fields are taken as they were assigned.
    names = changed_fields(preview)
    pending = unvalidated(preview, names)
    values = {n: state[n] if n in to_many else getattr(preview, n) for n in names}
    known = {name: value for name, value in values.items() if name not in pending}
    return bound.schema.validate_others(values, known, "write")


def _read_elsewhere(graph: Graph, batch: ValueBatch) -> None:
    """Read the values again that depend on records which are written after these."""
    bound, formulas = _bound(batch)
    work = batch.work_after
    names = formulas.elsewhere if work else frozenset[str]()
    names = names.union(formulas.following(batch.along))
    for reading in [call for call in work if isinstance(call, _ReadAgain)]:
        work.remove(reading)
        names |= reading.names
    if names:
        batch.after(_ReadAgain(batch, graph, bound, formulas, names))


@dataclass(frozen=True, slots=True)
class _ReadAgain:
    """Reads stored computed values of a batch's records again when everything is written."""

    batch: ValueBatch
    graph: Graph
    bound: BoundModel
    formulas: Formulas
    names: frozenset[str]

    async def __call__(self) -> None:
        records = [r for row in self.batch.rows for r in (row.record, *row.copies)]
        names: list[tuple[Any, frozenset[str]]] = []
        for part in parts(records):
            for record in part:
                own = self._names_of(record)
                if own:
                    names.append((record, own))
            if part is not records:
                await pause()
        if not names:
            return
        env = current_env()
        lagging: dict[type[Any], Collection[str]] = {}
        for cls in {type(record) for record, _ in names}:
            lagging[cls] = await lagging_fields(env, self.graph, cls._name)
        for record, own in names:
            forget(record, own.intersection(lagging[type(record)]))
        known = [(record, own.difference(lagging[type(record)])) for record, own in names]
        read = [(Snapshot(record, own), own) for record, own in known if own]
        await read_again(self.bound, read, _NOTES)

    def _names_of(self, record: Any) -> frozenset[str]:
        """Return the fields that the record has loaded, without those computed from its changes."""
        unsaved = self.formulas.following(pending_of(record).changes)
        return frozenset(n for n in self.names if record._fetch.has(n) and n not in unsaved)
