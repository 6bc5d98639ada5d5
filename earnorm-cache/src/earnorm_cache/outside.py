"""Follows what others write to the database: the shell, programs that are not EarnORM's, an App without the cache.

The database tells it on a change stream. Without Redis each process follows it for its own memory. With Redis one
process does it for all: the one that has the *lease*, a key with its name that it renews, and that another takes over
``LEASE_SECONDS`` after its last renewal, or at once where it stops in order. The place up to which everything was
removed is kept beside the lease, so who takes over begins there. Whoever has no such place, or finds that the
database's history does not reach back to it, opens the stream and then counts everything as changed.

An old holder that did not know of the end of its lease removes what is removed anyway, and cannot move the place.
The writes of this program come back on the stream as well: nothing in a change says who made it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Final

from earnorm.exceptions import (
    ConfigurationError,
    EarnORMError,
    NotSupported,
    ServerUnavailable,
    ValidationError,
)
from earnorm.plugin import ID_TYPES, DatabaseChange, DatabaseChanges
from earnorm_cache.change import EVERYTHING, Change, Changes
from earnorm_cache.connecting import Script
from earnorm_cache.ending import end

if TYPE_CHECKING:
    from earnorm import App
    from earnorm_cache.levels import Levels

log = logging.getLogger("earnorm.cache")

LEASE_SECONDS: Final = 2.0
"""The time after which another process takes over from one that was killed, and half a second more."""

RENEW_SECONDS: Final = 0.5
"""The time between two renewals, and between two tries to get the lease."""

AWAIT_SECONDS: Final = 0.5
"""The time for which the database waits for a change before it says that there is none."""

PAUSE_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
"""The times between tries to open a stream that broke off; the last one is repeated."""

_LEASE: Final = Script("""
local holder = redis.call('GET', KEYS[1])
if #ARGV > 3 then redis.call('SADD', KEYS[3], unpack(ARGV, 4)) end
if holder and holder ~= ARGV[1] then return {0} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if holder and ARGV[3] ~= '' then redis.call('SET', KEYS[2], ARGV[3]) end
local answer = {1, redis.call('GET', KEYS[2]) or ''}
for i, name in ipairs(redis.call('SMEMBERS', KEYS[3])) do answer[i + 2] = name end
return answer
""")
_RELEASE: Final = Script("""
if redis.call('GET', KEYS[1]) == ARGV[1] then
  if ARGV[2] ~= '' then redis.call('SET', KEYS[2], ARGV[2]) end
  redis.call('DEL', KEYS[1])
