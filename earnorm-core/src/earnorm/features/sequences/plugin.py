"""Sequence fields: numbered when records are created, with one round trip for each counter of a batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from earnorm.fields.sequences import Sequence
from earnorm.kernel.environment import use_env
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.layers import Layer, Middleware
from earnorm.kernel.operations import Call, Operation
from earnorm.model.writing.stamps import clock

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.operations import OperationName
    from earnorm.model.base import BaseModel


class SequencesPlugin:
    """Fills Sequence fields in."""

    api = API
    name = "sequences"

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Models with such fields only: every other one keeps its way."""
        fields = model._schema.numbered
        if fields and operation == "create":
            return [(Layer.SECURITY + 50, _Numbering(fields))]
        return ()


class _Numbering:
    def __init__(self, fields: tuple[Sequence, ...]) -> None:
        self._fields = fields

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        from earnorm.features.sequences.counters import (
            sequence,  # which is a model, and so above this
        )

        at = op.options.at or clock()
        assert isinstance(op.values, list)
        documents = [dict(document) for document in op.values]
        for field in self._fields:
            missing = [each for each in documents if each.get(field.db_name) is None]
            if not missing:
                continue
            counter = sequence(field.counter(op.model._name, at), gap_free=field.gap_free)
            with use_env(op.env):
                numbers = await counter.take(len(missing))
            for document, number in zip(missing, numbers, strict=True):
                document[field.db_name] = field.text(number, at)
        if op.options.numbers is not None:
            keys = {field.name: field.db_name for field in self._fields}
            for document in documents:
                values = {name: document[key] for name, key in keys.items()}
                op.options.numbers[document["_id"]] = values
        return await call_next(op.replace(values=documents))
