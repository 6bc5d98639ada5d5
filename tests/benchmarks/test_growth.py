"""The benchmark of growth runs, and tells what grows; its figures are nobody's test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.growth.curves import Curve, failures, lower
from benchmarks.growth.report import chart, table, time

ROOT = Path(__file__).parents[2]


def curve(*costs: float, ours: bool = True) -> Curve:
    points = [(10 ** (n + 1), cost) for n, cost in enumerate(costs)]
    return Curve("records", "<save>", "record", ours, points)


def test_a_short_run_measures_and_writes(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.growth", "--largest", "10"),
            *("--subject", "conditions", "--subject", "lists", "--write", str(tmp_path)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr  # 1: a busy machine, or something grows
    written = json.loads((tmp_path / "growth.json").read_text())
    measured = {(c["subject"], c["name"]): c["points"] for c in written["curves"]}
    assert [size for size, _ in measured["conditions of a domain", "and"]] == [1, 10]
    assert [size for size, _ in measured["ids of an 'in' list", "update"]] == [10]
    assert "| and, each condition |" in (tmp_path / "growth.md").read_text()
    assert (tmp_path / "growth.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("costs", "exponent"), [((1, 1, 1, 1), 0.0), ((5, 1, 10, 100), 1.0), ((9, 9, 3, 1), -0.48)]
)
def test_the_exponent_is_that_of_the_largest_sizes(
    costs: tuple[float, ...], exponent: float
) -> None:
    assert curve(*costs).exponent == pytest.approx(exponent, abs=0.01)


def test_a_unit_that_costs_more_than_twice_as_much_over_a_decade_is_told() -> None:
    assert failures([curve(1, 1.9, 3.7), curve(1, 5, ours=False)]) == []
    told = [
        "records, <save>: each record costs 2.5 times as much where the size grows tenfold to 1,000"
    ]
    assert failures([curve(3, 1, 2.5)]) == told
    # not where the driver's own cost grows like that at that size
    assert failures([curve(3, 1, 2.5), curve(1, 1, 2, ours=False)]) == []
    assert failures([curve(3, 1, 2.5), curve(1, 2, 2, ours=False)]) == told
    # a step of half a decade counts as one
    half = Curve("s", "n", "u", points=[(100, 1.0), (316, 1.6)])
    assert half.worst[0] == pytest.approx(2.56, abs=0.01)


def test_of_two_measurements_the_lower_cost_counts() -> None:
    [found] = lower([curve(1, 9, 1)], [curve(2, 1, 3)])
    assert found.points == [(10, 1), (100, 1), (1000, 1)]


def test_the_table_and_the_picture_show_each_curve() -> None:
    curves = [curve(1e-6, 2e-6, 9e-6), curve(1e-9, 1e-9, 1e-9, ours=False)]
    rows = list(table(curves))
    assert rows[0] == "| records | 10 | 100 | 1,000 | exponent | most per decade |"
    assert rows[2] == "| <save>, each record | 1 µs | 2 µs | 9 µs | +0.48 | **4.50** |"
    picture = chart(curves, "growth")
    assert picture.count("<polyline") == 2
    assert "&lt;save&gt;" in picture
    assert [time(x) for x in (2e-9, 1.5e-3, 42.0)] == ["2 ns", "1.5 ms", "42 s"]
