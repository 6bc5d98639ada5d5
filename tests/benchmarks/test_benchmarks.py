"""The benchmark runs, and everybody in it sees the same; its figures are nobody's test."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import CHART_TITLE, FIRST_SHOWN
from benchmarks.report import chart, interval_of_median, ratio
from benchmarks.runner import MANY, Measured, Series, _agree, how_often
from benchmarks.systems import PEERS, SYSTEMS
from benchmarks.workloads import BY_NAME

ROOT = Path(__file__).parents[2]


def test_a_short_run_measures_and_writes(tmp_path: Path) -> None:
    asked = ["--system", "EarnORM", "--system", "+ pool", "--rounds", "1", "--write", str(tmp_path)]
    works = [f"--workload={name}" for name in ("find_two", "insert_many", "save", "three_levels")]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *asked, *works],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "benchmarks.json").read_text())
    measured = {(row["workload"], row["system"]) for row in written["rows"] if row["ratio"]}
    assert {("find_two", "EarnORM"), ("save", "+ pool"), ("three_levels", "EarnORM")} <= measured
    assert "| find, two fields read" in (tmp_path / "benchmarks.md").read_text()
    assert (tmp_path / "benchmarks.svg").read_text().startswith("<svg")
    assert (tmp_path / "first.svg").read_text() == ""  # it shows others than were measured here


def test_the_first_figures_of_the_readme_are_those_that_were_measured() -> None:
    written = json.loads((ROOT / "docs/benchmarks/benchmarks.json").read_text())["rows"]
    measured: Measured = {}
    for row in written:
        series = Series(row["wall_seconds"], row["cpu_seconds"], row["problem"])
        measured.setdefault(row["workload"], {})[row["system"]] = series
    shown = ["EarnORM", *(system for system in PEERS if system in measured["find_flat"])]
    first = {name: series for name, series in measured.items() if name in FIRST_SHOWN}
    assert (ROOT / "docs/benchmarks/first.svg").read_text() == chart(first, shown, CHART_TITLE)
    found = {system: ratio("find_flat", system, measured) for system in shown}
    ours, *peers = (each.median for each in found.values() if each)
    said = re.search(
        r"takes ([\d.]+) × the raw driver's time, where its peers take (\d+) to (\d+) ×",
        (ROOT / "README.md").read_text(),
    )
    assert said is not None
    rounded = (f"{ours:.1f}", f"{min(peers):.0f}", f"{max(peers):.0f}")
    assert said.groups() == rounded


def test_whoever_skips_work_stops_the_run() -> None:
    with pytest.raises(AssertionError, match="not everybody saw the same"):
        _agree(BY_NAME["find_two"], {"PyMongo": "a", "EarnORM": "b"})


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    measured: Measured = {
        "get": {
            "PyMongo": Series([1.0, 2.0, 4.0], [1.0, 1.0, 1.0]),
            "EarnORM": Series([2.0, 2.0, 4.0], [3.0, 1.0, 1.0]),
        }
    }
    found = ratio("get", "EarnORM", measured)
    assert found is not None
    assert (found.median, found.lowest, found.highest, found.cpu) == (1.0, 1.0, 2.0, 1.0)
    assert ratio("get", "Beanie", measured) is None
    assert "get by id" in chart(measured, ["EarnORM"], "a chart")


def test_the_interval_of_a_median_leaves_out_what_the_ranks_allow() -> None:
    assert interval_of_median([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert interval_of_median([float(n) for n in range(1, 10)]) == (2.0, 8.0)


def test_a_short_run_is_repeated_and_a_long_one_is_not() -> None:
    assert how_often(5.0, 9, 2.0) == 3
    assert how_often(0.9, 9, 2.0) == 9
    assert how_often(0.1, 9, 2.0) == 20
    assert how_often(0.001, 9, 2.0) == MANY
    assert how_often(0.001, 3, 0.0) == 3


def test_every_system_names_one_to_be_measured_against() -> None:
    assert {entry.against for entry in SYSTEMS.values()} <= SYSTEMS.keys()
