"""CachePlugin: the hooks, which wrap operations with the cache at ``Layer.CACHE``.

It is an inner layer, so security has restricted a search before it arrives here: an added access rule is a part of the
question, by which results are told apart and whole records are judged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from earnorm import BaseModel
from earnorm.exceptions import ConfigurationError, ServerUnavailable
from earnorm.plugin import Attribute, Layer, ModelView, Operation, hookimpl
from earnorm_cache.closing import Shelves
from earnorm_cache.command import cache_command
from earnorm_cache.diagnosing import without_redis
from earnorm_cache.functions import Functions, are_used, is_depended_on
from earnorm_cache.in_progress import note_write, noting
from earnorm_cache.levels import Levels
from earnorm_cache.listening import Listener
from earnorm_cache.memory import Memory
from earnorm_cache.options import ATTRIBUTE, kept_as
from earnorm_cache.outside import Outside
from earnorm_cache.publishing import Publisher
from earnorm_cache.queries import QueryReader
from earnorm_cache.reading import RecordReader
from earnorm_cache.reporting import report
from earnorm_cache.results import SharedResults
from earnorm_cache.service import CacheService
from earnorm_cache.settings import CacheSettings
from earnorm_cache.shared import Shared
from earnorm_cache.writing import Writer

if TYPE_CHECKING:
    import pydantic

    from earnorm import App
    from earnorm.plugin import Finding, Middleware, OperationName
    from earnorm_cache.change import Change
    from earnorm_cache.closing import Shelf
    from earnorm_cache.feed import Callback

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
        self._heard: set[str] = set()
        """The models of which somebody hears, so that their writes pass the cache."""
        self._keeps_something = False
        """Something is kept, so that what others write has to be known."""

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
        """Note the collections in which records expire by themselves, and plan functions anew."""
        self._forget_plans()
        for model in models:
            self._levels.note_expiry(ModelView(model))
            self._levels.note_strictness(ModelView(model))

    @hookimpl
    def register_services(self, app: App) -> Mapping[str, object]:
        """Provide the :class:`CacheService` as ``app.services["cache"]``."""
        self.cache.listen = partial(self._on_change, app)
        self.cache.levels = self._levels
        self.cache.collections = partial(self._collections, app)
        self.cache.figures = partial(self.health, app)
        self.cache.functions = Functions(app, self._levels, partial(self._shelf_of, app))
        return {"cache": self.cache}

    @hookimpl
    async def startup(self, app: App) -> None:
        """Connect to Redis, if the settings name one, and follow what others write to the database.

        Raises:
            ConfigurationError: The setting ``models`` names a model that there is not.
            ServerUnavailable: Redis does not answer, and is required.
        """
        for name in self._settings.models or ():
            try:
                app.view(name)
            except ConfigurationError as error:
                raise ConfigurationError(
                    f"cache: the setting models is wrong: {error}; import the modules of its models before the App starts"
                ) from None
        if self._settings.redis_url is not None:
            await self._connect(app)
        if not self._settings.outside_writes:
            return
        if "change_streams" not in app.capabilities:
            log.warning(
                "App %s: the cache does not hear of writes from outside, which are seen after their ttl: a change "
                "stream needs a replica set. outside_writes=False says that nobody else writes",
                app.name,
            )
            return
        self._levels.outside = outside = Outside(app, self._levels)
        if self._keeps_something:
            outside.begin()

    async def _connect(self, app: App) -> None:
        shared = Shared(self._settings, self._settings.namespace or app.settings.database)
        try:
            await shared.ping()
        except asyncio.CancelledError:
            await shared.close()
            raise
        except shared.errors as error:
            if self._settings.required:
                await shared.close()
                raise ServerUnavailable(
                    f"cache: Redis does not answer ({type(error).__name__}); start it, or leave out required=True"
                ).coded("no_redis") from None
            shared.note_failure(error)
        listener = Listener(shared, self._hear, self._settings.window)
        for collection in self._levels.feed.collections:
            listener.add(collection)
        listener.start()
        levels = self._levels
        levels.shared, levels.results, levels.listener = shared, SharedResults(shared), listener
        self.cache.share(shared.figures, partial(self._clear_shared, app))
        self.cache.publisher = Publisher(shared, partial(self.health, app))
        self.cache.publisher.start()

    def _hear(self, collection: str, change: Change) -> None:
        """Hear what another process has written."""
        self._levels.shelves.hear(collection, change)
        self._levels.feed.tell(collection, change)

    def _collections(self, app: App) -> list[str]:
        """Return the collections whose writes pass the cache."""
        views = map(ModelView, app.usable_models())
        return sorted({view.collection for view in views if self._is_needed(view)})

    async def _clear_shared(self, app: App) -> None:
        assert self._levels.shared is not None
        await self._levels.shared.clear(self._collections(app))

    @hookimpl
    async def shutdown(self, app: App) -> None:
        """Empty the cache, so that the App reads everything anew after its next start."""
        stopping, cancellation = asyncio.ensure_future(self._stop()), None
        while not stopping.done():
            try:
                await asyncio.wait([stopping])
            except asyncio.CancelledError as error:
                cancellation = error
        if cancellation is not None:
            raise cancellation
        stopping.result()

    async def _stop(self) -> None:
        levels = self._levels
        outside, levels.outside = levels.outside, None
        if outside is not None:
            await outside.stop()
        self.cache.clear()
        self._watched.clear()
        self._heard.clear()
        self._levels.feed.clear()
        self.cache.functions = self.cache.listen = self.cache.collections = None
        self.cache.figures = None
        publisher, self.cache.publisher = self.cache.publisher, None
        if publisher is not None:
            await publisher.stop()
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
        """Report what is kept, and how often it was asked for, by model and level."""
        told = report(self._levels, self.cache.functions)
        outside = self._levels.outside
        if outside is not None:
            # With Redis one process follows for all; the sum over all of them is 1.
            told["outside_followed"] = outside.is_following
            told["outside_heard"] = outside.heard
        return told

    @hookimpl
    def diagnose(self, app: App) -> Iterable[Finding]:
        """Tell doctor of which models nothing is kept for who acts under their rules."""
        return without_redis(app, self._settings)

    def _forget_plans(self) -> None:
        if self.cache.functions is not None:
            self.cache.functions.forget()

    @hookimpl
    def model_forgotten(self, model: type[BaseModel]) -> None:
        """Drop the records of the model, and its collection where no other model lies in it."""
        view = ModelView(model)
        self._forget_plans()
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
        outer = [(Layer.STEPS - 1, note_write)] if is_write and _computes(view) else []
        if not is_write and kept is None:
            return [(Layer.CACHE, noting)] if are_used(app) else ()
        if not self._is_watched(app, view):
            if not is_write:
                log.info(
                    "%s is not cached: before it was defined, another model wrote to its collection",
                    view.name,
                )
            return outer
        levels = self._levels
        levels.note_expiry(view)
        levels.note_strictness(view)
        shelf = levels.shelves.shelf(view.collection, view.name)
        if is_write:
            return [*outer, (Layer.CACHE, self._writer.layer(view, shelf))]
        if kept is None or app.reads_from(model) != "primary":
            # What another member gives may be old.
            return [(Layer.CACHE, noting)] if are_used(app) else ()
        self._follow()
        records = RecordReader(levels, view, shelf, kept)
        queries = QueryReader(levels, view, shelf, kept, records)
        return [(Layer.CACHE, queries.search if operation == "search" else queries.answer)]

    def _follow(self) -> None:
        """Follow what others write, since something is kept from now on."""
        self._keeps_something = True
        if self._levels.outside is not None:
            self._levels.outside.begin()

    def _on_change(
        self, app: App, model: type[BaseModel], callback: Callback
    ) -> Callable[[], None]:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise TypeError(f"on_change() takes the class of a model, not {model!r}")
        if not callable(callback):
            raise TypeError(f"on_change() takes a function to call, not {callback!r}")
        view = ModelView(app.bind(model).model)
        self._heard.add(view.name)
        if not self._is_watched(app, view):
            raise ConfigurationError(
                f"on_change(): {view.name} is in use already, and its writes do not pass the cache; ask before its first "
                f"operation, in the hook startup, say"
            )
        if self._levels.listener is not None:
            self._levels.listener.add(view.collection)
        self._follow()
        return self._levels.feed.add(view.collection, callback)

    def _shelf_of(self, app: App, model: ModelView) -> Shelf | None:
        """Return the shelf of a model's collection, if it is known when what is read of it changes."""
        if not self._is_watched(app, model) or app.reads_from(model.cls) != "primary":
            return None
        if model.collection in self._levels.expiring:
            return None
        self._follow()
        return self._levels.shelves.shelf(model.collection, model.name)

    def _is_watched(self, app: App, model: ModelView) -> bool:
        """Decide once for each collection, as a write that has begun can't be watched later."""
        collection = model.collection
        watched = self._watched.get(collection)
        if watched is None:
            is_watched = self._is_needed(model) or any(
                self._is_needed(other)
                for other in map(ModelView, app.usable_models())
                if other.collection == collection
            )
            watched = self._watched[collection] = _Watched(is_watched)
        watched.models.add(model.name)
        return watched.is_watched

    def _is_needed(self, model: ModelView) -> bool:
        is_kept = kept_as(model, self._settings) is not None
        return is_kept or is_depended_on(model) or model.name in self._heard

    @hookimpl
    async def transaction_unknown(self, operations: Sequence[Operation]) -> None:
        """Keep closed what was written, as long as the commit may still be done."""
        await self._writer.keep_closed(operations)


def _computes(model: ModelView) -> bool:
    """Return whether a write of the model stores what it computes of other records."""
    return any(
        field.stored
        and field.computed is not None
        and any("." in path for path in model.depends_on(name))
        for name, field in model.fields.items()
    )
