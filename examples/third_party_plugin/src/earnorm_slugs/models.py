"""The model: slugs that records had before, so that old addresses still lead to them."""

from __future__ import annotations

from earnorm import DateTime, Index, String, models


class FormerSlug(models.BaseModel):
    """A slug that a record had. Observers of other plugins are not told of it."""

    _name = "slugs.former"
    _bookkeeping = "slugs"
    _indexes = (Index("model", "field", "slug", unique=True), Index("record"))

    model = String(required=True)
    field = String(required=True)
    slug = String(required=True)
    record = String(required=True)
    since = DateTime(auto_now_add=True)
