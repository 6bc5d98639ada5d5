"""Nothing awaited keeps the event loop for longer the more records it is about."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

import earnorm
from benchmarks.stalls import CASES

from .stretches import Work, growth, pausing

MOST = 12
"""The lines that run for each record without a turn of the loop: some loops do next to nothing for each."""
NAMED = {
    "create, computed and linked": 90,
    "create lists of embedded": 225,
    "assign and save": 240,
    "save and roll back": 130,
    "rename what a stored field follows": 150,
    "prefetch a One2many": 116,
}
"""The operations that stood still for so many milliseconds with 10,000 records, before there were pauses."""


@pytest.fixture
async def raw() -> AsyncIterator[Any]:
    """Start an App, and return the driver's database that it works on."""
    name = f"stalls_{uuid.uuid4().hex[:12]}"
    async with earnorm.App(os.environ["EARNORM_TEST_MONGO_URI"], database=name, plugins=[]) as app:
        raw = app.dangerous_raw("the cases look at it")
        yield raw
        await raw.client.drop_database(name)


async def grown(raw: Any, title: str, patch: pytest.MonkeyPatch, every: int = 5) -> float:
    """Return the lines that each further record of a case adds, with a pause after so many."""

    async def prepare(number: int) -> Work:
        work, _ = await CASES[title](raw, number)
        return work

    return await growth(prepare, lambda: pausing(patch, every))


async def test_no_operation_keeps_the_loop_longer_for_more_records(
    raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = {title: await grown(raw, title, monkeypatch) for title in CASES}
    assert {title: number for title, number in lines.items() if number > MOST} == {}


@pytest.mark.parametrize("title", NAMED)
async def test_without_pauses_the_same_is_seen_to_keep_it(
    raw: Any, monkeypatch: pytest.MonkeyPatch, title: str
) -> None:
    assert await grown(raw, title, monkeypatch, every=1_000_000) > MOST
