"""CachePlugin: wraps operations with the cache, at ``Layer.CACHE``.

It is the innermost layer, so security has restricted a search before it arrives here. A search with
an added access rule is no longer a search by id alone, and goes to the database.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from earnorm.domain import ID_TYPES, Condition
from earnorm.plugin import Layer, ModelView, Operation, hookimpl
from earnorm_cache.by_id import StoredId, cacheable_ids, written_ids
from earnorm_cache.cache import Cache, Document, Shelf
from earnorm_cache.settings import CacheSettings

if TYPE_CHECKING:
    import pydantic

    from earnorm import App, BaseModel
    from earnorm.plugin import Call, Middleware, OperationName, Transaction

log = logging.getLogger("earnorm.cache")

Closed = tuple[Shelf, tuple[StoredId, ...] | None]
"""The ids of one collection that a write closed; None means the whole collection."""


class CachePlugin:
    """Keeps records that were read by id, in this process and for this App.

    Args:
        settings: The settings from ``init(..., cache={...})``.
        clock: Gives seconds that never go back; tests give their own.
    """

    api = 1

    def __init__(
        self, settings: CacheSettings | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings or CacheSettings()
        self.cache = Cache(self._settings.max_entries, self._settings.ttl, clock)
        self._open: dict[Transaction, list[Closed]] = {}
        self._watched: dict[str, bool] = {}
        """By collection: True if its writes pass the cache; if not, none of its models is
        cached."""

    def __repr__(self) -> str:
        return f"<CachePlugin {self.cache!r}>"

    @staticmethod
    @hookimpl
    def settings() -> type[pydantic.BaseModel]:
        """Return the type of the settings, :class:`CacheSettings`."""
        return CacheSettings

    @hookimpl
    def register_services(self, app: App) -> Mapping[str, object]:
        """Provide the :class:`Cache` as ``app.services["cache"]``."""
        return {"cache": self.cache}

    @hookimpl
    def shutdown(self, app: App) -> None:
        """Empty the cache, so that the App reads everything anew after its next start."""
        self.cache.clear()
        self._watched.clear()

    @hookimpl
    def health(self, app: App) -> Mapping[str, object]:
        """Report the number of kept records and the hit rate."""
        figures = self.cache.statistics()
        return {
            "status": "ok",
            "entries": figures.entries,
            "max_entries": self._settings.max_entries,
            "hit_rate": round(figures.hit_rate, 3),
        }

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
        shelf = self.cache.shelf(view.collection, view.name)
        return [(Layer.CACHE, (self._writing if is_write else self._searching)(view, shelf))]

    def _is_watched(self, app: App, model: ModelView) -> bool:
        """Decide once for each collection, as a write that has begun can't be watched later."""
        collection = model.collection
        is_watched = self._watched.get(collection)
        if is_watched is None:
            is_watched = self._watched[collection] = self._is_cached(model) or any(
                self._is_cached(other)
                for other in map(ModelView, app.usable_models())
                if other.collection == collection
            )
        return is_watched

    def _is_cached(self, model: ModelView) -> bool:
        chosen: object = model.attribute("_cache")
        if isinstance(chosen, bool):
            return chosen
        return self._settings.models is None or model.name in self._settings.models

    def _searching(self, model: ModelView, shelf: Shelf) -> Middleware:
        cache, name, schema = self.cache, model.name, model.schema

        async def search(op: Operation, call_next: Call, /) -> Any:
            ids = cacheable_ids(op, schema)
            if ids is None:
                return await call_next(op)
            asked = {pk: cache.get(name, pk) for pk in ids}
            kept = [document for document in asked.values() if document is not None]
            missing = tuple(pk for pk, document in asked.items() if document is None)
            if not missing:
                return kept
            lease = cache.lease(shelf, name, missing)
            try:
                rest = op.replace(domain=Condition("_id", "in", missing)) if kept else op
                loaded: list[Document] = await call_next(rest)
                lease.keep(name, loaded)
            finally:
                lease.end()
            return _in_order(ids, [*kept, *loaded])

        return search

    def _writing(self, model: ModelView, shelf: Shelf) -> Middleware:
        cache, schema = self.cache, model.schema

        async def write(op: Operation, call_next: Call, /) -> Any:
            ids, running = written_ids(op, schema), op.env.transaction
            cache.close(shelf, ids)
            if running is not None and not running.outcome.is_known:
                self._reopen_at_end(running, (shelf, ids))
                return await call_next(op)
            try:
                return await call_next(op)
            finally:
                cache.reopen(shelf, ids)

        return write

    def _reopen_at_end(self, running: Transaction, closed: Closed) -> None:
        """Reopen what the transaction wrote, or tried to write, when the transaction has ended."""
        earlier = self._open.get(running)
        if earlier is not None:
            earlier.append(closed)
            return
        self._open[running] = [closed]
        reopen = partial(self._reopen, running)
        running.after_commit(reopen)
        running.after_rollback(reopen)

    def _reopen(self, ended: Transaction) -> None:
        for closed in self._open.pop(ended):
            self.cache.reopen(*closed)


def _in_order(ids: tuple[StoredId, ...], documents: list[Document]) -> list[Document]:
    """Sort documents in the order of the ids, so that it doesn't depend on which were kept."""
    if len(documents) < 2:
        return documents
    place = {pk: number for number, pk in enumerate(ids)}

    def rank(document: Document) -> int:
        pk = document["_id"]
        return place.get(pk, len(ids)) if type(pk) in ID_TYPES else len(ids)

    return sorted(documents, key=rank)
