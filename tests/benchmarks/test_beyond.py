"""What is faster than a loop by hand does the same as the loop; its figures are nobody's test."""

from __future__ import annotations

import pytest

from benchmarks import beyond
from benchmarks.beyond import Pair
from benchmarks.data import Sizes

SMALL = Sizes(people=20, stream=30, posts=10, calls=10, inserts=5, tasks=4)


async def test_each_pair_sees_the_same_and_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    await beyond.main(SMALL, patience=0)
    rows = [line for line in capsys.readouterr().out.splitlines() if "**" in line]
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
