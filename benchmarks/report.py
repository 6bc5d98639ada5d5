"""What the benchmarks say: ratios with their spread, Markdown tables, JSON, and charts as SVG."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from benchmarks.data import Sizes
from benchmarks.systems import PLUGINS, SYSTEMS
from benchmarks.workloads import BY_NAME

if TYPE_CHECKING:
    from benchmarks.runner import Measured

PACKAGES = (
    *("earnorm-core", "pymongo", "motor", "pydantic", "beanie", "odmantic", "mongoengine"),
    "umongo",
)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A system's time divided by its divisor's, over the rounds that both have.

    Attributes:
        median: Of the rounds' ratios.
        interval: Where the median lies with 95 % confidence; from fewer than 6 rounds, all that was seen.
        lowest, highest: Of the rounds' ratios.
        cpu: The median ratio of processor time.
        rounds: How many.
    """

    median: float
    interval: tuple[float, float]
    lowest: float
    highest: float
    cpu: float
    rounds: int


def ratio(workload: str, system: str, measured: Measured) -> Ratio | None:
    """None where one of the two has no figures."""
    ours, base = measured[workload].get(system), measured[workload].get(SYSTEMS[system].against)
    if ours is None or base is None or not ours.wall or not base.wall:
        return None
    walls = [a / b for a, b in zip(ours.wall, base.wall, strict=False)]
    cpus = [a / b for a, b in zip(ours.cpu, base.cpu, strict=False) if b]
    return Ratio(
        statistics.median(walls),
        interval_of_median(walls),
        min(walls),
        max(walls),
        statistics.median(cpus) if cpus else float("nan"),
        len(walls),
    )


def interval_of_median(values: Sequence[float]) -> tuple[float, float]:
    """Its 95 % confidence interval, from the ranks alone: nothing is assumed of how they spread."""
    ordered, number = sorted(values), len(values)
    outside = int((number - 1.96 * number**0.5) / 2)  # so many on either side of it
    return ordered[max(0, outside)], ordered[-1 - max(0, outside)]


def header(server: str, workers: Mapping[str, Any]) -> dict[str, str]:
    """What was measured with what."""
    found = {"python": platform.python_version(), "mongodb": server}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    for worker in workers.values():
        found |= worker.ready.get("versions", {})
    return found | {"machine": f"{platform.machine()}, {os.cpu_count()} processors"}


def matrix(measured: Measured, systems: Sequence[str], sizes: Sizes) -> Iterator[str]:
    """One row a workload, one column a system: the median ratio."""
    systems = [name for name in systems if SYSTEMS[name].against != name]
    yield f"| what | {' | '.join(systems)} |"
    yield f"|---|{'---|' * len(systems)}"
    for name in measured:
        workload = BY_NAME[name]
        cells = [_cell(ratio(name, system, measured)) for system in systems]
        if any(cell != "n/a" for cell in cells):
            yield f"| {workload.title} ({workload.size(sizes):,}) | {' | '.join(cells)} |"


def _cell(found: Ratio | None) -> str:
    return "n/a" if found is None else f"{found.median:.2f}"


def details(measured: Measured, systems: Sequence[str], sizes: Sizes) -> Iterator[str]:
    """The rows of some systems with their spread, their time and the aim."""
    yield "| what | system | each | ratio | 95 % interval | lowest to highest | rounds | CPU | aim | met |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name, series in measured.items():
        workload = BY_NAME[name]
        for system in systems:
            found = ratio(name, system, measured)
            if system not in series or not series[system].wall:
                continue
            each = statistics.median(series[system].wall) / workload.size(sizes) * 1e6
            if found is None:
                yield f"| {workload.title} | {system} | {each:,.1f} µs | | | | | | | |"
                continue
            aim = "" if workload.aim is None else f"{workload.aim:.2f}"
            met = (
                "" if not aim else "yes" if round(found.median, 2) <= (workload.aim or 0) else "no"
            )
            if system in PLUGINS:
                aim = met = ""
            yield (
                f"| {workload.title} | {system} | {each:,.1f} µs | **{found.median:.2f}** "
                f"| {found.interval[0]:.2f} to {found.interval[1]:.2f} "
                f"| {found.lowest:.2f} to {found.highest:.2f} | {found.rounds} "
                f"| {found.cpu:.2f} | {aim} | {met} |"
            )


def as_json(measured: Measured, systems: Sequence[str], sizes: Sizes) -> list[dict[str, Any]]:
    """Everything, for a machine."""
    rows: list[dict[str, Any]] = []
    for name, series in measured.items():
        for system in systems:
            if system not in series:
                continue
            found = ratio(name, system, measured)
            rows.append(
                {
                    "workload": name,
                    "size": BY_NAME[name].size(sizes),
                    "system": system,
                    "against": SYSTEMS[system].against,
                    "ratio": None if found is None else asdict(found),
                    "aim": BY_NAME[name].aim,
                    "wall_seconds": series[system].wall,
                    "cpu_seconds": series[system].cpu,
                    "problem": series[system].problem,
                }
            )
    return rows


# -- charts ---------------------------------------------------------------------------------------

_COLOURS = ("#0b7a75", "#7b2d26", "#d17b0f", "#5b5f97", "#8d99ae", "#c08497", "#3a3a3a")
_BAR, _GAP, _LEFT, _WIDTH = 13, 12, 250, 560


def chart(measured: Measured, systems: Sequence[str], title: str) -> str:
    """Bars of the median ratios, on a logarithmic scale; the line is the raw driver's own time."""
    from math import log10

    systems = [name for name in systems if SYSTEMS[name].against != name]
    rows = [
        (BY_NAME[name].title, [(s, found) for s in systems if (found := ratio(name, s, measured))])
        for name in measured
    ]
    rows = [(what, bars) for what, bars in rows if bars]
    if not rows:
        return ""
    medians = [found.median for _, bars in rows for _, found in bars]
    low, high = log10(min(0.05, *medians)), log10(max(10.0, *medians))

    def x(value: float) -> float:
        return _LEFT + (log10(value) - low) / (high - low) * _WIDTH

    y, parts = 64, []
    for what, bars in rows:
        middle = y + len(bars) * _BAR / 2 + 4
        parts.append(
            f'<text x="{_LEFT - 8}" y="{middle:.0f}" text-anchor="end">{escape(what)}</text>'
        )
        for system, found in bars:
            colour = _COLOURS[systems.index(system) % len(_COLOURS)]
            start, end = sorted((x(1.0), x(found.median)))
            parts.append(
                f'<rect x="{start:.1f}" y="{y}" width="{max(1.0, end - start):.1f}" '
                f'height="{_BAR - 2}" fill="{colour}"/>'
                f'<text x="{end + 4:.1f}" y="{y + 9}" font-size="9">{found.median:.2f}</text>'
            )
            y += _BAR
        y += _GAP
    legend = "".join(
        f'<rect x="{_LEFT + n * 105}" y="34" width="10" height="10" fill="{_COLOURS[n % len(_COLOURS)]}"/>'
        f'<text x="{_LEFT + n * 105 + 14}" y="43">{escape(name)}</text>'
        for n, name in enumerate(systems)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 60}" height="{y + 10}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="10" y="20" font-size="14">{escape(title)}</text>{legend}'
        f'<line x1="{x(1.0):.1f}" y1="54" x2="{x(1.0):.1f}" y2="{y}" stroke="#999"/>'
        f"{''.join(parts)}</svg>\n"
    )
