"""Slow queries: records the shapes of operations that took long, and never their values.

It is off unless the App has ``slow_query=`` (seconds). Then it measures the time of each operation
of every model below the layer OBSERVE: other layers, driver, server. ``app.indexes.advise`` and
``earnorm indexes advise`` name the indexes that the shapes lack.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from earnorm.features.slow_queries.query_shape import QueryShape, shape_of
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.layers import Layer, Middleware
from earnorm.kernel.life.settings import check_time
from earnorm.kernel.operations import Call, Operation

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.operations import OperationName
    from earnorm.model.base import BaseModel

log = logging.getLogger("earnorm.slow_queries")

SHAPES = 500
"""The most shapes to remember; a new one replaces the one that took the least time."""
LONGEST = 2_000
"""The most characters of the text of a shape that is remembered."""


@dataclass(slots=True)
class SlowShape:
    """The slow operations of one shape.

    Attributes:
        shape: Field names and operators.
        count: The number of slow operations.
        seconds: The time that they took together.
        worst: The time that the slowest one took, in seconds.
    """

    shape: QueryShape
    count: int = 0
    seconds: float = 0.0
    worst: float = 0.0

    def __str__(self) -> str:
        return f"{self.shape} ({self.count} times, {self.worst:.3f} s at worst)"


class SlowQueries:
    """The slow shapes of one App: ``app.services["slow_queries"]``."""

    def __init__(self, threshold: float, limit: int = SHAPES) -> None:
        self.threshold = threshold
        self._limit = limit
        self._shapes: dict[QueryShape, SlowShape] = {}

    def note(self, shape: QueryShape, seconds: float) -> None:
        """Count a slow operation; one whose shape has a long text is in the log only."""
        if len(shape.text) > LONGEST:
            return
        slow_shape = self._shapes.get(shape)
        if slow_shape is None:
            if len(self._shapes) >= self._limit:
                cheapest = min(self._shapes.values(), key=lambda known: known.seconds)
                del self._shapes[cheapest.shape]
            slow_shape = self._shapes[shape] = SlowShape(shape)
        slow_shape.count += 1
        slow_shape.seconds += seconds
        slow_shape.worst = max(slow_shape.worst, seconds)

    def shapes(self) -> list[SlowShape]:
        """Return all shapes, the one that took the most time first."""
        return sorted(self._shapes.values(), key=lambda slow_shape: -slow_shape.seconds)

    def clear(self) -> None:
        """Forget all shapes."""
        self._shapes.clear()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the shapes, without values, as JSON lines: ``earnorm indexes advise --shapes``."""
        lines = [
            json.dumps(
                {
                    **slow_shape.shape.to_json(),
                    "count": slow_shape.count,
                    "seconds": round(slow_shape.seconds, 3),
                    "worst": round(slow_shape.worst, 3),
                }
            )
            for slow_shape in self.shapes()
        ]
        target = Path(path)
        temporary = target.with_name(f"{target.name}.{os.getpid()}")
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        temporary.replace(
            target
        )  # so a reader sees the old file or the new one, never a part of it


class SlowQueriesPlugin:
    """Measures the time of operations if the App has ``slow_query=``.

    Args:
        slow_query: The time in seconds from which on an operation is slow; None records none.
        slow_query_file: The file for the shapes, written when the App stops.

    Raises:
        ConfigurationError: The time is not above 0.
    """

    api = API
    name = "slow_queries"

    def __init__(self, slow_query: float | None = None, slow_query_file: str | None = None) -> None:
        check_time("slow_query", slow_query)
        self._threshold, self._file = slow_query, slow_query_file
        self._slow_queries: SlowQueries | None = None

    @hookimpl
    def register_services(self, app: App) -> Mapping[str, object]:
        """Return the collected shapes as a service, if the App has ``slow_query=``."""
        if self._threshold is None:
            return {}
        self._slow_queries = SlowQueries(self._threshold)
        return {"slow_queries": self._slow_queries}

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Return the layer that measures, unless the feature is off."""
        if self._slow_queries is None or operation == "create":
            return ()
        return [(Layer.OBSERVE, _Measure(self._slow_queries))]

    @hookimpl
    def shutdown(self, app: App) -> None:
        """Write the shapes to ``slow_query_file``, if the App has one."""
        if self._slow_queries is not None and self._file is not None:
            self._slow_queries.save(self._file)


class _Measure:
    def __init__(self, noted: SlowQueries) -> None:
        self._slow_queries = noted

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        started = perf_counter()
        try:
            return await call_next(op)
        finally:
            seconds = perf_counter() - started
            if seconds >= self._slow_queries.threshold:
                self._report(op, seconds)

    def _report(self, op: Operation, seconds: float) -> None:
        shape = shape_of(op)
        if shape is not None:
            self._slow_queries.note(shape, seconds)
            log.warning("slow operation, %.3f s: %s", seconds, shape)
