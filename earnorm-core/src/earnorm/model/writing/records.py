"""From values and records that exist to write and unlink operations.

The one write pipeline: a record, a RecordSet and a query all write through here; what is new goes
through ``creating``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from earnorm.domain import Domain, condition
from earnorm.domain.long_lists import chunks
from earnorm.exceptions import ConcurrencyError, ErrorDetail, NotFound, ValidationError
from earnorm.features.polymorphism.family import by_class, class_of, is_family
from earnorm.fields.base import Field
from earnorm.kernel.environment import current_env
from earnorm.kernel.operations import PLAIN, Operation, Options, PerRecord, Update
from earnorm.kernel.sending import RETURNED, Returned
from earnorm.kernel.steps import Way
from earnorm.model.reading.by_ids import by_ids
from earnorm.model.reading.fetch import Fetch
from earnorm.model.validation.checking import Subject, checked_plan, narrowed, refuse_problems
from earnorm.model.writing import creating
from earnorm.model.writing.handing_back import give_written, on_its_way
from earnorm.model.writing.planning import Guard, Plan, has_changes, is_change, plan_changes
from earnorm.model.writing.tracking import changed_fields, env_of, settle, touch
from earnorm.model.writing.updates import Change

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel

REVISION = "_revision"
FIRST = Options(many=False)
_ANY = Options(limit=1)


async def save_with(record: BaseModel, values: Mapping[str, Any]) -> None:
    """Write a record's own changes and these values, in one round trip; a new one takes them."""
    if not record.is_stored:
        changes = [changes_are_written(n) for n, value in values.items() if is_change(n, value)]
        if changes:
            raise ValidationError(type(record)._name, changes)
        for name, value in values.items():
            setattr(record, name, value)
        await creating.create(current_env().app.bind(type(record)), [record])
        return
    to_many = type(record)._schema.to_many_names
    own = {
        name: record.__dict__[name] if name in to_many else getattr(record, name)
        for name in changed_fields(record)
    }
    await write([record], {**own, **values})


async def save(records: Sequence[BaseModel]) -> int:
    """Write each record's own changes, all in one round trip; how many were written."""
    if is_family(records):
        return sum([await save(group) for group in by_class(records)])
    changed = [(record, names) for record in records if (names := changed_fields(record))]
    if not changed:
        return 0
    env = env_of(records)
    bound = env.app.bind(type(records[0]))
    number = len(changed)
    if bound.schema.to_many:
        changed = await _save_commands(bound, changed)
        if not changed:
            return number
    subjects: list[Subject] = []
    problems: list[Any] = []
    for position, (record, names) in enumerate(changed):
        prefix = (position,) if len(changed) > 1 else ()
        try:
            _refuse_assigned(bound, record, names)
            values = bound.schema.validate_partial({n: getattr(record, n) for n in names})
        except ValidationError as error:
            problems += [{**d, "loc": (*prefix, *d["loc"])} for d in error.errors()]
            continue
        subjects.append(Subject(prefix, values, record))
    if problems or bound.schema.rules is not None:
        await refuse_problems(bound, "write", subjects, problems)
    prepared = [
        (
            each.of,
            each.values,
            Update({"$set": bound.schema.encode(each.values)}, expected_of(each.of)),
        )
        for each in subjects
    ]
    touch(env, [record for record, _, _ in prepared])
    if len(prepared) == 1:
        record, _, update = prepared[0]
        op = Operation("write", bound.model, env, condition("_id", "=", record.pk), update, FIRST)
    else:
        pks = [record.pk for record, _, _ in prepared]
        values_by_pk = PerRecord({r.pk: update for r, _, update in prepared})
        op = Operation("write", bound.model, env, condition("_id", "in", pks), values_by_pk)
    op = on_its_way(bound, op, Way.SAVE)
    matched = await env.app.execute(op)
    check_matched(bound, matched, len(prepared))
    for record, values, update in prepared:
        record.__dict__.update(values)
        give_written(record, op, update)
        _written(record)
    return number


async def _save_commands(
    bound: BoundModel, changed: list[tuple[BaseModel, list[str]]]
) -> list[tuple[BaseModel, list[str]]]:
    """Save the records whose to-many fields were given commands; the others are given back."""
    from earnorm.model.relations import commands  # which writes with the functions here

    given = [each for each in changed if commands.assigned(bound, *each)]
    if not given:
        return changed
    await commands.save([record for record, _ in given], {id(r): names for r, names in given})
    done = {id(record) for record, _ in given}
    return [each for each in changed if id(each[0]) not in done]


