"""The things that the layers of one App share: the settings, the memory of this process, and Redis where it is used."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from earnorm.plugin import pause
from earnorm_cache.closing import Shelves
from earnorm_cache.feed import Feed
from earnorm_cache.options import expires, kept_as
from earnorm_cache.shared import LEASE_SECONDS

if TYPE_CHECKING:
    from earnorm.plugin import ModelView
    from earnorm_cache.change import Change
    from earnorm_cache.closing import Shelf
    from earnorm_cache.listening import Listener
    from earnorm_cache.outside import Outside
    from earnorm_cache.results import SharedResults
    from earnorm_cache.settings import CacheSettings
    from earnorm_cache.shared import Shared


HEARD_SECONDS: Final = 3.0
"""The most seconds for which a warm-up waits until what it reads stays."""


@dataclass(slots=True)
class Levels:
    """The levels of one App.

    Attributes:
        settings: The settings of the cache.
        shelves: The memory of this process.
        shared: Redis; None while the App does not run, or uses none.
        feed: Tells whoever asked of what was written.
        results: The results of queries in Redis; None where ``shared`` is.
        listener: Hears what other processes write; None where ``shared`` is.
        strict: The collections of strict models, with the longest time for which these are kept.
        expiring: The collections of which nothing is cached, because the database deletes records by itself.
        outside: Hears of writes past the product; None where it does not run.
    """

    settings: CacheSettings
    shelves: Shelves
    shared: Shared | None = None
    results: SharedResults | None = None
    listener: Listener | None = None
    feed: Feed = field(default_factory=Feed)
    strict: dict[str, float] = field(default_factory=dict[str, float])
    expiring: set[str] = field(default_factory=set[str])
    outside: Outside | None = None

    async def are_heard(self, collections: Iterable[str]) -> bool:
        """Return whether this process has heard of what others wrote to collections, so that its memory is trusted."""
        listener = self.listener
        if listener is None:
            return True
        wanted = tuple(collections)
        for collection in wanted:
            listener.add(collection)
        await pause()  # a program that only hits lets the listener hear
        return all(map(listener.is_trusted, wanted))

    async def wait_until_heard(self, collection: str) -> None:
        """Wait, some seconds at the most, until the memory of this process is trusted and nothing more voids it.

        A process that has just begun does not know what was written before it listened, to Redis or to the database.
        """
        end = time.monotonic() + HEARD_SECONDS
        outside = self.outside
        if outside is not None:
            outside.begin()
        while time.monotonic() < end:
            if await self.are_heard((collection,)) and (outside is None or outside.is_settled):
                return
            await asyncio.sleep(0.01)

    def note_expiry(self, model: ModelView) -> None:
        """Cache nothing of the collection of a model whose records expire."""
        if expires(model):
            self.expiring.add(model.collection)

    def note_strictness(self, model: ModelView) -> None:
        """Note the collection of a strict model: the writes of all models in it raise barriers."""
        kept = kept_as(model, self.settings)
        if kept is not None and kept.strict:
            known = self.strict.get(model.collection, 0.0)
            self.strict[model.collection] = max(known, kept.ttl)

    async def end(
        self,
        collection: str,
        shelf: Shelf,
        change: Change,
        barrier: bytes = b"",
        *,
        is_acknowledged: bool = True,
    ) -> None:
        """Remove from Redis what was written, and read it from the cache again from then on.

        Args:
            collection: The collection.
            shelf: Its shelf.
            change: What was written.
            barrier: The token of the barrier that the write has raised.
            is_acknowledged: Whoever wrote is told of a success: after a barrier this waits until it is removed, or
                until nothing from before the write can be kept any more.
        """
        is_removed = asyncio.Event()

        def reopen() -> None:
            self.shelves.reopen(shelf, change)
            is_removed.set()

        try:
            if self.shared is None:
                reopen()
                return
            # Of a new record somebody may have kept that there was none.
            await self.shared.remove(collection, change, reopen, barrier)
            if barrier and is_acknowledged and not is_removed.is_set():
                # A lease from before the write that Redis gave after it had lost the barrier.
                seconds = LEASE_SECONDS + self.strict.get(collection, 0.0)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(is_removed.wait(), seconds)
        finally:
            self.feed.tell(collection, change)

    async def void(self, collection: str, change: Change, done: Callable[[], None]) -> None:
        """Remove from every level of every process what somebody else has written.

        Args:
            collection: The collection.
            change: What was written.
            done: Is called once it is removed, later where Redis is away.
        """
        shelf = self.shelves.any_shelf(collection)

        def removed() -> None:
            self.shelves.reopen(shelf, change)
            done()

        self.shelves.close(shelf, change)
        try:
            if self.shared is None:
                removed()
            else:
                await self.shared.remove(collection, change, removed)
        finally:
            self.feed.tell(collection, change)
