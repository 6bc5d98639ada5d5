"""How two ways of doing the same are compared: interleaved, in alternating order, many times."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

Way = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared.

    Attributes:
        name: What is done, for the table.
        target: The ratio that is aimed for; None where there is none.
        raw: Does it with the driver alone; its result says what was seen.
        orm: Does the same with EarnORM, and sees the same.
        prepare: Called before each timed run, untimed.
        size: How many documents or calls one run is about.
    """

    name: str
    target: float | None
    raw: Way
    orm: Way
    size: int
    prepare: Way | None = None


@dataclass(slots=True)
class Figures:
    """The times of one comparison, in seconds, and the ratio of each round."""

    name: str
    driver: str
    target: float | None
    size: int
    raw: list[float] = field(default_factory=list[float])
    orm: list[float] = field(default_factory=list[float])
    raw_cpu: list[float] = field(default_factory=list[float])
    orm_cpu: list[float] = field(default_factory=list[float])

    @property
    def ratios(self) -> list[float]:
        """EarnORM's time divided by the driver's, round by round."""
        return [orm / raw for orm, raw in zip(self.orm, self.raw, strict=True)]

    @property
    def cpu_ratio(self) -> float:
        """The median ratio of this process's processor time: what other programs disturb least."""
        pairs = zip(self.orm_cpu, self.raw_cpu, strict=True)
        return statistics.median(orm / raw for orm, raw in pairs)

    def as_dict(self) -> dict[str, object]:
        """For ``--json``."""
        ratios = self.ratios
        return {
            "name": self.name,
            "driver": self.driver,
            "target": self.target,
            "size": self.size,
            "rounds": len(ratios),
            "median": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
            "best_to_best": min(self.orm) / min(self.raw),
            "cpu_median": self.cpu_ratio,
            "raw_median_seconds": statistics.median(self.raw),
            "orm_median_seconds": statistics.median(self.orm),
            "raw_seconds": self.raw,
            "orm_seconds": self.orm,
        }


async def compare(what: Comparison, driver: str, rounds: int) -> Figures:
    """Time both ways ``rounds`` times, after a round that only warms up.

    Raises:
        AssertionError: The two ways did not see the same, so a ratio would mean nothing.
    """
    found = Figures(what.name, driver, what.target, what.size)
    for number in range(rounds + 1):
        order = ("raw", "orm") if number % 2 else ("orm", "raw")
        times: dict[str, float] = {}
        cpu: dict[str, float] = {}
        seen: dict[str, object] = {}
        for side in order:
            way = what.raw if side == "raw" else what.orm
            if what.prepare is not None:
                await what.prepare()
            gc.collect()
            start, busy = time.perf_counter(), time.process_time()
            seen[side] = await way()
            times[side] = time.perf_counter() - start
            cpu[side] = time.process_time() - busy
        assert seen["raw"] == seen["orm"], f"{what.name}: the two ways did not see the same"
        if number:
            found.raw.append(times["raw"])
            found.orm.append(times["orm"])
            found.raw_cpu.append(cpu["raw"])
            found.orm_cpu.append(cpu["orm"])
    return found
