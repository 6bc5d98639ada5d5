"""One system in a process of its own: ``python -m benchmarks.worker NAME``.

Obeys the lines of standard input, each a JSON object, and answers each with one line of JSON:

- ``{"run": "find_two", "turn": 3}`` → wall and CPU seconds, and a digest of what was seen
- ``{"peak": "find_flat"}`` → bytes that a run needed at its peak
- ``{"stall": "find_flat"}`` → seconds of the longest time in which nothing else ran on the loop
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import importlib
import json
import os
import resource
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.data import SIZES
from benchmarks.pulse import longest_stall
from benchmarks.systems import SYSTEMS
from benchmarks.systems.base import System

Answer = dict[str, Any]


def digest(seen: Any) -> str:
    """What was seen, short and comparable: the same for equal plain values in every language."""
    text = json.dumps(seen, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


async def run(system: System, workload: str, turn: int) -> Answer:
    """One timed run."""
    work: Callable[[], Awaitable[Any]] = getattr(system, workload)
    system.between(workload, turn)
    gc.collect()
    start, busy = time.perf_counter(), time.process_time()
    seen = await work()
    wall, cpu = time.perf_counter() - start, time.process_time() - busy
    return {"wall": wall, "cpu": cpu, "digest": digest(seen)}


async def peak(system: System, workload: str) -> Answer:
    """What one run allocates at its peak, as Python counts it."""
    work: Callable[[], Awaitable[Any]] = getattr(system, workload)
    system.between(workload, 0)
    await work()
    gc.collect()
    tracemalloc.start()
    await work()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {"bytes": most}


async def stall(system: System, workload: str) -> Answer:
    """The longest time in one run in which the event loop could do nothing else."""
    work: Callable[[], Awaitable[Any]] = getattr(system, workload)
    system.between(workload, 0)
    return {"seconds": await longest_stall(work, time.perf_counter)}


async def main(name: str) -> None:
    """Open the system, then obey until standard input ends."""
    before = time.perf_counter()  # the imports are part of a cold start, whenever they are done
    entry = SYSTEMS[name]
    module = importlib.import_module(f"benchmarks.systems.{entry.module}")
    make: type[System] = getattr(module, entry.cls)
    sizes = SIZES[os.environ["EARNORM_BENCH_SIZES"]]
    uri, database = os.environ["EARNORM_BENCH_URI"], os.environ["EARNORM_BENCH_DATABASE"]
    system = make(uri, database, sizes, **entry.options)
    await system.open()
    opened = time.perf_counter() - before
    answer(
        {"ready": name, "opened": opened, "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    )
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        asked = json.loads(line)
        try:
            if "peak" in asked:
                answer(await peak(system, asked["peak"]))
            elif "stall" in asked:
                answer(await stall(system, asked["stall"]))
            elif not hasattr(system, asked["run"]):
                answer({"missing": asked["run"]})
            else:
                answer(await run(system, asked["run"], asked["turn"]))
        except Exception as error:
            answer({"error": f"{type(error).__name__}: {error}"})
    await system.close()


def answer(said: Answer) -> None:
    """One line to the parent."""
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
