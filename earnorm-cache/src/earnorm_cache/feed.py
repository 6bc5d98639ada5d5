"""Tells whoever asked of what was written, in this process and in those that share its Redis."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from earnorm.plugin import StoredId
from earnorm_cache.change import Change

log = logging.getLogger("earnorm.cache")

Callback: TypeAlias = Callable[[tuple[StoredId, ...] | None], object]
"""Is given the ids of the records that may have changed; None for all of the collection."""


class Feed:
    """The callbacks of one App, by collection."""

    def __init__(self) -> None:
        self._callbacks: dict[str, list[Callback]] = {}

    @property
    def collections(self) -> list[str]:
        """The collections that somebody asked for."""
        return list(self._callbacks)

    def add(self, collection: str, callback: Callback) -> Callable[[], None]:
        """Call a function at each change of a collection; return a function that ends that."""
        # Who adds the same function twice ends one of the two.
        own: Callback = partial(callback)
        self._callbacks.setdefault(collection, []).append(own)

        def end() -> None:
            callbacks = self._callbacks.get(collection, [])
            if own in callbacks:
                callbacks.remove(own)
                if not callbacks:
                    del self._callbacks[collection]

        return end

    def clear(self) -> None:
        """Call nobody any more."""
        self._callbacks.clear()

    def tell(self, collection: str, change: Change) -> None:
        """Call the functions; one that fails is logged, since the write is done."""
        for callback in self._callbacks.get(collection, ())[:]:
            try:
                callback(change.ids)
            except Exception:
                log.exception("%r failed at a change of %s", callback, collection)
