"""What is faster than a loop by hand does the same as the loop; its figures are nobody's test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import beyond
from benchmarks.beyond import Pair

ROOT = Path(__file__).parents[2]
SMALL = """
import asyncio
from benchmarks import beyond
from benchmarks.data import Sizes

sizes = Sizes(people=20, stream=30, posts=10, calls=10, inserts=5, tasks=4)
asyncio.run(beyond.main(sizes, patience=0))
"""


def test_each_pair_sees_the_same_and_is_told() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SMALL], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if "**" in line]
    assert [row.split(" | ")[1] for row in rows] == [
        "`coalescing()`",
        "`await post.author`",
        '`only=["name", "age"]`',
        "`async for`",
        "`posts.save()`",
        "`bulk()`",
    ]


async def test_whoever_skips_work_stops_the_run() -> None:
    async def everything() -> list[int]:
        return [1, 2]

    async def half_of_it() -> list[int]:
        return [1]

    with pytest.raises(AssertionError, match="numbers: the loop and EarnORM saw different"):
        await beyond._measure(Pair("numbers", "", everything, half_of_it), 0)
