"""The second level: documents in Redis that all processes share, with leases in the place of the value.

A reader that finds nothing puts a *lease* where the document will be, a random token, in the same script. Its
document takes that place only while the token is still there. Whoever writes a record removes what is in its place
once the write is over: a late document finds no token, and is refused. So is one whose token was evicted, or
lost with the server. (R. Nishtala et al., "Scaling Memcache at Facebook", NSDI 2013, 3.2.1.)

All keys of one collection have one hash tag, so that in a cluster a script keeps to one slot:

- ``{namespace.collection}:<id>``: a hash with the document or the lease of each *variant*: the models and fields
  by which a process reads the collection. Two releases of a program do not read each other's documents, and what
  one writes removes those of both.
- ``{namespace.collection}:g``: the generation, a random token with the server that it was drawn on. Documents of
  another generation are void. A server that was started again, from an old file, say, or a replica that became the
  primary and may not have heard of the last removals, is another server: its first script draws a new one.
- ``{namespace.collection}:t``: a hash with the tokens of the queries: one of the membership, one of any change at all,
  one of each field. A change deletes those that it renews; who needs one that is not there makes it, at random.
- ``{namespace.collection}:s``: the stream that tells the other processes what was written.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from earnorm.exceptions import ServerUnavailable
from earnorm.plugin import StoredId, from_bson, pause, slices, to_bson
from earnorm_cache.barriers import BARRED, Barriers
from earnorm_cache.change import EVERYTHING, NOTHING, Change, Changes
from earnorm_cache.connecting import Address, Connection, Script
from earnorm_cache.encoding import ABSENT, PAUSE_EVERY, Document, Kept, encoded, note_absent
from earnorm_cache.figures import SharedFigures

if TYPE_CHECKING:
    from earnorm_cache.options import Kept as ModelKept
    from earnorm_cache.settings import CacheSettings

log = logging.getLogger("earnorm.cache")

LEASE_SECONDS: Final = 2.0
"""The time in which a reader must have loaded; after it another one takes the lease over."""

DOWN_SECONDS: Final = 0.25
"""The time for which Redis is not asked after it did not answer."""

PAY_SECONDS: Final = 0.05
"""The time between two tries to remove from Redis what was written while it did not answer."""

SETTLE_SECONDS: Final = 0.5
"""The time after an outage for which nothing is read from Redis or trusted in memory: those who wrote meanwhile tell it
what they owe."""

STOP_SECONDS: Final = 2.0
"""The time for which a stop waits for such a try to succeed."""

STREAM_LENGTH: Final = 20_000
"""About the number of messages that a stream keeps; who misses more forgets all."""

AT_A_TIME: Final = 100
"""The number of ids in one script: a script keeps the server from all else."""

MOST_AT_WORK: Final = 100
"""The most fills and other work for which nobody waits; they hold documents, so whoever makes one more waits for it."""

WAITS: Final = (0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.12)
"""The seconds between two looks for what another process loads; after them the database is asked."""

SERVER: Final = """
local function server()
  local said = redis.pcall('INFO', 'server')
  return type(said) == 'string' and string.sub(string.match(said, 'run_id:(%x+)') or '', 1, 16) or ''
end
"""
# It takes 5 µs of the server (Redis 6.2).
_GENERATION: Final = (
    SERVER
    + """
local function generation(fresh)
  local held, here = redis.call('GET', KEYS[1]), server()
  if not held or string.sub(held, 9) ~= here then
    held = fresh .. here
    redis.call('SET', KEYS[1], held)
  end
  return string.sub(held, 1, 8)
end
"""
)
# The head of each place is 23 bytes: L and a lease's token, or V and the generation; then the
# millisecond, by the clock of the server, after which it is void.
_TAKE: Final = Script(
    _GENERATION
    + BARRED
    + """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local generation = generation(ARGV[3])
local lease = tonumber(ARGV[4])
local answer = {generation}
local barred = barred(KEYS[2])
for i = 3, #KEYS do
  local held = redis.call('HGET', KEYS[i], ARGV[1])
  if barred and (barred.whole or barred[KEYS[i]]) then
    answer[i - 1] = 'B'
  elseif held and tonumber(string.sub(held, 10, 23)) > now
      and (string.sub(held, 1, 1) == 'L' or string.sub(held, 2, 9) == generation) then
    answer[i - 1] = held
  else
    redis.call('HSET', KEYS[i], ARGV[1], 'L' .. ARGV[2] .. string.format('%014.0f', now + lease))
    if redis.call('PTTL', KEYS[i]) < lease then redis.call('PEXPIRE', KEYS[i], lease) end
    answer[i - 1] = ''
  end
