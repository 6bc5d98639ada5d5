"""``upsert``: write the record that has these values, or create it; safe against races by a unique index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import bson

from earnorm.domain import Domain, Or, condition
from earnorm.exceptions import (
    ConfigurationError,
    DuplicateKey,
    ErrorDetail,
    NotFound,
    ValidationError,
    nearest,
)
from earnorm.features.indexes.declarations import declared_indexes
from earnorm.fields.identifiers import ObjectIdField
from earnorm.kernel.environment import current_env
from earnorm.kernel.operations import Operation, Options, Update
from earnorm.kernel.sending import RETURNED, Returned
from earnorm.kernel.steps import ValueBatch, ValueRow, Way, run_value_steps
from earnorm.model.reading.by_ids import by_ids
from earnorm.model.reading.hydrate import hydrate
from earnorm.model.recordset import RecordSet
from earnorm.model.validation.checking import checked_plan, narrowed
from earnorm.model.writing.creating import create
from earnorm.model.writing.handing_back import on_its_way
from earnorm.model.writing.objectids import object_ids
from earnorm.model.writing.per_record import checked_each
from earnorm.model.writing.pipeline import check_written, take_back, validate_written
from earnorm.model.writing.planning import Plan, is_change, planned
from earnorm.model.writing.sending import expected, refuse_outside, write_each

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel

Values = Mapping[str, Any]
Key = tuple[bytes, ...]

_TRIES = 5
"""How often create and write take turns. A record that is there for the index and not for the acting principal is
never written: its duplicate key is what is told then."""

_CHUNK = 1000


def _moved(detail: ErrorDetail, positions: Sequence[int]) -> ErrorDetail:
    """A problem of some of the values with its position among all of them."""
    number, *rest = detail["loc"] or ("",)
    if isinstance(number, int):
        return {**detail, "loc": (positions[number], *rest)}
    return {**detail, "loc": (positions[0], *detail["loc"])} if len(positions) == 1 else detail


class Upsert:
    """One model's upsert by the fields of a unique index.

    Args:
        bound: The model.
        on: Names of the fields that tell records apart.

    Raises:
        ConfigurationError: No unique index has exactly these fields, so two records could be made.
    """

    def __init__(self, bound: BoundModel, on: str | Sequence[str]) -> None:
        names = [on] if isinstance(on, str) else list(on)
        self._bound = bound
        self._on = tuple("_id" if name in ("id", "pk") else name for name in names)
        fields = bound.schema.fields
        for name in self._on:
            if name not in fields:
                message = f"unknown field {name!r}{nearest(name, fields)}"
                raise ValidationError(
                    bound.model._name, [{"loc": ("on",), "msg": message, "type": "unknown_field"}]
                )
        stored = frozenset(fields[name].db_name for name in self._on)
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
            values: What the record shall have; changes such as ``Inc(1)`` for one that exists.
            new: What a new record gets beside it, or in the place of a change.

        Returns:
            The record, and whether it was created.
        """
        batch = await self._handed_in([ValueRow(values)])  # type: ignore[arg-type] # copied there
        (row,) = batch.rows
        batch.refuse()
        values = row.values
        domain = self._domain(values)
        created = {**{n: v for n, v in values.items() if not is_change(n, v)}, **new}
        for last in range(_TRIES):
            pk = await self._write(domain, row, self._written(values))
            if pk is not None:
                return _settled(batch, [await self._read(pk)])[0], False
            try:
                (made,) = await create(self._bound, [created])
                return _settled(batch, [made])[0], True
            except DuplicateKey as error:
                # Of this index: somebody was faster, and its record is written now.
                if frozenset(error.fields) != frozenset(self._on) or last == _TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    async def run_many(self, values: Sequence[Values], new: Values) -> tuple[list[Any], int]:
        """Write or create many records, in a fixed number of round trips for each 1,000.

        Returns:
            The records in the order given, and how many were created.
        """
        batch = await self._handed_in([ValueRow(v, (n,)) for n, v in enumerate(values)])  # type: ignore[arg-type] # copied there
        wanted: dict[Key, int] = {}
        for position, row in enumerate(batch.rows):
            try:
                key = self._key(self._bound.schema.encode(self._found_by(row.values)))
                if wanted.setdefault(key, position) != position:
                    message = f"the same record as at position {wanted[key]}"
                    raise self._refused(self._on, message, "conflict")
            except ValidationError as error:
                row.add_problems(error.errors())
        await self._check(batch)
        batch.refuse()
        pks: dict[int, Any] = {}
        created = 0
        keys = list(wanted)
        for start in range(0, len(keys), _CHUNK):
            created += await self._chunk(
                {key: wanted[key] for key in keys[start : start + _CHUNK]}, batch, new, pks
            )
        records = await self._read_all([pks[position] for position in range(len(values))])
        return _settled(batch, records), created

    async def _handed_in(self, rows: list[ValueRow]) -> ValueBatch:
        """Bring values through the steps that see what was handed in."""
        bound = self._bound
        for row in rows:
            if isinstance(row.values, Mapping):
                row.values = dict(row.values)
        batch = ValueBatch(current_env(), Way.UPSERT, bound.view, rows)
        steps = bound.ways.upsert
        if steps is not None and all(isinstance(row.values, Mapping) for row in rows):
            await run_value_steps(steps.before, batch)
        return batch

    async def _check(self, batch: ValueBatch) -> None:
        """Check what would be written, before it is known which records exist."""
        bound, steps = self._bound, self._bound.ways.upsert
        acceptable = [row for row in batch.rows if not row.problems]
        rows = [ValueRow(dict(self._written(row.values)), row.loc) for row in acceptable]
        if not rows:
            return
        trial = ValueBatch(batch.env, batch.way, batch.model, rows)
        validate_written(bound, trial)
        if steps is not None and not trial.problems:
            await run_value_steps(steps.valid, trial)
        for row, tried in zip(acceptable, rows, strict=True):
            row.problems = tried.problems

    async def _chunk(
        self, pending: dict[Key, int], batch: ValueBatch, new: Values, pks: dict[int, Any]
    ) -> int:
        bound, values = self._bound, [row.values for row in batch.rows]
        created = stuck = 0
        while True:
            before = len(pending)
            existing = await self._existing(pending, values)
            rows = [
                (ValueRow(dict(self._written(values[pending[key]])), (pending[key],)), pk)
                for key, pk in existing.items()
            ]
            if rows:
                changes, _ = await checked_each(bound, rows, Way.UPSERT, before=False)
                await write_each(bound, changes, Way.UPSERT)
                for row, _ in rows:
                    whole = batch.rows[int(row.loc[0])]
                    whole.back = {**whole.back, **row.back}
            for key, pk in existing.items():
                pks[pending.pop(key)] = pk
            if not pending:
                break
            positions = list(pending.values())
            by_position = {position: key for key, position in pending.items()}
            ids = self._ids(len(positions))
            documents = [
                {**pk, **{n: v for n, v in values[p].items() if not is_change(n, v)}, **new}
                for p, pk in zip(positions, ids, strict=True)
            ]
            try:
                made = await create(bound, documents)
            except DuplicateKey as error:
                # Somebody was faster, and its record is written next time: each try gets further, unless
                # it is a record that cannot be seen.
                stuck = stuck + 1 if len(pending) == before else 0
                if frozenset(error.fields) != frozenset(self._on) or stuck == _TRIES:
                    raise
                # What was stored before it must not be written once more.
                for number in getattr(error, "written", ()) or ():
                    pks[positions[number]] = documents[number].get("_id")
                    del pending[by_position[positions[number]]]
                    created += 1
                continue
            except ValidationError as error:
                raise ValidationError(
                    error.subject, [_moved(detail, positions) for detail in error.errors()]
                ) from None
            created += len(made)
            pks.update((p, record.pk) for p, record in zip(positions, made, strict=True))
            break
        return created

    def _ids(self, number: int) -> list[dict[str, Any]]:
        """Ids given beforehand, so that it is known which record became which."""
        if not isinstance(self._bound.schema.fields["_id"], ObjectIdField):
            return [{} for _ in range(number)]  # the values have their own
        return [{"_id": oid} for oid in object_ids(number)]

    async def _existing(
        self, pending: Mapping[Key, int], values: Sequence[Values]
    ) -> dict[Key, Any]:
        env, bound = current_env(), self._bound
        asked = [self._found_by(values[position]) for position in pending.values()]
        if len(self._on) == 1:
            (name,) = self._on
            domain = condition(name, "in", [each[name] for each in asked])
        else:
            domain = Or(self._domain(values[position]) for position in pending.values())
        op = Operation("search", bound.model, env, domain)
        op = op.replace(options=Options(fields=frozenset({"_id", *self._on})))
        found = {self._key(document): document["_id"] for document in await env.app.execute(op)}
        return {key: found[key] for key in pending if key in found}

    def _key(self, document: Mapping[str, Any]) -> Key:
        """What tells a record from others; of its stored form, where text has been stripped and so on."""
        fields = self._bound.schema.fields
        return tuple(bson.encode({"": document.get(fields[name].db_name)}) for name in self._on)

    async def _read_all(self, pks: Sequence[Any]) -> list[Any]:
        bound = self._bound
        documents = await by_ids(bound, "_id", pks)
        found = {record.pk: record for record in hydrate(bound, documents)}
        missing = sum(pk not in found for pk in pks)
        if missing:
            raise NotFound(f"{bound.model._name}: {missing} records are not there any more")
        return [found[pk] for pk in pks]

    def _found_by(self, values: Values) -> dict[str, Any]:
        if not isinstance(values, Mapping):
            raise self._refused((), "upsert() takes a dict of field values", "type")
        given = {"_id" if name in ("id", "pk") else name: value for name, value in values.items()}
        for name in self._on:
            if given.get(name) is None or is_change(name, given[name]):
                raise self._refused((name,), "a value is required to find the record by", "missing")
        # As a new record would have them, so that both ways mean the same: text stripped, and so on.
        return self._bound.schema.validate_partial({name: given[name] for name in self._on})

    def _domain(self, values: Values) -> Domain:
        domain = Domain.TRUE
        for name, value in self._found_by(values).items():
            domain &= condition(name, "=", value)
        return domain

    def _refused(self, loc: tuple[str, ...], message: str, kind: str) -> ValidationError:
        detail: ErrorDetail = {"loc": loc, "msg": message, "type": kind}
        return ValidationError(self._bound.model._name, [detail])

    def _written(self, values: Values) -> Values:
        """Without what finds the record, and what only a new one may be given."""
        fields = self._bound.schema.fields
        on = {*self._on, *(("id", "pk") if "_id" in self._on else ())}
        return {
            name: value
            for name, value in values.items()
            if name not in on and not (name in fields and fields[name].readonly)
        }

    async def _write(self, domain: Domain, row: ValueRow, values: Values) -> Any:
        """Write the record that the domain names; its id, or None where there is none."""
        env, bound = current_env(), self._bound
        plan = await self._plan(row, values)
        if not plan.operators:
            op = Operation("search", bound.model, env, domain)
            op = op.replace(options=Options(limit=1, fields=frozenset({"_id"})))
            found = await env.app.execute(op)
            return found[0]["_id"] if found else None
        returned = Returned(frozenset({"_id"}))
        change = Update(plan.operators, expected(bound, row), plan.where)
        op = Operation("write", bound.model, env, domain, change)
        op = on_its_way(bound, op.replace(options=Options(many=False)), Way.UPSERT)
        op = op.with_note(RETURNED, returned)
        parts = await narrowed(op, bound, plan.values)
        if not parts or not await env.app.execute(parts[0]) or returned.document is None:
            await refuse_outside(bound, op, plan.guards)
            return None
        return returned.document["_id"]

    async def _plan(self, row: ValueRow, values: Values) -> Plan:
        bound, steps = self._bound, self._bound.ways.upsert
        if steps is None or not steps.concern((values,)):
            return await checked_plan(bound, planned(bound.schema, values))
        own = ValueRow(dict(values))
        batch = ValueBatch(current_env(), Way.UPSERT, bound.view, [own])
        (plan,) = await check_written(bound, steps, batch, None, before=False)
        row.expected = {**row.expected, **own.expected}
        row.back = {**row.back, **own.back}
        return plan

    async def _read(self, pk: Any) -> Any:
        env, bound = current_env(), self._bound
        op = Operation("search", bound.model, env, condition("_id", "=", pk))
        documents = await env.app.execute(op.replace(options=Options(limit=1)))
        if not documents:
            raise NotFound(
                f"{bound.model._name}: the record was written, and is not there any more"
            )
        return hydrate(bound, documents)[0]


async def upsert(
    bound: BoundModel, on: str | Sequence[str], values: Values, new: Values
) -> tuple[Any, bool]:
    """See ``BaseModel.upsert``."""
    return await Upsert(bound, on).run(values, new)


async def upsert_many(
    bound: BoundModel, on: str | Sequence[str], values: Sequence[Values], new: Values
) -> tuple[RecordSet[Any], int]:
    """See ``BaseModel.upsert_many``."""
    records, created = await Upsert(bound, on).run_many(values, new)
    return RecordSet(bound.model, records), created


def _settled(batch: ValueBatch, records: list[Any]) -> list[Any]:
    """Let the records have what steps handed back."""
    for row, record in zip(batch.rows, records, strict=True):
        row.record = record
        take_back(row)
    for call in batch.settling:
        call()
    return records
