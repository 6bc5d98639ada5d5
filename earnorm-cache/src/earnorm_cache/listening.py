"""Hears from Redis what other processes have written, so that the memory of this one may be trusted.

A stream, and no channel: a channel loses what is sent while nobody listens, and nobody learns it. A stream is
read on from the last message that was seen. Where that message is not there any more, because the stream was
cut, nobody knows what was missed, and all is forgotten. So it is where another server answers than before: one that
began anew, or a replica that became the primary, may not have the last messages.

One command reads the streams of one server. In a cluster it can read those of one slot alone, so there each
collection has a reader and a connection of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from earnorm_cache.change import EVERYTHING, Change, change_in
from earnorm_cache.ending import end
from earnorm_cache.shared import LOOK, Shared

log = logging.getLogger("earnorm.cache")

BEAT: Final = 0.08
"""The most seconds that a reading of the streams waits for a message; then it says that there is none."""

MESSAGES: Final = 500
"""The most messages of one stream in one answer."""

Hear = Callable[[str, Change], None]
"""Is given a collection and what was written in it."""


class Listener:
    """Reads the streams of the collections that this process keeps in memory.

    Args:
        shared: The second level.
        hear: Is called with what others have written, and with everything when messages may have been lost.
        window: The seconds after the last reading for which the memory is trusted.
    """

    def __init__(self, shared: Shared, hear: Hear, window: float) -> None:
        self._shared, self._hear, self._window = shared, hear, window
        self._readers: dict[int, _Reader] = {}
        self._by_collection: dict[str, _Reader] = {}
        self._is_running = False

    def start(self) -> None:
        """Begin to listen."""
        self._is_running = True
        for reader in self._readers.values():
            reader.start()

    async def stop(self) -> None:
        """Listen no more."""
        self._is_running = False
        await asyncio.gather(*(reader.stop() for reader in self._readers.values()))

    def add(self, collection: str) -> None:
        """Listen to a collection's stream, too; until its first look its memory is not trusted."""
        if collection in self._by_collection:
            return
        group = self._shared.connection.group(self._shared.stream(collection))
        reader = self._readers.get(group)
        if reader is None:
            reader = self._readers[group] = _Reader(self._shared, self._hear, group)
            if self._is_running:
                reader.start()
        reader.last[collection] = None
        self._by_collection[collection] = reader

    def is_trusted(self, collection: str) -> bool:
        """Return whether what others wrote to a collection would have been heard by now."""
        reader = self._by_collection.get(collection)
        return (
            reader is not None
            and time.monotonic() - reader.beat < self._window
            and reader.last[collection] is not None
            and not self._shared.is_settling(self._shared.stream(collection))
        )

    @property
    def age(self) -> float:
        """The seconds since the streams were read."""
        beats = [reader.beat for reader in self._readers.values()]
        return time.monotonic() - min(beats, default=float("-inf"))

    @property
    def lost(self) -> int:
        """The number of times that messages may have been lost."""
        return sum(reader.lost for reader in self._readers.values())


class _Reader:
    """Reads the streams of one group.

    Attributes:
        last: By collection, the last message that was seen; None until the first look.
        beat: The time, as ``time.monotonic()`` counts, at which nothing was unheard.
        lost: The number of times that messages may have been lost.
    """

    def __init__(self, shared: Shared, hear: Hear, group: int) -> None:
        self._shared, self._hear, self._group = shared, hear, group
        self.last: dict[str, bytes | None] = {}
        self.beat = float("-inf")
        self.lost = 0
        self._server: bytes | None = None
        """The server that answered last."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to read."""
        self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """Read no more."""
        task, self._task = self._task, None
        self.beat = float("-inf")
        if task is not None:
            await end(task)

    async def _run(self) -> None:
        is_new = True  # after a failure the streams may have been cut
        while self._task is not None:
            try:
                if self._shared.is_down_for(self._group):
                    await asyncio.sleep(BEAT / 2)
                    is_new = True
                    continue
                await self._look(
                    [name for name, last in self.last.items() if is_new or last is None]
                )
                is_new = not await self._read()
            except self._shared.errors as error:
                self.beat = float("-inf")
                self._shared.note_failure(error, self._group)
                is_new = True
            except asyncio.CancelledError:
                raise
            except Exception:
                # An error of ours must not end the listening in silence.
                log.exception("the cache could not read what other processes have written")
                self.beat = float("-inf")
                is_new = True
                await asyncio.sleep(1.0)

    async def _look(self, collections: Iterable[str]) -> None:
        """Find the last messages that were seen, or begin with the newest and forget all."""
        names = list(collections)
        if not names:
            return
        streams = [self._shared.stream(name) for name in names]
        server, *numbers = await self._shared.connection.run(LOOK, streams, [], wait=True)
        self._shared.note_answer(self._group)
        if self._server is not None and server != self._server:
            self._forget()
        self._server = server
        for name, first, newest in zip(names, numbers[::2], numbers[1::2], strict=True):
            last = self.last[name]
            if last and first and _number(first) <= _number(last) <= _number(newest):
                continue
            if last is not None and (last != b"0-0" or first):
                self.lost += 1
            self._hear(name, EVERYTHING)
            self.last[name] = newest or b"0-0"

    def _forget(self) -> None:
        """Begin anew with every collection, since this is another server."""
        self.lost += 1
        self.beat = float("-inf")
        for name in self.last:
            self.last[name] = None
            self._hear(name, EVERYTHING)

    async def _read(self) -> bool:
        """Hear the next messages; return False if some may have been missed."""
        known = {name: last for name, last in self.last.items() if last is not None}
        names = {self._shared.stream(name): name for name in known}
        begun, connection = time.monotonic(), self._shared.connection
        answer: Any = await connection.read(
            {stream: known[name] for stream, name in names.items()}, MESSAGES, BEAT
        )
        is_behind = False
        for stream, messages in dict(answer or ()).items():
            name = names[stream]
            for number, message in _flat(messages):
                if message[b"by"] != self._shared.name.encode():
                    self._hear(name, change_in(message.get(b"change", b"")))
                self.last[name] = number
            is_behind = is_behind or len(_flat(messages)) == MESSAGES
        # A connection that broke off is made again without a word, perhaps to another server.
        server, *_ = await connection.run(LOOK, [next(iter(names))], [], wait=True)
        if server != self._server or is_behind:  # who is so far behind may have missed some
            return False
        # A server without a message has waited before it said so; what came later was perhaps not heard. This
        # clock is not read now, since the answer may have lain here while the loop was busy.
        self.beat = begun if answer else begun + BEAT
        return True


def _flat(messages: Any) -> list[Any]:
    """Return the messages of one stream; the newer protocol puts them in a list of their own."""
    if messages and messages[0] and isinstance(messages[0][0], list | tuple):
        return list(messages[0])
    return list(messages)


def _number(key: bytes) -> tuple[int, ...]:
    return tuple(map(int, key.split(b"-")))
