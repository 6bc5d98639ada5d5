"""``upsert``: write the record that has these values, or create it; safe against races by a unique index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import bson

from earnorm.domain import Domain, Or, condition
from earnorm.domain.long_lists import slices
from earnorm.exceptions import (
    ConfigurationError,
    DuplicateKey,
    ErrorDetail,
    ValidationError,
)
from earnorm.features.indexes.declarations import declared_indexes
from earnorm.features.upserts.new_records import values_of_new
from earnorm.fields.identifiers import ObjectIdField
from earnorm.kernel import pauses
from earnorm.kernel.contract.left_out import need_feature
from earnorm.kernel.environment import current_env
from earnorm.kernel.naming import nearest_field
from earnorm.kernel.notes import Note
from earnorm.kernel.operations import ASKED, ONE, WHOLE, Operation, Options, Update, made_by
from earnorm.kernel.pauses import Finishing, parts, pause
from earnorm.kernel.serving.sending import RETURNED, Returned
from earnorm.kernel.steps import Way
from earnorm.kernel.value_steps import ValueBatch, ValueRow, run_value_steps, settle
from earnorm.model.reading.by_ids import by_ids
from earnorm.model.reading.hydrate import ghosts, hydrate
from earnorm.model.reading.ordering import texts
from earnorm.model.recordset import RecordSet
from earnorm.model.validation.checking import checked_plan, narrowed
from earnorm.model.writing.classes import deciding, parts_of
from earnorm.model.writing.creating import Creation, prepared
from earnorm.model.writing.handing_back import (
    give_new,
    give_written,
    on_its_way,
    unload_unknown,
)
from earnorm.model.writing.objectids import object_ids
from earnorm.model.writing.per_record import checked_each
from earnorm.model.writing.pipeline import check_written, take_back, validate_written
from earnorm.model.writing.planning import Plan, is_change, planned
from earnorm.model.writing.sending import Change, expected, refuse_outside, write_each

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel

Values = Mapping[str, Any]
Key = tuple[bytes, ...]

_NOTES = made_by("upserts")
_ASKED = {**_NOTES, ASKED: True}
_TRIES = 5
"""The most times to write and create in turn. If the acting principal cannot see the existing
record, it is never written, and after these tries the duplicate key is raised."""

_CHUNK = 1000


def _located(detail: ErrorDetail, positions: Sequence[int]) -> ErrorDetail:
    """Give a problem of some values its position among all values."""
    number, *rest = detail["loc"] or ("",)
    if isinstance(number, int):
        return {**detail, "loc": (positions[number], *rest)}
    return {**detail, "loc": (positions[0], *detail["loc"])} if len(positions) == 1 else detail


@dataclass(slots=True)
class _Results:
    """The results of an upsert of many records.

    Attributes:
        created: The number of created records.
        pks: The stored id of each record, by the position of its values.
        creations: The creations that are done.
        written: Each change of an existing record, with its operation.
    """

    created: int = 0
    pks: dict[int, Any] = field(default_factory=dict[int, Any])
    creations: list[Creation] = field(default_factory=list[Creation])
    written: list[tuple[Operation, Change]] = field(
        default_factory=list["tuple[Operation, Change]"]
    )


async def create(
    bound: BoundModel, documents: Sequence[Values], notes: Mapping[Note[Any], Any] = _ASKED
) -> Creation:
    """Create records from values that have passed the steps of an upsert before VALIDATE."""
    passed = range(len(documents))
    creation = await prepared(bound, documents, way=Way.UPSERT, passed=passed, notes=notes)
    await creation.execute()
    return creation


class Upsert:
    """The upsert of one model by the fields of a unique index.

    Args:
        bound: The model.
        on: The names of the fields that identify a record.

    Raises:
        ConfigurationError: No unique index has exactly these fields, so two records could be made.
    """

    def __init__(self, bound: BoundModel, on: str | Sequence[str]) -> None:
        names = texts("on", on, '"code" or ["code", "country"]')
        self._bound = bound
        self._on = tuple("_id" if name in ("id", "pk") else name for name in names)
        fields = bound.schema.fields
        for name in self._on:
            if name not in fields:
                message = f"unknown field {name!r}{nearest_field(bound.schema, name)}"
                raise ValidationError(
                    bound.model._name, [{"loc": ("on",), "msg": message, "type": "unknown_field"}]
                )
        stored = frozenset(fields[name].db_name for name in self._on)
        scope = bound.view.scope
        if scope is not None and scope.field not in self._on and stored != {"_id"}:
            in_scope = stored | {fields[scope.field].db_name}
            if not self._has_unique_index(stored) and self._has_unique_index(in_scope):
                self._on, stored = (scope.field, *self._on), in_scope
        if stored != {"_id"} and not self._has_unique_index(stored):
            raise ConfigurationError(
                f"{bound.model._name}: upsert() on {', '.join(self._on) or 'nothing'} needs a "
                f"unique index on exactly these fields, or two tasks could create two records: "
                f"unique=True on the field, or _indexes"
            )

    def _has_unique_index(self, stored: frozenset[str]) -> bool:
        return any(
            spec.options.get("unique") and frozenset(key for key, _ in spec.keys) == stored
            for spec in declared_indexes(self._bound.model)
        )

    async def run(self, values: Values, new: Values) -> tuple[Any, bool]:
        """Write or create one record.

        Args:
            values: The values to write. A change such as ``Inc(1)`` gives a new record what the
                server makes of a missing value.
            new: More values for a new record, also in place of changes.

        Returns:
            The record, and True if it was created.
        """
        batch = await self._run_given_steps([ValueRow(values)])  # type: ignore[arg-type] # copied there
        (row,) = batch.rows
        batch.refuse()
        values = row.values
        domain = self._domain(values)
        for last in range(_TRIES):
            record = await self._write(domain, row, self._written(values), batch)
            if record is not None:
                return (await _with_results(batch, [record]))[0], False
            try:
                more = await self._run_steps_of_new(new, batch)
                document = values_of_new(self._bound.schema, values, new, more)
                creation = await create(self._bound, [document], _ASKED)
                return (await _with_results(batch, creation.records))[0], True
            except DuplicateKey as error:
                # If the error is about this index, another task has created the record: write it
                # now.
                if frozenset(error.fields) != frozenset(self._on) or last == _TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    async def run_many(self, values: Sequence[Values], new: Values) -> tuple[list[Any], int]:
        """Write or create many records, in a fixed number of round trips for each 1,000.

        Returns:
            The records in the order of the values, and the number of created ones.
        """
        rows: list[ValueRow] = []
        for part in parts(values):
            for given in part:
                rows.append(ValueRow(given, (len(rows),)))  # type: ignore[arg-type] # copied there
            if part is not values:
                await pause()
        batch = await self._run_given_steps(rows)
        wanted: dict[Key, int] = {}
        numbered = [*enumerate(batch.rows)]
        for of_part in parts(numbered):
            for position, row in of_part:
                try:
                    key = self._key(self._bound.schema.encode(self._key_values(row.values)))
                    if wanted.setdefault(key, position) != position:
                        message = f"the same record as at position {wanted[key]}"
                        raise self._error(self._on, message, "conflict")
                except ValidationError as error:
                    row.add_problems(error.errors())
            if of_part is not numbered:
                await pause()
        await self._check(batch)
        batch.refuse()
        results = _Results()
        for keys in slices(list(wanted), _CHUNK):
            await self._chunk({key: wanted[key] for key in keys}, batch, new, results)
        pks = [results.pks[position] for position in range(len(values))]
        records = await self._read_all(pks, results)
        return await _with_results(batch, records), results.created

    async def _run_given_steps(self, rows: list[ValueRow]) -> ValueBatch:
        """Run the steps for the given values."""
        bound = self._bound
        for part in parts(rows):
            for row in part:
                if isinstance(row.values, Mapping):
                    row.values = dict(row.values)
            if part is not rows:
                await pause()
        batch = ValueBatch(current_env(), Way.UPSERT, bound.view, rows, found_by=self._on)
        steps = bound.ways.upsert
        if steps is not None and all(isinstance(row.values, Mapping) for row in rows):
            await run_value_steps(steps.before, batch)
        return batch

    async def _run_steps_of_new(self, new: Values, batch: ValueBatch) -> Values:
        """Run the steps for the values that only a new record gets."""
        bound, steps = self._bound, self._bound.ways.upsert
        if not new or steps is None or not steps.concern((new,)):
            return new
        row = ValueRow(dict(new))
        own = ValueBatch(batch.env, Way.UPSERT, bound.view, [row], is_new=True)
        # The creation runs the steps of a CREATE that are none of an upsert.
        await run_value_steps([step for step in steps.before if Way.CREATE in step.ways], own)
        own.refuse()
        return row.values

    async def _check(self, batch: ValueBatch) -> None:
        """Check the values that would be written, before it is known which records exist."""
        bound, steps = self._bound, self._bound.ways.upsert
        acceptable = [row for row in batch.rows if not row.problems]
        rows: list[ValueRow] = []
        for part in parts(acceptable):
            for row in part:
                rows.append(ValueRow(dict(self._written(row.values)), row.loc))
            if part is not acceptable:
                await pause()
        if not rows:
            return
        trial = ValueBatch(batch.env, batch.way, batch.model, rows)
        await validate_written(bound, trial)
        if steps is not None and not trial.problems:
            await run_value_steps(steps.valid, trial)
        for row, tried in zip(acceptable, rows, strict=True):
            row.problems = tried.problems

    async def _chunk(
        self, pending: dict[Key, int], batch: ValueBatch, new: Values, results: _Results
    ) -> None:
        bound, values, pks = self._bound, [row.values for row in batch.rows], results.pks
        stuck = 0
        while True:
            before = len(pending)
            existing = await self._existing(pending, values)
            rows: list[tuple[ValueRow, Any]] = []
            keys = list(existing)
            for part in parts(keys):
                for key in part:
                    written = dict(self._written(values[pending[key]]))
                    rows.append((ValueRow(written, (pending[key],)), existing[key]))
                if part is not keys:
                    await pause()
            if rows:
                changes, own = await checked_each(bound, rows, Way.UPSERT, before=False)
                op = await write_each(bound, changes, Way.UPSERT, _ASKED)
                if op is not None:
                    results.written += [(op, change) for change in changes]
                batch.settling += own.settling
                for row, _ in rows:
                    given_row = batch.rows[int(row.loc[0])]
                    given_row.back = {**given_row.back, **row.back}
            for key, pk in existing.items():
                pks[pending.pop(key)] = pk
            if not pending:
                break
            positions = list(pending.values())
            by_position = {position: key for key, position in pending.items()}
            ids = self._ids(len(positions))
            more = await self._run_steps_of_new(new, batch)
            documents: list[dict[str, Any]] = []
            for of_part, ids_of_part in zip(parts(positions), parts(ids), strict=True):
                documents += [
                    {**new_id, **values_of_new(bound.schema, values[position], new, more)}
                    for position, new_id in zip(of_part, ids_of_part, strict=True)
                ]
                if of_part is not positions:
                    await pause()
            try:
                creation = await create(bound, documents, _ASKED)
            except DuplicateKey as error:
                # Another task has created a record, which the next try writes. Each try makes
                # progress, unless the acting principal cannot see that record.
                stuck = stuck + 1 if len(pending) == before else 0
                if frozenset(error.fields) != frozenset(self._on) or stuck == _TRIES:
                    raise
                # The documents that were stored before the error must not be written again.
                for number in getattr(error, "written", ()) or ():
                    pks[positions[number]] = documents[number].get("_id")
                    del pending[by_position[positions[number]]]
                    results.created += 1
                continue
            except ValidationError as error:
                raise ValidationError(
                    error.subject, [_located(detail, positions) for detail in error.errors()]
                ) from None
            results.created += len(creation.records)
            results.creations.append(creation)
            for position, record in zip(positions, creation.records, strict=True):
                pks[position] = record.pk
            if creation.batch is not None:
                for position, row in zip(positions, creation.batch.rows, strict=True):
                    batch.rows[position].back = {**batch.rows[position].back, **row.back}
            break

    def _ids(self, number: int) -> list[dict[str, Any]]:
        """Make ids for new documents, so that each stored record can be matched to its values."""
        if not isinstance(self._bound.schema.fields["_id"], ObjectIdField):
            return [{} for _ in range(number)]  # the values contain the ids
        return [{"_id": oid} for oid in object_ids(number)]

    async def _existing(
        self, pending: Mapping[Key, int], values: Sequence[Values]
    ) -> dict[Key, Any]:
        env, bound = current_env(), self._bound
        found_by: list[dict[str, Any]] = []
        positions = list(pending.values())
        for part in parts(positions):
            found_by += [self._key_values(values[position]) for position in part]
            if part is not positions:
                await pause()
        if len(self._on) == 1:
            (name,) = self._on
            domain = condition(name, "in", [item[name] for item in found_by])
        else:
            domain = Or(self._domain(values[position]) for position in pending.values())
        options = Options(fields=frozenset({"_id", *self._on}))
        # Only values that the caller has given are found, and compared.
        notes = {**_NOTES, WHOLE: True}
        op = Operation("search", bound.model, env, domain, None, options, notes)
        ids: dict[Key, Any] = {}
        documents = await env.app.execute(op)
        for of_part in parts(documents):
            ids.update((self._key(document), document["_id"]) for document in of_part)
            if of_part is not documents:
                await pause()
        return {key: ids[key] for key in pending if key in ids}

    def _key(self, document: Mapping[str, Any]) -> Key:
        """Return the key of a record, made of its stored form (text stripped, and so on)."""
        fields = self._bound.schema.fields
        on = (fields[name] for name in self._on)
        return tuple(bson.encode({"": f.comparable(document.get(f.db_name))}) for f in on)

    async def _read_all(self, pks: Sequence[Any], results: _Results) -> list[Any]:
        """Read the records, and give them the values that document steps hand back."""
        bound = self._bound
        documents = await by_ids(bound, "_id", pks, notes=_NOTES)
        shown = bound.shown(current_env())
        records = {r.__dict__["_id"]: r for r in hydrate(bound, documents, shown)}
        for part in parts(results.written):
            for op, change in part:
                if change.pk in records:
                    update = Update(change.plan.operators)
                    give_written(records[change.pk], op, update, was_read_after=True)
            if part is not results.written:
                await pause()
        for creation in results.creations:
            made = [records[record.pk] for record in creation.records if record.pk in records]
            assert creation.op is not None
            if give_new(bound.schema, [record.__dict__ for record in made], creation.op):
                unload_unknown(made, creation.op)
            await pause()
        if len(pks) > pauses.EVERY:
            await pause()
        # They were written, so it is no error that who acts may not read one of them afterwards.
        for ghost in ghosts(bound, [pk for pk in pks if pk not in records]):
            records[ghost.pk] = ghost
        return [records[pk] for pk in pks]

    def _key_values(self, values: Values) -> dict[str, Any]:
        if not isinstance(values, Mapping):
            raise self._error((), "upsert() takes a dict of field values", "type")
        given = {"_id" if name in ("id", "pk") else name: value for name, value in values.items()}
        for name in self._on:
            if given.get(name) is None or is_change(name, given[name]):
                raise self._error((name,), "a value is required to find the record by", "missing")
        # Validate the values as for a new record (text stripped, and so on), so that write and
        # create mean the same record.
        return self._bound.schema.validate_partial({name: given[name] for name in self._on})

    def _domain(self, values: Values) -> Domain:
        domain = Domain.TRUE
        for name, value in self._key_values(values).items():
            domain &= condition(name, "=", value)
        return domain

    def _error(self, loc: tuple[str, ...], message: str, kind: str) -> ValidationError:
        detail: ErrorDetail = {"loc": loc, "msg": message, "type": kind}
        return ValidationError(self._bound.model._name, [detail])

    def _written(self, values: Values) -> Values:
        """Return the values to write, without those that find the record and read-only ones."""
        fields = self._bound.schema.fields
        on = {*self._on, *(("id", "pk") if "_id" in self._on else ())}
        return {
            name: value
            for name, value in values.items()
            if name not in on and not (name in fields and fields[name].readonly)
        }

    async def _write(
        self, domain: Domain, row: ValueRow, values: Values, batch: ValueBatch
    ) -> BaseModel | None:
        """Write the record that matches the domain, and return it; None if there is none."""
        env, bound = current_env(), self._bound
        judge = bound
        if deciding(bound, values):
            judge, domain = await self._judge_of(domain, values)
        plan = await self._plan(judge, row, values, batch)
        if not plan.operators:
            options = Options(limit=1, fields=frozenset({"_id"}))
            op = Operation("search", bound.model, env, domain, None, options, _NOTES)
            documents = await env.app.execute(op)
            return await self._read(documents[0]["_id"]) if documents else None
        returned = Returned(frozenset({"_id"}))
        change = plan.update(expected(judge, row))
        notes = {**_ASKED, RETURNED: returned}
        op = Operation("write", bound.model, env, domain, change, Options(many=False), notes)
        op = on_its_way(bound, op, Way.UPSERT)
        parts = await narrowed(op, judge, plan.values)
        if not parts or not await env.app.execute(parts[0]) or returned.document is None:
            await refuse_outside(bound, op, plan.guards)
            return None
        return await self._read(returned.document["_id"], (op, change))

    async def _judge_of(self, domain: Domain, values: Values) -> tuple[BoundModel, Domain]:
        """Return the class that judges the values of the record, and the domain with its class."""
        env, bound = current_env(), self._bound
        assert bound.classes is not None and bound.reading is not None
        options = Options(limit=1, fields=frozenset({"_id", *bound.reading.needs}))
        op = Operation("search", bound.model, env, domain, None, options, _NOTES)
        judge = bound
        if documents := await env.app.execute(op):
            judge = env.app.bind(bound.classes.of(documents)[0])
        # Another record that is made meanwhile may be of another class, and is found in the next try.
        parts = {id(model): part for part, model in parts_of(bound, deciding(bound, values))}
        return judge, domain & parts.get(id(judge), parts[id(bound)])

    async def _plan(
        self, bound: BoundModel, row: ValueRow, values: Values, given: ValueBatch
    ) -> Plan:
        steps = bound.ways.upsert
        if steps is None or not steps.concern((values,)):
            return await checked_plan(bound, planned(bound.schema, values))
        own = ValueRow(dict(values))
        batch = ValueBatch(current_env(), Way.UPSERT, bound.view, [own])
        (plan,) = await check_written(bound, steps, batch, None, before=False)
        row.expected = {**row.expected, **own.expected}
        row.back = {**row.back, **own.back}
        given.settling += batch.settling
        return plan

    async def _read(self, pk: Any, written: tuple[Operation, Update] | None = None) -> BaseModel:
        env, bound = current_env(), self._bound
        op = Operation("search", bound.model, env, condition("_id", "=", pk), None, ONE, _NOTES)
        documents = await env.app.execute(op)
        if not documents:  # it was written, and who acts may not read it any more
            return cast("BaseModel", ghosts(bound, [pk])[0])
        record: BaseModel = hydrate(bound, documents, bound.shown(env))[0]
        if written is not None:
            give_written(record, *written, was_read_after=True)
        return record


async def upsert(
    bound: BoundModel, on: str | Sequence[str], values: Values, new: Values
) -> tuple[Any, bool]:
    """Write or create a record; see ``BaseModel.upsert``."""
    need_feature("upserts", "upsert()", bound.app)
    return await Upsert(bound, on).run(values, new)


async def upsert_many(
    bound: BoundModel, on: str | Sequence[str], values: Sequence[Values], new: Values
) -> tuple[RecordSet[Any], int]:
    """Write or create several records; see ``BaseModel.upsert_many``."""
    need_feature("upserts", "upsert_many()", bound.app)
    records, created = await Upsert(bound, on).run_many(values, new)
    return RecordSet(bound.model, records), created


async def _with_results(batch: ValueBatch, records: list[Any]) -> list[Any]:
    """Give the records the values that the steps return for them."""
    finishing = Finishing()
    rows = batch.rows
    for part, records_of_part in zip(parts(rows), parts(records), strict=True):
        for row, record in zip(part, records_of_part, strict=True):
            row.record = record
            take_back(row)
        if part is not rows:
            await finishing.pause()
    await finishing.wait_for(settle(batch.settling))
    finishing.end()
    return records
