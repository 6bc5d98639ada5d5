"""Turns changes and dotted paths into one update: ``{"views": Inc(1), "address.city": "Huế"}``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pydantic

from earnorm.domain import Domain
from earnorm.exceptions import ErrorDetail, ValidationError, located
from earnorm.fields.base import Field
from earnorm.kernel.operations import TOGGLE
from earnorm.kernel.value_steps import NOTHING
from earnorm.model.schema import Schema
from earnorm.model.writing.bounds import bounds
from earnorm.model.writing.places import Place, RefusedError, find_place
from earnorm.model.writing.updates import Change

_BESIDE_TOGGLE = frozenset({TOGGLE, "$set", "$inc", "$unset"})


@dataclass(frozen=True, slots=True)
class Guard:
    """A condition of a write, with the error detail for a record that does not fulfil it."""

    domain: Domain
    detail: ErrorDetail


@dataclass(frozen=True, slots=True)
class Plan:
    """The checked content of a write.

    Attributes:
        values: The Python values of whole fields, by field name.
        operators: The update in stored form.
        guards: The conditions that a record must fulfil.
        unknown: Names of the fields whose values only the server knows afterwards.
        inside: The names in ``unknown`` of fields of which only a part is changed.
    """

    values: Mapping[str, Any]
    operators: Mapping[str, Mapping[str, Any]]
    guards: tuple[Guard, ...] = ()
    unknown: frozenset[str] = field(default_factory=frozenset[str])
    inside: frozenset[str] = field(default_factory=frozenset[str])

    @property
    def where(self) -> Domain:
        """The guards as one domain."""
        domain = Domain.TRUE
        for guard in self.guards:
            domain &= guard.domain
        return domain


def is_change(path: str, value: object) -> bool:
    """Return whether this is a change or a dotted path, and not a whole field with its value."""
    return isinstance(value, Change) or (isinstance(path, str) and "." in path)


def has_changes(values: Mapping[str, Any]) -> bool:
    """Return whether the values have a change or a dotted path."""
    # This repeats is_change() because a write must not make one call for each value.
    for path, value in values.items():
        if isinstance(value, Change) or (isinstance(path, str) and "." in path):
            return True
    return False


def planned(schema: Schema, values: Mapping[str, Any], known: Mapping[str, Any] = NOTHING) -> Plan:
    """Check the values of a write, and return the plan.

    Args:
        schema: The model's fields.
        values: The values of the write.
        known: Those of them that were validated when they were assigned.

    Raises:
        ValidationError: With every problem found.
    """
    _refuse_others(schema, values)
    if not has_changes(values):
        checked = checked_values(schema, values, known)
        return Plan(checked, {"$set": schema.encode(checked)} if checked else {})
    plain, changes = _validated_parts(schema, values, known)
    return _joined(schema, plain, changes)


def validated(
    schema: Schema, values: Mapping[str, Any], known: Mapping[str, Any] = NOTHING
) -> dict[str, Any]:
    """Return the values of a write: validated values of whole fields, then the changes and paths.

    Args:
        schema: The model's fields.
        values: The values of the write.
        known: Those of them that were validated when they were assigned.

    Raises:
        ValidationError: With every problem found.
    """
    _refuse_others(schema, values)
    if not has_changes(values):
        return checked_values(schema, values, known)
    plain, _ = _validated_parts(schema, values, known)
    return {**plain, **{n: v for n, v in values.items() if is_change(n, v)}}


def plan_of(schema: Schema, values: Mapping[str, Any]) -> Plan:
    """Return the plan of validated values.

    Raises:
        ValidationError: Two of them change the same place.
    """
    if not has_changes(values):
        return Plan(values, {"$set": schema.encode(values)} if values else {})
    changes = {n: v for n, v in values.items() if is_change(n, v)}
    plain = {n: v for n, v in values.items() if n not in changes}
    return _joined(schema, plain, _plan_changes(schema, changes, plain))


def _validated_parts(
    schema: Schema, values: Mapping[str, Any], known: Mapping[str, Any]
) -> tuple[dict[str, Any], Plan]:
    """Return the values of whole fields and the plan of the rest; raise every problem at once."""
    problems: list[ErrorDetail] = []
    plain: dict[str, Any] = {}
    changes = Plan({}, {})
    try:
        whole = {n: v for n, v in values.items() if not is_change(n, v)}
        plain = checked_values(schema, whole, known)
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
    """Add values of whole fields to a plan of changes."""
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


def checked_values(
    schema: Schema, values: Mapping[str, Any], known: Mapping[str, Any] = NOTHING
) -> dict[str, Any]:
    """Validate the values of whole fields of a record that exists.

    Args:
        schema: The model's fields.
        values: The values.
        known: Those of them that were validated when they were assigned.

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
    if not fixed:
        return (
            schema.validate_others(values, known, "write")
            if known
            else schema.validate_partial(values)
        )
    refused = {detail["loc"][0] for detail in fixed}
    try:
        schema.validate_partial({n: v for n, v in values.items() if n not in refused})
    except ValidationError as error:
        fixed += error.errors()
    raise ValidationError(schema.name, fixed)


def _plan_changes(schema: Schema, values: Mapping[str, Any], plain: Mapping[str, Any]) -> Plan:
    """Check changes and dotted paths, and put only these into operators.

    Args:
        schema: The model's fields.
        values: Changes by path, or values by dotted path.
        plain: Validated values of whole fields, which must not overlap with a path.

    Raises:
        ValidationError: With every problem found: an unknown path, a path that cannot be changed, a
            value that is not valid, two changes of the same place.
    """
    problems: list[ErrorDetail] = []
    operators: dict[str, dict[str, Any]] = {}
    places: dict[str, str] = {schema.fields[name].db_name: name for name in plain}
    guards: list[Guard] = []
    unknown: set[str] = set()
    inside: set[str] = set()
    for path, value in values.items():
        loc = tuple(int(part) if part.isdecimal() else part for part in str(path).split("."))
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
