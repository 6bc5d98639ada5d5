"""From changes and dotted paths to one update: ``write({"views": Inc(1), "address.city": "Huế"})``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pydantic

from earnorm.domain import Domain
from earnorm.exceptions import ErrorDetail, ValidationError, located
from earnorm.fields.base import Field
from earnorm.kernel.operations import TOGGLE
from earnorm.model.schema import Schema
from earnorm.model.writing.bounds import bounds
from earnorm.model.writing.places import Place, RefusedError, find_place
from earnorm.model.writing.updates import Change

_BESIDE_TOGGLE = frozenset({TOGGLE, "$set", "$inc", "$unset"})


@dataclass(frozen=True, slots=True)
class Guard:
    """A condition that is part of a write, and what is said where a record does not fulfil it."""

    domain: Domain
    detail: ErrorDetail


@dataclass(frozen=True, slots=True)
class Plan:
    """What a write does, checked.

    Attributes:
        values: Whole fields and the values that they get, as Python values.
        operators: The update in stored form.
        guards: What a record must fulfil for it.
        unknown: Names of the fields whose values only the server knows afterwards.
        inside: Those of them of which a part is changed.
    """

    values: Mapping[str, Any]
    operators: Mapping[str, Mapping[str, Any]]
    guards: tuple[Guard, ...] = ()
    unknown: frozenset[str] = field(default_factory=frozenset[str])
    inside: frozenset[str] = field(default_factory=frozenset[str])

    @property
    def where(self) -> Domain:
        """The guards as one domain."""
        found = Domain.TRUE
        for guard in self.guards:
            found &= guard.domain
        return found


def is_change(path: str, value: object) -> bool:
    """Whether this is not just a whole field and its value."""
    return isinstance(value, Change) or (isinstance(path, str) and "." in path)


def has_changes(values: Mapping[str, Any]) -> bool:
    """Whether there is more in it than whole fields and their values."""
    # As is_change(), which would be a call for each value of every write.
    for path, value in values.items():
        if isinstance(value, Change) or (isinstance(path, str) and "." in path):
            return True
    return False


def planned(schema: Schema, values: Mapping[str, Any]) -> Plan:
    """The values of a write, checked.

    Raises:
        ValidationError: With every problem found.
    """
    _refuse_others(schema, values)
    if not has_changes(values):
        checked = checked_values(schema, values)
        return Plan(checked, {"$set": schema.encode(checked)} if checked else {})
    plain, changes = _validated_parts(schema, values)
    return _joined(schema, plain, changes)


def validated(schema: Schema, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a write: those of whole fields as they were validated, then changes and paths as they are.

    Raises:
        ValidationError: With every problem found.
    """
    _refuse_others(schema, values)
    if not has_changes(values):
        return checked_values(schema, values)
    plain, _ = _validated_parts(schema, values)
    return {**plain, **{n: v for n, v in values.items() if is_change(n, v)}}


def plan_of(schema: Schema, values: Mapping[str, Any]) -> Plan:
    """The plan of values that were validated.

    Raises:
        ValidationError: Two of them are about one place.
    """
    if not has_changes(values):
        return Plan(values, {"$set": schema.encode(values)} if values else {})
    changes = {n: v for n, v in values.items() if is_change(n, v)}
    plain = {n: v for n, v in values.items() if n not in changes}
    return _joined(schema, plain, _plan_changes(schema, changes, plain))


def _validated_parts(schema: Schema, values: Mapping[str, Any]) -> tuple[dict[str, Any], Plan]:
    """The values of whole fields, and the plan of the rest. Everything that is wrong is told at once."""
    problems: list[ErrorDetail] = []
    plain: dict[str, Any] = {}
    changes = Plan({}, {})
    try:
        plain = checked_values(schema, {n: v for n, v in values.items() if not is_change(n, v)})
    except ValidationError as error:
        problems += error.errors()
    try:
        wanted = {n: v for n, v in values.items() if is_change(n, v)}
        changes = _plan_changes(schema, wanted, plain)
    except ValidationError as error:
        problems += error.errors()
    if problems:
        raise ValidationError(schema.name, problems)
    return plain, changes


