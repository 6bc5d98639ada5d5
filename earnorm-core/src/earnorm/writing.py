"""From values and records that exist to write and unlink operations.

The one write pipeline: a record, a RecordSet and a query all write through here; what is new goes
through ``creating``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from earnorm.domain import condition
from earnorm.exceptions import NotFound, ValidationError
from earnorm.fields.base import Field
from earnorm.operations import PLAIN, Operation, Options, PerRecord, Update
from earnorm.tracking import changed_fields, env_of, settle, touch

if TYPE_CHECKING:
    from earnorm.binding import BoundModel
    from earnorm.models import BaseModel

REVISION = "_revision"
_FIRST = Options(many=False)


async def save(records: Sequence[BaseModel]) -> int:
    """Write each record's own changes, all in one round trip; how many were written."""
    changed = [(record, names) for record in records if (names := changed_fields(record))]
    if not changed:
        return 0
    env = env_of(records)
    bound = env.app.bind(type(records[0]))
    prepared: list[tuple[BaseModel, dict[str, Any], Update]] = []
    problems: list[Any] = []
    for position, (record, names) in enumerate(changed):
        try:
            values = bound.schema.validate_partial({n: getattr(record, n) for n in names})
        except ValidationError as error:
            prefix = (position,) if len(changed) > 1 else ()
            problems += [{**d, "loc": (*prefix, *d["loc"])} for d in error.errors()]
            continue
        update = Update({"$set": bound.schema.encode(values)}, _expected(record))
        prepared.append((record, values, update))
    if problems:
        raise ValidationError(bound.model._name, problems)
    touch(env, [record for record, _, _ in prepared])
    if len(prepared) == 1:
        record, _, update = prepared[0]
        op = Operation("write", bound.model, env, condition("_id", "=", record.pk), update)
        op = op.replace(options=_FIRST)
    else:
        pks = [record.pk for record, _, _ in prepared]
        values_by_pk = PerRecord({r.pk: update for r, _, update in prepared})
        op = Operation("write", bound.model, env, condition("_id", "in", pks), values_by_pk)
    matched = await env.app.execute(op)
    _check_matched(bound, matched, len(prepared))
    for record, values, _ in prepared:
        record.__dict__.update(values)
        _written(record)
    return len(prepared)


async def write(records: Sequence[BaseModel], values: Mapping[str, Any]) -> int:
    """Write the same values to every record; how many were written."""
    if not records:
        return 0
    env = env_of(records)
    bound = env.app.bind(type(records[0]))
    unsaved = [record for record in records if not record.is_stored]
    if unsaved:
        raise ValidationError(
            bound.model._name,
            [{"loc": (), "msg": "write() needs saved records; save() it first", "type": "unsaved"}],
        )
    checked = _checked_update(bound, values)
    if not checked:
        return len(records)
    update = Update({"$set": bound.schema.encode(checked)})
    pks = list(dict.fromkeys(record.pk for record in records))
    touch(env, records)
    if len(pks) == 1:
        update = Update(update.operators, _expected(records[0]))
        op = Operation("write", bound.model, env, condition("_id", "=", pks[0]), update)
        op = op.replace(options=_FIRST)
    elif bound.model._versioned:
        each = PerRecord({r.pk: Update(update.operators, _expected(r)) for r in records})
        op = Operation("write", bound.model, env, condition("_id", "in", pks), each)
    else:
        op = Operation("write", bound.model, env, condition("_id", "in", pks), update)
    matched = await env.app.execute(op)
    _check_matched(bound, matched, len(pks))
    fields = bound.schema.fields
    for record in records:
        for name, value in checked.items():
            field = fields[name]
            # Each record has a value of its own: one list in two records would be changed in both.
            own = field.decode(field.freeze(field.encode(value))) if field.mutable else value
            record.__dict__[name] = own
            getattr(record, "_changes", {}).pop(name, None)
            getattr(record, "_originals", {}).pop(name, None)
        _count_revision(record)
    return len(pks)


async def update(op: Operation, values: Mapping[str, Any]) -> int:
    """Write the same values to every record that a domain matches."""
    bound = op.app.bind(op.model)
    checked = _checked_update(bound, values)
    if not checked:
        return 0
    changed = op.replace(values=Update({"$set": bound.schema.encode(checked)}))
    matched: int = await op.app.execute(changed)
    return matched


def _checked_update(bound: BoundModel, values: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ValidationError(
            bound.model._name,
            [{"loc": (), "msg": "write() takes a dict of field values", "type": "type"}],
        )
    fields = bound.schema.fields
    fixed: list[Any] = []
    for name in values:
        field: Field[Any, Any] | None = fields.get("_id" if name in ("id", "pk") else name)
        if field is not None and (field.readonly or field.name in ("_id", REVISION)):
            fixed.append(
                {"loc": (name,), "msg": "can be set only on a new record", "type": "readonly"}
            )
    if fixed:
        raise ValidationError(bound.model._name, fixed)
    return bound.schema.validate_partial(values)


def _expected(record: BaseModel) -> dict[str, Any]:
    """What a versioned record must still have in the database for its write to apply."""
    if not type(record)._versioned or not record._fetch.has(REVISION):
        return {}  # a ghost: nothing was read that could be outdated
    # None stands for a document from before the model was versioned: it has no revision.
    return {REVISION: record.__dict__.get(REVISION)}


def _check_matched(bound: BoundModel, matched: int, expected: int) -> None:
    if matched < expected:
        if expected == 1:
            raise NotFound(f"{bound.model._name}: the record to write does not exist")
        raise NotFound(
            f"{bound.model._name}: {expected - matched} of {expected} records to write do not exist; "
            f"the others were written"
        )


async def unlink(records: Sequence[BaseModel]) -> int:
    """Delete the records; how many were there."""
    stored = [record for record in records if record.is_stored]
    if not stored:
        return 0
    env = env_of(stored)
    bound = env.app.bind(type(stored[0]))
    pks = list(dict.fromkeys(record.pk for record in stored))
    domain = condition("_id", "=", pks[0]) if len(pks) == 1 else condition("_id", "in", pks)
    options = _FIRST if len(pks) == 1 else PLAIN
    op = Operation("unlink", bound.model, env, domain, options=options)
    deleted: int = await env.app.execute(op)
    return deleted


def _written(record: BaseModel) -> None:
    settle(record)
    _count_revision(record)


def _count_revision(record: BaseModel) -> None:
    if type(record)._versioned and record._fetch.has(REVISION):
        record.__dict__[REVISION] = (record.__dict__.get(REVISION) or 0) + 1
