"""Turns changes and dotted paths into one update: ``{"views": Inc(1), "address.city": "Huế"}``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import pydantic

from earnorm.domain import Domain, condition
from earnorm.domain.paths import is_position, overlap
from earnorm.exceptions import ErrorDetail, ValidationError, located
from earnorm.fields.base import INTERNAL, Field
from earnorm.kernel.known_values import TOGGLE
from earnorm.kernel.operations import ItemFilter, Update
from earnorm.kernel.steps import Loc
from earnorm.kernel.value_steps import NOTHING
from earnorm.model.problems import problems_of
from earnorm.model.schema import Schema, schema_inside
from earnorm.model.writing.bounds import bounds
from earnorm.model.writing.list_items import Items, check_item_domain, item_field
from earnorm.model.writing.places import Place, RefusedError, find_place, find_place_in_item
from earnorm.model.writing.updates import Change, UpdateItems

Places: TypeAlias = dict[str, str]
"""The places that changes of one write are about: the given path by stored path."""

_BESIDE_TOGGLE = frozenset({TOGGLE, "$set", "$inc", "$unset"})
_HOLDERS = {True: "this record", False: "an item to change"}


class Guard(NamedTuple):
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
        items: The items of lists that paths of the update are about.
    """

    values: Mapping[str, Any]
    operators: Mapping[str, Mapping[str, Any]]
    guards: tuple[Guard, ...] = ()
    unknown: frozenset[str] = field(default_factory=frozenset[str])
    inside: frozenset[str] = field(default_factory=frozenset[str])
    items: tuple[ItemFilter, ...] = ()

    def update(self, expect: Mapping[str, Any] | None = None) -> Update:
        """Return the update, which skips a record that does not fulfil a guard.

        Args:
            expect: Stored values that a record must still have, by stored key.
        """
        where = Domain.TRUE
        for guard in self.guards:
            where &= guard.domain
        return Update(self.operators, expect or NOTHING, where, self.items)

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
                {"loc": (name,), "msg": INTERNAL, "type": "internal"}
                if field.internal
                else {"loc": (name,), "msg": "can be set only on a new record", "type": "readonly"}
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
    planning = _Planning()
    places: Places = {schema.fields[name].db_name: name for name in plain}
    unknown: set[str] = set()
    inside: set[str] = set()
    for path, value in values.items():
        place = planning.add(None, partial(find_place, schema), path, value, places)
        if place is not None:
            unknown.add(place.root)
            if "." in place.path or isinstance(value, UpdateItems):
                inside.add(place.root)
    operators, problems = planning.operators, planning.problems
    if TOGGLE in operators:
        others = operators.keys() - _BESIDE_TOGGLE
        if others or inside:
            message = "Toggle goes together with values of whole fields and Inc only; write the rest apart"
            for key in operators[TOGGLE]:
                name = schema.renamed.get(key, key)
                problems.append({"loc": (name,), "msg": message, "type": "change"})
    if problems:
        raise ValidationError(schema.name, problems)
    return Plan(
        {},
        operators,
        tuple(planning.guards),
        frozenset(unknown),
        frozenset(inside),
        tuple(planning.items),
    )