def _refuse_assigned(bound: BoundModel, record: BaseModel, names: Sequence[str]) -> None:
    assigned = [name for name in names if isinstance(record.__dict__.get(name), Change)]
    if assigned:
        raise ValidationError(bound.model._name, [changes_are_written(name) for name in assigned])


def changes_are_written(name: str) -> ErrorDetail:
    """What is said where a change was assigned, or given to a record that is not stored."""
    message = f"a change is given to write() or save() of a stored record: save({{{name!r}: …}})"
    return {"loc": (name,), "msg": message, "type": "change"}


async def write(records: Sequence[BaseModel], values: Mapping[str, Any]) -> int:
    """Write the same values to every record; how many were written."""
    if not records:
        return 0
    env = env_of(records)
    bound = env.app.bind(class_of(records))
    unsaved = [record for record in records if not record.is_stored]
    if unsaved:
        raise ValidationError(
            bound.model._name,
            [{"loc": (), "msg": "write() needs saved records; save() it first", "type": "unsaved"}],
        )
    if bound.model._inherits:
        from earnorm.features.delegation import delegation  # which writes with the functions here

        if delegation.is_split(bound.model, values):
            return await delegation.write(records, values)
    formulas = bound.schema.formulas
    if formulas is not None and not formulas.inverses.isdisjoint(values):
        from earnorm.features.computed import inverting  # which writes with the functions here

        return await inverting.write(records, values)
    if bound.schema.to_many and not bound.schema.to_many_names.isdisjoint(values):
        from earnorm.model.relations import commands  # which writes with the functions here

        values, given = commands.split(bound, values)
        if given:
            return await commands.write(records, values, given)
    plan = await checked_plan(bound, planned(bound, values), records)
    if not plan.operators:
        return len(records)
    refuse_unsaved(bound, records, plan)
    update = Update(plan.operators, where=plan.where)
    pks = list(dict.fromkeys(record.pk for record in records))
    touch(env, records)
    returned = Returned(plan.unknown) if plan.unknown and len(pks) == 1 else None
    if len(pks) == 1:
        update = replace(update, expect=expected_of(records[0]))
        op = Operation("write", bound.model, env, condition("_id", "=", pks[0]), update)
        op = op.replace(options=FIRST)
        if returned is not None:
            op = op.with_note(RETURNED, returned)
    elif bound.model._versioned:
        each = PerRecord({r.pk: replace(update, expect=expected_of(r)) for r in records})
        op = Operation("write", bound.model, env, condition("_id", "in", pks), each)
    else:
        op = Operation("write", bound.model, env, condition("_id", "in", pks), update)
    op = on_its_way(bound, op, Way.WRITE)
    await send(bound, op, len(pks), lambda: refuse_outside(bound, op, plan.guards))
    for record in records:
        take(bound, record, plan, op)
    if returned is not None and returned.document is not None:
        for record in records:
            _take_stored(bound, record, dict(returned.document), plan.unknown)
    elif plan.unknown:
        await read_again(bound, dict.fromkeys(records, plan.unknown))
    return len(pks)


async def update(op: Operation, values: Mapping[str, Any]) -> int:
    """Write the same values to every record that a domain matches."""
    bound = op.app.bind(op.model)
    if bound.schema.to_many:
        refuse_commands(bound, values, _OF_A_QUERY)
    plan = await checked_plan(bound, planned(bound, values))
    if not plan.operators:
        return 0
    await refuse_outside(bound, op, plan.guards)
    matched = 0
    for part in await narrowed(op, bound, plan.values):
        changed = part.replace(values=Update(plan.operators, where=plan.where))
        matched += await op.app.execute(changed)
    return matched


