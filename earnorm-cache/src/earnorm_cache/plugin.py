"""CachePlugin: puts the cache into the way of operations, at ``Layer.CACHE``.

It sits innermost: a search arrives here as security has left it. One that an access rule was added
to is no longer a search by id alone, and goes to the database.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from earnorm import Layer, Operation, hookimpl
from earnorm.domain import Condition
from earnorm_cache.by_id import ID_TYPES, StoredId, cacheable_ids, written_ids
from earnorm_cache.cache import Cache, Document, Shelf
from earnorm_cache.settings import CacheSettings

if TYPE_CHECKING:
    import pydantic

    from earnorm import App
    from earnorm.models import BaseModel
    from earnorm.operations import Call, Middleware, OperationName
    from earnorm.transactions import Transaction

Closed = tuple[Shelf, tuple[StoredId, ...] | None]
"""What a write closed: of one collection these ids, or all of it."""


class CachePlugin:
    """Keeps records that were read by id, in this process and for this App.

    Args:
        settings: What ``init(..., cache={...})`` said.
        clock: Seconds that never go back; tests hand in their own.
    """

    api = 1

    def __init__(
        self, settings: CacheSettings | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings or CacheSettings()
        self.cache = Cache(self._settings.max_entries, self._settings.ttl, clock)
        # Holding the transaction itself keeps its id() from being given to another one.
        self._open: dict[int, tuple[Transaction, list[Closed]]] = {}

    def __repr__(self) -> str:
        return f"<CachePlugin {self.cache!r}>"

    @staticmethod
    @hookimpl
    def settings() -> type[pydantic.BaseModel]:
        """See :class:`CacheSettings`."""
        return CacheSettings

    @hookimpl
    def register_services(self, app: App) -> Mapping[str, object]:
        """``app.services["cache"]`` is the :class:`Cache`."""
        return {"cache": self.cache}

    @hookimpl
    def shutdown(self, app: App) -> None:
        """What the App reads after its next start is new."""
        self.cache.clear()

    @hookimpl
    def health(self, app: App) -> Mapping[str, object]:
        """How full the cache is, and how useful."""
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
        """Writes of every model, since another one may keep records of the same collection; searches
        of the cached models."""
        shelf = self.cache.shelf(model._collection, model._name)
        if operation in ("create", "write", "unlink"):
            return [(Layer.CACHE, self._writing(model, shelf))]
        if operation == "search" and self._is_cached(model):
            return [(Layer.CACHE, self._searching(model, shelf))]
        return ()

    def _is_cached(self, model: type[BaseModel]) -> bool:
        chosen: object = getattr(model, "_cache", None)
        if isinstance(chosen, bool):
            return chosen
        return self._settings.models is None or model._name in self._settings.models

    def _searching(self, model: type[BaseModel], shelf: Shelf) -> Middleware:
        cache, name, schema = self.cache, model._name, model._schema

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

    def _writing(self, model: type[BaseModel], shelf: Shelf) -> Middleware:
        cache, schema = self.cache, model._schema

        async def write(op: Operation, call_next: Call, /) -> Any:
            ids = written_ids(op, schema)
            with cache.writing(shelf, ids):
                try:
                    return await call_next(op)
                finally:
                    # Without a note of a write in it, the transaction's end is not announced.
                    if op.env.transaction is not None and op.env.transaction.operations:
                        self._close_until_end(op.env.transaction, (shelf, ids))

        return write

    def _close_until_end(self, transaction: Transaction, closed: Closed) -> None:
        self.cache.close(*closed)
        self._open.setdefault(id(transaction), (transaction, []))[1].append(closed)

    @hookimpl
    def after_commit(self, app: App, operations: Sequence[Operation]) -> None:
        """What the transaction wrote may be kept again."""
        self._reopen(operations)

    @hookimpl
    def after_rollback(self, app: App, operations: Sequence[Operation]) -> None:
        """What the transaction tried to write may be kept again."""
        self._reopen(operations)

    def _reopen(self, operations: Sequence[Operation]) -> None:
        # All operations of one call share their transaction; outside of one nothing stayed closed.
        ended = operations[0].env.transaction if operations else None
        if ended is not None and id(ended) in self._open:
            for closed in self._open.pop(id(ended))[1]:
                self.cache.reopen(*closed)


def _in_order(ids: tuple[StoredId, ...], documents: list[Document]) -> list[Document]:
    """In the order that was asked for, so that it doesn't depend on what was kept."""
    if len(documents) < 2:
        return documents
    place = {pk: number for number, pk in enumerate(ids)}

    def rank(document: Document) -> int:
        pk = document["_id"]
        return place.get(pk, len(ids)) if type(pk) in ID_TYPES else len(ids)

    return sorted(documents, key=rank)
