"""The plugin of the model layer, which every App needs, with or without features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.layers import Layer, Middleware
from earnorm.kernel.transactions.layer import in_transaction_if
from earnorm.model.reading.ordering import check_orders
from earnorm.model.reading.resolving import ResolveLayer
from earnorm.model.relations.commands import command_steps
from earnorm.model.relations.link_checks import LinkLayer, checks_links
from earnorm.model.relations.prefetch import check_relations

if TYPE_CHECKING:
    from earnorm.application import App
    from earnorm.kernel.operations import OperationName
    from earnorm.kernel.steps import Step
    from earnorm.kernel.views import ModelView
    from earnorm.model.base import BaseModel


class ModelPlugin:
    """Checks relations, resolves conditions about other records, and carries out commands."""

    api = API
    name = "model"

    @hookimpl
    def models_changed(self, app: App, models: Sequence[type[BaseModel]]) -> None:
        """Refuse to start with relations that point at no model or field.

        After the start nothing is checked, because a new model may point at one that is defined
        later. A new model or extension may hide records to which other models have links.
        """
        if app.is_started:
            if app.loaded.implementations("hides_records"):
                app.recompose()
            return
        catalog = app.catalog
        known = {n: dict(model._schema.fields) for n, model in catalog.definitions().items()}
        for name, extensions in catalog.extensions.items():
            for extension in extensions:
                known.setdefault(name, {}).update(extension.model._schema.fields)
        check_relations(models, known)
        usable = {model._name: model for model in app.usable_models()}
        for model in usable.values():
            check_orders(model, usable)

    @hookimpl
    def model_registered(self, app: App, model: type[BaseModel]) -> None:
        """Check the default order of a model, which may be defined after the start."""
        check_orders(model, {})

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Resolve domains of models with a path into another model, and check links to others.

        Writes and deletions resolve them in two layers: the principal's own conditions before inner
        layers read the records as the system, and then the conditions that such a layer adds.
        """
        bound = app.bind(model)
        layers: list[tuple[int, Middleware]] = []
        if operation in ("create", "write") and checks_links(app, bound):
            links = LinkLayer(bound)
            layers += [
                (Layer.TRANSACTION, in_transaction_if(links.needs_transaction)),
                (Layer.LINKS, links),
            ]
        if operation == "create" or not bound.schema.may_cross:
            return layers
        layer = ResolveLayer(bound)
        if operation in ("write", "unlink"):
            layers.append((Layer.ASK, layer))
        return [*layers, (Layer.RESOLVE, layer)]

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        """Yield the steps that carry out commands, for models with to-many fields."""
        return command_steps(model)