def planned(bound: BoundModel, values: Mapping[str, Any]) -> Plan:
    """The values of a write, checked.

    Raises:
        ValidationError: With every problem found.
    """
    if not isinstance(values, Mapping):
        raise ValidationError(
            bound.model._name,
            [{"loc": (), "msg": "write() takes a dict of field values", "type": "type"}],
        )
    if not has_changes(values):
        checked = _checked_update(bound, values)
        return Plan(checked, {"$set": bound.schema.encode(checked)} if checked else {})
    # Everything that is wrong is told at once.
    problems: list[ErrorDetail] = []
    plain: dict[str, Any] = {}
    plan = Plan({}, {})
    try:
        plain = _checked_update(bound, {n: v for n, v in values.items() if not is_change(n, v)})
    except ValidationError as error:
        problems += error.errors()
    changes = {n: v for n, v in values.items() if is_change(n, v)}
    try:
        plan = plan_changes(bound.schema, changes, plain)
    except ValidationError as error:
        problems += error.errors()
    if problems:
        raise ValidationError(bound.model._name, problems)
    return plan


async def send(
    bound: BoundModel, op: Operation, expected: int, refuse: Callable[[], Awaitable[None]]
) -> None:
    """Execute a write of known records, and say what is wrong where not all of them were written.

    Args:
        bound: Their model.
        op: The write.
        expected: How many records there are.
        refuse: Raises where a record does not fulfil what the write demands of it. Of several it is
            asked beforehand, so that none of them is written.
    """
    if expected > 1:
        await refuse()
    try:
        matched = await op.app.execute(op)
    except ConcurrencyError:
        await refuse()
        raise
    if matched < expected:
        await refuse()
    check_matched(bound, matched, expected)


async def refuse_outside(bound: BoundModel, op: Operation, guards: Sequence[Guard]) -> None:
    """Raise where a record does not fulfil what the write demands of it.

    It is a condition of the write as well, so a record that changes in between is left alone.
    """
    problems: list[ErrorDetail] = []
    for guard in guards:
        domain = op.domain & ~guard.domain
        look = Operation("count", bound.model, op.env, domain, options=_ANY)
        if await op.app.execute(look):
            problems.append(guard.detail)
    if problems:
        raise ValidationError(bound.model._name, problems)


def refuse_unsaved(bound: BoundModel, records: Sequence[BaseModel], plan: Plan) -> None:
    """Refuse a path into a field that was changed here: the change would be lost without a word."""
    inside = plan.inside
    for record in records if inside else ():
        for name in inside.intersection(changed_fields(record)):
            message = "was changed and not saved; save() it before a part of it is written"
            raise ValidationError(
                bound.model._name, [{"loc": (name,), "msg": message, "type": "unsaved"}]
            )


def take(bound: BoundModel, record: BaseModel, plan: Plan, op: Operation) -> None:
    """Let a record hold what an operation wrote by a plan, as far as it is known here."""
    give_written(record, op, Update(plan.operators))
    fields = bound.schema.fields
    for name, value in plan.values.items():
        field = fields[name]
        # Each record has a value of its own: one list in two records would be changed in both.
        own = field.decode(field.freeze(field.encode(value))) if field.mutable else value
        record.__dict__[name] = own
        _forget_change(record, name)
    _count_revision(record)


def _forget_change(record: BaseModel, name: str) -> None:
    getattr(record, "_changes", {}).pop(name, None)
    getattr(record, "_originals", {}).pop(name, None)


def _take_stored(
    bound: BoundModel, record: BaseModel, document: dict[str, Any], names: frozenset[str]
) -> None:
    """Give a record the stored values of some of its fields."""
    state = bound.schema.state(document)
    for name in names:
        if name in state:
            record.__dict__[name] = bound.schema.fields[name].freeze(state[name])
        else:
            record.__dict__.pop(name, None)
        _forget_change(record, name)


async def read_again(bound: BoundModel, unknown: Mapping[BaseModel, frozenset[str]]) -> None:
    """Fetch what only the server knows; a record that is not found has these fields not loaded.

    Args:
        bound: The records' model.
        unknown: Records, each with the names of such fields.
    """
    if not unknown:
        return
    env = env_of(list(unknown))
    pks = list(dict.fromkeys(record.pk for record in unknown))
    names = frozenset({"_id"}).union(*unknown.values())
    documents = await by_ids(bound, "_id", pks, env=env, fields=names)
    found = {document["_id"]: document for document in documents}
    for record, names in unknown.items():
        document = found.get(record.pk)
        _take_stored(bound, record, document or {}, names)
        if document is None:
            fetch = record._fetch
            known = frozenset(bound.schema.fields) if fetch.loaded is None else fetch.loaded
            object.__setattr__(record, "_fetch", Fetch(bound.app, known - names, [record]))


