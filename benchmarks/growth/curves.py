"""A curve: what one unit costs among 10, 100, 1,000 … of them, and how to tell that it grows."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

LIMIT = 2.0
"""What a unit may cost more among ten times as many; beyond it the whole is clearly worse than linear."""
RUNS = 5
BUDGET = 1.0  # seconds after which a step is not repeated again

Step = Callable[[], Awaitable[Any]]


@dataclass(slots=True)
class Curve:
    """One way to do something, measured at several sizes.

    Attributes:
        subject: What grows.
        name: What is done.
        unit: What the cost is of.
        ours: It is EarnORM's; the driver's own curve is drawn, and not judged.
        points: Sizes, and the seconds of one unit.
    """

    subject: str
    name: str
    unit: str
    ours: bool = True
    points: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])

    @property
    def exponent(self) -> float:
        """The slope of the unit's cost over the size, both logarithmic: 0 is flat, 1 is quadratic.

        Fitted to the three largest sizes: at the small ones a fixed part hides it.
        """
        points = [(math.log(size), math.log(cost)) for size, cost in self.points[-3:] if cost > 0]
        if len(points) < 2:
            return 0.0
        x = sum(a for a, _ in points) / len(points)
        y = sum(b for _, b in points) / len(points)
        return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)

    @property
    def worst(self) -> tuple[float, int]:
        """The largest growth of the unit's cost over a decade, and the size that it leads to."""
        return max(((grown, size) for size, grown in self.growth().items()), default=(1.0, 0))

    def growth(self) -> dict[int, float]:
        """How many times as much a unit costs at a size as at a tenth of it, by the size."""
        return {
            large: (after / before) ** (1 / math.log10(large / small))
            for (small, before), (large, after) in zip(self.points, self.points[1:], strict=False)
            if before > 0 and after > 0
        }

    def as_json(self) -> dict[str, Any]:
        """Everything, for a machine."""
        growth, size = self.worst
        return {**asdict(self), "exponent": self.exponent, "worst": {"growth": growth, "to": size}}


def grown(curve: Curve, others: Sequence[Curve]) -> tuple[float, int] | None:
    """The growth over a decade, and the size, where one of EarnORM's curves is clearly worse than linear.

    Not where the driver's own curve of the subject grows as much: a million documents are more work
    for the garbage collector and for the processor's caches, whoever asks for them.
    """
    if not curve.ours:
        return None
    drivers = [each.growth() for each in others if not each.ours and each.subject == curve.subject]
    found = [
        (growth, size)
        for size, growth in curve.growth().items()
        if growth > LIMIT and all(growth / driver.get(size, 1.0) > LIMIT for driver in drivers)
    ]
    return max(found, default=None)


async def lowest(step: Step, units: int, *, before: Step | None = None, runs: int = RUNS) -> float:
    """The seconds of one unit in the fastest of a few runs: other programs only ever add to it.

    Args:
        step: What is measured.
        units: How many units one run has.
        before: What makes each run find the same; not measured.
        runs: Most runs.
    """
    found: list[float] = []
    spent = 0.0
    gc.collect()  # what the steps before have left is not counted here
    while not found or (len(found) < runs and spent < BUDGET):
        if before is not None:
            await before()
        start = time.perf_counter()
        await step()
        found.append(time.perf_counter() - start)
        spent += found[-1]
    return min(found) / units


async def lowest_of_calls(step: Step, calls: int = 300) -> float:
    """The seconds of one call, as the lowest mean of a hundred: single round trips differ too much."""
    await step()
    means: list[float] = []
    for _ in range(max(3, calls // 100)):
        start = time.perf_counter()
        for _ in range(100):
            await step()
        means.append((time.perf_counter() - start) / 100)
    return min(means)


def lower(curves: Sequence[Curve], others: Sequence[Curve]) -> list[Curve]:
    """The same curves measured twice, as one: of each step the lower cost."""
    return [
        replace(
            one,
            points=[
                (size, min(cost, again))
                for (size, cost), (_, again) in zip(one.points, other.points, strict=True)
            ],
        )
        for one, other in zip(curves, others, strict=True)
    ]


def failures(curves: Sequence[Curve]) -> list[str]:
    """A line for each of EarnORM's curves that is clearly worse than linear."""
    return [
        f"{curve.subject}, {curve.name}: each {curve.unit} costs {found[0]:.1f} times as much where "
        f"the size grows tenfold to {found[1]:,}"
        for curve in curves
        if (found := grown(curve, curves)) is not None
    ]
