"""Layers for several classes in one collection.

A member's operations are restricted to its own kinds. An operation of the root changes each record
by an operation of the record's own class, so that the layers of that class see it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from earnorm.features.polymorphism.family import Family, family_of
from earnorm.features.polymorphism.parts import change_by_class, is_refused_in_part
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.layers import Layer, Middleware
from earnorm.kernel.operations import Call, Operation
from earnorm.kernel.serving.reading import Reading
from earnorm.kernel.transactions.layer import in_transaction_if

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.operations import OperationName
    from earnorm.kernel.views import ModelView
    from earnorm.model.base import BaseModel


class PolymorphismPlugin:
    """Restricts the operations of a member, and passes changes to the classes of their records."""

    api = API
    name = "polymorphism"

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Return ``_discriminator`` if the model has one."""
        return "_discriminator" if model.attribute("_discriminator") else None

    @hookimpl
    def register_reading(self, app: App, model: ModelView) -> Reading | None:
        """Return the family, which gives records their class; it needs the discriminator's value."""
        if model.attribute("_root") is None:
            return None
        needs = frozenset({model.attribute("_discriminator")})
        return Reading(needs=needs, classes=Family(app, model.cls))

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Yield the layers, for models with a discriminator only: the others pay nothing for it."""
        if model._root is None or operation == "create":
            return
        if model._identity != model._name:
            # This is the outermost layer, so that rules, audits and caches see the restricted
            # domain.
            yield Layer.FAMILY, _restrict
        if operation in ("write", "unlink"):
            # This layer lies inside the rules, which refuse the operation as a whole or not at all.
            yield Layer.MEMBERS, change_by_class
        if operation == "write":
            # A step of one class may refuse its part when the part of another class is written.
            yield Layer.TRANSACTION, in_transaction_if(is_refused_in_part)


async def _restrict(op: Operation, call_next: Call) -> Any:
    family = family_of(op.app.bind(op.model))
    return await call_next(op.replace(domain=op.domain & family.of_kinds(family.members)))
