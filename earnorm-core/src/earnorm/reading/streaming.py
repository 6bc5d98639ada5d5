"""Batches of a stream, the next of which is fetched while the current one is consumed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from earnorm.backends.base import Document
    from earnorm.operations import Stream

Batch = tuple["list[Document]", Callable[[], None]]
"""The documents, and what begins to fetch the next ones; called when the consumer is on its way."""


async def ahead(
    fetch: Callable[[], Coroutine[Any, Any, list[Document]]], stream: Stream, *, eager: bool
) -> AsyncGenerator[Batch]:
    """The batches of a stream until one is empty; its cursor is closed at the end.

    Two batches at most are in memory. Nothing is fetched for a consumer that leaves early.

    Args:
        fetch: Gives the next batch.
        stream: Whose cursor it is.
        eager: Whether the next batch may be fetched beside what the consumer does: not in a
            transaction, whose session serves one operation at a time.
    """
    pending: asyncio.Task[list[Document]] | None = None

    def begin() -> None:
        nonlocal pending
        if eager and pending is None:
            pending = asyncio.create_task(fetch())

    try:
        while documents := await (fetch() if pending is None else pending):
            pending = None
            yield documents, begin
    finally:
        if pending is not None:
            # A driver drops the connection of an operation that is cancelled; one batch is waited for.
            await asyncio.wait({pending})
            if not pending.cancelled():
                pending.exception()  # seen: the consumer is gone, or was told already
        if stream.cursor is not None:
            await stream.cursor.close()
