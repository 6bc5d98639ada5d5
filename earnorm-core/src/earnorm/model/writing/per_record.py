"""Different values for many records, in one round trip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from earnorm.domain import Domain, condition
from earnorm.exceptions import ErrorDetail, ValidationError, located
from earnorm.kernel.environment import current_env
from earnorm.kernel.operations import Operation, Options, PerRecord, Update
from earnorm.kernel.steps import Way
from earnorm.model.reading.hydrate import ghosts
from earnorm.model.validation.checking import checked_plans
from earnorm.model.writing.handing_back import on_its_way
from earnorm.model.writing.planning import Plan
from earnorm.model.writing.records import (
    expected_of,
    planned,
    read_again,
    refuse_commands,
    refuse_unsaved,
    send,
    take,
)
from earnorm.model.writing.tracking import env_of, touch

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.model.base import BaseModel

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """What one record gets.

    Attributes:
        position: Where it stands in what was given.
        pk: The record's stored id.
        plan: The values, checked.
        record: The record, where it was given itself and not just its id.
    """

    position: int
    pk: Any
    plan: Plan
    record: BaseModel | None

    @property
    def update(self) -> Update:
        """The change as an operation carries it."""
        expect = {} if self.record is None else expected_of(self.record)
        return Update(self.plan.operators, expect, self.plan.where)


async def write_many(bound: BoundModel, values: Mapping[Any, Values]) -> int:
    """Write to each record, given itself or by its id, its own values.

    Raises:
        ValidationError: With every problem and the record's position; nothing is written.
        NotFound: Some do not exist; the others were written.
    """
    if not _is_mapping(values):
        message = "write_many() takes a dict of records or ids, each with a dict of values"
        raise ValidationError(bound.model._name, [{"loc": (), "msg": message, "type": "type"}])
    changes: list[Change] = []
    problems: list[ErrorDetail] = []
    seen: dict[Any, int] = {}
    for position, (key, each) in enumerate(values.items()):
        try:
            pk, record = _target(bound, key)
            if seen.setdefault(pk, position) != position:
                raise _refused(bound, f"the same record as at position {seen[pk]}", "conflict")
            plan = planned_one(bound, each)
            if record is not None:
                refuse_unsaved(bound, [record], plan)
            if plan.operators:
                changes.append(Change(position, pk, plan, record))
        except ValidationError as error:
            problems += located(error.errors(), position)
    if problems:
        raise ValidationError(bound.model._name, problems)
    await write_each(bound, changes)
    return len(values)


def planned_one(bound: BoundModel, values: Values) -> Plan:
    """The values of one record of many, checked.

    Raises:
        ValidationError: With every problem found; or commands are among them.
    """
    refuse_commands(bound, values)
    return planned(bound, values)


async def checked_changes(bound: BoundModel, changes: Sequence[Change]) -> Sequence[Change]:
    """The changes, held to the model's rules.

    Raises:
        ValidationError: With every problem and the record's position.
    """
    if bound.schema.rules is None:
        return changes
    given = [
        (change.position, change.plan, change.record or ghosts(bound, [change.pk])[0])
        for change in changes
    ]
    plans, problems = await checked_plans(bound, given)
    if problems:
        raise ValidationError(bound.model._name, problems)
    return [replace(change, plan=plan) for change, plan in zip(changes, plans, strict=True)]


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _target(bound: BoundModel, key: Any) -> tuple[Any, BaseModel | None]:
    base = bound.model._base or bound.model
    if isinstance(key, base):
        if not key.is_stored:
            raise _refused(bound, "is not stored; save() it first", "unsaved")
        return key.pk, key
    try:
        pk = bound.schema.fields["_id"].operand(key)
    except ValueError as error:
        raise _refused(bound, str(error), "type") from None
    return pk, None


def _refused(bound: BoundModel, message: str, kind: str) -> ValidationError:
    return ValidationError(bound.model._name, [{"loc": (), "msg": message, "type": kind}])


async def write_each(bound: BoundModel, changes: Sequence[Change]) -> None:
    """Write every change with one operation, and let the records know.

    Raises:
        ValidationError: A record does not fulfil what its change demands.
        NotFound: Some do not exist; the others were written.
    """
    if not changes:
        return
    changes = await checked_changes(bound, changes)
    records = [change.record for change in changes if change.record is not None]
    env = env_of(records) if records else current_env()
    touch(env, records)
    updates = PerRecord({change.pk: change.update for change in changes})
    op = Operation("write", bound.model, env, condition("_id", "in", list(updates)), updates)
    op = on_its_way(bound, op, Way.EACH)
    await send(bound, op, len(changes), lambda: refuse_outside(bound, op, changes))
    await learn(bound, changes, op)


async def learn(bound: BoundModel, changes: Sequence[Change], op: Operation) -> None:
    """Let the records hold what was written; what only the server knows is fetched for all at once."""
    unknown: dict[BaseModel, frozenset[str]] = {}
    for change in changes:
        if change.record is not None:
            take(bound, change.record, change.plan, op)
            if change.plan.unknown:
                unknown[change.record] = change.plan.unknown
    await read_again(bound, unknown)


async def refuse_outside(bound: BoundModel, op: Operation, changes: Sequence[Change]) -> None:
    """Raise where a record does not fulfil what its change demands."""
    guarded = {change.pk: change for change in changes if change.plan.guards}
    if not guarded:
        return
    outside = Domain.FALSE
    for pk, change in guarded.items():
        outside |= condition("_id", "=", pk) & ~change.plan.where
    look = Operation("search", bound.model, op.env, outside)
    look = look.replace(options=Options(fields=frozenset({"_id"})))
    found = [guarded[document["_id"]] for document in await op.app.execute(look)]
    if found:
        raise ValidationError(
            bound.model._name,
            [
                {**guard.detail, "loc": (change.position, *guard.detail["loc"])}
                for change in sorted(found, key=lambda change: change.position)
                for guard in change.plan.guards
            ],
        )
