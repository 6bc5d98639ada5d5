"""Tells within which fields a value is unique, and a record is numbered: a tenant's, a project's."""

from __future__ import annotations

from collections.abc import Iterable

from earnorm.exceptions import DomainError
from earnorm.fields.sequences import Sequence
from earnorm.kernel.views import ModelView


def scopes_of(model: ModelView, keys: Iterable[str]) -> list[str]:
    """Return the fields that scope a unique index or a number: the model's own scope, then the field's.

    Args:
        model: The model.
        keys: The stored paths of the index, or that of the numbered field.
    """
    keys, scope, stored = list(keys), model.scope, model.stored
    is_across = scope is not None and any(
        {_stored_path(model, path) for path in paths} == set(keys) for paths in scope.across
    )
    names = [] if scope is None or is_across else [scope.field]
    field = stored.get(keys[0]) if len(keys) == 1 else None
    if isinstance(field, Sequence) and field.scope and field.scope not in names:
        names.append(field.scope)
    return names


def _stored_path(model: ModelView, path: str) -> str:
    try:
        return model.schema.resolve(path).db_path
    except DomainError:
        return path  # it is no field of the model, and so no key of its indexes
