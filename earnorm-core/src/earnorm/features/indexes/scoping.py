"""Puts the scope of a model, and that of a numbered field, in front of the keys of unique indexes.

So a value is unique among the records with one value of the scope: a tenant's, a project's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from earnorm.backends.base import IndexSpec
from earnorm.exceptions import ConfigurationError, DomainError
from earnorm.fields.sequences import Sequence
from earnorm.kernel.views import ModelView, Scope

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel


def scoped(model: type[BaseModel], spec: IndexSpec) -> IndexSpec:
    """Return an index with the scopes that its declaration leaves to the model; else the index itself.

    Raises:
        ConfigurationError: It is an index that can have one key only.
    """
    if not spec.options.get("unique"):
        return spec
    keys = [key for key, _ in spec.keys]
    added = [key for key in _scopes(model, keys) if key not in keys]
    if not added:
        return spec
    if "expireAfterSeconds" in spec.options:
        raise ConfigurationError(
            f"{model.__name__}: a unique index that expires documents has one key, and those of the model "
            f"begin with {added[0]!r}; take unique= or the expiry from {', '.join(keys)}"
        )
    options = dict(spec.options)
    if options.pop("sparse", False):
        # The scope is there in each document, so a sparse index would have all of them.
        options["partialFilterExpression"] = _any_is_there(keys)
    return IndexSpec((*((key, 1) for key in added), *spec.keys), options)


def _scopes(model: type[BaseModel], keys: list[str]) -> list[str]:
    schema, scope = model._schema, ModelView(model).scope
    names = [] if scope is None or frozenset(keys) in _across(model, scope) else [scope.field]
    if len(keys) == 1:
        field = schema.fields.get(schema.renamed.get(keys[0], keys[0]))
        if isinstance(field, Sequence) and field.scope and field.scope not in names:
            names.append(field.scope)
    return [schema.fields[name].db_name for name in names]


def _across(model: type[BaseModel], scope: Scope) -> set[frozenset[str]]:
    return {frozenset(_stored_path(model, path) for path in paths) for paths in scope.across}


def _stored_path(model: type[BaseModel], path: str) -> str:
    try:
        return model._schema.path_of(path)
    except DomainError:
        return path  # it is no field of the model, and so no key of its indexes


def _any_is_there(keys: list[str]) -> dict[str, Any]:
    conditions = [{key: {"$exists": True}} for key in keys]
    return conditions[0] if len(conditions) == 1 else {"$or": conditions}
