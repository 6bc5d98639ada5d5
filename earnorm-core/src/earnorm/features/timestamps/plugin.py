"""``auto_now`` and ``auto_now_add``: the clock's fields, filled in on every way to the database.

The step is the one place that sets them: ``save``, ``Query.update``, batches and a plugin's own operations pass it.
A value that is given explicitly stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from earnorm.fields.temporal import Moment
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.steps import DocumentBatch, Stage, Step, Way

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.views import ModelView

_NEW = Way.CREATE | Way.CREATE_MANY


class TimestampsPlugin:
    """Sets the fields that the clock sets."""

    api = API
    name = "timestamps"

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Models with fields that the clock sets."""
        return next((f"the field {f.name!r}" for f in _generated(model)), None)

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        """Models with such fields only: every other one keeps its way."""
        fields = _generated(model)
        if fields:
            return [Step(Stage.STAMP, "timestamps", _Stamping(fields))]
        return ()


def _generated(model: ModelView) -> list[Moment[Any, Any]]:
    moments = [f for f in model.fields.values() if f.stored and isinstance(f, Moment)]
    return [field for field in moments if field.generated]


class _Stamping:
    def __init__(self, fields: Sequence[Moment[Any, Any]]) -> None:
        self._fields = fields
        self._on_writes = [field for field in fields if field.auto_now]

    def __call__(self, batch: DocumentBatch) -> None:
        is_new = batch.op.name == "create"
        if not is_new and batch.way is Way.DERIVED:
            return
        for field in self._fields if is_new else self._on_writes:
            batch.fill(field.name, field.at(batch.now))
