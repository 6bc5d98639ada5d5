"""The memory of the cache under its bound: ``python -m benchmarks.cache_memory [keys] [MiB]``.

Random keys with values of random sizes pass through a memory of 64 MiB, most of them once, as under a crawler; some are asked
for again. Every 20th part of the way a line says what the memory counts, what tracemalloc has seen of it, and by
how much the process has grown. The last line is the most of each, as a share of the bound; the law is at most 1.1.

Then the same requests, by Zipf's law, go to it and to a list in the order of the last use (LRU), each bounded to the
same number of entries, and in the middle of them a scan. It needs no server.
"""

from __future__ import annotations

import gc
import itertools
import os
import random
import sys
import time
import tracemalloc
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from bson import ObjectId

from earnorm.plugin import StoredId
from earnorm_cache.memory import Key, Memory

KEYS = 10_000_000
SIZES = (60, 120, 217, 217, 400, 900, 4_000, 20_000)


class LastUsed:
    """What a cache without admission does: the one that was used longest ago goes."""

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[StoredId, None] = OrderedDict()

    def is_hit(self, key: StoredId) -> bool:
        """Ask for a key, and keep it."""
        if key in self._entries:
            self._entries.move_to_end(key)
            return True
        self._entries[key] = None
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)
        return False


class Admitted:
    """The memory of the cache, asked in the same way."""

    def __init__(self, max_entries: int) -> None:
        self._memory = Memory(max_entries, 3600.0)
        self._group: set[Key] = set()

    def is_hit(self, key: StoredId) -> bool:
        """Ask for a key, and keep it."""
        if self._memory.get(("", key)) is not None:
            return True
        self._memory.put(("", key), b"", self._group)
        return False


def requests(of: int, exponent: float, number: int, seed: int = 1) -> list[int]:
    """Return numbers below ``of``, as often as Zipf's law says."""
    weights = list(itertools.accumulate(1 / (i + 1) ** exponent for i in range(of)))
    return random.Random(seed).choices(range(of), cum_weights=weights, k=number)


def hit_ratio(cache: LastUsed | Admitted, keys: Iterable[StoredId]) -> float:
    """Return the share of hits among requests for these keys."""
    answers = [cache.is_hit(key) for key in keys]
    return sum(answers) / len(answers)


def after_a_scan(cache: LastUsed | Admitted, hot: Sequence[StoredId], times: int = 100) -> float:
    """Return the share of a hot set that is still there after a scan of ``times`` its size."""
    for _ in range(5):
        for key in hot:
            cache.is_hit(key)
    for number in range(times * len(hot)):
        cache.is_hit(f"scanned {number}")
    return sum([cache.is_hit(key) for key in hot]) / len(hot)


def growth(keys: int, bound: int, parts: int = 20) -> tuple[float, float, float]:
    """Pass random keys through a memory, and print how large it is.

    Returns:
        The most memory as a share of the bound: as it counts, as tracemalloc sees it, and of the process.
    """
    rnd, group = random.Random(1), set[Key]()
    blocks = [os.urandom(size) for size in SIZES]
    most = [0.0, 0.0, 0.0]
    gc.collect()
    # Tracing keeps books of its own, which are not the cache's: the process is watched without it.
    for is_traced in (False, True):
        number = keys if not is_traced else max(keys // 10, 1)
        if is_traced:
            tracemalloc.start()
        memory = Memory(10_000_000, 3600.0, max_bytes=bound)
        group.clear()
        before, begun = _resident(), time.perf_counter()
        for done in range(number):
            pk = ObjectId() if done % 10 else rnd.randrange(1000)
            key = ("model", pk)
            if memory.get(key) is None:
                block = blocks[rnd.randrange(len(blocks))]
                memory.put(key, block[:-1], group)
            if not (done + 1) % max(number // parts, 1):
                seen = tracemalloc.get_traced_memory()[0] if is_traced else _resident() - before
                most[0] = max(most[0], memory.size / bound)
                most[1 + (not is_traced)] = max(most[1 + (not is_traced)], seen / bound)
        each = (time.perf_counter() - begun) / number * 1e6
        print(f"{number:>12,} keys, {'traced' if is_traced else 'process'}, {each:.1f} µs each")
        del memory
        group.clear()
        if is_traced:
            tracemalloc.stop()
    return most[0], most[1], most[2]


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Print the memory, the hit ratios and what a scan leaves."""
    keys = int(sys.argv[1]) if len(sys.argv) > 1 else KEYS
    bound = int(sys.argv[2]) * 2**20 if len(sys.argv) > 2 else 64 * 2**20
    counted, traced, process = growth(keys, bound)
    print(
        f"at most {counted:.2f} of the bound counted, {traced:.2f} traced, {process:.2f} by the process"
    )
    print("\nhit ratio            LRU   cache")
    for exponent, entries in itertools.product((0.7, 0.9, 1.1), (100, 1_000, 5_000)):
        asked = requests(100_000, exponent, 200_000)
        lru, ours = (hit_ratio(kind(entries), asked) for kind in (LastUsed, Admitted))
        print(f"Zipf {exponent}, {entries:>5}    {lru:6.3f}  {ours:6.3f}")
    for times in (10, 100):
        lru, ours = (
            after_a_scan(kind(1_250), range(1_000), times) for kind in (LastUsed, Admitted)
        )
        print(f"after a scan of {times:>3}× {lru:4.2f}    {ours:4.2f}")


if __name__ == "__main__":
    main()
