"""The memory of this process keeps to its bound, and keeps what is asked for most."""

from __future__ import annotations

import gc
import os
import random
import tracemalloc

import pytest
from bson import ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.cache_memory import Admitted, LastUsed, after_a_scan, hit_ratio, requests
from earnorm_cache.memory import ENTRY_BYTES, GAPS, LARGE, Entry, Key, Memory, Sketch
from tests.plugins.cache.probes import Clock

BOUND = 4 * 2**20


def test_200_000_random_keys_stay_within_a_tenth_of_the_bound() -> None:
    rnd, among = random.Random(1), set[Key]()
    blocks = [os.urandom(size) for size in (60, 217, 217, 900, 4_000)]
    most = 0
    gc.collect()
    memory = Memory(1_000_000, 60.0, max_bytes=BOUND)
    for number in range(200_000):
        if (
            number == 170_000
        ):  # tracing takes its time: the last part of the way, from an empty memory
            memory.clear()
            gc.collect()
            tracemalloc.start()
        memory.put(("model", ObjectId()), blocks[rnd.randrange(5)][:-1], among)
        assert memory.size <= BOUND
        if number > 170_000 and not number % 1_000:
            most = max(most, tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert 0.8 * BOUND < most < 1.1 * BOUND


def test_a_scan_of_a_hundred_times_its_size_leaves_the_hot_set() -> None:
    assert after_a_scan(Admitted(250), range(200)) > 0.95
    assert after_a_scan(LastUsed(250), range(200)) == 0.0


@pytest.mark.parametrize("exponent", [0.7, 0.9, 1.1])
@pytest.mark.parametrize("entries", [50, 500])
def test_it_hits_as_often_as_the_last_used_ones_would_or_more(
    exponent: float, entries: int
) -> None:
    asked = requests(10_000, exponent, 30_000)
    assert hit_ratio(Admitted(entries), asked) >= hit_ratio(LastUsed(entries), asked)


def test_what_was_hot_makes_room_for_what_is_hot_now() -> None:
    cache = Admitted(100)
    for _ in range(20):
        hit_ratio(cache, range(100))
    for _ in range(20):
        hit_ratio(cache, range(1_000, 1_080))
    assert hit_ratio(cache, range(1_000, 1_080)) > 0.9


def test_what_has_expired_is_not_given_and_goes_first() -> None:
    clock = Clock()
    memory, among = Memory(101, 10.0, clock), set[Key]()
    memory.put(("m", "old"), b"1", among)
    for _ in range(9):
        assert memory.get(("m", "old")) is not None
    clock.now += 10.0
    for number in range(101):  # one is in the window, and a hundred are not
        memory.put(("m", number), b"2", among)
    assert ("m", "old") not in memory.keys
    assert len(memory) == 101
    assert memory.counts.evictions == {"m": 1}
    memory.put(("m", 0), b"3", among, ttl=20.0)
    clock.now += 9.99
    assert memory.get(("m", 1)) == b"2"
    clock.now += 0.01
    assert memory.get(("m", 1)) is None
    assert ("m", 1) not in among
    assert memory.get(("m", 0)) == b"3"


def test_one_too_large_for_the_bound_is_not_kept_and_displaces_nothing() -> None:
    memory, among = Memory(100, 10.0, max_bytes=10_000), set[Key]()
    memory.put(("m", "small"), b"1", among)
    memory.put(("m", "large"), bytes(10_000), among)
    assert among == {("m", "small")}
    memory.put(("m", "small"), bytes(10_000), among)  # what it replaces is gone
    assert among == set()


def taken(length: int) -> int:
    """Return what an entry of so many bytes counts; see ``GAPS``."""
    return ENTRY_BYTES + (length if length <= LARGE else int(length * GAPS))


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["put", "put", "get", "get", "drop", "pass", "clear"]),
            st.integers(0, 12),
            st.integers(0, 900),
        ),
        max_size=120,
    ),
    max_bytes=st.sampled_from([None, 1_200, 4_000, 60_000]),
    max_entries=st.integers(1, 8),
)
@settings(max_examples=300, deadline=None)
def test_it_gives_what_was_put_last_or_nothing_and_its_counts_are_right(
    steps: list[tuple[str, int, int]], max_bytes: int | None, max_entries: int
) -> None:
    clock = Clock()
    memory = Memory(max_entries, 5.0, clock, max_bytes)
    among: list[set[Key]] = [set(), set()]
    put: dict[Key, tuple[bytes, float]] = {}
    for step, number, size in steps:
        key = ("m", number)
        if step == "put":
            put[key] = bytes([number]) * size, clock.now + 5.0
            memory.put(key, put[key][0], among[number % 2])
        elif step == "get":
            data = memory.get(key)
            if data is not None:
                assert data == put[key][0]
                assert put[key][1] > clock.now
        elif step == "drop":
            assert (key in among[number % 2]) == memory.drop(key)
            assert key not in memory.keys
        elif step == "pass":
            clock.now += size / 300
        else:
            memory.clear()
        keys = set(memory.keys)
        assert keys == among[0] | among[1]
        assert keys <= put.keys()
        assert len(memory) == memory.number("m") == len(keys) <= max_entries
        kept = sum(taken(len(put[key][0])) for key in keys)
        assert memory.size == kept
        assert max_bytes is None or kept <= max_bytes
        parts = (memory._window, memory._probation, memory._protected)
        assert sum(part.number for part in parts) == len(keys)
        for part in parts:
            held, entry = list[Entry](), part._end.after
            while entry is not part._end:
                held.append(entry)
                entry = entry.after
            assert all(each._part is part and each.key in keys for each in held)
            assert part.number == len(held)
            assert part.bytes == sum(each.size for each in held)


def test_the_sketch_never_says_less_than_was_noted_and_forgets_with_time() -> None:
    sketch, rnd = Sketch(1_000), random.Random(1)
    for number in range(300):
        sketch.add(number, 1_000, number % 20)
    said = [sketch.count(number) for number in range(300)]
    assert all(s >= min(number % 20, 15) for number, s in enumerate(said))
    assert sum(s == min(number % 20, 15) for number, s in enumerate(said)) > 280
    for _ in range(50_000):
        sketch.add(rnd.random(), 1_000)
    # Each key still shares its counters with those that came since, about five of every 1,000.
    assert max(sketch.count(number) for number in range(300)) < 15
    assert sum(sketch.count(number) for number in range(300)) < sum(said) * 0.7
