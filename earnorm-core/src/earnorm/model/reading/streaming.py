"""Batches of a stream, the next of which is fetched while the current one is consumed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from earnorm.backends.base import Document
    from earnorm.kernel.operations import Stream


async def ahead(
    fetch: Callable[[], Coroutine[Any, Any, list[Document]]], stream: Stream, *, eager: bool
) -> AsyncGenerator[list[Document]]:
    """The batches of a stream until one is empty; its cursor is closed at the end.

    From the second one on, the server prepares the next batch while one is consumed. Two batches at
    most are in memory, and nothing is fetched ahead for a consumer that leaves inside the first.

    Args:
        fetch: Gives the next batch.
        stream: Whose cursor it is.
        eager: Whether the next batch may be fetched beside what the consumer does: not in a
            transaction, whose session serves one operation at a time.
    """
    coming: asyncio.Task[list[Document]] | None = None
    try:
        batch = await fetch()
        while batch:
            yield batch
            batch = []  # it was consumed, and is gone before the next one comes
            batch = await (fetch() if coming is None else coming)
            coming = None
            if eager and batch:
                coming = asyncio.create_task(fetch())
                await asyncio.sleep(0)  # let it send its request
    finally:
        if coming is not None:
            # A driver drops the connection of an operation that is cancelled; one batch is waited for.
            await asyncio.wait({coming})
            if not coming.cancelled():
                coming.exception()  # seen: the consumer is gone, or was told already
        if stream.cursor is not None:
            await stream.cursor.close()
