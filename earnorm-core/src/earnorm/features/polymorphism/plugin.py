"""Several classes in one collection: a member's operations are about its own kinds, and what the root changes is
changed as a record of its own class, so that the layers of each class see it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from earnorm.features.polymorphism.family import Family, family_of
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.layers import Layer, Middleware
from earnorm.kernel.operations import JUDGED, Call, Operation
from earnorm.kernel.reading import Reading
from earnorm.kernel.sending import SENDER

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.operations import OperationName
    from earnorm.kernel.views import ModelView
    from earnorm.model.base import BaseModel


class PolymorphismPlugin:
    """Narrows the operations of a member, and hands changes to the classes that they are about."""

    api = API
    name = "polymorphism"

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Models that share a collection with others."""
        return "_discriminator" if model.attribute("_discriminator") else None

    @hookimpl
    def register_reading(self, app: App, model: ModelView) -> Reading | None:
        """Records of the class that each document names; the discriminator is always fetched."""
        if model.attribute("_root") is None:
            return None
        needs = frozenset({model.attribute("_discriminator")})
        return Reading(needs=needs, classes=Family(app, model.cls))

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Models with a discriminator only: every other one keeps its way."""
        if model._root is None or operation == "create":
            return
        if model._identity != model._name:
            # Outside of everything, so that rules, audits and caches see what it is about.
            yield Layer.FAMILY, _narrow
        if operation in ("write", "unlink"):
            # Inside of the rules, which refuse all of it or nothing.
            yield Layer.MEMBERS, _hand_on


async def _narrow(op: Operation, call_next: Call) -> Any:
    family = family_of(op.app.bind(op.model))
    return await call_next(op.replace(domain=op.domain & family.of_kinds(family.members)))


async def _hand_on(op: Operation, call_next: Call) -> int:
    family = family_of(op.app.bind(op.model))
    others = family.others()
    if not others:
        done: int = await call_next(op)
        return done
    # The bulk that an operation waits for is sent as a whole; these have to go by themselves.
    part = op.replace(notes={k: v for k, v in op.notes.items() if k is not SENDER})
    part = part.with_note(JUDGED, True)
    done = 0
    for kind, each in others.items():
        if done and not op.options.many:
            return done
        domain = op.domain & family.of_kinds([kind])
        done += await op.app.execute(part.replace(model=each.model, domain=domain))
    if done and not op.options.many:
        return done
    rest: int = await call_next(op.replace(domain=op.domain & ~family.of_kinds(others)))
    return done + rest
