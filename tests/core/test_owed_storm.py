"""Processes that are killed owe nothing in the end, and a storm of kills finds each kind of planted fault."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .owed_storm import FAULTS

KILLS = int(os.environ.get("EARNORM_KILLS", "6"))


def storm(kills: int, *arguments: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.core.owed_storm", "--kills", str(kills), *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    ends: dict[str, int] = json.loads(done.stdout)
    assert "failed" not in ends, done.stderr
    return ends


def test_after_any_kill_every_stored_value_equals_its_formula() -> None:
    ends = storm(KILLS)
    assert ends["killed"] >= KILLS and ends["done"] and "broken" not in ends


SLOW = ("owe_after_the_commit",)


@pytest.mark.parametrize(
    "fault", [pytest.param(f, marks=pytest.mark.fuzz) if f in SLOW else f for f in FAULTS]
)
def test_the_storm_finds_a_planted_fault(fault: str) -> None:
    assert storm(60, "--fault", fault)["broken"]
