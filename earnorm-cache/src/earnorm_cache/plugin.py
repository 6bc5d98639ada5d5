"""CachePlugin: wraps operations with the cache, at ``Layer.CACHE``.

It is the innermost layer, so security has restricted a search before it arrives here. A search with
an added access rule is no longer a search by id alone, and goes to the database.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from earnorm.domain import Condition, Domain
from earnorm.exceptions import ServerUnavailable
from earnorm.plugin import (
    ID_TYPES,
    Layer,
    ModelView,
    Operation,
    StoredId,
    hookimpl,
    pause,
)
from earnorm_cache.by_id import cacheable_ids, is_decided_in_memory, written_ids
from earnorm_cache.cache import Cache, Document, Shelf
from earnorm_cache.command import cache_command
from earnorm_cache.encoding import PAUSE_EVERY, encoded
from earnorm_cache.listening import Listener
from earnorm_cache.settings import CacheSettings
from earnorm_cache.shared import Place, Shared

if TYPE_CHECKING:
    import pydantic

    from earnorm import App, BaseModel
    from earnorm.plugin import Call, Middleware, OperationName, Transaction

log = logging.getLogger("earnorm.cache")

UNKNOWN_SECONDS: Final = 120.0
"""The time for which the ids of a transaction of unknown outcome stay closed: its commit may arrive at
the server late, and the server itself ends a transaction after 60 s (by default)."""

Closed = tuple[str, Shelf, tuple[StoredId, ...] | None]
"""A collection with the ids in it that a write closed; None means the whole collection."""


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
        self.cache = Cache(
            self._settings.max_entries, self._settings.ttl, clock, self._settings.memory
        )
        self._watched: dict[str, _Watched] = {}
        """By collection, whether its writes pass the cache."""
        self._open: WeakKeyDictionary[Transaction, list[Closed]] = WeakKeyDictionary()
        self._unknown: dict[int, tuple[asyncio.TimerHandle, list[Closed]]] = {}
        """The ids that transactions of unknown outcome have closed, with the timer that opens them."""
        self._shared: Shared | None = None
        self._listener: Listener | None = None
        self._late: set[asyncio.Task[None]] = set()

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
        self._shared = shared
        self._listener = Listener(shared, self.cache.drop, self._settings.window)
        self._listener.start()
        self.cache.share(shared.figures, partial(self._clear_shared, app))

    async def _clear_shared(self, app: App) -> None:
        assert self._shared is not None
        views = map(ModelView, app.usable_models())
        collections = sorted({view.collection for view in views if self._is_cached(view)})
        await self._shared.clear(collections)

    @hookimpl
    async def shutdown(self, app: App) -> None:
        """Empty the cache, so that the App reads everything anew after its next start."""
        self.cache.clear()
        self._watched.clear()
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.stop()
        for key in list(self._unknown):
            await self._reopen_unknown(key)
        if self._late:
            await asyncio.wait(set(self._late))
        if self._shared is not None:
            await self._shared.close()
            self._shared = None
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
        if self._shared is not None and self._listener is not None:
            is_away = self._shared.is_down or self._shared.is_owing
            report["redis"] = "away" if is_away else "ok"
            report["heard_seconds_ago"] = round(self._listener.age, 3)
            report["messages_lost"] = self._listener.lost
            if is_away:
                report["status"] = "degraded"
        return report

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
        cache, name, schema, collection = self.cache, model.name, model.schema, model.collection
        is_root = model.root is not None
        place: Place | None = None

        async def fetch(
            op: Operation,
            call_next: Call,
            shared: Shared | None,
            ids: tuple[StoredId, ...],
            missing: tuple[StoredId, ...],
        ) -> list[Document]:
            """Return the documents that are not in this memory, and keep them."""
            nonlocal place

            def load(wanted: Sequence[StoredId]) -> Awaitable[list[Document]]:
                if len(wanted) == len(ids) and isinstance(op.domain, Condition):
                    return call_next(op)
                return call_next(op.replace(domain=Condition("_id", "in", wanted)))

            lease = cache.lease(shelf, name, missing)
            try:
                # What this process writes is read from the database until the write has ended.
                loose = [pk for pk in missing if not cache.is_closed(shelf, pk)]
                if shared is not None and loose:
                    if place is None:
                        names = self._read_as(op.app, model)
                        place = Place.of(collection, names, self._settings.ttl)
                    loaded = await shared.fetch(place, loose, load, partial(lease.keep, name))
                    if len(loose) < len(missing):
                        loaded += await load([pk for pk in missing if pk not in loose])
                    return loaded
                loaded = await load(missing)
                await encoded(loaded, partial(lease.keep, name))
                return loaded
            finally:
                lease.end()

        async def search(op: Operation, call_next: Call, /) -> Any:
            found = cacheable_ids(op, schema)
            if found is None or (is_root and op.app.bind(op.model).secret_paths):
                return await call_next(op)  # a document may be of a subclass with secret fields
            shared, listener = self._shared, self._listener
            ids, rest = found
            if rest is not Domain.TRUE:  # an access rule, say
                # It is judged by what Redis has, which is never old; a memory may be, for a moment.
                if shared is None or not is_decided_in_memory(rest, model):
                    return await call_next(op)
                documents = await fetch(op, call_next, shared, ids, ids)
                matches = op.app.matcher(op.model, rest)
                return _in_order(ids, [each for each in documents if matches(each)])
            if shared is not None and listener is not None:
                listener.add(collection)
                await pause()  # a program that only hits lets the listener hear
                is_trusted = listener.is_trusted(collection)
            else:
                is_trusted = True
            asked: dict[StoredId, Document | None] = {}
            if is_trusted:
                for pk in ids:
                    asked[pk] = cache.get(name, pk)
                    if not len(asked) % PAUSE_EVERY:
                        await pause()
            else:
                cache.miss(name, len(ids))
                asked = dict.fromkeys(ids)
            kept = [document for document in asked.values() if document is not None]
            missing = tuple(pk for pk, document in asked.items() if document is None)
            if not missing:
                return kept

            loaded = await fetch(op, call_next, shared, ids, missing)
            return _in_order(ids, [*kept, *loaded])

        return search

    def _read_as(self, app: App, model: ModelView) -> list[str]:
        """Return names that differ where two programs read the documents of a model differently."""
        views = [v for v in map(ModelView, app.usable_models()) if v.collection == model.collection]
        names = {f"{view.name}.{field.db_name}" for view in views for field in view.fields.values()}
        return [model.name, *sorted(names)]

    def _writing(self, model: ModelView, shelf: Shelf) -> Middleware:
        cache, schema, collection = self.cache, model.schema, model.collection

        async def write(op: Operation, call_next: Call, /) -> Any:
            ids, running = written_ids(op, schema), op.env.transaction
            cache.close(shelf, ids)
            if running is not None and not running.outcome.is_over:
                self._reopen_at_end(running, (collection, shelf, ids))
                return await call_next(op)
            try:
                return await call_next(op)
            finally:
                if op.name == "create":  # nobody has kept a new record
                    cache.reopen(shelf, ids)
                else:
                    await self._end((collection, shelf, ids))

        return write

    async def _end(self, closed: Closed) -> None:
        """Remove from Redis what was written, and read it from the cache again from then on."""
        collection, shelf, ids = closed
        reopen = partial(self.cache.reopen, shelf, ids)
        if self._shared is None:
            reopen()
        else:
            await self._shared.remove(collection, ids, reopen)

    async def _end_all(self, closed: Iterable[Closed]) -> None:
        if self._shared is None:
            for each in closed:
                await self._end(each)
        else:
            await asyncio.gather(*map(self._end, closed))

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

    async def _reopen(self, ended: Transaction) -> None:
        await self._end_all(self._open.pop(ended))

    @hookimpl
    async def transaction_unknown(self, operations: Sequence[Operation]) -> None:
        """Keep the ids closed as long as the commit may still be done."""
        for running in {op.env.transaction for op in operations}:
            closed = None if running is None else self._open.pop(running, None)
            if closed is None:
                continue
            timer = asyncio.get_running_loop().call_later(
                UNKNOWN_SECONDS, self._reopen_later, id(closed)
            )
            self._unknown[id(closed)] = timer, closed
            if self._shared is not None:  # it may be done already
                for collection, _, ids in closed:
                    await self._shared.remove(collection, ids, _nothing)

    def _reopen_later(self, key: int) -> None:
        task = asyncio.ensure_future(self._reopen_unknown(key))
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _reopen_unknown(self, key: int) -> None:
        timer, closed = self._unknown.pop(key)
        timer.cancel()
        await self._end_all(closed)


def _nothing() -> None:
    """Do nothing."""


def _in_order(ids: tuple[StoredId, ...], documents: list[Document]) -> list[Document]:
    """Sort documents in the order of the ids, so that it doesn't depend on which were kept."""
    if len(documents) < 2:
        return documents
    place = {pk: number for number, pk in enumerate(ids)}

    def rank(document: Document) -> int:
        pk = document["_id"]
        return place.get(pk, len(ids)) if type(pk) in ID_TYPES else len(ids)

    return sorted(documents, key=rank)
