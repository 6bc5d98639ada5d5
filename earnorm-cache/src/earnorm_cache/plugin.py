"""CachePlugin: the hooks, which wrap operations with the cache at ``Layer.CACHE``.

It is the innermost layer, so security has restricted a search before it arrives here. A search with
an added access rule is no longer a search by id alone, and goes to the database.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from earnorm.exceptions import ServerUnavailable
from earnorm.plugin import Attribute, Layer, ModelView, Operation, hookimpl
from earnorm_cache.closing import Shelves
from earnorm_cache.command import cache_command
from earnorm_cache.levels import Levels
from earnorm_cache.listening import Listener
from earnorm_cache.memory import Memory
from earnorm_cache.options import ATTRIBUTE, kept_as
from earnorm_cache.queries import QueryReader
from earnorm_cache.reading import RecordReader
from earnorm_cache.results import SharedResults
from earnorm_cache.service import CacheService
from earnorm_cache.settings import CacheSettings
from earnorm_cache.shared import Shared
from earnorm_cache.writing import Writer

if TYPE_CHECKING:
    import pydantic

    from earnorm import App, BaseModel
    from earnorm.plugin import Middleware, OperationName

log = logging.getLogger("earnorm.cache")


@dataclass(slots=True)
class _Watched:
    """One collection. If its writes do not pass the cache, none of its models is cached."""

    is_watched: bool
    models: set[str] = field(default_factory=set[str])
    """The names of its models that were used."""


class CachePlugin:
    """Keeps records that were read by id, in this process and for this App.

    Args:
        settings: The settings from ``init(..., cache={...})``.
        clock: Gives seconds that never go back; tests give their own.
    """

    api = 1
    hears_bookkeeping = True  # of a transaction of unknown outcome

    def __init__(
        self, settings: CacheSettings | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings or CacheSettings()
        memory = Memory(
            self._settings.max_entries, self._settings.default_ttl, clock, self._settings.memory
        )
        self._levels = Levels(self._settings, Shelves(memory))
        self._writer = Writer(self._levels)
        self.cache = CacheService(self._levels.shelves)
        self._watched: dict[str, _Watched] = {}
        """By collection, whether its writes pass the cache."""

    def __repr__(self) -> str:
        return f"<CachePlugin {self.cache!r}>"

    @staticmethod
    @hookimpl
    def settings() -> type[pydantic.BaseModel]:
        """Return the type of the settings, :class:`CacheSettings`."""
        return CacheSettings

    @staticmethod
    @hookimpl
    def model_attributes() -> Iterable[Attribute]:
        """Bring the attribute by which models say how they are cached: ``_cache``."""
        return [ATTRIBUTE]

    @hookimpl
    def models_changed(self, app: App, models: Sequence[type[BaseModel]]) -> None:
        """Note the collections in which records expire by themselves."""
        for model in models:
            self._levels.note_expiry(ModelView(model))

    @hookimpl
    def register_services(self, app: App) -> Mapping[str, object]:
        """Provide the :class:`CacheService` as ``app.services["cache"]``."""
        return {"cache": self.cache}

    @hookimpl
    async def startup(self, app: App) -> None:
        """Connect to Redis, if the settings name one.

        Raises:
            ServerUnavailable: It does not answer, and is required.
        """
        if self._settings.redis_url is None:
            return
        shared = Shared(self._settings, self._settings.namespace or app.settings.database)
        try:
            await shared.ping()
        except shared.errors as error:
            if self._settings.required:
                await shared.close()
                raise ServerUnavailable(
                    f"cache: Redis does not answer ({type(error).__name__}); start it, or leave out required=True"
                ).coded("no_redis") from None
            shared.note_failure(error)
        listener = Listener(shared, self._levels.shelves.hear, self._settings.window)
        listener.start()
        levels = self._levels
        levels.shared, levels.results, levels.listener = shared, SharedResults(shared), listener
        self.cache.share(shared.figures, partial(self._clear_shared, app))

    async def _clear_shared(self, app: App) -> None:
        assert self._levels.shared is not None
        views = map(ModelView, app.usable_models())
        settings = self._settings
        collections = sorted({v.collection for v in views if kept_as(v, settings) is not None})
        await self._levels.shared.clear(collections)

    @hookimpl
    async def shutdown(self, app: App) -> None:
        """Empty the cache, so that the App reads everything anew after its next start."""
        self.cache.clear()
        self._watched.clear()
        levels = self._levels
        listener, levels.listener = levels.listener, None
        if listener is not None:
            await listener.stop()
        await self._writer.stop()
        if levels.shared is not None:
            await levels.shared.close()
            levels.shared = levels.results = None
            self.cache.share()

    @staticmethod
    @hookimpl
    def register_commands() -> Mapping[str, Callable[..., object]]:
        """Offer ``earnorm cache …``."""
        return {"cache": cache_command}

    @hookimpl
    def health(self, app: App) -> Mapping[str, object]:
        """Report the number of kept records and the hit rate."""
        figures = self.cache.statistics()
        report: dict[str, object] = {
            "status": "ok",
            "entries": figures.entries,
            "max_entries": self._settings.max_entries,
            "bytes": figures.bytes,
            "max_bytes": int(self._settings.memory),
            "hit_rate": round(figures.hit_rate, 3),
        }
        shared, listener = self._levels.shared, self._levels.listener
        if shared is not None and listener is not None:
            is_away = shared.is_down or shared.is_owing
            report["redis"] = "away" if is_away else "ok"
            report["heard_seconds_ago"] = round(listener.age, 3)
            report["messages_lost"] = listener.lost
            if is_away:
                report["status"] = "degraded"
        return report

    @hookimpl
    def model_forgotten(self, model: type[BaseModel]) -> None:
        """Drop the records of the model, and its collection where no other model lies in it."""
        view = ModelView(model)
        self._levels.shelves.forget(view.collection, view.name)
        watched = self._watched.get(view.collection)
        if watched is not None:
            watched.models.discard(view.name)
            if not watched.models:
                del self._watched[view.collection]

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Wrap the reads of cached models, and every model's writes to their collections.

        A collection of which no model is cached gets no layer.
        """
        is_write = operation in ("create", "write", "unlink")
        view = ModelView(model)
        kept = kept_as(view, self._settings)
        if not is_write and kept is None:
            return ()
        if not self._is_watched(app, view):
            if not is_write:
                log.info(
                    "%s is not cached: before it was defined, another model wrote to its collection",
                    view.name,
                )
            return ()
        levels = self._levels
        levels.note_expiry(view)
        shelf = levels.shelves.shelf(view.collection, view.name)
        if is_write:
            return [(Layer.CACHE, self._writer.layer(view, shelf))]
        if kept is None or app.reads_from(model) != "primary":
            return ()  # what another member gives may be old
        records = RecordReader(levels, view, shelf, kept)
        queries = QueryReader(levels, view, shelf, kept, records)
        return [(Layer.CACHE, queries.search if operation == "search" else queries.answer)]

    def _is_watched(self, app: App, model: ModelView) -> bool:
        """Decide once for each collection, as a write that has begun can't be watched later."""
        collection, settings = model.collection, self._settings
        watched = self._watched.get(collection)
        if watched is None:
            is_watched = kept_as(model, settings) is not None or any(
                kept_as(other, settings) is not None
                for other in map(ModelView, app.usable_models())
                if other.collection == collection
            )
            watched = self._watched[collection] = _Watched(is_watched)
        watched.models.add(model.name)
        return watched.is_watched

    @hookimpl
    async def transaction_unknown(self, operations: Sequence[Operation]) -> None:
        """Keep closed what was written, as long as the commit may still be done."""
        await self._writer.keep_closed(operations)
