"""Slow-query advice: notes the operations that took long, by shape, and never by value.

Off unless the App is given ``slow_query=`` (seconds). Then each operation of every model is timed around
all that lies below the layer OBSERVE: other layers, driver, server. What the shapes lack,
``app.indexes.advise`` and ``earnorm indexes advise`` say.
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
from earnorm.kernel.operations import Call, Operation

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.operations import OperationName
    from earnorm.model.base import BaseModel

log = logging.getLogger("earnorm.slow_queries")

SHAPES = 500
"""Most shapes that are remembered; a new one takes the place of the one that cost least."""


@dataclass(slots=True)
class SlowShape:
    """What is known of one shape.

    Attributes:
        shape: Field names and operators.
        count: How many slow operations had it.
        seconds: How long they took together.
        worst: How long the slowest took.
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
        self._found: dict[QueryShape, SlowShape] = {}

    def note(self, shape: QueryShape, seconds: float) -> None:
        """Count a slow operation."""
        found = self._found.get(shape)
        if found is None:
            if len(self._found) >= self._limit:
                cheapest = min(self._found.values(), key=lambda each: each.seconds)
                del self._found[cheapest.shape]
            found = self._found[shape] = SlowShape(shape)
        found.count += 1
        found.seconds += seconds
        found.worst = max(found.worst, seconds)

    def shapes(self) -> list[SlowShape]:
        """Every shape, the one that took most time first."""
        return sorted(self._found.values(), key=lambda each: -each.seconds)

    def clear(self) -> None:
        """Forget them."""
        self._found.clear()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the shapes as lines of JSON, for ``earnorm indexes advise --shapes``; no value is in them."""
        lines = [
            json.dumps(
                {
                    **each.shape.to_json(),
                    "count": each.count,
                    "seconds": round(each.seconds, 3),
                    "worst": round(each.worst, 3),
                }
            )
            for each in self.shapes()
        ]
        target = Path(path)
        part = target.with_name(f"{target.name}.{os.getpid()}")
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        part.replace(target)  # a reader sees the old file or the new one, never a half


class SlowQueriesPlugin:
    """Times operations where the App was given ``slow_query=``."""

    api = API
    name = "slow_queries"

    def __init__(self) -> None:
        self._noted: SlowQueries | None = None

    @hookimpl
    def register_services(self, app: App) -> Mapping[str, object]:
        """The shapes, where they are collected."""
        threshold = app.settings.slow_query
        if threshold is None:
            return {}
        self._noted = SlowQueries(threshold)
        return {"slow_queries": self._noted}

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Nothing at all where it is off."""
        if self._noted is None or operation == "create":
            return ()
        return [(Layer.OBSERVE, _Watch(self._noted))]

    @hookimpl
    def shutdown(self, app: App) -> None:
        """Write the shapes where a file is named for them."""
        path = app.settings.slow_query_file
        if self._noted is not None and path is not None:
            self._noted.save(path)


class _Watch:
    def __init__(self, noted: SlowQueries) -> None:
        self._noted = noted

    async def __call__(self, op: Operation, call_next: Call) -> Any:
        started = perf_counter()
        try:
            return await call_next(op)
        finally:
            seconds = perf_counter() - started
            if seconds >= self._noted.threshold:
                self._tell(op, seconds)

    def _tell(self, op: Operation, seconds: float) -> None:
        shape = shape_of(op)
        if shape is not None:
            self._noted.note(shape, seconds)
            log.warning("slow operation, %.3f s: %s", seconds, shape)
