"""The step in the write path: new records get their slugs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from earnorm_slugs.naming import first_free, taken_slugs

if TYPE_CHECKING:
    from earnorm.plugin import DocumentBatch, DocumentRow

    from earnorm_slugs.fields import AutoSlug
    from earnorm_slugs.settings import SlugsSettings


class FillSlugs:
    """Fills in the slugs of new records that were given none.

    Args:
        fields: The fields of the model that have slugs.
        settings: The settings of the plugin.
    """

    def __init__(self, fields: Sequence[AutoSlug[Any]], settings: SlugsSettings) -> None:
        self._fields, self._settings = fields, settings

    async def __call__(self, batch: DocumentBatch) -> None:
        """Ask once for each field which slugs are taken, and fill in free ones."""
        for field in self._fields:
            rows = [(row, base) for row in batch.rows if (base := _base(row, field))]
            if not rows:
                continue
            longest = field.max_length or self._settings.max_length
            bases = {base for _, base in rows}
            taken = await taken_slugs(batch.env, batch.op.model, field, bases, longest, batch.op)
            for row, base in rows:
                slug = first_free(base, taken | self._settings.reserved, longest)
                row.fill(field.name, slug)
                taken.add(slug)


def _base(row: DocumentRow, field: AutoSlug[Any]) -> str | None:
    """Return the slug of the text of a new record; None if it has a slug, or no text."""
    text = row.get(field.source)
    if row.has(field.name) or not isinstance(text, str):
        if field.required and not row.has(field.name):
            row.refuse(field.name, f"a slug, or a text in {field.source!r}, is needed", "missing")
        return None
    return field.slug_of(text)
