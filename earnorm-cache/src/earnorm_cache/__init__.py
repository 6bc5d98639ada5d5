"""The cache plugin of EarnORM. Only the names in ``__all__`` are public."""

from __future__ import annotations

from earnorm_cache.cache import Cache, CacheStatistics
from earnorm_cache.figures import SharedFigures
from earnorm_cache.plugin import CachePlugin
from earnorm_cache.settings import CacheSettings

__version__ = "0.1.0"

__all__ = ["Cache", "CachePlugin", "CacheSettings", "CacheStatistics", "SharedFigures"]
