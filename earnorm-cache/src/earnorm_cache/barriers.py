"""Barriers: while a write of a strict model is under way, nobody is given what it changes from Redis, and nobody puts it there.

A write raises its barrier before the database is asked, in the same script that removes what it is about to change; if
it cannot, the write is refused. The barrier goes once all is removed again after the write. If the writer dies in
between, it stands until its time is over, and what is read meanwhile comes from the database.

- ``{namespace.collection}:b``: a hash with one barrier for each write, by a random token: the millisecond at which it
  is over, by the clock of the server, then ``*`` for the whole collection, or the keys of the records.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from earnorm_cache.connecting import Script

if TYPE_CHECKING:
    from earnorm_cache.change import Change
    from earnorm_cache.shared import Shared

BARRIER_SECONDS: Final = 180.0
"""The time after which a barrier ends by itself. A transaction of unknown outcome is over after two minutes."""

MOST_RECORDS: Final = 100
"""The most records that a barrier names; of more it is before the whole collection."""

BARRED: Final = """
local function barred(key)
  local all = redis.call('HGETALL', key)
  if #all == 0 then return nil end
  local t = redis.call('TIME')
  local now = t[1] * 1000 + math.floor(t[2] / 1000)
  local found = nil
  for i = 1, #all, 2 do
    local barrier = all[i + 1]
    if tonumber(string.sub(barrier, 1, 14)) <= now then
      redis.call('HDEL', key, all[i])
    else
      found = found or {}
      if string.sub(barrier, 15, 15) == '*' then
        found.whole = true
      else
        for _, name in ipairs(cmsgpack.unpack(string.sub(barrier, 15))) do found[name] = true end
      end
    end
  end
  return found
end
"""
"""A function of scripts: the keys of the records that are behind a barrier, ``whole`` for all; nil for none."""

_RAISE: Final = Script("""
local t = redis.call('TIME')
local over = t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[2]
local named = '*'
if ARGV[3] == '' then
  local keys = {}
  for i = 4, #KEYS do
    keys[i - 3] = KEYS[i]
    redis.call('DEL', KEYS[i])
  end
  named = cmsgpack.pack(keys)
else
  redis.call('DEL', KEYS[2])
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%014.0f', over) .. named)
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
if ARGV[4] == 'all' then
  redis.call('DEL', KEYS[3])
else
  redis.call('HDEL', KEYS[3], unpack(ARGV, 5))
end
return 1
""")
_LOWER: Final = Script("return redis.call('HDEL', KEYS[1], unpack(ARGV))")


class Barriers:
    """The barriers of the writes of one App.

    Args:
        shared: The connection to Redis.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def raise_(self, collection: str, change: Change, token: bytes) -> bool:
        """Raise a barrier, and remove what is about to change; return False if Redis is away."""
        tokens = change.tokens
        names = change.ids or ()
        is_whole = change.ids is None or len(names) > MOST_RECORDS
        key = self._shared.key
        answer = await self._shared._ask(
            _RAISE,
            [
                *(key(collection, part) for part in (b"b", b"g", b"t")),
                *self._shared._keys(collection, () if is_whole else names),
            ],
            [
                token,
                int(BARRIER_SECONDS * 1000),
                b"*" if is_whole else b"",
                *(("all",) if tokens is None else ("some", *sorted(tokens))),
            ],
        )
        return answer is not None

    async def lower(self, collection: str, tokens: Sequence[bytes]) -> None:
        """Take barriers away; where Redis is away again, they end by themselves."""
        await self._shared._ask(_LOWER, [self._shared.key(collection, b"b")], tokens, is_owed=True)
