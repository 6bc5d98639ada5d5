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
from earnorm.plugin import Layer, ModelView, Operation, hookimpl
from earnorm_cache.closing import Shelves
from earnorm_cache.command import cache_command
from earnorm_cache.levels import Levels
from earnorm_cache.listening import Listener
from earnorm_cache.memory import Memory
from earnorm_cache.reading import RecordReader
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
            self._settings.max_entries, self._settings.ttl, clock, self._settings.memory
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
        self._levels.shared, self._levels.listener = shared, listener
        self.cache.share(shared.figures, partial(self._clear_shared, app))

    async def _clear_shared(self, app: App) -> None:
        assert self._levels.shared is not None
        views = map(ModelView, app.usable_models())
        collections = sorted({view.collection for view in views if self._is_cached(view)})
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
            levels.shared = None
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
        """Wrap the searches of cached models, and every model's writes to their collections.

        A collection of which no model is cached gets no layer.
        """
        is_write = operation in ("create", "write", "unlink")
        view = ModelView(model)
        if not is_write and (operation != "search" or not self._is_cached(view)):
            return ()
        if not self._is_watched(app, view):
            if not is_write:
                log.info(
                    "%s is not cached: before it was defined, another model wrote to its collection",
                    view.name,
                )
            return ()
        levels = self._levels
        shelf = levels.shelves.shelf(view.collection, view.name)
        if is_write:
            return [(Layer.CACHE, self._writer.layer(view, shelf))]
        return [(Layer.CACHE, RecordReader(levels, view, shelf).search)]

    def _is_watched(self, app: App, model: ModelView) -> bool:
        """Decide once for each collection, as a write that has begun can't be watched later."""
        collection = model.collection
        watched = self._watched.get(collection)
        if watched is None:
            is_watched = self._is_cached(model) or any(
                self._is_cached(other)
                for other in map(ModelView, app.usable_models())
                if other.collection == collection
            )
            watched = self._watched[collection] = _Watched(is_watched)
        watched.models.add(model.name)
        return watched.is_watched

    def _is_cached(self, model: ModelView) -> bool:
        if model.secrets:
            return False  # whole documents are kept, and no secret is
        chosen: object = model.attribute("_cache")
        if isinstance(chosen, bool):
            return chosen
        return self._settings.models is None or model.name in self._settings.models

    @hookimpl
    async def transaction_unknown(self, operations: Sequence[Operation]) -> None:
        """Keep closed what was written, as long as the commit may still be done."""
        await self._writer.keep_closed(operations)
