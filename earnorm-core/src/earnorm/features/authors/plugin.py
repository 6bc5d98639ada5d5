"""``created_by`` and ``updated_by``: creates and writes set them to the acting principal's id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from earnorm.fields.authors import Author
from earnorm.kernel.document_steps import DocumentBatch
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.steps import ALL, Stage, Step, Way

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.views import ModelView

_REFUSED = "says who acted, and takes nobody else's id; earnorm.system(reason=...) may give one"


class AuthorsPlugin:
    """Sets the author fields of each document."""

    api = API
    name = "authors"

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Return the model's first author field."""
        return next((f"the field {f.name!r}" for f in _authors_of(model)), None)

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        """Return the step, for models with author fields only: the others pay nothing for it."""
        fields = _authors_of(model)
        if fields:
            # A write of computed values has no author.
            ways = ALL & ~Way.DERIVED
            return [Step(Stage.STAMP, "authors", _SetAuthors(fields), ways, in_parts=True)]
        return ()


def _authors_of(model: ModelView) -> list[Author]:
    return [f for f in model.fields.values() if f.stored and isinstance(f, Author)]


class _SetAuthors:
    def __init__(self, fields: Sequence[Author]) -> None:
        self._fields = fields
        self._on_writes = [field for field in fields if field.on_write]

    def __call__(self, batch: DocumentBatch) -> None:
        principal = batch.env.principal
        author = None if principal is None else principal.id
        if not batch.env.system:
            self._refuse_others(batch, author)
        for field in self._fields if batch.op.name == "create" else self._on_writes:
            batch.fill(field.name, author)

    def _refuse_others(self, batch: DocumentBatch, author: str | None) -> None:
        for field in self._fields:
            for row in batch.rows:
                if row.has(field.name) and row.get(field.name) != author:
                    row.refuse(field.name, _REFUSED, "author")
