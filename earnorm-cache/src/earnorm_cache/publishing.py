"""The figures of every process in Redis, where a command of another process finds them.

``{namespace}:p`` is a hash with a field for each App that runs: the millisecond, by the clock of the server, after which it
is gone, and its figures as BSON.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from earnorm.plugin import from_bson, to_bson
from earnorm_cache.connecting import Script
from earnorm_cache.ending import end

if TYPE_CHECKING:
    from earnorm_cache.shared import Shared

EVERY: Final = 5.0
"""The seconds between two tellings."""

_TELL: Final = Script("""
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local told = redis.call('HGETALL', KEYS[1])
for i = 1, #told, 2 do
  if tonumber(string.sub(told[i + 1], 1, 14)) < now then redis.call('HDEL', KEYS[1], told[i]) end
end
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%014.0f', now + ARGV[3]) .. ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return redis.call('HVALS', KEYS[1])
""")


class Publisher:
    """Tells the figures of this process from time to time.

    Args:
        shared: The second level.
        figures: Returns them.
    """

    def __init__(self, shared: Shared, figures: Callable[[], Mapping[str, object]]) -> None:
        self._shared, self._figures = shared, figures
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """End, and be one of the running processes no more."""
        task, self._task = self._task, None
        if task is not None:
            await end(task)
            await self._tell(b"")

    async def _run(self) -> None:
        while self._task is not None:
            await asyncio.sleep(EVERY)
            await self._tell(to_bson(self._figures()))

    async def _tell(self, figures: bytes) -> list[bytes]:
        shared = self._shared
        if shared.is_down:
            return []
        answer: list[bytes] = []
        with contextlib.suppress(*shared.errors):
            answer = await shared.connection.run(
                _TELL, [shared.figures_key], [shared.name, figures, int(EVERY * 3000)]
            )
        return answer

    async def told(self) -> list[dict[str, Any]]:
        """Return the figures of each process that told its own in the last seconds."""
        return [from_bson(each[14:]) for each in await self._tell(b"")]


_MOST: Final = frozenset(["heard_seconds_ago", "window_seconds"])
"""Of these the largest counts."""
_OWN: Final = frozenset(["hit_rate"])
"""These say nothing of several processes."""


def together(told: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of several processes together; what is no number is left out."""
    sums: dict[str, Any] = {}
    for figures in told:
        _add(sums, figures)
    return sums


def _add(sums: dict[str, Any], figures: Mapping[str, Any]) -> None:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            inner: dict[str, Any] = sums.setdefault(name, {})
            _add(inner, value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and name not in _OWN:
            sums[name] = (
                max(sums.get(name, 0), value) if name in _MOST else sums.get(name, 0) + value
            )
