"""The settings in ``init(..., pool={...})``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PoolSettings(BaseModel):
    """The thresholds of the health check, and the interval of the search for stale connections."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    usage_threshold: float = Field(default=0.9, gt=0, le=1)
    """From this share of ``max_pool_size`` in use, the health is degraded."""
    failure_window: float = Field(default=60.0, gt=0)
    """A check-out that failed degrades the health for this many seconds."""
    cleanup_interval: float | None = Field(default=30.0, gt=0)
    """Seconds between two searches for stale connections that nobody uses; None leaves it to
    ``cleanup_stale()``. Nothing runs in an App without ``max_lifetime`` and ``idle_timeout``."""
