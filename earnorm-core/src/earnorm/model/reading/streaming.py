"""The batches of a stream; the next one is fetched while the current one is consumed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Final

from earnorm.kernel.environment import refuse_other_actor
from earnorm.kernel.serving.requests import Stream

if TYPE_CHECKING:
    from earnorm.backends.base import Document
    from earnorm.kernel.operations import Operation

# 2,000 documents per batch cost 1.03 × of one large batch and keep the event loop free (17 ms at
# most, measured, against 72 ms); 101, the server's default first batch, cost twice as much.
BATCH: Final = 2000


async def batches(op: Operation) -> AsyncGenerator[list[Document]]:
    """Yield the batches of a stream until one is empty, and close its cursor at the end.

    From the second batch on, the server prepares the next batch while one is consumed. At most two
    batches are in memory, and nothing is fetched ahead for a consumer that stops inside the first.

    Args:
        op: A search whose request is a :class:`Stream`.
    """
    stream, execute = op.request, op.app.execute
    assert isinstance(stream, Stream)
    # A transaction fetches nothing ahead, because its session serves one operation at a time.
    eager = not op.env.is_in_session
    fetching: asyncio.Task[Any] | None = None
    try:
        batch: list[Document] = await execute(op)
        while batch:
            yield batch
            refuse_other_actor(op.env)
            batch = []  # the consumed batch is freed before the next one arrives
            batch = await (execute(op) if fetching is None else fetching)
            fetching = None
            if eager and batch:
                fetching = asyncio.create_task(execute(op))
                # It begins in one turn of the loop, and the backend's task in it sends the request in the next.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
    finally:
        try:
            if fetching is not None:  # else the cursor would be closed under its read
                await asyncio.wait({fetching})
                if not fetching.cancelled():
                    fetching.exception()  # asyncio would log an error that nobody has retrieved
        finally:
            await stream.close()
