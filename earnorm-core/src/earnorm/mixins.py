"""Abstract bases for models: ``class Invoice(mixins.SoftDelete, mixins.Timestamps, BaseModel)``."""

from __future__ import annotations

from typing import Self

from earnorm.fields.annotations import Value
from earnorm.fields.authors import Author
from earnorm.fields.numeric import Boolean
from earnorm.fields.temporal import DateTime
from earnorm.model.query import Query
from earnorm.model.typed import keywords
from earnorm.models import BaseModel

__all__ = ["Authors", "SoftDelete", "Timestamps"]


class Timestamps(BaseModel):
    """The times of the creation and of the last write, in UTC, on every write path."""

    _abstract = True

    created_at = DateTime(auto_now_add=True, required=True, readonly=True, copy=False)
    updated_at = DateTime(auto_now=True, required=True, copy=False)


class Authors(BaseModel):
    """The ids of the principals that created and last wrote the record, on every write path."""

    _abstract = True

    created_by = Author(readonly=True, copy=False)
    updated_by = Author(on_write=True, copy=False)


@keywords(init=False)
class SoftDelete(BaseModel):
    """Records that can be archived: searches leave them out unless they are asked for.

    A search, count, group, update or delete of a query is about records that are not archived,
    unless its domain names ``active`` or it says ``with_archived()``. Access by id still loads and
    writes archived records: relations, ``get``, ``browse``, a record's own write. ``unlink``
    deletes.
    """

    _abstract = True
    _soft_delete = True

    active: Value[bool] = Boolean(required=True, default=True, copy=False)

    @classmethod
    def with_archived(cls) -> Query[Self]:
        """Return a query of all records, archived ones included."""
        return cls.search().with_archived()

    async def archive(self) -> Self:
        """Leave the record out of searches from now on."""
        return await self.write({"active": False})

    async def unarchive(self) -> Self:
        """Make searches find the record again."""
        return await self.write({"active": True})