def _joined(schema: Schema, plain: Mapping[str, Any], changes: Plan) -> Plan:
    """Let a plan of changes set whole fields as well."""
    if not plain:
        return changes
    given = {**schema.encode(plain), **changes.operators.get("$set", {})}
    return replace(
        changes,
        values=plain,
        operators={"$set": given} | {k: v for k, v in changes.operators.items() if k != "$set"},
    )


def _refuse_others(schema: Schema, values: object) -> None:
    if not isinstance(values, Mapping):
        raise ValidationError(
            schema.name,
            [{"loc": (), "msg": "write() takes a dict of field values", "type": "type"}],
        )


def checked_values(schema: Schema, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of whole fields of a record that exists, validated.

    Raises:
        ValidationError: With every problem found.
    """
    fields = schema.fields
    fixed: list[ErrorDetail] = []
    for name in values:
        field: Field[Any, Any] | None = fields.get("_id" if name in ("id", "pk") else name)
        if field is not None and (field.readonly or field.name == "_id"):
            fixed.append(
                {"loc": (name,), "msg": "can be set only on a new record", "type": "readonly"}
            )
    if fixed:
        raise ValidationError(schema.name, fixed)
    return schema.validate_partial(values)


def _plan_changes(schema: Schema, values: Mapping[str, Any], plain: Mapping[str, Any]) -> Plan:
    """Check changes and dotted paths, and put them, and nothing else, into operators.

    Args:
        schema: The model's fields.
        values: Paths with changes, or dotted paths with values.
        plain: Whole fields with values that were validated already.

    Raises:
        ValidationError: With every problem found: an unknown path, one that cannot be changed, a
            value that is not acceptable, two changes of one place.
    """
    problems: list[ErrorDetail] = []
    operators: dict[str, dict[str, Any]] = {}
    places: dict[str, str] = {schema.fields[name].db_name: name for name in plain}
    guards: list[Guard] = []
    unknown: set[str] = set()
    inside: set[str] = set()
    for path, value in values.items():
        loc = tuple(int(part) if part.isdecimal() else part for part in path.split("."))
        try:
            place = find_place(schema, path)
            _refuse_conflict(place, places)
            if isinstance(value, Change):
                operator, operand = value.operator, value.operand(place)
                within = value.within(place)
                if within is not Domain.TRUE:
                    guards.append(Guard(within, _outside(loc, place.field, value)))
            else:
                operator, operand = "$set", place.checked(value)
        except pydantic.ValidationError as error:
            for problem in error.errors(include_url=False, include_input=False):
                more = problem["loc"]
                problems.append(
                    {"loc": (*loc, *more), "msg": problem["msg"], "type": problem["type"]}
                )
            continue
        except ValidationError as error:
            problems += located(error.errors(), *loc)
            continue
        except RefusedError as error:
            problems.append({"loc": loc, "msg": str(error), "type": "change"})
            continue
        if place.inside is not Domain.TRUE:
            message = "the path leads through a value that this record does not have"
            guards.append(Guard(place.inside, {"loc": loc, "msg": message, "type": "no_path"}))
        operators.setdefault(operator, {})[place.db_path] = operand
        unknown.add(place.root)
        if "." in place.path:
            inside.add(place.root)
    if TOGGLE in operators:
        others = operators.keys() - _BESIDE_TOGGLE
        if others or inside:
            message = "Toggle goes together with values of whole fields and Inc only; write the rest apart"
            for key in operators[TOGGLE]:
                name = schema.renamed.get(key, key)
                problems.append({"loc": (name,), "msg": message, "type": "change"})
    if problems:
        raise ValidationError(schema.name, problems)
    return Plan({}, operators, tuple(guards), frozenset(unknown), frozenset(inside))


def _outside(loc: tuple[str | int, ...], field: Field[Any, Any], change: Change) -> ErrorDetail:
    low, high = bounds(field)
    ends = [
        f"{word} {bound}"
        for word, bound in (("at least", low), ("at most", high))
        if bound is not None
    ]
    message = f"{type(change).__name__} would take it out of bounds: {' and '.join(ends)}"
    return {"loc": loc, "msg": message, "type": "out_of_bounds"}


def _refuse_conflict(place: Place, places: dict[str, str]) -> None:
    new = place.db_path
    for known, given in places.items():
        if known == new or known.startswith(f"{new}.") or new.startswith(f"{known}."):
            raise RefusedError(f"{given!r} changes the same value in the same write")
    places[new] = place.path
