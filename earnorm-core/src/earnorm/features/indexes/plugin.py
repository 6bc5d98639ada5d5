"""Prepares collections and indexes before a model's first operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from earnorm.features.indexes.preparation import prepare
from earnorm.kernel.hookspecs import API, hookimpl

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.views import ModelView


class IndexesPlugin:
    """Creates the indexes and collections that a model declares and the database does not have."""

    api = API
    name = "indexes"

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Return the declaration of indexes, options or rules that the model has."""
        for name in ("_indexes", "_options", "_validation"):
            if model.attribute(name):
                return name
        indexed = (f for f in model.stored.values() if f.unique or f.index or f.sparse)
        return next((f"an index of the field {f.name!r}" for f in indexed if f.name != "_id"), None)

    @hookimpl
    async def prepare_model(self, app: App, model: ModelView) -> None:
        """Create the declared collection, rules and indexes, unless ``create_indexes=False``."""
        if app.settings.create_indexes:
            bound = app.bind(model.cls)
            bound.has_collection |= await prepare(bound.model, bound._collection, bound.operators)
