"""Tells what each level has of a record or of a model: never the content, which may be a secret of somebody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from earnorm.plugin import ModelView, StoredId
from earnorm_cache.change import change_in
from earnorm_cache.connecting import Script

if TYPE_CHECKING:
    from earnorm_cache.levels import Levels
    from earnorm_cache.shared import Shared

_PLACE: Final = Script("""
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local generation = string.sub(redis.call('GET', KEYS[1]) or '', 1, 8)
local answer = {}
local held = redis.call('HGETALL', KEYS[2])
for i = 1, #held, 2 do
  local kind = string.sub(held[i + 1], 1, 1)
  if kind == 'V' and string.sub(held[i + 1], 2, 9) ~= generation then kind = 'void' end
  local left = tonumber(string.sub(held[i + 1], 10, 23)) - now
  answer[#answer + 1] = {held[i], kind, string.format('%.0f', left), #held[i + 1] - 23}
end
return answer
""")
_MODEL: Final = Script("""
local answer = {redis.call('EXISTS', KEYS[1]), redis.call('HLEN', KEYS[2]), redis.call('XLEN', KEYS[3])}
local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)
answer[4] = last[1] and last[1][1] or ''
return answer
""")
_KINDS: Final = {b"L": "being loaded", b"V": "kept", b"void": "void"}

Rows = list[dict[str, object]]


async def of_record(levels: Levels, model: ModelView, pk: StoredId) -> Rows:
    """Return a row for each level that has a record, or waits for it."""
    shelf = levels.shelves.find(model.collection)
    rows: Rows = []
    for name in () if shelf is None else sorted(shelf.models):
        entry = levels.shelves.memory.peek((name, pk))
        if entry is not None:
            size, left = entry
            rows.append(_row("memory", name, "kept", size, left))
    if shelf is not None and shelf.is_closed(pk):
        rows.append({"level": "memory", "state": "being written"})
    shared = levels.shared
    if shared is not None:
        keys = shared.places(model.collection, pk)
        for variant, kind, left, size in await shared.connection.run(_PLACE, keys, []):
            state = _KINDS.get(kind, "of another release")
            if kind != b"void" and int(left) <= 0:
                state = "too old"
            rows.append(_row("redis", variant.hex()[:8], state, size, int(left) / 1000))
    return rows


def _row(level: str, read_as: str, state: str, size: int, left: float) -> dict[str, object]:
    row: dict[str, object] = {"level": level, "read_as": read_as, "state": state}
    if state == "being loaded":
        return {**row, "lease_seconds_left": round(left, 1)}
    return {**row, "bytes": size, "seconds_left": round(left, 1)}


async def of_model(levels: Levels, model: ModelView) -> dict[str, object]:
    """Return what is kept of a collection."""
    shelf = levels.shelves.find(model.collection)
    told: dict[str, object] = {"collection": model.collection}
    if shelf is not None:
        told |= {
            "entries": len(shelf.keys),
            "being_written": shelf.closed_whole + len(shelf.closed),
            "being_loaded": len(shelf.leases),
        }
    shared = levels.shared
    if shared is not None:
        has, tokens, messages, last = await shared.connection.run(
            _MODEL, shared.keys_of(model.collection), []
        )
        told |= {"in_redis": bool(has), "tokens": tokens, "messages": messages}
        if last:
            written = int(last.partition(b"-")[0]) / 1000
            told["written_seconds_ago"] = round(max(0.0, time.time() - written), 1)
    return told


@dataclass(frozen=True, slots=True)
class Written:
    """The extent of a write, as processes tell it to each other.

    Attributes:
        collection: The collection.
        ids: The records that may have changed; None if that may be all, empty for new ones.
        fields: The stored keys that were written; None if that is unknown.
        is_membership: Records may have come or gone.
    """

    collection: str
    ids: tuple[StoredId, ...] | None
    fields: frozenset[str] | None
    is_membership: bool


async def watch(shared: Shared, collections: list[str], seconds: float) -> AsyncIterator[Written]:
    """Yield the extent of each write from now on.

    Args:
        shared: The second level.
        collections: The collections to look at.
        seconds: The time to wait for a write before the streams are asked for again.
    """
    connection = shared.connection
    groups: dict[int, dict[bytes, str]] = {}
    for name in collections:
        stream = shared.stream(name)
        groups.setdefault(connection.group(stream), {})[stream] = name
    last: dict[bytes, bytes] = {}
    for streams in groups.values():
        for stream in streams:
            *_, newest = await connection.run(_MODEL, [stream, stream + b"?", stream], [])
            last[stream] = newest or b"0-0"
    share = max(0.02, seconds / max(1, len(groups)))
    while True:
        for streams in groups.values():
            known = {stream: last[stream] for stream in streams}
            answer: Any = await connection.read(known, 100, share)
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError  # a client may take it for a timeout
            for stream, messages in dict(answer or ()).items():
                for number, message in flat(messages):
                    last[stream] = number
                    change = change_in(message.get(b"change", b""))
                    yield Written(streams[stream], change.ids, change.names, change.is_membership)


def flat(messages: Any) -> list[Any]:
    """Return the messages of one stream; the newer protocol puts them in a list of their own."""
    if messages and messages[0] and isinstance(messages[0][0], list | tuple):
        return list(messages[0])
    return list(messages)