async def read_computed(
    bound: BoundModel, records: Sequence[BaseModel], more: Collection[str] = ()
) -> None:
    """Fetch the stored computed fields that depend on records which were written after these."""
    formulas = bound.schema.formulas
    if formulas is not None and (formulas.elsewhere or more):
        wanted = formulas.elsewhere.union(more)
        names = {r: frozenset(n for n in wanted if r._fetch.has(n)) for r in records}
        await read_again(bound, {record: own for record, own in names.items() if own})


_OF_A_QUERY = "commands are for known records: await the query first, and write() to the records"
_OF_MANY = "commands are for create(), write() and save(): they may take many operations"


def refuse_commands(bound: BoundModel, values: Mapping[str, Any], why: str = _OF_MANY) -> None:
    """Refuse commands on to-many fields where they cannot be carried out."""
    if not bound.schema.to_many or not isinstance(values, Mapping):
        return
    from earnorm.model.relations import commands  # which writes with the functions here

    given = commands.split(bound, values)[1]
    if given:
        raise ValidationError(
            bound.model._name,
            [{"loc": (name,), "msg": why, "type": "command"} for name in given],
        )


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
        if field is not None and field.computed is not None and field.computed.inverse:
            message = (
                "has an inverse, which is for known records: await the query, and write() to them"
            )
            fixed.append({"loc": (name,), "msg": message, "type": "compute"})
        if field is not None and (field.readonly or field.name in ("_id", REVISION)):
            fixed.append(
                {"loc": (name,), "msg": "can be set only on a new record", "type": "readonly"}
            )
    if fixed:
        raise ValidationError(bound.model._name, fixed)
    return bound.schema.validate_partial(values)


def expected_of(record: BaseModel) -> dict[str, Any]:
    """What a versioned record must still have in the database for its write to apply."""
    if not type(record)._versioned or not record._fetch.has(REVISION):
        return {}  # a ghost: nothing was read that could be outdated
    # None stands for a document from before the model was versioned: it has no revision.
    return {REVISION: record.__dict__.get(REVISION)}


def check_matched(bound: BoundModel, matched: int, expected: int) -> None:
    """Raise ``NotFound`` where fewer records were matched than there should be."""
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
    bound = env.app.bind(class_of(stored))
    pks = list(dict.fromkeys(record.pk for record in stored))
    deleted = 0
    for chunk in chunks(pks):
        one = len(chunk) == 1
        domain = condition("_id", "=", chunk[0]) if one else condition("_id", "in", chunk)
        options = FIRST if one else PLAIN
        expected = Domain.TRUE
        if bound.model._versioned:
            wanted = set(chunk)
            expected = same_revisions([each for each in stored if each.pk in wanted])
        op = Operation("unlink", bound.model, env, domain & expected, options=options)
        number: int = await env.app.execute(op)
        deleted += number
        if number < len(chunk) and expected is not Domain.TRUE:
            left: int = await env.app.execute(Operation("count", bound.model, env, domain))
            if left:
                raise ConcurrencyError(
                    f"{bound.model._name}: {left} of {len(pks)} records were changed since they were "
                    f"read and are left; refresh() them and try again"
                )
    return deleted


def same_revisions(records: Sequence[BaseModel]) -> Domain:
    """The records that still have the revision that was read; a ghost may have any."""
    by_revision: dict[Any, list[Any]] = {}
    ghosts: list[Any] = []
    for record in records:
        expected = expected_of(record)
        if expected:
            by_revision.setdefault(expected[REVISION], []).append(record.pk)
        else:
            ghosts.append(record.pk)
    domain = condition("_id", "in", ghosts) if ghosts else Domain.FALSE
    for revision, pks in by_revision.items():
        domain |= condition("_id", "in", pks) & condition(REVISION, "=", revision)
    return domain.simplify()


def _written(record: BaseModel) -> None:
    settle(record)
    _count_revision(record)


def _count_revision(record: BaseModel) -> None:
    if type(record)._versioned and record._fetch.has(REVISION):
        record.__dict__[REVISION] = (record.__dict__.get(REVISION) or 0) + 1
