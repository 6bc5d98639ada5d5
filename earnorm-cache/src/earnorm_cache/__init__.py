"""The cache plugin of EarnORM. Only the names in ``__all__`` are public."""

from __future__ import annotations

from earnorm_cache.figures import CacheStatistics, SharedFigures
from earnorm_cache.functions import cached
from earnorm_cache.options import Cache
from earnorm_cache.plugin import CachePlugin
from earnorm_cache.service import CacheService
from earnorm_cache.settings import CacheSettings

__version__ = "0.1.0"

__all__ = [
    "Cache",
    "CachePlugin",
    "CacheService",
    "CacheSettings",
    "CacheStatistics",
    "SharedFigures",
    "cached",
]
