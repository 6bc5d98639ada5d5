"""CachePlugin: wraps operations with the cache, at ``Layer.CACHE``.

It is the innermost layer, so security has restricted a search before it arrives here. A search with
an added access rule is no longer a search by id alone, and goes to the database.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from earnorm.domain import Condition
from earnorm.plugin import (
    ID_TYPES,
    Layer,
    ModelView,
    Operation,
    StoredId,
    hookimpl,
    pause,
    slices,
)
from earnorm_cache.by_id import cacheable_ids, written_ids
from earnorm_cache.cache import Cache, Document, Shelf
from earnorm_cache.settings import CacheSettings

if TYPE_CHECKING:
    import pydantic

    from earnorm import App, BaseModel
    from earnorm.plugin import Call, Middleware, OperationName, Transaction

log = logging.getLogger("earnorm.cache")

UNKNOWN_SECONDS: Final = 120.0
"""The time for which the ids of a transaction of unknown outcome stay closed: its commit may arrive at
the server late, and the server itself ends a transaction after 60 s (by default)."""

PAUSE_EVERY: Final = 50
"""The number of records that are copied between two pauses, at 5 µs each."""

Closed = tuple[Shelf, tuple[StoredId, ...] | None]
"""The ids of one collection that a write closed; None means the whole collection."""


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
        self.cache = Cache(self._settings.max_entries, self._settings.ttl, clock)
        self._watched: dict[str, _Watched] = {}
        """By collection, whether its writes pass the cache."""
        self._open: WeakKeyDictionary[Transaction, list[Closed]] = WeakKeyDictionary()
        self._unknown: dict[int, tuple[asyncio.TimerHandle, list[Closed]]] = {}
        """The ids that transactions of unknown outcome have closed, with the timer that opens them."""

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
        for key in list(self._unknown):
            self._reopen_unknown(key)

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
    def model_forgotten(self, model: type[BaseModel]) -> None:
        """Drop the records of the model, and its collection where no other model lies in it."""
        view = ModelView(model)
        self.cache.forget(view.collection, view.name)
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
        shelf = self.cache.shelf(view.collection, view.name)
        return [(Layer.CACHE, (self._writing if is_write else self._searching)(view, shelf))]

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

    def _searching(self, model: ModelView, shelf: Shelf) -> Middleware:
        cache, name, schema = self.cache, model.name, model.schema
        is_root = model.root is not None

        async def search(op: Operation, call_next: Call, /) -> Any:
            ids = cacheable_ids(op, schema)
            if ids is None or (is_root and op.app.bind(op.model).secret_paths):
                return await call_next(op)  # a document may be of a subclass with secret fields
            asked: dict[StoredId, Document | None] = {}
            for pk in ids:
                asked[pk] = cache.get(name, pk)
                if not len(asked) % PAUSE_EVERY:
                    await pause()
            kept = [document for document in asked.values() if document is not None]
            missing = tuple(pk for pk, document in asked.items() if document is None)
            if not missing:
                return kept
            lease = cache.lease(shelf, name, missing)
            try:
                rest = op.replace(domain=Condition("_id", "in", missing)) if kept else op
                loaded: list[Document] = await call_next(rest)
                for part in slices(loaded, PAUSE_EVERY):
                    lease.keep(name, part)
                    if len(part) == PAUSE_EVERY:
                        await pause()
            finally:
                lease.end()
            return _in_order(ids, [*kept, *loaded])

        return search

    def _writing(self, model: ModelView, shelf: Shelf) -> Middleware:
        cache, schema = self.cache, model.schema

        async def write(op: Operation, call_next: Call, /) -> Any:
            ids, running = written_ids(op, schema), op.env.transaction
            cache.close(shelf, ids)
            if running is not None and not running.outcome.is_over:
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
        self._reopen_all(self._open.pop(ended))

    def _reopen_all(self, closed: Iterable[Closed]) -> None:
        for part in closed:
            self.cache.reopen(*part)

    @hookimpl
    def transaction_unknown(self, operations: Sequence[Operation]) -> None:
        """Keep the ids closed as long as the commit may still be done."""
        for running in {op.env.transaction for op in operations}:
            closed = None if running is None else self._open.pop(running, None)
            if closed is not None:
                timer = asyncio.get_running_loop().call_later(
                    UNKNOWN_SECONDS, self._reopen_unknown, id(closed)
                )
                self._unknown[id(closed)] = timer, closed

    def _reopen_unknown(self, key: int) -> None:
        timer, closed = self._unknown.pop(key)
        timer.cancel()
        self._reopen_all(closed)


def _in_order(ids: tuple[StoredId, ...], documents: list[Document]) -> list[Document]:
    """Sort documents in the order of the ids, so that it doesn't depend on which were kept."""
    if len(documents) < 2:
        return documents
    place = {pk: number for number, pk in enumerate(ids)}

    def rank(document: Document) -> int:
        pk = document["_id"]
        return place.get(pk, len(ids)) if type(pk) in ID_TYPES else len(ids)

    return sorted(documents, key=rank)
