"""The figures of both levels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """The figures of a cache since the App started.

    Attributes:
        hits: Records that were answered without the database.
        misses: Records that were not found in the cache and had to be loaded.
        invalidations: Kept records that were dropped because they were, or may have been, written.
        evictions: Kept records that were dropped to make room.
        entries: Records that are kept now.
        bytes: The memory that all kept records take, of whichever model.
        query_hits: Searches, counts and groups whose kept result was used.
        query_misses: Those whose result was not kept, or not any more.
    """

    hits: int = 0
    misses: int = 0
    invalidations: int = 0
    evictions: int = 0
    entries: int = 0
    bytes: int = field(default=0, compare=False)
    query_hits: int = 0
    query_misses: int = 0

    @property
    def hit_rate(self) -> float:
        """The share of hits among all records searched for, from 0 to 1; 0 before the first."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0


def _none_yet() -> Counter[str]:
    return Counter()


@dataclass(slots=True)
class Counts:
    """The numbers of this process by the name of the model; see :class:`CacheStatistics`."""

    hits: Counter[str] = field(default_factory=_none_yet)
    misses: Counter[str] = field(default_factory=_none_yet)
    invalidations: Counter[str] = field(default_factory=_none_yet)
    evictions: Counter[str] = field(default_factory=_none_yet)
    query_hits: Counter[str] = field(default_factory=_none_yet)
    query_misses: Counter[str] = field(default_factory=_none_yet)
    redis_hits: Counter[str] = field(default_factory=_none_yet)
    """Records that the memory did not have, and Redis had."""
    loads: Counter[str] = field(default_factory=_none_yet)
    """Records that the database was asked for."""

    def forget(self, model: str) -> None:
        """Forget the figures of a model that is dropped."""
        for figures in (
            *(self.hits, self.misses, self.invalidations, self.evictions),
            *(self.query_hits, self.query_misses),
            *(self.redis_hits, self.loads),
        ):
            figures.pop(model, None)


@dataclass(slots=True)
class SharedFigures:
    """The figures of the second level since the App started.

    Attributes:
        hits: Records that Redis had.
        query_hits: Results of queries that Redis had.
        query_loads: Results that were loaded from the database with a lease.
        joined: Records and results that another task or process was loading, and that were waited for.
        loads: Records that were loaded from the database with a lease.
        refused: Loaded records and results that Redis did not take, because they were written meanwhile.
        failures: Commands that Redis did not answer.
    """

    hits: int = 0
    joined: int = 0
    loads: int = 0
    refused: int = 0
    failures: int = 0
    query_hits: int = 0
    query_loads: int = 0
