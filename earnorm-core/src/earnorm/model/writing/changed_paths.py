"""Writes the changed fields of an embedded object by their paths: ``{"$set": {"main.qty": 2}}``.

So two programs that change different fields of one object keep the changes of both. It is done
where an object was loaded, on condition that it still is one. An object that was assigned is
written whole, and so are list items and the values of dicts: a path through a position would change
another item after an insertion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from earnorm.domain import Domain, condition
from earnorm.exceptions import ConcurrencyError, ValidationError
from earnorm.fields.base import MISSING, Field, is_embedded
from earnorm.kernel.operations import Update
from earnorm.model.reading.fetch import Part, part_of
from earnorm.model.slots import pending_of
from earnorm.model.writing.pending import changed_fields, same, stored_before
from earnorm.model.writing.snapshots import Snapshot

if TYPE_CHECKING:
    from earnorm.model.embedded import EmbeddedModel
    from earnorm.model.schema import Schema


def note_paths(sent: Snapshot) -> None:
    """Note in the snapshots of loaded objects which of their fields have changed."""
    structure = sent.structure
    pending = pending_of(structure)
    for name, part in sent.parts.items():
        is_whole = name in pending.changes or name in pending.originals
        if type(part) is Snapshot and not is_whole:
            part.changed = changed_fields(part.structure)
            part.before = stored_before(part.structure)
            note_paths(part)


def by_paths(schema: Schema, update: Update, sent: Snapshot, values: Mapping[str, Any]) -> Update:
    """Return an update of whole fields with the changed paths of embedded objects in their place.

    Args:
        schema: The model's fields.
        update: The update, which sets the fields.
        sent: The snapshot of the changes.
        values: The validated values by name.
    """
    assigned = update.operators.get("$set", {})
    paths = _Paths()
    whole: set[str] = set()
    for name, part in sent.parts.items():
        field, value = schema.fields[name], values.get(name)
        if type(part) is not Snapshot or part.changed is None or field.db_name not in assigned:
            continue
        if not is_embedded(value) or type(value) is not type(part.structure):
            continue  # a validator made something else of it
        paths.add(field, name, field.db_name, part, value, is_ruled=_is_ruled(schema, field))
        whole.add(field.db_name)
    if not whole:
        return update
    others = {key: value for key, value in assigned.items() if key not in whole}
    operators = {**update.operators, "$set": {**others, **paths.values}}
    if not operators["$set"]:
        del operators["$set"]
    where = paths.where if update.where is Domain.TRUE else update.where & paths.where
    expect = {**paths.expected, **update.expect}
    return replace(update, operators=operators, expect=expect, where=where)


def refuse_displaced(error: ValidationError, sent: Iterable[Snapshot]) -> None:
    """Raise another error where the database refused a path because its object is gone.

    Raises:
        ConcurrencyError: The error is of that kind, and such a path was sent.
    """
    names = {
        n for snapshot in sent for n, p in snapshot.parts.items() if type(p) is Snapshot and p.sent
    }
    if names and any(detail["type"] == "change" for detail in error.errors()):
        raise ConcurrencyError(
            f"{error.subject}: {' or '.join(sorted(names))} is no object in the database any more, as "
            f"it was when it was read; refresh() the record and try again"
        ).coded("displaced") from error


def _is_ruled(schema: Schema, field: Field[Any, Any]) -> bool:
    """Return whether a rule may have looked at the whole object."""
    if field.validators or field.async_validators:
        return True
    return schema.rules is not None and schema.rules.hindering(field.name) is not None


@dataclass(eq=False, slots=True)
class _Paths:
    """Collects the changed paths of objects.

    Attributes:
        values: The stored values by stored path.
        expected: The stored values that must still be there, by stored path.
        where: The condition that the objects are still there.
    """

    values: dict[str, Any] = field(default_factory=dict[str, Any])
    expected: dict[str, Any] = field(default_factory=dict[str, Any])
    where: Domain = Domain.TRUE

    def add(
        self,
        field: Field[Any, Any],
        path: str,
        db_path: str,
        part: Snapshot,
        fresh: EmbeddedModel,
        *,
        is_ruled: bool,
    ) -> None:
        """Add the changed fields of one object.

        Args:
            field: The field that holds it.
            path: The path of the object.
            db_path: Its stored path.
            part: Its snapshot.
            fresh: The validated object.
            is_ruled: A rule may have looked at the whole object around it, so what the rule saw of
                the unchanged fields must still be there.
        """
        schema = type(fresh)._schema
        is_ruled = is_ruled or schema.rules is not None
        exists = condition(path, "!=", None)
        kinds = field.contents().kinds
        if kinds is not None:  # an object of another kind may be in its place
            exists &= condition(f"{path}.{kinds.name}", "=", part.before.get(kinds.key))
        self.where = exists if self.where is Domain.TRUE else self.where & exists
        assert part.changed is not None
        names = set(part.changed)
        if is_ruled:
            names |= _changed_by_rules(schema, part, fresh)
        part.sent = frozenset(names)
        state, lacks = fresh.__dict__, part_of(fresh)
        for inner in schema.stored:
            key, name = f"{db_path}.{inner.db_name}", inner.name
            if name not in names:
                if is_ruled:
                    self._expect(inner, key, part.before, lacks)
                continue
            value, below = state.get(name), part.parts.get(name)
            if (
                type(below) is Snapshot
                and below.changed is not None
                and is_embedded(value)
                and type(value) is type(below.structure)
            ):
                self.add(inner, f"{path}.{name}", key, below, value, is_ruled=is_ruled)
            else:
                self.values[key] = inner.encode(value)

    def _expect(
        self, inner: Field[Any, Any], key: str, before: Mapping[str, Any], lacks: Part | None
    ) -> None:
        """Demand that an unchanged field still has the value that a rule may have seen.

        Args:
            inner: The field.
            key: Its stored path.
            before: The stored form of the object without its changes.
            lacks: The loading state of the object; None if it was fetched whole.
        """
        name, value = inner.name, before.get(inner.db_name)
        below = None if lacks is None else lacks.parts.get(name)
        if lacks is not None and lacks.seen:
            value = lacks.seen.get(inner.db_name)
        elif below is not None and type(value) is dict:
            for deeper in inner.structure._schema.stored:
                self._expect(deeper, f"{key}.{deeper.db_name}", value, below)
            return
        elif lacks is not None and not lacks.has(name) and inner.db_name not in before:
            return  # it was not fetched, so no rule can have seen it
        elif below is not None:
            return  # of items of a list only some fields are known
        self.expected[key] = value


def _changed_by_rules(schema: Schema, part: Snapshot, fresh: EmbeddedModel) -> set[str]:
    """Return the fields to which a validator gave another value."""
    names: set[str] = set()
    for inner in schema.stored:
        value = inner.encode(fresh.__dict__.get(inner.name))
        before = part.before.get(inner.db_name, MISSING)
        if before is MISSING:
            if value is not None and not same(value, inner.encode(inner.default_value())):
                names.add(inner.name)
        elif not same(value, before):
            names.add(inner.name)
    return names
