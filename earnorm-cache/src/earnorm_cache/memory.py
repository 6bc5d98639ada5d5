"""The entries that this process keeps, as bytes, within a bound. It knows no model, record or write.

Which of them stay is decided as in Caffeine (G. Einziger, R. Friedman, B. Manes, "TinyLFU: A Highly Efficient
Cache Admission Policy", ACM Transactions on Storage 13(4), 2017). What comes in spends its first time in a small
*window*. Who leaves it takes the place of the main part's first *victim* only if it was asked for more often of
late, so that a scan of things that are read once displaces nothing. What is read again in the main part is
*protected* from that contest.

A hit only counts itself in its entry; its place in the order is made up for when the entry would have to go, as in
the clock of operating systems. That makes a hit cheaper than one of an ``OrderedDict`` that moves its key to the end
(100 against 130 ns), and than one of the library that bounds by size (moka-py 0.5: 157 ns, without what has to be around
it; theine 2.0 bounds by number only, cachetools and cachebox admit everything).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Final, TypeAlias

from earnorm.plugin import StoredId
from earnorm_cache.figures import Counts

Key: TypeAlias = tuple[str, StoredId | bytes]
"""A model's name, with a record's id, or with the digest of a query, which is bytes as no id is."""

ENTRY_BYTES: Final = 540
"""The memory that an entry takes beside its bytes, as tracemalloc tells it of 100,000 whose ids are ObjectIds."""

LARGE: Final = 480
GAPS: Final = 1.3
"""Larger bytes than ``LARGE`` come from the allocator of C, which leaves gaps where their sizes vary: the process grows by
1.38 times what they have, as 10 million random keys showed (``python -m benchmarks.cache_memory``). Smaller ones have pools
of their own size in Python."""

WINDOW: Final = 0.01
PROTECTED: Final = 0.8
"""The share of the window in the whole, and of what is protected in the rest; Caffeine's."""

WINDOW_BYTES: Final = 16 * 2**10
"""The least size of the window, if that is no more than a quarter: what was read just now is likely read again."""

CHANCES: Final = 64
"""The most entries that stay because of their hits while one comes in, at 1 µs each; it must not take long."""


class Entry:
    """A value that is kept under one key.

    Attributes:
        key: The key.
        data: The bytes.
        expires: The second of the clock from which it is not given any more.
        hits: How often it was given since its place in the order was last made up.
    """

    # It is BSON, because that shares nothing with any record, takes a sixth of the memory of a dict
    # (217 against 1,256 bytes for ten flat fields), and decodes in an eighth of the time of
    # deepcopy (2.6 against 20.6 µs). A copier in Python takes 1.9 µs for a flat document, but 4.0
    # µs for a nested one (BSON: 3.5).
    # The neighbours are in the entry: a place in an OrderedDict takes 150 to 220 bytes more.
    __slots__ = ("_among", "_part", "after", "before", "data", "expires", "hits", "key")

    after: Entry
    before: Entry

    def __init__(self, key: Key, data: bytes, expires: float, among: set[Key]) -> None:
        self.key, self.data, self.expires = key, data, expires
        self.hits = 0
        self._among = among
        self._part: _Part | None = None

    @property
    def size(self) -> int:
        """The memory that it takes of the process."""
        length = len(self.data)
        return ENTRY_BYTES + (length if length <= LARGE else int(length * GAPS))


class _Part:
    """A ring of entries, of which the first goes first."""

    __slots__ = ("_end", "bytes", "max_bytes", "max_entries", "number")

    def __init__(self, max_bytes: float, max_entries: float) -> None:
        self._end = end = Entry(("", b""), b"", 0.0, set())
        end.before = end.after = end
        self.number, self.bytes = 0, 0
        self.max_bytes, self.max_entries = max_bytes, max_entries

    @property
    def first(self) -> Entry | None:
        return self._end.after if self.number else None

    @property
    def excess(self) -> Entry | None:
        """The first entry, if there are too many."""
        is_full = self.bytes > self.max_bytes or self.number > self.max_entries
        return self.first if is_full else None

    def append(self, entry: Entry) -> None:
        """Put an entry at the end, from wherever it was."""
        if entry._part is not None:
            entry._part.remove(entry)
        end = self._end
        last = end.before
        entry._part, entry.before, entry.after = self, last, end
        last.after = end.before = entry
        self.number += 1
        self.bytes += entry.size

    def remove(self, entry: Entry) -> None:
        before, after = entry.before, entry.after
        before.after, after.before = after, before
        # Nobody is kept by an entry that is gone.
        del entry.before, entry.after
        entry._part = None
        self.number -= 1
        self.bytes -= entry.size


