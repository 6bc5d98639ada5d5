"""Finds the fields with a default inside embedded objects, and fills them in in stored values.

An object that lies in a list or a dict has no path of its own that an update could name, so a value
is filled in here and written whole, on condition that it is still the one that was read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from earnorm.domain import Domain, Or, condition
from earnorm.exceptions import ValidationError, located
from earnorm.fields.base import Field
from earnorm.model.schema import Schema


def has_default(field: Field[Any, Any]) -> bool:
    """Return whether a document may lack the default of a field."""
    return field.stored and field.default is not None and not (field.is_derived or field.generated)


@dataclass(frozen=True, slots=True)
class InsideOf:
    """The fields with a default inside one field of a model.

    Attributes:
        root: The field of the model.
        paths: The paths of these fields; items of lists and values of dicts add nothing to a path.
        is_single: No list and no dict is on the way to any of them.
    """

    root: Any
    paths: frozenset[str]
    is_single: bool

    def only(self, paths: Collection[str]) -> InsideOf:
        """Return the same without all other paths."""
        return InsideOf(self.root, self.paths & frozenset(paths), self.is_single)

    @property
    def lacking(self) -> Domain:
        """The domain of the documents that may lack one of the defaults."""
        name = self.root.name
        domain = condition(name, "exists", True)
        if not self.is_single:
            return domain
        return domain & Or(condition(path, "exists", False) for path in sorted(self.paths))

    def filled(self, stored: Any) -> tuple[Any, frozenset[str]]:
        """Return a stored value with the defaults that it lacks, and their paths.

        Raises:
            ValidationError: A field does not accept its own default.
        """
        missing: set[str] = set()
        value = _fill(self.root, stored, self.root.name, self.paths, missing)
        return value, frozenset(missing)


def inside_of(root: Field[Any, Any]) -> InsideOf | None:
    """Return the fields with a default inside a field; None if there are none."""
    paths: set[str] = set()
    ways = list(_paths(root, root.name, is_single=True))
    paths.update(path for path, _ in ways)
    if not paths:
        return None
    return InsideOf(root, frozenset(paths), all(is_single for _, is_single in ways))


def _paths(field: Any, path: str, *, is_single: bool) -> Iterator[tuple[str, bool]]:
    below = field.contents().each
    if below is not None:
        yield from _paths(below, path, is_single=False)
        return
    for schema in _schemas(field):
        for inner in _given_inside(field, schema):
            if has_default(inner):
                yield f"{path}.{inner.name}", is_single
            yield from _paths(inner, f"{path}.{inner.name}", is_single=is_single)


def _schemas(field: Any) -> Iterator[Schema]:
    if field.structure is None:
        return
    kinds = field.contents().kinds
    classes = [field.structure] if kinds is None else kinds.classes().values()
    for cls in classes:
        yield cls._schema


def _given_inside(field: Any, schema: Schema) -> Iterator[Any]:
    kinds = field.contents().kinds
    for inner in schema.stored:
        if kinds is None or inner.name != kinds.name:  # the kind of an object is never changed
            yield inner


def _fill(field: Any, stored: Any, path: str, wanted: Collection[str], missing: set[str]) -> Any:
    """Return a stored value with the wanted defaults that it lacks, and note their paths."""
    contents = field.contents()
    item, values = contents.items, contents.values
    if item is not None:
        if not isinstance(stored, list):
            return stored
        return [_fill(item, one, path, wanted, missing) for one in stored]
    if not isinstance(stored, dict):
        return stored
    if values is not None:
        return {key: _fill(values, one, path, wanted, missing) for key, one in stored.items()}
    if field.structure is None:
        return stored
    schema = _schema_of(field, stored)
    filled: dict[str, Any] = dict(stored)
    for inner in _given_inside(field, schema):
        below = f"{path}.{inner.name}"
        if inner.db_name in filled:
            filled[inner.db_name] = _fill(inner, filled[inner.db_name], below, wanted, missing)
        elif below in wanted and has_default(inner):
            try:
                filled[inner.db_name] = inner.encode(schema.default_of(inner))
            except ValidationError as error:
                details = located(error.errors(), *below.split("."))
                raise ValidationError(error.subject, details) from None
            missing.add(below)
    return filled


def _schema_of(field: Any, stored: dict[str, Any]) -> Schema:
    """Return the fields of the object that a stored document is."""
    kinds = field.contents().kinds
    cls = field.structure if kinds is None else type(kinds.adopt(dict(stored)))
    schema: Schema = cls._schema
    return schema
