"""Cache: what a model says about how it is cached, and what follows from it and the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from earnorm.exceptions import ConfigurationError
from earnorm.plugin import Attribute, Index, ModelView
from earnorm_cache.settings import CacheSettings

Level: TypeAlias = Literal["memory", "redis", "both"]
LEVELS: Final[tuple[object, ...]] = get_args(Level)
MOST_SECONDS: Final = 10 * 366 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """The way in which a model is cached: ``_cache = Cache(ttl=10)``. What it leaves out is as the settings say.

    Args:
        ttl: The most seconds that a record is kept.
        level: Keep its records in the memory of each process (``"memory"``), in Redis
            (``"redis"``), or in both.
        queries: Keep the results of its searches, counts and groups, too.
        strict: Refuse a write that Redis could not be told of before, so that no process ever
            reads an old value. Its records are kept in Redis alone.
        negative_ttl: The seconds for which it is remembered that an id has no record; 0 for not at
            all.

    Raises:
        ConfigurationError: A value is not valid.
    """

    ttl: float | None = None
    level: Level | None = None
    queries: bool | None = None
    strict: bool = False
    negative_ttl: float | None = None

    def __post_init__(self) -> None:
        if not (self.ttl is None or _is_time(self.ttl)):
            self._refuse("ttl", "is a time in seconds, at least 0.001")
        if not (self.negative_ttl is None or _is_time(self.negative_ttl, least=0)):
            self._refuse("negative_ttl", "is a time in seconds, or 0")
        if not (self.level is None or self.level in LEVELS):
            self._refuse("level", 'is "memory", "redis" or "both"')
        flags: dict[str, object] = {"queries": self.queries, "strict": self.strict}
        for name, flag in flags.items():
            if not (isinstance(flag, bool) or (flag is None and name == "queries")):
                self._refuse(name, "is True or False")
        if self.strict and self.level not in (None, "redis"):
            self._refuse("level", 'is "redis" where strict=True')

    def _refuse(self, name: str, expected: str) -> None:
        raise ConfigurationError(f"Cache({name}={getattr(self, name)!r}): {name} {expected}")


def _is_time(value: object, least: float = 0.001) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return least <= value <= MOST_SECONDS


@dataclass(frozen=True, slots=True)
class Kept:
    """The way in which the records of one model are kept in one App.

    Attributes:
        ttl: The most seconds.
        in_memory: Keep them in the memory of the process.
        in_redis: Keep them in Redis, where the App uses one.
        queries: Keep the results of queries, whichever query it is.
        strict: Refuse a write that Redis could not be told of before.
        negative_ttl: The seconds for which an absence is remembered; 0 for not at all.
    """

    ttl: float
    in_memory: bool
    in_redis: bool
    queries: bool
    strict: bool
    negative_ttl: float


_EXPIRY: Final = {"expire_after", "expireAfterSeconds"}


def expires(model: ModelView) -> bool:
    """Return whether the database deletes records of a model by itself when their time has come."""
    for entry in model.indexes:
        given = entry.options if isinstance(entry, Index) else entry
        if isinstance(given, Mapping) and not given.keys().isdisjoint(_EXPIRY):
            return True
    options = model.attribute("_options")
    if isinstance(options, Mapping):
        return options.get("expire_after") is not None
    return getattr(options, "expire_after", None) is not None


def levels_of(model: ModelView) -> Level:
    """Return the levels in which a model says that it may be kept."""
    chosen: object = model.attribute("_cache")
    if not isinstance(chosen, Cache):
        return "both"
    return "redis" if chosen.strict else chosen.level or "both"


def kept_as(model: ModelView, settings: CacheSettings) -> Kept | None:
    """Return how a model says its records are kept; None for a model that is not cached."""
    chosen: object = model.attribute("_cache")
    if chosen is False or model.secrets:
        return None  # whole documents are kept, and no secret is
    if not isinstance(chosen, Cache):
        if chosen is not True and settings.models is not None and model.name not in settings.models:
            return None
        chosen = Cache()
    level = levels_of(model)
    if level == "redis" and settings.redis_url is None:
        return None
    return Kept(
        ttl=settings.default_ttl if chosen.ttl is None else chosen.ttl,
        in_memory=level != "redis",
        in_redis=level != "memory",
        queries=settings.queries if chosen.queries is None else chosen.queries,
        strict=chosen.strict,
        negative_ttl=(
            settings.negative_ttl if chosen.negative_ttl is None else chosen.negative_ttl
        ),
    )


ATTRIBUTE: Final = Attribute("_cache", bool | Cache)
"""The class attribute of models. None, as without it, leaves everything to the settings."""
