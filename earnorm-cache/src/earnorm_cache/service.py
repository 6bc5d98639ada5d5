"""CacheService: what applications see of the cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from earnorm.exceptions import ConfigurationError
from earnorm_cache.closing import Shelves
from earnorm_cache.figures import CacheStatistics, SharedFigures

if TYPE_CHECKING:
    from earnorm import BaseModel
    from earnorm.plugin import StoredId
    from earnorm_cache.feed import Callback
    from earnorm_cache.functions import Functions


class CacheService:
    """The cache of one App: ``app.services["cache"]``.

    Args:
        shelves: The records that this process keeps.
    """

    def __init__(self, shelves: Shelves) -> None:
        self._shelves, self._memory = shelves, shelves.memory
        self._shared: SharedFigures | None = None
        self._clear_shared: Callable[[], Awaitable[None]] | None = None
        self.functions: Functions | None = None
        """For ``@cached``; the plugin provides it."""
        self.listen: Callable[[type[BaseModel], Callback], Callable[[], None]] | None = None
        """For ``on_change``; the plugin provides it."""

    def __repr__(self) -> str:
        return f"<CacheService {self._memory!r}>"

    # -- for applications ---------------------------------------------------------------------

    def statistics(self, model: str | None = None) -> CacheStatistics:
        """Return the figures of the whole cache, or of one model.

        Args:
            model: A model's name.
        """
        memory, counts = self._memory, self._shelves.counts
        return CacheStatistics(
            _number(counts.hits, model),
            _number(counts.misses, model),
            _number(counts.invalidations, model),
            _number(counts.evictions, model),
            len(memory) if model is None else memory.number(model),
            memory.size,
            _number(counts.query_hits, model),
            _number(counts.query_misses, model),
        )

    def clear(self) -> None:
        """Forget every record of this process, also those being loaded.

        After a change outside of EarnORM, that is enough for an App without Redis.
        """
        self._shelves.clear()

    async def clear_everywhere(self) -> None:
        """Forget every record, here, in Redis, and in all processes that share it.

        Raises:
            ConfigurationError: This App uses no Redis, so the other processes cannot be told.
            ServerUnavailable: Redis does not answer; it is told once it does, while this App runs.
        """
        self.clear()
        if self._clear_shared is None:
            raise ConfigurationError(
                "clear_everywhere() needs redis_url, by which other processes hear of it; clear() empties this "
                "process"
            )
        await self._clear_shared()

    def on_change(
        self,
        model: type[BaseModel],
        callback: Callable[[tuple[StoredId, ...] | None], object],
    ) -> Callable[[], None]:
        """Call a function whenever records of a model were written, in any process that shares the Redis.

        It is called on the event loop once the write is over (of a transaction, once it is committed or rolled
        back), with the ids that may have changed; with None for all, also where messages may have been lost.
        Without Redis it hears of this App's writes alone. It must not wait; what it raises is logged.

        Args:
            model: The model. The whole collection counts, whichever of its models was written.
            callback: The function.

        Returns:
            A function that ends it.

        Raises:
            ConfigurationError: The model is in use already, and its writes do not pass the cache.
        """
        assert self.listen is not None
        return self.listen(model, callback)

    @property
    def shared(self) -> SharedFigures | None:
        """The figures of the second level, in Redis; None if this App uses none."""
        return self._shared

    # -- for the plugin -----------------------------------------------------------------------

    def share(
        self,
        figures: SharedFigures | None = None,
        clear: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Show the figures of a second level, and how to empty it; nothing where there is none."""
        self._shared, self._clear_shared = figures, clear


def _number(counter: Counter[str], model: str | None) -> int:
    return counter.total() if model is None else counter[model]