@dataclass(eq=False, slots=True)
class _Planning:
    """Collects checked changes, of the record and of items of its lists."""

    problems: list[ErrorDetail] = field(default_factory=list[ErrorDetail])
    operators: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    guards: list[Guard] = field(default_factory=list[Guard])
    items: list[ItemFilter] = field(default_factory=list[ItemFilter])

    def add(
        self,
        items: Items | None,
        find: Callable[[str], Place],
        path: str,
        value: Any,
        places: Places,
    ) -> Place | None:
        """Check one change, and add it; return its place, or None where it was refused.

        Args:
            items: The items that the path begins in; None for the record.
            find: Finds the place that a path names there.
            path: The path.
            value: The change, or the value.
            places: The places of other changes of the same write, which this one must not overlap.
        """
        loc = loc_of(path) if items is None else (*items.loc, *loc_of(path))
        try:
            place = find(path)
            _refuse_conflict(place, places)
            if isinstance(value, UpdateItems):
                self._add_items(items, place, value, loc)
            else:
                self._add_value(items, place, value, loc)
        except pydantic.ValidationError as error:
            self.problems += located(problems_of(error, None), *loc)
            return None
        except ValidationError as error:
            self.problems += located(error.errors(), *loc)
            return None
        except RefusedError as error:
            self.problems.append({"loc": loc, "msg": str(error), "type": "change"})
            return None
        if place.inside is not Domain.TRUE:
            message = f"the path leads through a value that {_HOLDERS[items is None]} does not have"
            self._guard(items, place.inside, {"loc": loc, "msg": message, "type": "no_path"})
        return place

    def _add_value(self, items: Items | None, place: Place, value: Any, loc: Loc) -> None:
        if isinstance(value, Change):
            operator, operand = value.operator, value.operand(place)
            if items is not None and operator == TOGGLE:
                raise RefusedError("Toggle does not change items of a list; set the value")
            within = value.within(place)
            if within is not Domain.TRUE:
                self._guard(items, within, _outside(loc, place.field, value))
        else:
            operator, operand = "$set", place.checked(value)
        path = place.db_path if items is None else items.stored(place.db_path)
        self.operators.setdefault(operator, {})[path] = operand

    def _add_items(self, outer: Items | None, place: Place, change: UpdateItems, loc: Loc) -> None:
        item = item_field(place)
        known: list[tuple[Domain, Places]] = []
        for domain, values in change.parts:
            check_item_domain(item, domain)
            items = self._items(outer, place, item, domain, loc)
            places: Places = {}
            for path, value in values.items():
                self.add(items, partial(find_place_in_item, item), path, value, places)
            for other, other_places in known:
                if any(overlap(one, two) for one in places for two in other_places):
                    both = items._replace(domain=domain & other)
                    message = "an item fulfils both domains, which change the same value of it"
                    detail: ErrorDetail = {"loc": loc, "msg": message, "type": "change"}
                    self.guards.append(Guard(~both.some(Domain.TRUE), detail))
            known.append((domain, places))

    def _items(
        self, outer: Items | None, place: Place, item: Any, domain: Domain, loc: Loc
    ) -> Items:
        """Return the items of a list that fulfil a domain, and give them a name."""
        path = place.db_path
        if outer is not None:
            # The server refuses an item that lacks the list, so only those with a match are chosen.
            having = outer.domain & condition(place.path, "elem", domain)
            outer = self._items(outer.outer, outer.place, outer.item, having, outer.loc)
            path = outer.stored(path)
        items = Items(outer, place, item, domain, path, f"i{len(self.items)}", loc)
        self.items.append(ItemFilter(items.name, path, domain, schema_inside(item)))
        return items

    def _guard(self, items: Items | None, domain: Domain, detail: ErrorDetail) -> None:
        self.guards.append(Guard(domain if items is None else items.every(domain), detail))


def loc_of(path: object) -> Loc:
    """Return the location of a problem at a dotted path: names, and positions in lists."""
    return tuple(int(part) if is_position(part) else part for part in str(path).split("."))


def _outside(loc: tuple[str | int, ...], field: Field[Any, Any], change: Change) -> ErrorDetail:
    low, high = bounds(field)
    ends = [
        f"{word} {bound}"
        for word, bound in (("at least", low), ("at most", high))
        if bound is not None
    ]
    message = f"{type(change).__name__} would take it out of bounds: {' and '.join(ends)}"
    return {"loc": loc, "msg": message, "type": "out_of_bounds"}


def _refuse_conflict(place: Place, places: Places) -> None:
    new = place.db_path
    for known, given in places.items():
        if overlap(known, new):
            raise RefusedError(f"{given!r} changes the same value in the same write")
    places[new] = place.path
