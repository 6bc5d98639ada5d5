"""A loop and an App for property tests, which call one coroutine for each example."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import hypothesis

from earnorm import App

from .conftest import default_app

T = TypeVar("T")


class World:
    """The App, and ``run`` for a coroutine function."""

    def __init__(self, runner: asyncio.Runner, app: App) -> None:
        self.app = app
        self._runner = runner

    def run(self, example: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._runner.run(example())

    def result(self, awaitable: Awaitable[T]) -> T:
        """Await something on the loop, and return what it gives."""

        async def wait() -> T:
            return await awaitable

        return self._runner.run(wait())


@contextmanager
def world(kind: str = "pymongo", plugins: tuple[object, ...] = ()) -> Iterator[World]:
    """An App on a database of its own, on a loop that lasts for all examples."""
    with asyncio.Runner() as runner:
        context = default_app(kind, f"core_{uuid.uuid4().hex[:12]}", plugins)
        app = runner.run(context.__aenter__())
        try:
            yield World(runner, app)
        finally:
            runner.run(context.__aexit__(None, None, None))


def law(examples: int = 60) -> hypothesis.settings:
    """The settings of a law: few examples in the normal run, many under ``nox -s fuzz``."""
    import os

    return hypothesis.settings(
        max_examples=int(os.environ.get("EARNORM_FUZZ_EXAMPLES", examples)),
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
