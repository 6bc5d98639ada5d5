"""The figures of the cache for ``app.health()``, from which ``app.metrics()`` makes lines for Prometheus.

A mapping under ``by_model`` or ``by_level`` becomes labels of the lines. There are as many as the App has models, at most
``MOST``; those that are asked for least are one more together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from earnorm_cache.functions import Functions
    from earnorm_cache.levels import Levels

MOST: Final = 200
"""The most models and functions that have figures of their own."""
OTHERS: Final = "(others)"

Numbers = dict[str, object]


def report(levels: Levels, functions: Functions | None) -> Numbers:
    """Return what the cache of this process says of itself.

    Args:
        levels: The levels of the App.
        functions: The results of its functions.
    """
    settings, memory, counts = levels.settings, levels.shelves.memory, levels.shelves.counts
    asked, hits = counts.hits.total() + counts.misses.total(), counts.hits.total()
    told: Numbers = {
        "status": "ok",
        "entries": len(memory),
        "max_entries": settings.max_entries,
        "bytes": memory.size,
        "max_bytes": int(settings.memory),
        "hit_rate": round(hits / asked, 3) if asked else 0.0,
        "records": {"by_model": _by_model(levels)},
    }
    told["queries"] = {"by_model": _queries(levels)}
    if functions is not None:
        told["functions"] = {"by_function": _by_function(functions)}
    shared, listener = levels.shared, levels.listener
    if shared is not None and listener is not None:
        is_away = shared.is_down or shared.is_owing
        figures = shared.figures
        told |= {
            "redis": "away" if is_away else "ok",
            "redis_failures": figures.failures,
            "joined": figures.joined,
            "refused": figures.refused,
            "window_seconds": settings.window,
            "messages_lost": listener.lost,
        }
        if math.isfinite(listener.age):  # it listens from the first read on
            told["heard_seconds_ago"] = round(listener.age, 3)
        if is_away:
            told["status"] = "degraded"
    return told


def _by_model(levels: Levels) -> dict[str, Numbers]:
    counts, entries = levels.shelves.counts, levels.shelves.entries()
    names = _busiest(counts.hits, counts.redis_hits, counts.loads)

    def told(number: Mapping[str, int], of: Iterable[str]) -> int:
        return sum(number.get(name, 0) for name in of)

    return {
        name: {
            "entries": told(entries, of),
            "invalidations": told(counts.invalidations, of),
            "evictions": told(counts.evictions, of),
            "by_level": {
                "memory": {"hits": told(counts.hits, of)},
                "redis": {"hits": told(counts.redis_hits, of)},
                "database": {"hits": told(counts.loads, of)},
            },
        }
        for name, of in names.items()
    }


def _queries(levels: Levels) -> dict[str, Numbers]:
    counts = levels.shelves.counts
    return {
        name: {
            "hits": sum(counts.query_hits[each] for each in of),
            "misses": sum(counts.query_misses[each] for each in of),
        }
        for name, of in _busiest(counts.query_hits, counts.query_misses).items()
    }


def _by_function(functions: Functions) -> dict[str, Numbers]:
    names = _busiest(functions.hits, functions.calls)
    return {
        name: {
            "hits": sum(functions.hits[each] for each in of),
            "calls": sum(functions.calls[each] for each in of),
        }
        for name, of in names.items()
    }


def _busiest(*counters: Counter[str]) -> dict[str, list[str]]:
    """Return the names that have figures, each with those that it stands for."""
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    ordered = [name for name, _ in total.most_common()]
    named = {name: [name] for name in sorted(ordered[:MOST])}
    return {**named, OTHERS: ordered[MOST:]} if len(ordered) > MOST else named
