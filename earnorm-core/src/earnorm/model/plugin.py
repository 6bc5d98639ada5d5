"""The plugin of the model room: what every App needs of it, whatever features it has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.layers import Layer, Middleware
from earnorm.model.reading.resolving import ResolveLayer
from earnorm.model.relations.commands import command_steps
from earnorm.model.relations.prefetch import check_relations

if TYPE_CHECKING:
    from earnorm.application import App
    from earnorm.kernel.operations import OperationName
    from earnorm.kernel.steps import Step
    from earnorm.kernel.views import ModelView
    from earnorm.model.base import BaseModel


class ModelPlugin:
    """Looks at the relations of an App's models, resolves what operations ask of other records, and has commands
    carried out."""

    api = API
    name = "model"

    @hookimpl
    def models_changed(self, app: App, models: Sequence[type[BaseModel]]) -> None:
        """Refuse a start with relations that lead nowhere. A model that is defined later may point at one
        that comes after it, so nothing is said of it then."""
        if app.is_started:
            return
        catalog = app.catalog
        known = {n: dict(model._schema.fields) for n, model in catalog.definitions().items()}
        for name, extensions in catalog.extensions.items():
            for extension in extensions:
                known.setdefault(name, {}).update(extension.model._schema.fields)
        check_relations(models, known)

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Resolve domains where a path may lead from the model into others.

        Those of changes in two places: what their principal asks is answered before inner layers look at the
        records as the system, and such a layer may ask in its turn.
        """
        bound = app.bind(model)
        if operation == "create" or not bound.schema.may_cross:
            return ()
        layer = ResolveLayer(bound)
        innermost = (Layer.RESOLVE, layer)
        return [(Layer.ASK, layer), innermost] if operation in ("write", "unlink") else [innermost]

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        """Models with to-many fields take commands."""
        return command_steps(model)
