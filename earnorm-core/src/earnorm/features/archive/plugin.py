"""Archived records: searches leave them out unless they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from earnorm.domain import condition
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.serving.reading import Reading

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.views import ModelView

# A document that is older than the model's mixin has no such key, and counts as not archived.
NOT_ARCHIVED: Final = condition("active", "!=", False)


class ArchivePlugin:
    """Adds the condition "not archived" to the searches of models that can archive."""

    api = API
    name = "archive"

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Return ``_soft_delete`` if the model's records can be archived."""
        return "_soft_delete" if model.attribute("_soft_delete") else None

    @hookimpl
    def register_reading(self, app: App, model: ModelView) -> Reading | None:
        """Return the condition, for models that can archive."""
        return Reading(base_domain=NOT_ARCHIVED) if model.attribute("_soft_delete") else None
