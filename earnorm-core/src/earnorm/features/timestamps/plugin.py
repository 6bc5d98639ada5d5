"""``auto_now`` and ``auto_now_add``: every create and write sets these fields to the current time.

Only this step sets them: ``save``, ``Query.update``, batches and a plugin's own operations run
through it. It keeps a value that is given explicitly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from earnorm.fields.temporal import Moment
from earnorm.kernel.document_steps import DocumentBatch
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.steps import Stage, Step, Way

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.views import ModelView


class TimestampsPlugin:
    """Sets the fields with ``auto_now`` or ``auto_now_add``."""

    api = API
    name = "timestamps"

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Return the first field with ``auto_now`` or ``auto_now_add``."""
        return next((f"the field {f.name!r}" for f in _of_the_clock(model)), None)

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        """Return the step, for models with such fields only: the others pay nothing for it."""
        fields = _of_the_clock(model)
        if fields:
            return [Step(Stage.STAMP, "timestamps", _SetTimes(fields), in_parts=True)]
        return ()


def _of_the_clock(model: ModelView) -> list[Moment[Any, Any]]:
    moments = [f for f in model.fields.values() if f.stored and isinstance(f, Moment)]
    return [field for field in moments if field.auto_now or field.auto_now_add]


class _SetTimes:
    def __init__(self, fields: Sequence[Moment[Any, Any]]) -> None:
        self._fields = fields
        self._on_writes = [field for field in fields if field.auto_now]

    def __call__(self, batch: DocumentBatch) -> None:
        is_new = batch.op.name == "create"
        if not is_new and batch.way is Way.DERIVED:
            return
        for field in self._fields if is_new else self._on_writes:
            batch.fill(field.name, field.at(batch.now))
