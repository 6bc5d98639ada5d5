"""The cache plugin of EarnORM. What it exports is what it promises; the rest of the package is private."""

from __future__ import annotations

from earnorm_cache.cache import Cache, CacheStatistics
from earnorm_cache.plugin import CachePlugin
from earnorm_cache.settings import CacheSettings

__version__ = "0.1.0"

__all__ = ["Cache", "CachePlugin", "CacheSettings", "CacheStatistics"]