end
return answer
"""
)
# A document of a generation that is over is put there, too; it is void, and nobody waits for it.
_FILL: Final = Script("""
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local filled = 0
for i = 1, #KEYS do
  local held = redis.call('HGET', KEYS[i], ARGV[1])
  if held and string.sub(held, 1, 9) == 'L' .. ARGV[2] and tonumber(string.sub(held, 10, 23)) > now then
    if ARGV[i + 5] ~= '' then
      local ttl = tonumber(ARGV[ARGV[i + 5] == '-' and 5 or 4])
      redis.call('HSET', KEYS[i], ARGV[1],
        'V' .. ARGV[3] .. string.format('%014.0f', now + ttl) .. ARGV[i + 5])
      if redis.call('PTTL', KEYS[i]) < ttl then redis.call('PEXPIRE', KEYS[i], ttl) end
      filled = filled + 1
    else
      redis.call('HDEL', KEYS[i], ARGV[1])
    end
  end
end
return filled
""")
_REMOVE: Final = Script(
    SERVER
    + """
if ARGV[1] ~= '' then redis.call('SET', KEYS[1], ARGV[1] .. server()) end
if ARGV[5] == 'all' then
  redis.call('DEL', KEYS[3])
else
  redis.call('HDEL', KEYS[3], unpack(ARGV, 6))
end
for i = 4, #KEYS do redis.call('DEL', KEYS[i]) end
return redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'by', ARGV[3], 'change', ARGV[4])
"""
)
_PROBE: Final = Script("return 1")
LOOK: Final = Script(
    SERVER
    + """
local answer = {server()}
for i = 1, #KEYS do
  local first = redis.call('XRANGE', KEYS[i], '-', '+', 'COUNT', 1)
  local last = redis.call('XREVRANGE', KEYS[i], '+', '-', 'COUNT', 1)
  answer[2 * i] = first[1] and first[1][1] or ''
  answer[2 * i + 1] = last[1] and last[1][1] or ''
end
return answer
"""
)
"""Returns which server this is, and the first and the last number of each stream."""

Load = Callable[[Sequence[StoredId]], Awaitable[list[Document]]]


@dataclass(eq=False, slots=True)
class Place:
    """One collection in Redis, as one model of this process reads it.

    Attributes:
        collection: The collection's name.
        variant: Tells apart what is read in different ways.
        ttl: The seconds for which a document is kept.
        negative_ttl: The seconds for which an absence is kept; 0 for not at all.
    """

    collection: str
    variant: bytes
    ttl: float
    negative_ttl: float = 0.0

    @classmethod
    def of(cls, collection: str, names: Iterable[str], kept: ModelKept) -> Place:
        """Make the place of a model whose documents depend on these names of models and fields."""
        digest = hashlib.blake2b("\0".join(names).encode(), digest_size=8)
        return cls(collection, digest.digest(), kept.ttl, kept.negative_ttl)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to put the document of one id in its place, while its token is there."""

    pk: StoredId
    token: bytes
    generation: bytes


class _Asking:
    """The ids that tasks ask for together, with what is in the place of each."""

    def __init__(self) -> None:
        self.ids: dict[StoredId, bytes | Lease | None] = {}
        # Each task has a future of its own: a shield around one for all takes one more turn of the loop.
        self.waiting: set[asyncio.Future[bool]] = set()
        self.is_answered = False

    def claim(self, ids: Iterable[StoredId]) -> list[bytes | Lease]:
        """Return what is in the place of each id; a lease goes to the first who claims it."""
        claimed: list[bytes | Lease] = []
        for pk in ids:
            held = self.ids[pk]
            assert held is not None
            if isinstance(held, Lease):
                self.ids[pk] = b"L" + held.token
            claimed.append(held)
        return claimed


@dataclass(slots=True)
class _Owed:
    """The changes made while Redis was away, which must still be removed from it."""

    changes: Changes = field(default_factory=Changes)
    paid: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
    barriers: list[bytes] = field(default_factory=list[bytes])

    def add(self, change: Change, paid: Callable[[], None], barrier: bytes) -> None:
        self.paid.append(paid)
        self.changes.add(change)
        if barrier:
            self.barriers.append(barrier)


