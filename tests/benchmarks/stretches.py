"""Measures how long an operation keeps the event loop, in lines of code that run, and not in time.

The number is the same on any machine. What is implemented in C counts as one line, however long it takes.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from types import FrameType, ModuleType
from typing import Any

import pytest

import earnorm
from earnorm.backends import collection
from earnorm.features.upserts import upserts
from earnorm.kernel import pauses

Work = Callable[[], Awaitable[object]]

FEW, MANY = 10, 200
"""The numbers of records of two runs, of which the difference is the cost of more records."""


def folder(module: ModuleType) -> str:
    assert module.__file__ is not None
    return os.path.join(os.path.dirname(module.__file__), "")


@dataclass
class Stretches:
    """Counts the lines that run between two turns of the event loop.

    Attributes:
        longest: The most lines without a turn.
        where: The functions of that stretch, with their lines.
    """

    folders: tuple[str, ...]
    longest: int = 0
    where: Counter[str] = field(default_factory=Counter[str])
    _lines: Counter[str] = field(default_factory=Counter[str])

    def turn(self) -> None:
        number = self._lines.total()
        if number > self.longest:
            self.longest, self.where = number, self._lines
        self._lines = Counter()

    def enter(self, frame: FrameType, event: str, argument: object) -> Any:
        is_ours = frame.f_code.co_filename.startswith(self.folders)
        return self._line if is_ours else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            self._lines[frame.f_code.co_qualname] += 1
        return self._line


@asynccontextmanager
async def counted(*modules: ModuleType) -> AsyncIterator[Stretches]:
    """Count the lines of these packages, the core among them, in the block."""
    stretches = Stretches(tuple(map(folder, (earnorm, *modules))))
    is_over = False

    async def turn() -> None:
        while not is_over:
            stretches.turn()
            await asyncio.sleep(0)

    turning = asyncio.ensure_future(turn())
    await asyncio.sleep(0)
    before = sys.gettrace()
    sys.settrace(stretches.enter)
    try:
        yield stretches
    finally:
        sys.settrace(before)
        stretches.turn()
        is_over = True
        await turning


@contextmanager
def pausing(monkeypatch: pytest.MonkeyPatch, every: int = 5) -> Iterator[None]:
    """Pause after so many records each time, whatever the clock says; and send small commands."""
    with monkeypatch.context() as patch:
        patch.setattr(pauses, "EVERY", every)
        patch.setattr(pauses, "TURN", -1.0)
        for module, name in _SIZES:
            patch.setattr(module, name, every)
        yield


_SIZES = (
    (collection, "WRITTEN_PART"),
    (upserts, "_CHUNK"),
)
"""The numbers of records that are handed to the driver, or looked for, at a time."""


async def growth(
    prepare: Callable[[int], Awaitable[Work]],
    during: Callable[[], AbstractContextManager[None]],
    *modules: ModuleType,
) -> float:
    """Return the lines without a turn of the loop that each further record adds to an operation.

    Args:
        prepare: Makes so many records, and returns the operation on them.
        during: Makes a block to run the operation in.
        *modules: Packages beside the core whose lines count.
    """
    await (await prepare(3))()  # what is imported and made with the first use does not count
    longest: list[int] = []
    for number in (FEW, MANY):
        work = await prepare(number)
        with during():
            async with counted(*modules) as stretches:
                await work()
        longest.append(stretches.longest)
    return (longest[1] - longest[0]) / (MANY - FEW)
