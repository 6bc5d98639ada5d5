"""The content of File fields goes with its record, whichever way the record is deleted."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial, reduce
from operator import or_
from typing import TYPE_CHECKING, Any

from earnorm.domain import condition
from earnorm.features.files.stored import discard, file_fields, files_of
from earnorm.fields.files import File
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.layers import Layer, Middleware
from earnorm.kernel.operations import Call, Operation, Options

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.operations import OperationName
    from earnorm.kernel.views import ModelView
    from earnorm.model.base import BaseModel

_REASON = "find the files of records that are deleted"


class FilesPlugin:
    """Deletes files with their records."""

    api = API
    name = "files"

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Models with files."""
        return next((f"the field {f.name!r}" for f in file_fields(model.fields)), None)

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Models with files only: every other one keeps its way."""
        files = file_fields(model._schema.fields)
        if files and operation == "unlink":
            # Innermost but for a cache: what an outer layer leaves out is not deleted.
            return [(Layer.CONTENT, _Unlinking(files))]
        return ()


class _Unlinking:
    def __init__(self, fields: tuple[File, ...]) -> None:
        self._fields = fields

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        has_file = reduce(or_, (condition(f"{f.name}.id", "!=", None) for f in self._fields))
        names = frozenset({"_id", *(field.name for field in self._fields)})
        look = op.child(
            "search",
            op.model,
            op.domain & has_file,
            options=Options(fields=names),
            origin="files",
            env=op.env.replace(system=True, reason=_REASON),
        )
        documents = await op.app.execute(look)
        result = await call_next(op)
        for field in self._fields:
            # Which of them are really gone is asked again: one may have been left alone.
            ids = files_of(documents, field)
            if ids:
                op.after_durable(partial(discard, op.app, op.model, field, ids))
        return result
