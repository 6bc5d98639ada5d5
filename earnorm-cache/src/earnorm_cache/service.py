"""CacheService: what applications see of the cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from earnorm.domain import Condition, DomainSource
from earnorm.exceptions import ConfigurationError, ServerUnavailable
from earnorm.plugin import ModelView, fields, ids_of
from earnorm_cache import inspecting
from earnorm_cache.closing import Shelves
from earnorm_cache.figures import CacheStatistics, SharedFigures
from earnorm_cache.publishing import Publisher, together
from earnorm_cache.warming import warm

if TYPE_CHECKING:
    from earnorm import BaseModel
    from earnorm.plugin import StoredId
    from earnorm_cache.feed import Callback
    from earnorm_cache.functions import Functions
    from earnorm_cache.inspecting import Written
    from earnorm_cache.levels import Levels


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
        """For ``@cached``; the plugin provides it, and what follows."""
        self.listen: Callable[[type[BaseModel], Callback], Callable[[], None]] | None = None
        self.levels: Levels | None = None
        self.publisher: Publisher | None = None
        self.figures: Callable[[], Mapping[str, object]] | None = None
        self.collections: Callable[[], list[str]] | None = None

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

    async def warm(
        self,
        model: type[BaseModel],
        domain: DomainSource = (),
        limit: int = 10_000,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Read records into the cache before somebody asks for them, 500 at a time, as who is acting.

        In a process that has just started it first waits, 3 s at the most, until what it reads stays in its memory.

        Args:
            model: The model.
            domain: The condition of the records.
            limit: The most records.
            progress: Is called with the number of records that were read so far.

        Returns:
            The number of records that were read.
        """
        if self.levels is not None:
            await self.levels.wait_until_heard(ModelView(model).collection)
        return await warm(model, domain, limit, progress)

    async def everywhere(self) -> tuple[int, dict[str, Any]]:
        """Return how many other processes of this Redis run, and the figures of all, this one's included.

        Numbers of several processes are added up. A process tells its own each 5 s.
        """
        told = [] if self.publisher is None else await self.publisher.told()
        own = {} if self.figures is None else dict(self.figures())
        return len(told), together([*told, own])

    async def inspect(self, model: type[BaseModel], id: object = None) -> list[dict[str, object]]:
        """Return what each level has of a record, or of a model: its state, size and age, never its content.

        Args:
            model: The model.
            id: The id of a record, or its text; None asks about the model.

        Raises:
            ServerUnavailable: Redis does not answer.
        """
        assert self.levels is not None
        view = ModelView(model)
        with self._said_away():
            if id is None:
                return [await inspecting.of_model(self.levels, view)]
            ids = _stored(view, id)
            return [] if not ids else await inspecting.of_record(self.levels, view, ids[0])

    async def watch(self, *models: type[BaseModel]) -> AsyncIterator[Written]:
        """Yield what is written from now on by any process, as it is told to the others.

        Args:
            *models: The models; all that are cached, if none is named.

        Raises:
            ConfigurationError: This App uses no Redis.
            ServerUnavailable: Redis does not answer.
        """
        levels = self.levels
        if levels is None or levels.shared is None or self.collections is None:
            raise ConfigurationError(
                "watch() needs redis_url, by which processes hear of each other"
            )
        names = [ModelView(model).collection for model in models] or self.collections()
        with self._said_away():
            async for written in inspecting.watch(levels.shared, sorted(set(names)), 0.5):
                yield written

    @contextmanager
    def _said_away(self) -> Iterator[None]:
        shared = None if self.levels is None else self.levels.shared
        errors = () if shared is None else shared.errors
        try:
            yield
        except errors as error:
            # Its text may quote the address, which has a password in it.
            raise ServerUnavailable(f"cache: Redis does not answer ({type(error).__name__})").coded(
                "no_redis"
            ) from None

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


def _stored(model: ModelView, id: object) -> list[Any]:
    """Return an id in the form in which it is stored, also where its text was given; else nothing."""
    is_number = isinstance(model.fields.get("_id"), fields.Int) and isinstance(id, str)
    try:
        value = int(id) if is_number and isinstance(id, str) else id
    except ValueError:
        return []
    return ids_of(Condition("_id", "=", value), model.schema) or []
