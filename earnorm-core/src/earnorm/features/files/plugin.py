"""Deletes the content of File fields with its record, whatever operation deletes the record."""

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
    """Deletes the files of records that are deleted."""

    api = API
    name = "files"

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Return the model's first File field."""
        return next((f"the field {f.name!r}" for f in file_fields(model.fields)), None)

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Return the layer, for models with File fields only: the others pay nothing for it."""
        files = file_fields(model._schema.fields)
        if files and operation == "unlink":
            # Only a cache lies further inside: a record that an outer layer excludes keeps its
            # file.
            return [(Layer.CONTENT, _DeleteFiles(files))]
        return ()


class _DeleteFiles:
    def __init__(self, fields: tuple[File, ...]) -> None:
        self._fields = fields

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        has_file = reduce(or_, (condition(f"{f.name}.id", "!=", None) for f in self._fields))
        names = frozenset({"_id", *(field.name for field in self._fields)})
        search = op.child(
            "search",
            op.model,
            op.domain & has_file,
            options=Options(fields=names),
            origin="files",
            env=op.env.as_system(_REASON),
        )
        documents = await op.app.execute(search)
        result = await call_next(op)
        for field in self._fields:
            # discard() asks again which records still exist, because some may not have been
            # deleted.
            ids = files_of(documents, field)
            if ids:
                op.after_durable(partial(discard, op.app, op.model, field, ids))
        return result
