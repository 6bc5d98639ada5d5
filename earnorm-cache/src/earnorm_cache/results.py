"""Results of queries in Redis, each with the vector of the tokens that it depends on.

The vector is read before the database is asked, and a result is only given while the vector is the same. A change
deletes the tokens that it renews once it is over, so a result from before it has another vector, whenever it was put
there. The place of a result first holds a *lease*: of all who ask, one loads it, and the others wait for it.

- ``{namespace.collection}:q<key>``: ``L``, ``V`` or ``N``, then the vector, then the token of a lease, the result, or
  nothing for a result that is too large to be kept.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from earnorm_cache.barriers import BARRED
from earnorm_cache.connecting import Script
from earnorm_cache.shared import LEASE_SECONDS, SERVER, WAITS

if TYPE_CHECKING:
    from earnorm_cache.shared import Shared

TOKEN_BYTES: Final = 8
MINE: Final = b""
"""In the place of a kind: the lease was given to this task."""

# Which server it is comes first: one that was started again from an old file has old tokens, too.
_VECTOR: Final = (
    SERVER
    + BARRED
    + """
local function vector_of(key, fresh, first)
  local names = {unpack(ARGV, first)}
  local vector = redis.call('HMGET', key, unpack(names))
  for i, name in ipairs(names) do
    if not vector[i] then
      redis.call('HSET', key, name, fresh)
      vector[i] = fresh
    end
  end
  -- While a strict write is under way, no two vectors are equal, and none is the beginning of another.
  return server() .. table.concat(vector) .. (barred(KEYS[#KEYS]) and 'b' .. fresh or 'o')
end
"""
)
_TAKE: Final = Script(
    _VECTOR
    + """
local vector = ARGV[3] .. vector_of(KEYS[1], ARGV[1], 4)
local held = redis.call('GET', KEYS[2])
if held and string.sub(held, 2, 1 + #vector) == vector then
  return {vector, held}
end
redis.call('SET', KEYS[2], 'L' .. vector .. ARGV[1], 'PX', ARGV[2])
return {vector, ''}
"""
)
_READ_VECTOR: Final = Script(_VECTOR + "return vector_of(KEYS[1], ARGV[1], 2)")
_FILL: Final = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return 1
""")

LoadResult = Callable[[], Awaitable[bytes | None]]
"""Asks the database, and returns the bytes to keep; None for a result that is not kept."""


class _Place(NamedTuple):
    """The place of one result, and all that is said of it when it is taken."""

    key: bytes
    tokens: bytes
    barriers: bytes
    names: tuple[str, ...]
    more: bytes
    ttl: float


@dataclass(eq=False, slots=True)
class _Taking:
    """The question of several tasks for what is in one place."""

    token: bytes
    is_answered: asyncio.Future[bool]
    vector: bytes = b""
    held: bytes = b""
    """Empty if the place was given to these tasks."""
    waiters: int = 0
    is_claimed: bool = False

    @property
    def lease(self) -> bytes:
        """The bytes that are in the place if it was given to these tasks."""
        return b"L" + self.vector + self.token

    def claim(self) -> tuple[bytes, bytes]:
        """Return what is in the place: its kind, and the rest of it without the vector.

        A lease goes to the first who claims it: the kind is then ``MINE``, and the rest is the whole lease.
        """
        if self.held:
            return self.held[:1], self.held[1 + len(self.vector) :]
        if self.is_claimed:
            return b"L", self.token
        self.is_claimed = True
        return MINE, self.lease


class SharedResults:
    """The results in Redis of one App.

    Args:
        shared: The connection to Redis.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._taking: dict[tuple[bytes, bytes], _Taking] = {}
        """The questions of this turn of the loop, by the key of the place and the vector of other collections."""
        self._flights: dict[bytes, asyncio.Future[None]] = {}
        """The loads of this process, by the token of their lease."""

    async def vector(self, collection: str, names: Sequence[str]) -> bytes | None:
        """Return the tokens of a collection; None if Redis is away.

        Args:
            collection: The collection.
            names: The names of the tokens, always in the same order.
        """
        answer: bytes | None = await self._shared._ask(
            _READ_VECTOR,
            [self._shared.key(collection, b"t"), self._shared.key(collection, b"b")],
            [secrets.token_bytes(TOKEN_BYTES), *names],
        )
        return answer

    async def fetch(
        self,
        collection: str,
        key: bytes,
        names: tuple[str, ...],
        load: LoadResult,
        ttl: float,
        more: bytes = b"",
    ) -> bytes | None:
        """Return a kept result, or else load it, once for all who ask.

        Args:
            collection: The collection that the result is about.
            key: Tells the result from others. Each key has its own names of tokens.
            names: The names of the tokens of the collection that it depends on.
            load: Is called at most once.
            ttl: The most seconds that the result is kept.
            more: The vector of other collections, read before.

        Returns:
            The result's bytes; None if ``load`` was called.
        """
        shared = self._shared
        place = _Place(
            shared.key(collection, b"q" + key),
            shared.key(collection, b"t"),
            shared.key(collection, b"b"),
            names,
            more,
            ttl,
        )
        has_waited = False
        for seconds in (*WAITS, None):
            taken = await self._take(place)
            if taken is None:
                break
            kind, rest = taken
            if kind == MINE:
                await self._load(place, rest, load)
                return None
            if kind == b"V":
                shared.figures.query_hits += 1
                shared.figures.joined += has_waited
                return rest
            if kind == b"N" or seconds is None:
                break
            has_waited = True
            flight = self._flights.get(rest)
            if flight is None:
                await asyncio.sleep(seconds)
            else:
                await asyncio.wait([flight], timeout=LEASE_SECONDS)
        await load()  # Redis is away, whoever loads it takes too long, or it is too large
        return None

    async def _take(self, place: _Place) -> tuple[bytes, bytes] | None:
        """Return what is in a place, or the lease of it; None if Redis is away.

        Tasks that ask for one result in the same turn of the loop ask together.
        """
        if self._shared.is_settling(place.key):
            return None
        taking = self._taking.get((place.key, place.more))
        if taking is None:
            answered = asyncio.get_running_loop().create_future()
            taking = _Taking(secrets.token_bytes(TOKEN_BYTES), answered)
            self._taking[place.key, place.more] = taking
            self._shared._begin(self._ask_for(place, taking))
        taking.waiters += 1
        try:
            return taking.claim() if await asyncio.shield(taking.is_answered) else None
        finally:
            taking.waiters -= 1
            self._give_back(place, taking)

    async def _ask_for(self, place: _Place, taking: _Taking) -> None:
        # A new task begins in the next turn of the loop; the tasks of this turn have joined.
        del self._taking[place.key, place.more]
        answer = None
        try:
            answer = await self._shared._ask(
                _TAKE,
                [place.tokens, place.key, place.barriers],
                [taking.token, int(LEASE_SECONDS * 1000), place.more, *place.names],
            )
            if answer is not None:
                taking.vector, taking.held = answer
                if not taking.held:
                    loop = asyncio.get_running_loop()
                    self._flights[taking.token] = loop.create_future()
        finally:
            taking.is_answered.set_result(answer is not None)
            self._give_back(place, taking)

    def _give_back(self, place: _Place, taking: _Taking) -> None:
        """Give back a lease that nobody uses, when all who asked have gone on or were cancelled."""
        if taking.waiters or not taking.is_answered.done() or taking.is_claimed:
            return
        if taking.token in self._flights:
            taking.is_claimed = True
            self._shared._begin(self._fill(place, taking.lease, b""))

    async def _load(self, place: _Place, lease: bytes, load: LoadResult) -> None:
        """Load with a lease, and put the result in its place."""
        filled = b""
        try:
            data = await load()
            self._shared.figures.query_loads += 1
            vector = lease[1:-TOKEN_BYTES]
            filled = b"N" + vector if data is None else b"V" + vector + data
        finally:
            # A load that failed or was cancelled gives its lease back, so that others need not wait. Nobody here
            # waits for that: it would be a third round trip of each miss.
            self._shared._begin(self._fill(place, lease, filled))

    async def _fill(self, place: _Place, lease: bytes, filled: bytes) -> None:
        try:
            taken = await self._shared._ask(
                _FILL, [place.key], [lease, filled, max(1, int(place.ttl * 1000))]
            )
            self._shared.figures.refused += bool(filled) and not taken
        finally:
            self._flights.pop(lease[-TOKEN_BYTES:]).set_result(None)
