"""Which indexes a model declares, in the form that a backend creates."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from earnorm.backends.base import IndexSpec
from earnorm.exceptions import ConfigurationError, DomainError
from earnorm.fields.base import MISSING, Field

if TYPE_CHECKING:
    from earnorm.models import BaseModel

_KINDS = frozenset({"text", "2d", "2dsphere", "hashed"})


def declared_indexes(model: type[BaseModel]) -> list[IndexSpec]:
    """The indexes of a model: from ``unique`` and ``index`` of its fields, then from ``_indexes``.

    An entry of ``_indexes`` is ``{"email": 1}`` (keys in order; 1, -1 or a kind such as
    ``"text"``), or ``{"keys": [("email", 1)], "unique": True, …}`` with MongoDB's own options.
    One for the same keys as a field's own takes its place.

    Raises:
        ConfigurationError: An entry is malformed.
    """
    found: dict[tuple[tuple[str, int | str], ...], IndexSpec] = {}
    for spec in _of_fields(model):
        found[spec.keys] = spec
    for entry in model._indexes:
        spec = _of_entry(model, entry)
        previous = found.get(spec.keys)
        if previous is not None:
            # `unique=True` on the field and {"email": 1} in _indexes mean one unique index
            spec = IndexSpec(spec.keys, {**previous.options, **spec.options})
        found[spec.keys] = spec
    return list(found.values())


def _of_fields(model: type[BaseModel]) -> Iterator[IndexSpec]:
    for field in model._schema.stored:
        if field.name == "_id" or not (field.unique or field.index):
            continue
        keys = ((field.db_name, 1),)
        yield IndexSpec(keys, _unique_options(field) if field.unique else {})


def _unique_options(field: Field[Any, Any]) -> dict[str, Any]:
    """Unset values must not collide: a partial index leaves null and missing out, and the planner
    still uses it for a value of the field's own type."""
    if field.required:
        return {"unique": True}
    if field.index_floor is MISSING:
        return {"unique": True, "sparse": True}
    floor = {field.db_name: {"$gte": field.index_floor}}
    return {"unique": True, "partialFilterExpression": floor}


def _of_entry(model: type[BaseModel], entry: object) -> IndexSpec:
    if not isinstance(entry, Mapping) or not entry:
        raise ConfigurationError(
            f'{model.__name__}._indexes: {entry!r} is not an index; write {{"email": 1}}'
        )
    options: dict[str, Any] = {}
    pairs: list[tuple[str, int | str]] = []
    if "keys" in entry and not isinstance(entry["keys"], int):
        options = {key: value for key, value in entry.items() if key != "keys"}
        keys = entry["keys"]
        pairs = list(keys.items()) if isinstance(keys, Mapping) else [tuple(k) for k in keys]
    else:
        pairs = list(entry.items())
    for name, kind in pairs:
        if not isinstance(name, str) or (kind not in (1, -1) and kind not in _KINDS):
            raise ConfigurationError(
                f"{model.__name__}._indexes: {name!r}: {kind!r} is not a key with its direction "
                f"(1, -1) or kind ({', '.join(sorted(_KINDS))})"
            )
    return IndexSpec(tuple((_stored_path(model, n), k) for n, k in pairs), options)


def _stored_path(model: type[BaseModel], name: str) -> str:
    try:
        return model._schema.path_of(name)
    except DomainError:
        warnings.warn(
            f"{model.__name__}._indexes names {name!r}, which the model does not declare",
            stacklevel=2,
        )
        return name
