"""The settings in ``init(..., cache={...})``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class CacheSettings(BaseModel):
    """The settings of the cache of one App.

    Attributes:
        max_entries: The most records kept, over all models; beyond it, the one that was read
            longest ago is dropped.
        ttl: Seconds after which a kept record is read from the database again. It limits the age of
            a value that another process has changed.
        models: Names of the only models that are cached; None means all. A model's own
            ``_cache = True`` or ``_cache = False`` has precedence over this list.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_entries: int = Field(default=10_000, ge=1)
    ttl: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    models: list[str] | None = None
