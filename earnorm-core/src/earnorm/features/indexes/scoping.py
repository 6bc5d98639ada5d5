"""Puts the scope of a model, and that of a numbered field, in front of the keys of unique indexes.

So a value is unique among the records with one value of the scope: a tenant's, a project's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from earnorm.backends.base import IndexSpec
from earnorm.exceptions import ConfigurationError
from earnorm.kernel.scoping import scopes_of
from earnorm.kernel.views import ModelView

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel


def scoped(model: type[BaseModel], spec: IndexSpec) -> IndexSpec:
    """Return an index with the scopes that its declaration leaves to the model; else the index itself.

    Raises:
        ConfigurationError: It is an index that can have one key only.
    """
    if not spec.options.get("unique"):
        return spec
    keys, fields = [key for key, _ in spec.keys], model._schema.fields
    scopes = (fields[name].db_name for name in scopes_of(ModelView(model), keys))
    added = [key for key in scopes if key not in keys]
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


def _any_is_there(keys: list[str]) -> dict[str, Any]:
    conditions = [{key: {"$exists": True}} for key in keys]
    return conditions[0] if len(conditions) == 1 else {"$or": conditions}
