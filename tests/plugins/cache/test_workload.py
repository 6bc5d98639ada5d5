"""Two processes write in every way, and no read of either differs from the database; a planted fault is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.cache.workload.faults import FAULTS

EVERY = int(os.environ.get("EARNORM_WORKLOAD_EVERY", "25"))
"""Each so manieth of the 300 generated writes is done; ``nox -s workload`` does all."""
STORMS = int(os.environ.get("EARNORM_WORKLOAD_STORMS", "2"))


def workload(every: int, storms: int, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.plugins.cache.workload", "--every", str(every)]
    done = subprocess.run(
        [*command, "--storms", str(storms), *arguments],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_no_read_of_two_processes_differs_from_the_database() -> None:
    told = workload(EVERY, STORMS)
    assert told["differ"] == 0, told["shown"]
    assert told["writes"] >= 300 // EVERY and told["storms"] == STORMS
    assert told["reads"] > 100 * told["writes"]
    for level, hits in told["hits"].items():
        assert hits > 100, level


@pytest.mark.parametrize("fault", FAULTS)
def test_the_workload_finds_a_planted_fault(fault: str) -> None:
    assert workload(10, 2, "--fault", fault)["differ"] > 0
