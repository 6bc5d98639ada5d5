"""The race of readers and writers in four processes, in short; ``python -m benchmarks.cache_race`` has it whole."""

from __future__ import annotations

import pytest

from benchmarks.cache_hearing import LISTENERS, delays
from benchmarks.cache_race import AWAY, MODES, race
from benchmarks.cache_stampede import stampedes

READS = 2_000


def test_a_careless_cache_fails_the_race() -> None:
    careless = race("naive", READS)
    assert careless.own + careless.other > 0, "a race that nothing fails shows nothing"


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "naive"])
def test_nobody_reads_an_old_value_where_that_is_promised(mode: str) -> None:
    result = race(mode, READS)
    assert result.reads > READS * 0.9 and result.writes > 0 and result.redis > 0
    assert (result.own, result.at_rest, result.failed) == (0, 0, 0)
    if mode.endswith("redis") or mode == "strict":
        assert result.other == 0
    if mode in AWAY:
        assert result.failures > 0


def test_of_all_who_ask_at_once_one_loads() -> None:
    assert set(stampedes(5)) == {1}


def test_every_other_process_hears_of_every_write() -> None:
    assert len(delays(100)) == 100 * LISTENERS
