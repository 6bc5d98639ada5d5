"""``auto_now`` and ``auto_now_add``: the clock's fields, filled in on every way to the database.

The layer is the one place that sets them: ``save``, ``Query.update``, batches and a plugin's own
operations pass it. It sits inside the access rules, which judge what somebody asked for and not
what the clock adds, and outside the audit, which records what was stored. A value that is given
explicitly stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from earnorm.fields.temporal import Moment
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.layers import Layer, Middleware
from earnorm.kernel.operations import Call, Operation, Update
from earnorm.model.writing.stamps import clock

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.operations import OperationName
    from earnorm.model.base import BaseModel


class TimestampsPlugin:
    """Sets the fields that the clock sets."""

    api = API
    name = "timestamps"

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Models with such fields only: every other one keeps its way."""
        fields = model._schema.generated
        if fields and operation == "create":
            return [(Layer.SECURITY + 50, _Creating(fields))]
        on_writes = [field for field in fields if field.auto_now]
        if on_writes and operation == "write":
            return [(Layer.SECURITY + 50, _Writing(on_writes))]
        return ()


def _stored(fields: Sequence[Moment[Any, Any]], op: Operation) -> dict[str, Any]:
    now = op.options.at or clock()
    return {field.db_name: field.encode(field.at(now)) for field in fields}


class _Creating:
    def __init__(self, fields: Sequence[Moment[Any, Any]]) -> None:
        self._fields = fields

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        values = _stored(self._fields, op)
        assert isinstance(op.values, list)
        documents = [_filled(document, values) for document in op.values]
        return await call_next(op.replace(values=documents))


def _filled(document: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    missing = {key: value for key, value in values.items() if document.get(key) is None}
    return {**document, **missing}


class _Writing:
    def __init__(self, fields: Sequence[Moment[Any, Any]]) -> None:
        self._fields = fields

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        if op.options.recompute:
            return await call_next(op)
        values = _stored(self._fields, op)

        def touched(update: Update) -> Update:
            missing = values.keys() - update.keys
            if not missing:
                return update
            return update.merged("$set", {key: values[key] for key in missing})

        return await call_next(op.map_updates(touched))
