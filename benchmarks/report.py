"""What the benchmarks print: a header with versions, and a Markdown table."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version

from benchmarks.rounds import Figures

_PACKAGES = ("earnorm-core", "pymongo", "motor", "pydantic")


def versions(server: str) -> dict[str, str]:
    """What was measured with what."""
    found = {"python": platform.python_version(), "mongodb": server}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found | {"machine": f"{platform.machine()}, {os.cpu_count()} processors"}


def table(figures: Sequence[Figures]) -> Iterator[str]:
    """The rows of a Markdown table."""
    yield "| what | driver | raw | EarnORM | ratio (median) | lowest to highest | best ÷ best | CPU | aim | met |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for each in figures:
        said = each.as_dict()
        raw, orm = (_time(said[f"{side}_median_seconds"], each.size) for side in ("raw", "orm"))
        median, aim = float(str(said["median"])), each.target
        yield (
            f"| {each.name} | {each.driver} | {raw} | {orm} | **{median:.2f}** "
            f"| {said['lowest']:.2f} to {said['highest']:.2f} "
            f"| {said['best_to_best']:.2f} | {said['cpu_median']:.2f} "
            f"| {'' if aim is None else f'{aim:.2f}'} "
            f"| {'' if aim is None else 'yes' if round(median, 2) <= aim else 'no'} |"
        )


def _time(seconds: object, size: int) -> str:
    return f"{float(str(seconds)) / size * 1e6:.1f} µs each"
