"""Sequence fields: numbers new records, with one round trip for each counter of a batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from earnorm.features.sequences.counters import counter_model, sequence
from earnorm.fields.sequences import Sequence
from earnorm.kernel.document_steps import DocumentBatch
from earnorm.kernel.environment import use_env
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.steps import Stage, Step

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.views import ModelView
    from earnorm.model.base import BaseModel


class SequencesPlugin:
    """Sets the Sequence fields of new records."""

    api = API
    name = "sequences"

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Return the model's first Sequence field."""
        return next((f"the field {f.name!r}" for f in _numbered(model)), None)

    @hookimpl
    def models_changed(self, app: App, models: Iterable[type[BaseModel]]) -> None:
        """Make the counters' model with the first gap-free field.

        So its collection is prepared before a transaction begins: one that appears meanwhile, for the
        first number of any sequence, would end the transaction.
        """
        known = models if app.is_started else app.usable_models()
        if any(map(_counts_in_transactions, known)):
            counter_model()

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        """Return the step, for models with Sequence fields only: the others pay nothing for it."""
        fields = _numbered(model)
        if fields:
            counted = [(field, _counted_in(model, field)) for field in fields]
            return [Step(Stage.STAMP, "sequences", _SetNumbers(counted), on="create")]
        return ()


def _numbered(model: ModelView) -> list[Sequence]:
    return [f for f in model.fields.values() if f.stored and isinstance(f, Sequence)]


def _counts_in_transactions(model: type[BaseModel]) -> bool:
    return any(
        field.stored and isinstance(field, Sequence) and field.gap_free
        for field in model._schema.fields.values()
    )


def _counted_in(model: ModelView, field: Sequence) -> str:
    """Return the model whose counter numbers a field.

    A unique field that several classes of a collection inherit is counted in all of them together.
    """
    root = model.attribute("_root")
    if root is None or not field.unique:
        return model.name
    classes: list[Any] = list(reversed(model.cls.__mro__))
    for cls in classes:
        if getattr(cls, "_root", None) is root:
            inherited = cls._schema.fields.get(field.name)
            if isinstance(inherited, Sequence) and inherited.format == field.format:
                name: str = cls._name
                return name
    return model.name


class _SetNumbers:
    def __init__(self, fields: list[tuple[Sequence, str]]) -> None:
        self._fields = fields

    async def __call__(self, batch: DocumentBatch) -> None:
        now = batch.now
        for field, model in self._fields:
            missing = [row for row in batch.rows if not row.has(field.name)]
            if not missing:
                continue
            counter = sequence(field.counter(model, now), gap_free=field.gap_free)
            with use_env(batch.env):
                numbers = await counter.take(len(missing))
            for row, number in zip(missing, numbers, strict=True):
                row.put(field.name, field.text(number, now))