class Shared:
    """The documents in Redis of one App.

    Args:
        settings: The settings of the cache, which name the server.
        namespace: Tells the keys of this App's database from others in the same server.
    """

    def __init__(self, settings: CacheSettings, namespace: str) -> None:
        assert settings.redis_url is not None
        self.name = secrets.token_hex(8)
        """Names this App among the writers of the streams."""
        self.figures = SharedFigures()
        address = Address.parse(settings.redis_url.get_secret_value())
        self.connection = Connection(address, settings.redis_timeout)
        self.errors = self.connection.errors
        self._namespace = namespace
        self._heads: dict[str, bytes] = {}
        """The beginning of the keys of each collection."""
        self._down_until: dict[int, float] = {}
        """By the node of a cluster, the time until which it is not asked."""
        self._unsettled: set[int] = set()
        """The groups whose node did not answer when it was asked last."""
        self._probing: set[int] = set()
        self._settled_at: dict[int, float] = {}
        """By group, the time at which an outage is really over; see ``SETTLE_SECONDS``."""
        self._asking: dict[Place, _Asking] = {}
        """The ids that are asked for in this turn of the loop, by place."""
        self._flights: dict[tuple[bytes, StoredId], asyncio.Future[None]] = {}
        """The loads of this process, by the token of their lease and the id."""
        self._owed: dict[str, _Owed] = {}
        self._paying: asyncio.Task[None] | None = None
        self._at_work: set[asyncio.Task[None]] = set()
        self.barriers = Barriers(self)

    # -- keys ---------------------------------------------------------------------------------

    def stream(self, collection: str) -> bytes:
        """Return the key of a collection's stream."""
        return self.key(collection, b"s")

    def keys_of(self, collection: str) -> list[bytes]:
        """Return the keys of a collection's generation, tokens and stream."""
        return [self.key(collection, rest) for rest in (b"g", b"t", b"s")]

    def places(self, collection: str, pk: StoredId) -> list[bytes]:
        """Return the keys of a collection's generation and of the place of a record."""
        return [self.key(collection, b"g"), *self._keys(collection, [pk])]

    @property
    def figures_key(self) -> bytes:
        """The key of the figures of all processes; no name of a collection begins with a dot."""
        return self.key("", b"p")

    def key(self, collection: str, rest: bytes) -> bytes:
        """Return a key of a collection, which all have one hash tag."""
        head = self._heads.get(collection)
        if head is None:
            # A brace would end the hash tag, and a percent sign is what it is replaced by.
            name = f"{self._namespace}.{collection}".replace("%", "%25").replace("}", "%7D")
            head = self._heads[collection] = b"earnorm:{" + name.encode() + b"}:"
        return head + rest

    def own_keys(self, *names: bytes) -> list[bytes]:
        """Return keys of the whole deployment, in one slot."""
        namespace = self._namespace.replace("%", "%25").replace("}", "%7D").encode()
        return [b"earnorm:{" + namespace + b"}:" + name for name in names]

    def _keys(self, collection: str, ids: Iterable[StoredId]) -> list[bytes]:
        head = self.key(collection, b"d")
        return [head + to_bson({"": pk})[4:] for pk in ids]

    # -- reading ------------------------------------------------------------------------------

    async def fetch(
        self, place: Place, ids: Sequence[StoredId], load: Load, kept: Kept
    ) -> list[Document]:
        """Return the documents of these ids, from Redis or else from the database.

        Args:
            place: The collection and how it is read.
            ids: The ids.
            load: Loads documents from the database.
            kept: Is given the id and the BSON of each document.
        """
        taken = await self._take(place, ids)
        if len(ids) == 1 and taken is not None:
            held = taken[0]
            if not isinstance(held, Lease) and held[:1] == b"V":  # a hit needs no more than this
                self.figures.hits += 1
                data = held[23:]
                kept(ids[0], data)
                return [from_bson(data)] if data != ABSENT else []
        documents: list[Document] = []
        wanted, has_waited = list(ids), False
        for seconds in (*WAITS, None):
            if has_waited:
                taken = await self._take(place, wanted)
            if taken is None:
                break
            mine = [held for held in taken if isinstance(held, Lease)]
            barred: list[StoredId] = []
            others: dict[StoredId, bytes] = {}
            try:
                for part in slices([*zip(wanted, taken, strict=True)], PAUSE_EVERY):
                    for pk, held in part:
                        if isinstance(held, Lease):
                            continue
                        if held[:1] == b"V":
                            self.figures.hits += 1
                            self.figures.joined += has_waited
                            if held[23:] != ABSENT:
                                documents.append(from_bson(held[23:]))
                            kept(pk, held[23:])
                        elif held == b"B":
                            barred.append(pk)
                        else:
                            others[pk] = held[1:9]
                    if len(part) == PAUSE_EVERY:
                        await pause()
            except BaseException:  # before the load has begun, which gives them back itself
                if mine:
                    self._begin(self._fill_all(place, mine, {}))
                raise
            if mine:
                documents += await self._load(place, mine, load, kept)
            if barred:  # a write is under way, which no level may miss
                documents += await load(barred)
            if not others:
                return documents
            wanted, has_waited = list(others), True
            if seconds is None:
                break
            flights = [self._flights.get((token, pk)) for pk, token in others.items()]
            if all(flights):  # all of them are loads of this process
                waited = [flight for flight in flights if flight is not None]
                await asyncio.wait(waited, timeout=LEASE_SECONDS)
            else:
                await asyncio.sleep(seconds)
        late = await load(wanted)  # Redis is away, or whoever loads them takes too long
        await encoded(late, kept)
        return documents + late

    async def _take(self, place: Place, ids: Sequence[StoredId]) -> Sequence[bytes | Lease] | None:
        """Return what is in the place of each id, or the lease on it; None if Redis is away.

        What tasks ask for in one turn of the loop is asked for together. The first that asks for an id may get
        the lease; the others find that it has one.
        """
        if self.is_settling(self.key(place.collection, b"g")):
            return None
        asking = self._asking.get(place)
        if asking is None:
            asking = self._asking[place] = _Asking()
            self._begin(self._take_all(place, asking))
        for pk in ids:
            asking.ids.setdefault(pk, None)
        is_answered = asyncio.get_running_loop().create_future()
        asking.waiting.add(is_answered)
        try:
            return asking.claim(ids) if await is_answered else None
        finally:
            asking.waiting.discard(is_answered)
            self._give_back(place, asking)

    async def _take_all(self, place: Place, asking: _Asking) -> None:
        # A new task begins in the next turn of the loop; the tasks of this turn have joined.
        del self._asking[place]
        is_answered, token = False, secrets.token_bytes(8)
        try:
            for part in slices(list(asking.ids), AT_A_TIME):
                answer = await self._ask(
                    _TAKE,
                    [
                        self.key(place.collection, b"g"),
                        self.key(place.collection, b"b"),
                        *self._keys(place.collection, part),
                    ],
                    [place.variant, token, secrets.token_bytes(8), int(LEASE_SECONDS * 1000)],
                )
                if answer is None:
                    return
                for pk, held in zip(part, answer[1:], strict=True):
                    asking.ids[pk] = held or Lease(pk, token, answer[0])
                    if not held:
                        self._flights[token, pk] = asyncio.get_running_loop().create_future()
            is_answered = True
        finally:
            asking.is_answered = True
            for waiting in asking.waiting:
                if not waiting.done():
                    waiting.set_result(is_answered)
            self._give_back(place, asking)

    def _give_back(self, place: Place, asking: _Asking) -> None:
        """Give back the leases that nobody uses, when all who asked have gone on or were cancelled."""
        if asking.is_answered and not asking.waiting:
            unused = [held for held in asking.ids.values() if isinstance(held, Lease)]
            asking.ids.clear()
            if unused:
                self._begin(self._fill_all(place, unused, {}))

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin work that a cancellation of the task that needs it does not end."""
        task = asyncio.ensure_future(work)
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)
        return task

    async def _load(
        self, place: Place, leases: Sequence[Lease], load: Load, kept: Kept
    ) -> list[Document]:
        """Load with leases, and put the documents in their places."""
        filled: dict[StoredId, bytes] = {}
        try:
            documents = await load([lease.pk for lease in leases])
            self.figures.loads += len(leases)
            filled = await encoded(documents, kept)
            if place.negative_ttl:
                note_absent([lease.pk for lease in leases], documents, filled, kept)
            return documents
        finally:
            # A load that failed or was cancelled gives its leases back, so that others need not wait. Who has loaded
            # does not wait for that either: a late document is refused. It is a third round trip of each miss.
            filling = self._begin(self._fill_all(place, leases, filled))
            if len(self._at_work) > MOST_AT_WORK:
                await asyncio.shield(filling)

    async def _fill_all(
        self, place: Place, leases: Sequence[Lease], filled: Mapping[StoredId, bytes]
    ) -> None:
        try:
            by_batch: dict[tuple[bytes, bytes], list[StoredId]] = {}
            for lease in leases:
                by_batch.setdefault((lease.token, lease.generation), []).append(lease.pk)
            for (token, generation), ids in by_batch.items():
                await self._fill(place, ids, token, generation, filled)
        finally:
            for lease in leases:
                self._flights.pop((lease.token, lease.pk)).set_result(None)

    async def _fill(
        self,
        place: Place,
        ids: Sequence[StoredId],
        token: bytes,
        generation: bytes,
        filled: Mapping[StoredId, bytes],
    ) -> None:
        for part in slices(list(ids), AT_A_TIME):
            taken = await self._ask(
                _FILL,
                self._keys(place.collection, part),
                [
                    *(place.variant, token, generation),
                    *(int(place.ttl * 1000), int(place.negative_ttl * 1000)),
                    *(filled.get(pk, b"") for pk in part),
                ],
            )
            self.figures.refused += sum(pk in filled for pk in part) - (taken or 0)

    # -- writing ------------------------------------------------------------------------------

    async def remove(
        self, collection: str, change: Change, done: Callable[[], None], barrier: bytes = b""
    ) -> None:
        """Remove what was written, and tell the other processes.

        Args:
            collection: The collection.
            change: What was written.
            done: Is called once it is removed, later where Redis is away; until then this
                process must not read it from any level.
            barrier: The token of the barrier that the write has raised.
        """
        # A cancelled write may have been carried out, so this is.
        await asyncio.shield(self._begin(self._remove(collection, change, done, barrier)))

    async def _remove(
        self, collection: str, change: Change, done: Callable[[], None], barrier: bytes
    ) -> None:
        if collection not in self._owed and await self._removed(collection, change):
            if barrier:
                await self.barriers.lower(collection, [barrier])
            done()
            return
        self._owe(collection, change, done, barrier)

    def _owe(
        self, collection: str, change: Change, done: Callable[[], None], barrier: bytes
    ) -> None:
        self._owed.setdefault(collection, _Owed()).add(change, done, barrier)
        if self._paying is None or self._paying.done():
            self._paying = asyncio.ensure_future(self._pay())

    async def bar(self, collection: str, change: Change) -> bytes:
        """Raise the barrier of a write; return its token.

        Raises:
            ServerUnavailable: Redis does not answer.
        """
        token = secrets.token_bytes(8)
        if self.is_down_for(self.connection.group(self.stream(collection))):
            raise _refused()
        raising = asyncio.ensure_future(self.barriers.raise_(collection, change, token))
        try:
            is_raised = await asyncio.shield(raising)
        except asyncio.CancelledError:
            self._begin(self._lower_later(collection, raising, token))
            raise
        if not is_raised:
            self._owe(collection, NOTHING, _nothing, token)  # the command may arrive late
            raise _refused()
        return token

    async def _lower_later(
        self, collection: str, raising: asyncio.Task[bool], token: bytes
    ) -> None:
        """Take away the barrier of a write that was cancelled while it was raised."""
        if await raising:
            await self.barriers.lower(collection, [token])
        else:
            self._owe(collection, NOTHING, _nothing, token)

    async def _removed(self, collection: str, change: Change, *, is_owed: bool = False) -> bool:
        ids, tokens = change.ids, change.tokens
        parts = [change] if not ids else map(change.of, slices(list(ids), AT_A_TIME))
        for part in parts:
            answer = await self._ask(
                _REMOVE,
                [
                    self.key(collection, b"g"),
                    self.stream(collection),
                    self.key(collection, b"t"),
                    *self._keys(collection, part.ids or ()),
                ],
                [
                    secrets.token_bytes(8) if part.ids is None else b"",
                    STREAM_LENGTH,
                    self.name,
                    part.to_message(),
                    *(("all",) if tokens is None else ("some", *sorted(tokens))),
                ],
                is_owed=is_owed,
            )
            if answer is None:
                return False
        return True

    async def clear(self, collections: Iterable[str]) -> None:
        """Remove everything of these collections, and tell the other processes.

        Raises:
            ServerUnavailable: Redis does not answer; it is removed once it does.
        """
        await asyncio.gather(*(self.remove(name, EVERYTHING, lambda: None) for name in collections))
        if self.is_owing:
            raise ServerUnavailable(
                "cache: Redis does not answer, so it is emptied only when it does, while this App runs"
            ).coded("no_redis")

    async def _pay(self) -> None:
        """Remove what is owed, as soon as Redis is there again."""
        while self._owed:
            await asyncio.sleep(PAY_SECONDS)
            for collection, owed in list(self._owed.items()):
                number = len(owed.paid)
                if not await self._removed(collection, owed.changes.together, is_owed=True):
                    continue  # the node of another collection may be there
                if len(owed.paid) > number:  # more was written meanwhile
                    continue
                del self._owed[collection]
                if owed.barriers:
                    await self.barriers.lower(collection, owed.barriers)
                for paid in owed.paid:
                    paid()

    @property
    def is_owing(self) -> bool:
        """True while something that was written could not be removed from Redis yet."""
        return bool(self._owed)

    # -- the server ---------------------------------------------------------------------------

    @property
    def is_down(self) -> bool:
        """True if Redis, or a node of it, did not answer a moment ago, and is not asked for now."""
        return any(map(self.is_down_for, self._down_until))

    def is_down_for(self, group: int) -> bool:
        """Return whether the node of a group did not answer a moment ago."""
        until = self._down_until.get(group)
        return until is not None and time.monotonic() < until

    async def _ask(
        self,
        script: Script,
        keys: Sequence[bytes],
        arguments: Sequence[object],
        *,
        is_owed: bool = False,
    ) -> Any:
        """Run a script; return None if Redis does not answer, and for a moment ask it no more."""
        group = self.connection.group(keys[0])
        if not is_owed and self.is_down_for(group):
            return None
        try:
            answer = await self.connection.run(script, keys, arguments)
        except self.errors as error:
            self.note_failure(error, group)
            return None
        self.note_answer(group)
        return answer

    def note_answer(self, group: int) -> None:
        """Note that Redis answered. After an outage that is not its end yet for those who read."""
        if group in self._unsettled:
            self._unsettled.discard(group)
            self._settled_at[group] = time.monotonic() + SETTLE_SECONDS

    def is_settling(self, key: bytes) -> bool:
        """Return whether Redis was away a moment ago, so that others may still owe it what they wrote meanwhile."""
        if not self._unsettled and not self._settled_at:
            return False
        group = self.connection.group(key)
        if group in self._unsettled:
            if group not in self._probing and not self.is_down_for(group):
                self._probing.add(group)
                self._begin(self._probe(group, key))
            return True
        until = self._settled_at.get(group)
        if until is None or time.monotonic() < until:
            return until is not None
        del self._settled_at[group]
        return False

    async def _probe(self, group: int, key: bytes) -> None:
        """Find out whether Redis is there again, for those who read and do not ask it meanwhile."""
        try:
            await self._ask(_PROBE, [key], [])
        finally:
            self._probing.discard(group)

    def note_failure(self, error: Exception, group: int = 0) -> None:
        """Note that Redis did not answer."""
        now = time.monotonic()
        if not self.figures.failures or now >= max(self._down_until.values(), default=0.0) + 60:
            # Its text may quote the address, which has a password in it.
            log.warning(
                "Redis does not answer (%s); reads go to the database%s",
                type(error).__name__,
                self.connection.hint(error),
            )
        self.figures.failures += 1
        self._down_until[group] = now + DOWN_SECONDS
        self._unsettled.add(group)

    async def ping(self) -> None:
        """Ask the server whether it is there.

        Raises:
            Exception: It is not: one of ``errors``.
        """
        await self.connection.ping()

    async def idle(self) -> None:
        """Wait until nothing is under way that nobody waits for, such as putting a document in its place."""
        while self._at_work:
            await asyncio.wait(set(self._at_work))

    async def close(self) -> None:
        """Finish what is under way, and close the connections."""
        await self.idle()
        if self._paying is not None:
            await asyncio.wait([self._paying], timeout=STOP_SECONDS)
            self._paying.cancel()
            await asyncio.wait([self._paying])
        if self._owed:
            log.warning(
                "the cache stops while Redis is away: other processes may read what was written to %s "
                "from it for as long as its ttl",
                ", ".join(sorted(self._owed)),
            )
        for owed in self._owed.values():
            for paid in owed.paid:
                paid()
        self._owed.clear()
        await self.connection.close()


def _refused() -> ServerUnavailable:
    return ServerUnavailable(
        "cache: Redis does not answer, so that a write of a strict model is refused: nothing was written"
    ).coded("no_redis")


def _nothing() -> None:
    """Do nothing."""
