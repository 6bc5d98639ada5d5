"""``created_by`` and ``updated_by``: the acting principal's id, filled in on every way to the database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import ValidationError
from earnorm.fields.authors import Author
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.layers import Layer, Middleware
from earnorm.kernel.operations import Call, Operation, Update
from earnorm.model.writing.stamps import author_of

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.operations import OperationName
    from earnorm.model.base import BaseModel


class AuthorsPlugin:
    """Sets the fields that say who acted."""

    api = API
    name = "authors"

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Models with such fields only: every other one keeps its way."""
        fields = model._schema.authors
        if fields and operation == "create":
            return [(Layer.SECURITY + 50, _Creating(fields))]
        if fields and operation == "write":
            return [(Layer.SECURITY + 50, _Writing(fields))]
        return ()


def _refuse(op: Operation, field: Author) -> ValidationError:
    message = "says who acted, and takes nobody else's id; earnorm.system(reason=...) may give one"
    return ValidationError(
        op.model._name, [{"loc": (field.name,), "msg": message, "type": "author"}]
    )


class _Creating:
    def __init__(self, fields: Sequence[Author]) -> None:
        self._fields = fields

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        who = author_of(op)
        assert isinstance(op.values, list)
        documents = [self._filled(op, document, who) for document in op.values]
        return await call_next(op.replace(values=documents))

    def _filled(self, op: Operation, document: Any, who: str | None) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for field in self._fields:
            given = document.get(field.db_name)
            if given is None:
                values[field.db_name] = who
            elif given != who and not op.env.system:
                raise _refuse(op, field)
        return {**document, **values}


class _Writing:
    def __init__(self, fields: Sequence[Author]) -> None:
        self._fields = fields

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        if op.options.recompute:  # what is computed has no author
            return await call_next(op)
        who = author_of(op)

        def signed(update: Update) -> Update:
            keys = update.keys
            for field in self._fields:
                key = field.db_name
                if key not in keys:
                    if field.on_write:
                        update = update.merged("$set", {key: who})
                elif not op.env.system and update.operators.get("$set", {}).get(key, keys) != who:
                    raise _refuse(op, field)
            return update

        return await call_next(op.map_updates(signed))