class Memory:
    """The kept entries; beyond the bound, those that were asked for most stay.

    Args:
        max_entries: The most entries.
        ttl: The most seconds that an entry is kept.
        clock: Gives seconds that never go back; tests give their own.
        max_bytes: The most memory for them; None for as much as they take.
        counts: Counts what is dropped to make room.
    """

    def __init__(
        self,
        max_entries: int,
        ttl: float,
        clock: Callable[[], float] = time.monotonic,
        max_bytes: int | None = None,
        counts: Counts | None = None,
    ) -> None:
        size = float("inf") if max_bytes is None else max_bytes
        self._max_entries, self._max_bytes, self._ttl, self._clock = max_entries, size, ttl, clock
        self.counts = counts or Counts()
        self._entries: dict[Key, Entry] = {}
        few = max(1, int(max_entries * WINDOW))
        small = max(size * WINDOW, min(WINDOW_BYTES, size / 4))
        self._window = _Part(small, few)
        # What is on probation may fill all of the main part.
        main_bytes, main_entries = size - small if max_bytes else size, max_entries - few
        self._probation = _Part(main_bytes, main_entries)
        self._protected = _Part(main_bytes * PROTECTED, int(main_entries * PROTECTED))
        self._sketch = Sketch(int(min(max_entries, size // ENTRY_BYTES)))

    def __repr__(self) -> str:
        return f"<Memory {len(self._entries)} of at most {self._max_entries} entries>"

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def keys(self) -> list[Key]:
        """The keys of all entries."""
        return list(self._entries)

    @property
    def size(self) -> int:
        """The memory that all entries take."""
        return self._window.bytes + self._probation.bytes + self._protected.bytes

    def number(self, model: str) -> int:
        """Return the number of entries of one model."""
        return sum(name == model for name, _ in self._entries)

    def get(self, key: Key) -> bytes | None:
        """Return what is kept, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._clock() >= entry.expires:
            self._remove(entry)
            return None
        entry.hits += 1
        return entry.data

    def peek(self, key: Key) -> tuple[int, float] | None:
        """Return the bytes of what is kept and the seconds left to it, without a look at it; None for nothing."""
        entry = self._entries.get(key)
        return None if entry is None else (len(entry.data), entry.expires - self._clock())

    def put(self, key: Key, data: bytes, among: set[Key], ttl: float | None = None) -> None:
        """Keep an entry, in place of what was there; others may make room for it, or it for them.

        Args:
            key: Its key.
            data: Its bytes.
            among: Holds the key for as long as the entry is kept.
            ttl: The most seconds that it is kept, if not as long as all.
        """
        self.drop(key)
        entry = Entry(key, data, self._clock() + (self._ttl if ttl is None else ttl), among)
        if entry.size > self._max_bytes:
            return  # it would displace all others
        self._sketch.add(key, len(self._entries))
        self._entries[key] = entry
        among.add(key)
        self._window.append(entry)
        while (oldest := self._window.excess) is not None:
            self._contest(oldest)

    def drop(self, key: Key) -> bool:
        """Forget an entry; return whether there was one."""
        entry = self._entries.get(key)
        if entry is None:
            return False
        self._remove(entry)
        return True

    def clear(self) -> None:
        """Forget all entries, but not how often each was asked for."""
        for entry in list(self._entries.values()):
            self._remove(entry)

    # -- the parts ----------------------------------------------------------------------------

    def _contest(self, candidate: Entry) -> None:
        """Move an entry from the window to the main part, if it wins against those that must go for it."""
        probation, protected = self._probation, self._protected
        chances, now = CHANCES, self._clock()
        asked = self._count(candidate)
        while (
            probation.bytes + protected.bytes + candidate.size > probation.max_bytes
            or probation.number + protected.number >= probation.max_entries
        ):
            victim = probation.first or protected.first
            if victim is not None and victim.expires > now:
                if victim.hits and chances:
                    chances -= 1
                    self._protect(victim)
                    continue
                if asked <= self._count(victim):
                    victim = None
            loser = victim or candidate
            self._remove(loser)
            self.counts.evictions[loser.key[0]] += 1
            if loser is candidate:
                return
        probation.append(candidate)

    def _count(self, entry: Entry) -> int:
        return self._sketch.count(entry.key) + entry.hits

    def _protect(self, entry: Entry) -> None:
        """Make up for the hits of an entry."""
        self._sketch.add(entry.key, len(self._entries), entry.hits)
        entry.hits = 0
        protected = self._protected
        protected.append(entry)
        while (oldest := protected.excess) is not None:
            self._probation.append(oldest)

    def _remove(self, entry: Entry) -> None:
        del self._entries[entry.key]
        entry._among.discard(entry.key)
        assert entry._part is not None
        entry._part.remove(entry)


class Sketch:
    """Tells about how often each key was noted of late, up to 15 times (a count-min sketch).

    It never says less than was noted, and seldom more. All counts are halved from time to time.

    Args:
        keys: About the number of keys to tell apart.
    """

    _HALVES: Final = bytes(count // 2 for count in range(256))

    def __init__(self, keys: int) -> None:
        self._bits = max(6, min(keys, 2**22).bit_length())
        self._mask = 2**self._bits - 1
        self._rows = [bytearray(2**self._bits) for _ in range(4)]
        self._noted = 0

    def _places(self, key: Hashable) -> tuple[int, int, int, int]:
        # Python's hash of a number is that number, so its bits are mixed (a finalizer of MurmurHash3).
        number = hash(key) & 0xFFFF_FFFF_FFFF_FFFF
        number = ((number ^ number >> 33) * 0xFF51_AFD7_ED55_8CCD) & 0xFFFF_FFFF_FFFF_FFFF
        number = ((number ^ number >> 33) * 0xC4CE_B9FE_1A85_EC53) & 0xFFFF_FFFF_FFFF_FFFF
        step, mask = number >> 32, self._mask
        return (
            number & mask,
            (number + step) & mask,
            (number + 2 * step) & mask,
            (number + 3 * step) & mask,
        )

    def add(self, key: Hashable, kept: int, times: int = 1) -> None:
        """Note a key; of every ten times as many as are kept, all counts are halved."""
        for row, place in zip(self._rows, self._places(key), strict=True):
            row[place] = min(row[place] + times, 15)
        self._noted += min(times, 15)
        if self._noted >= 10 * max(kept, 64):
            self._noted //= 2
            self._rows = [bytearray(row.translate(self._HALVES)) for row in self._rows]

    def count(self, key: Hashable) -> int:
        """Return about how often a key was noted of late."""
        one, two, three, four = self._places(key)
        rows = self._rows
        return min(rows[0][one], rows[1][two], rows[2][three], rows[3][four])
