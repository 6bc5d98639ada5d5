"""``earnorm cache …``: what the cache holds, and how to empty it."""

from __future__ import annotations

from earnorm import App, ConfigurationError
from earnorm_cache.service import CacheService


async def cache_command(app: App, action: str) -> None:
    """Say what Redis answers, or empty the cache of all processes.

    stats prints the state of this deployment's cache. clear empties Redis and the memory of each process that uses
    it, after a change that did not go through EarnORM (a script in the shell of the database, say).
    """
    cache = app.services.of_type(CacheService)
    if action == "clear":
        await cache.clear_everywhere()
        print("The cache is empty, in Redis and in all processes.")
    elif action == "stats":
        report = (await app.health())["cache"]
        for name, value in report.items():
            print(f"{name:>18}  {value}")
    else:
        raise ConfigurationError(f"cache: {action!r} is none of 'stats' and 'clear'")