end
return 0
""")


class Outside:
    """Follows the changes of the database for one App.

    Args:
        app: The App, which is started.
        levels: The levels that forget what was changed.
    """

    def __init__(self, app: App, levels: Levels) -> None:
        self._app, self._levels = app, levels
        self._name = secrets.token_hex(8)
        self._others: set[str] = set()
        """The collections that some process has told that it keeps, and that are followed."""
        self._task: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._gathered: dict[str, Changes] = {}
        self._is_gathered = asyncio.Event()
        self._owed = 0
        """The number of removals that Redis has not carried out yet."""
        self._heard_to: str | None = None
        self._place: str | None = None
        """The place up to which everything was removed."""
        self._is_held_elsewhere = False
        self.is_following = False
        """True while the stream is open, and everything before it is known."""
        self.heard = 0
        """The number of changes heard, of whoever."""

    @property
    def is_settled(self) -> bool:
        """True once the changes are followed, by this process or another one, or cannot be."""
        task = self._task
        if task is None or task.done():
            return True
        return self.is_following or self._is_held_elsewhere

    def begin(self) -> None:
        """Begin in the background; a second call does nothing."""
        if self._task is None:
            run = self._follow() if self._levels.shared is None else self._hold()
            # The operation that is the first of all has a context, which is not this task's.
            self._task = asyncio.get_running_loop().create_task(run, context=Context())

    async def stop(self) -> None:
        """Follow no more, and hand over to another process."""
        task, self._task = self._task, None
        if task is not None:
            await _end(task)

    # -- the lease ----------------------------------------------------------------------------

    async def _hold(self) -> None:
        """Try to get the lease, and follow while this process has it."""
        shared = self._levels.shared
        assert shared is not None
        keys = shared.own_keys(b"lease", b"place", b"collections")
        try:
            while self._task is not None:
                place = self._place if self._following is not None else None
                arguments = [
                    self._name,
                    int(LEASE_SECONDS * 1000),
                    place or "",
                    *self._levels.shelves.collections,
                ]
                try:
                    is_mine, *rest = await shared.connection.run(_LEASE, keys, arguments)
                except shared.errors:
                    pass  # nobody else can get it now, and what is heard is owed
                else:
                    if is_mine:
                        self._follow_with(rest[0].decode() or None, {n.decode() for n in rest[1:]})
                    else:
                        await self._follow_no_more()
                    self._is_held_elsewhere = not is_mine
                await asyncio.sleep(RENEW_SECONDS)
        finally:
            await self._follow_no_more()
            with contextlib.suppress(*shared.errors):  # else it ends by itself
                await shared.connection.run(_RELEASE, keys[:2], [self._name, self._place or ""])

    def _follow_with(self, place: str | None, names: set[str]) -> None:
        if self._following is None or self._following.done():
            self._others, self._place = names, place
            self._following = asyncio.ensure_future(self._follow())
            return
        for name in names - self._others:
            # What was changed before this process knew of it was not removed.
            self._others.add(name)
            self._gather(name, EVERYTHING)

    async def _follow_no_more(self) -> None:
        task, self._following = self._following, None
        if task is not None:
            await _end(task)
        self.is_following = False

    # -- the stream ---------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Follow the stream until this task is cancelled, or the server turns out to have none."""
        removing = asyncio.ensure_future(self._remove())
        tries = 0
        try:
            while True:
                begun = time.monotonic()
                try:
                    await self._follow_once()
                except (NotSupported, ConfigurationError) as error:
                    log.warning("%s", _unfollowed(error))
                    return
                except EarnORMError as error:
                    self.is_following = False
                    if isinstance(error, ValidationError):
                        self._place = None  # the history is lost
                    elif not isinstance(error, ServerUnavailable) and not tries:
                        log.warning("%s", _unfollowed(error))
                    tries = 0 if time.monotonic() - begun > PAUSE_SECONDS[-1] else tries
                    await asyncio.sleep(PAUSE_SECONDS[min(tries, len(PAUSE_SECONDS) - 1)])
                    tries += 1
        finally:
            self.is_following = False
            await _end(removing)

    async def _follow_once(self) -> None:
        changes = DatabaseChanges(self._app, token=self._place, max_await=AWAIT_SECONDS)
        async with changes:
            self._heard_to = changes.token
            if self._place is None:  # nobody knows what was changed before
                self._gather_all()
            self.is_following = True
            while True:
                try:
                    change = await changes.next()
                except StopAsyncIteration:  # the database was dropped
                    self._place = None
                    return
                if change is not None:
                    self._hear(change)
                self._heard_to = changes.token
                if not self._gathered and not self._owed:
                    self._place = self._heard_to
                elif self._gathered:
                    self._is_gathered.set()

    def _hear(self, change: DatabaseChange) -> None:
        self.heard += 1
        if change.kind == "drop":
            if not change.collections:
                self._gather_all()
            for name in change.collections:
                self._gather(name, EVERYTHING)
            return
        ids = (change.pk,) if type(change.pk) in ID_TYPES else None
        names = change.keys if change.kind == "write" else frozenset[str]()
        self._gather(change.collections[0], Change(ids, names, change.kind != "write"))

    def _gather_all(self) -> None:
        for name in self._others.union(self._levels.shelves.collections):
            self._gather(name, EVERYTHING)
        self._is_gathered.set()

    def _gather(self, collection: str, change: Change) -> None:
        if collection in self._others or collection in self._levels.shelves.collections:
            gathered = self._gathered.get(collection)
            if gathered is None:
                gathered = self._gathered[collection] = Changes()
            gathered.add(change)
            self._is_gathered.set()

    async def _remove(self) -> None:
        """Remove what was heard; what is heard meanwhile is removed together."""
        while True:
            await self._is_gathered.wait()
            self._is_gathered.clear()
            gathered, self._gathered = self._gathered, {}
            place = self._heard_to
            await asyncio.gather(
                *(
                    self._levels.void(name, changes.together, self._owing())
                    for name, changes in gathered.items()
                )
            )
            if not self._owed and not self._gathered:
                self._place = place

    def _owing(self) -> Callable[[], None]:
        self._owed += 1

        def paid() -> None:
            self._owed -= 1

        return paid


def _unfollowed(error: EarnORMError) -> str:
    return (
        f"the cache does not hear of writes from outside ({type(error).__name__}), which are seen after their ttl: "
        "change streams need a replica set, and the right changeStream on the database; outside_writes=False says "
        "that nobody else writes"
    )


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task, and wait for its end, which may take the close of a stream."""
    await end(task, 5.0)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("the cache stopped to hear of writes from outside", exc_info=error)
