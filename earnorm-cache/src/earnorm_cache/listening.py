"""Hears from Redis what other processes have written, so that the memory of this one may be trusted.

A stream, and no channel: a channel loses what is sent while nobody listens, and nobody learns it. A stream is
read on from the last message that was seen. Where that message is not there any more, because the stream was
cut or the server began anew, nobody knows what was missed, and all is forgotten.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from earnorm_cache.change import EVERYTHING, Change, change_in
from earnorm_cache.shared import Shared

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
        hear: Is called with what others have written, and with EVERYTHING when messages may have been lost.
        window: The seconds after the last reading for which the memory is trusted.
    """

    def __init__(self, shared: Shared, hear: Hear, window: float) -> None:
        self._shared, self._hear, self._window = shared, hear, window
        self._last: dict[str, bytes | None] = {}
        """By collection, the last message that was seen; None until the first look."""
        self._beat = float("-inf")
        self._task: asyncio.Task[None] | None = None
        self.lost = 0
        """The number of times that messages may have been lost."""

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """Listen no more."""
        task, self._task = self._task, None
        self._beat = float("-inf")
        while task is not None and not task.done():
            task.cancel()
            await asyncio.wait(
                [task], timeout=1.0
            )  # a client may take a cancellation for a timeout

    def add(self, collection: str) -> None:
        """Listen to a collection's stream, too; until its first look its memory is not trusted."""
        self._last.setdefault(collection, None)

    def is_trusted(self, collection: str) -> bool:
        """Return whether what others wrote to a collection would have been heard by now."""
        return (
            time.monotonic() - self._beat < self._window and self._last.get(collection) is not None
        )

    @property
    def age(self) -> float:
        """The seconds since the streams were read."""
        return time.monotonic() - self._beat

    async def _run(self) -> None:
        is_new = True  # after a failure the streams may have been cut
        while self._task is not None:
            try:
                if self._shared.is_down or not self._last:
                    await asyncio.sleep(BEAT / 2)
                    is_new = is_new or self._shared.is_down
                    continue
                for collection in list(self._last):
                    if is_new or self._last[collection] is None:
                        await self._look(collection)
                is_new = False
                await self._read()
            except self._shared.errors as error:
                self._beat = float("-inf")
                self._shared.note_failure(error)
                is_new = True
            except asyncio.CancelledError:
                raise
            except Exception:
                # An error of ours must not end the listening in silence.
                log.exception("the cache could not read what other processes have written")
                self._beat = float("-inf")
                is_new = True
                await asyncio.sleep(1.0)

    async def _look(self, collection: str) -> None:
        """Find the last message that was seen, or begin with the newest and forget all."""
        client, stream = self._shared.listening, self._shared.stream(collection)
        first: list[Any] = await client.xrange(stream, count=1)
        newest: list[Any] = await client.xrevrange(stream, count=1)
        last = self._last[collection]
        if (
            last is not None
            and first
            and newest
            and _number(first[0][0]) <= _number(last) <= _number(newest[0][0])
        ):
            return
        if last is not None and (last != b"0-0" or first):
            self.lost += 1
        self._hear(collection, EVERYTHING)
        self._last[collection] = newest[0][0] if newest else b"0-0"

    async def _read(self) -> None:
        names = {self._shared.stream(name): name for name in self._last}
        begun = time.monotonic()
        answer: Any = await self._shared.listening.xread(
            {stream: self._last[name] for stream, name in names.items()},
            count=MESSAGES,
            block=int(BEAT * 1000),
        )
        for stream, messages in dict(answer or ()).items():
            name = names[stream]
            for number, message in _flat(messages):
                if message[b"by"] != self._shared.name.encode():
                    self._hear(name, change_in(message.get(b"change", b"")))
                self._last[name] = number
            if len(_flat(messages)) == MESSAGES:
                await self._look(name)  # who is so far behind may have missed some
                return
        # A server without a message has waited before it said so; what came later was perhaps not heard. This
        # clock is not read now, since the answer may have lain here while the loop was busy.
        self._beat = begun if answer else begun + BEAT


def _flat(messages: Any) -> list[Any]:
    """Return the messages of one stream; the newer protocol puts them in a list of their own."""
    if messages and messages[0] and isinstance(messages[0][0], list | tuple):
        return list(messages[0])
    return list(messages)


def _number(key: bytes) -> tuple[int, ...]:
    return tuple(map(int, key.split(b"-")))
