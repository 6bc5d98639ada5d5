"""The pool plugin of EarnORM. Only the names in ``__all__`` are public."""

from __future__ import annotations

from earnorm_pool.figures import ConnectionInfo, Health, PoolMetrics, Statistics
from earnorm_pool.plugin import PoolPlugin
from earnorm_pool.pool import Pool
from earnorm_pool.settings import PoolSettings

__version__ = "0.1.0"

__all__ = [
    "ConnectionInfo",
    "Health",
    "Pool",
    "PoolMetrics",
    "PoolPlugin",
    "PoolSettings",
    "Statistics",
]
