"""`frozen_time`: everything that asks for the time sees one that stands still, in its own context."""

from __future__ import annotations

import asyncio
import datetime
import os
from datetime import UTC, timedelta

import pytest

from earnorm import DateTime, File, String, mixins, models
from earnorm.plugin import Stage, Step, clock, hookimpl
from earnorm.testing import app_with, frozen_time

MAY = datetime.datetime(2024, 5, 1, 12, tzinfo=UTC)


class Letter(models.BaseModel):
    _name = "testing.times.letter"
    text = String()
    made = DateTime(auto_now_add=True)
    changed = DateTime(auto_now=True)
    due = DateTime(default=lambda: clock() + timedelta(days=3))
    scan = File()


def naive(time: datetime.datetime) -> datetime.datetime:
    return time.replace(tzinfo=None)


async def test_stamps_defaults_and_changes_see_the_time_that_moves() -> None:
    async with app_with():
        with frozen_time("2024-05-01T12:00:00Z") as time:
            letter = await Letter.create({"text": "a"})
            assert letter.made == letter.changed == MAY
            assert letter.due == MAY + timedelta(days=3)
            time.move(timedelta(hours=2))
            letter.text = "b"
            await letter.save()
            assert letter.made == MAY
            assert letter.changed == time.now == MAY + timedelta(hours=2)
            time.move_to("2025-01-01T01:00:00+01:00")
            assert clock() == datetime.datetime(2025, 1, 1, tzinfo=UTC)
            assert repr(time) == "<FrozenTime 2025-01-01T00:00:00+00:00>"
        assert clock() - datetime.datetime.now(UTC) < timedelta(seconds=5)


async def test_a_step_of_a_plugin_sees_it() -> None:
    seen: list[datetime.datetime] = []

    class Clocks:
        api = 1
        name = "clocks"

        @hookimpl
        def register_steps(self) -> list[Step]:
            return [Step(Stage.STAMP, "clock", lambda batch: seen.append(batch.now))]

    async with app_with(Clocks):
        with frozen_time(MAY):
            await Letter.create({"text": "a"})
    assert seen == [MAY]


async def test_a_stored_file_has_it() -> None:
    async with app_with(uri=os.environ["EARNORM_TEST_MONGO_URI"]):
        with frozen_time(MAY):
            letter = await Letter.create({"text": "a"})
            await letter.scan.write(b"...", filename="a.txt")
            assert letter.scan.uploaded_at == MAY


async def test_each_task_has_its_own_time_and_blocks_nest() -> None:
    async def times(day: int) -> list[int]:
        with frozen_time(MAY.replace(day=day)) as time:
            await asyncio.sleep(0)
            first = clock().day
            with frozen_time("2030-01-31"):
                await asyncio.sleep(0)
                inner = (await asyncio.create_task(day_of_a_task()), clock().year)
            assert inner == (31, 2030)
            time.move(timedelta(days=1))
            await asyncio.sleep(0)
            return [first, clock().day]

    async def day_of_a_task() -> int:
        return clock().day

    assert await asyncio.gather(times(1), times(10)) == [[1, 2], [10, 11]]
    assert clock().year >= 2026


async def test_a_mixin_sees_it() -> None:
    class Page(mixins.Timestamps):
        _name = "testing.times.page"

    async with app_with():
        with frozen_time(MAY):
            page = await Page.create({})
        assert page.created_at == MAY


def test_what_is_no_time_is_an_error() -> None:
    with (
        pytest.raises(TypeError, match="takes a datetime or a text in ISO 8601, not 5"),
        frozen_time(5),
    ):  # type: ignore[arg-type]
        pass
    with pytest.raises(ValueError, match="yesterday"), frozen_time("yesterday"):
        pass
