"""How much memory a stream takes: ``python -m benchmarks.stream_memory [documents]``.

Prints the process's resident memory before and at its peak while that many documents (1,000,000
unless said otherwise) are streamed as records, and the same for a tenth of them. It needs
EARNORM_TEST_MONGO_URI, fills a database of its own and drops it.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
import uuid
from pathlib import Path

import earnorm
from earnorm import Int, String, models

_BATCH = 10_000


class Reading(models.BaseModel):
    """A document of common size."""

    _name = "benchmark.reading"

    name = String(required=True)
    email = String()
    number = Int()
    text = String()


def _resident() -> float:
    """MiB of this process's memory that are in RAM now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


async def _fill(number: int) -> None:
    for start in range(0, number, _BATCH):
        await Reading.create(
            [
                {"name": f"{n:08}", "email": f"{n}@example.com", "number": n, "text": "x" * 60}
                for n in range(start, min(start + _BATCH, number))
            ]
        )


async def _stream(number: int) -> None:
    before = peak = _resident()
    began = time.perf_counter()
    seen = 0
    async for _ in Reading.search(limit=number):
        seen += 1
        if not seen % 5_000:
            peak = max(peak, _resident())
    took = time.perf_counter() - began
    print(
        f"{seen:>9,} documents: {before:6.1f} MiB before, {peak:6.1f} MiB at most "
        f"(+{peak - before:.1f}), {seen / took:,.0f} a second"
    )


async def main(number: int, filling: str = "") -> None:
    """Stream a few, a tenth, and all.

    Args:
        number: How many documents there are.
        filling: The database to fill, in a process of its own: what that took is none of a stream's.
    """
    uri = os.environ["EARNORM_TEST_MONGO_URI"]
    database = filling or f"stream_memory_{uuid.uuid4().hex[:8]}"
    async with earnorm.App(uri, database=database) as app:
        if filling:
            await _fill(number)
            return
        try:
            command = (sys.executable, "-m", "benchmarks.stream_memory", str(number), database)
            child = await asyncio.create_subprocess_exec(*command)
            if await child.wait():
                sys.exit("the database could not be filled")
            await _stream(2_000)
            await _stream(number // 10)
            await _stream(number)
        finally:
            await app.dangerous_raw("the measurement is over").client.drop_database(database)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, *sys.argv[2:3]))
