"""What ``init(..., cache={...})`` takes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class CacheSettings(BaseModel):
    """The settings of the cache of one App.

    Attributes:
        max_entries: Most records kept, over all models; beyond it the one that was read longest
            ago is dropped.
        ttl: Seconds after which a kept record is read from the database again. It bounds how old a
            value may be that another process changed.
        models: Names of the only models that are cached; None means all. A model's own
            ``_cache = True`` or ``_cache = False`` decides before this list does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_entries: int = Field(default=10_000, ge=1)
    ttl: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    models: list[str] | None = None
