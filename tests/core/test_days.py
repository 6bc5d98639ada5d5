"""A day compared with points in time: it covers the day in the time zone of whoever asks."""

from __future__ import annotations

import datetime as dt
import sys
import zoneinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from earnorm import (
    App,
    BaseModel,
    Count,
    Date,
    DateTime,
    DomainError,
    String,
    ValidationError,
    act_as,
)

HANOI = "Asia/Ho_Chi_Minh"
DAY = dt.date(2024, 5, 1)


class Event(BaseModel):
    _name = "days.event"

    name = String(required=True)
    at = DateTime()
    day = Date()


async def fill() -> None:
    utc = dt.UTC
    await Event.create(
        [
            {
                "name": "eve",
                "at": dt.datetime(2024, 4, 30, 16, 59, tzinfo=utc),
                "day": "2024-04-30",
            },
            # The first of May in Hanoi, still April in UTC.
            {"name": "dawn", "at": dt.datetime(2024, 4, 30, 17, tzinfo=utc), "day": "2024-04-30"},
            {"name": "noon", "at": dt.datetime(2024, 5, 1, 12, tzinfo=utc), "day": DAY},
            {"name": "late", "at": dt.datetime(2024, 5, 1, 17, tzinfo=utc), "day": DAY},
            {"name": "never"},
        ]
    )


CASES: list[tuple[list[Any], str, str]] = [
    # (domain, found in UTC, found in Hanoi)
    ([("at", "=", DAY)], "late noon", "dawn noon"),
    ([("at", "=", "2024-05-01")], "late noon", "dawn noon"),
    ([("at", "!=", DAY)], "dawn eve never", "eve late never"),
    (["!", ("at", "=", DAY)], "dawn eve never", "eve late never"),
    ([("at", ">", DAY)], "", "late"),
    ([("at", ">=", DAY)], "late noon", "dawn late noon"),
    ([("at", "<", DAY)], "dawn eve", "eve"),
    ([("at", "<=", DAY)], "dawn eve late noon", "dawn eve noon"),
    (["!", ("at", "<=", DAY)], "never", "late never"),
    ([("at", ">=", DAY), ("at", "<=", DAY)], "late noon", "dawn noon"),
    # A point in time is the same everywhere, whatever its zone; without one it is UTC.
    ([("at", "=", dt.datetime(2024, 5, 1, 12))], "noon", "noon"),
    ([("at", "=", dt.datetime(2024, 5, 1, 19, tzinfo=ZoneInfo(HANOI)))], "noon", "noon"),
    ([("at", ">", "2024-05-01T12:00:00+07:00")], "late noon", "late noon"),
    # A Date has no time and so no zone.
    ([("day", "=", DAY)], "late noon", "late noon"),
    ([("day", ">", dt.date(2024, 4, 30))], "late noon", "late noon"),
    ([("at", "<=", dt.date.max)], "dawn eve late noon", "dawn eve late noon"),
    ([("at", ">=", dt.date.min)], "dawn eve late noon", "dawn eve late noon"),
]


@pytest.mark.parametrize(("domain", "in_utc", "in_hanoi"), CASES, ids=[str(c[0]) for c in CASES])
async def test_a_day_covers_all_of_its_points_in_time(
    app: App, domain: list[Any], in_utc: str, in_hanoi: str
) -> None:
    await fill()
    for context, names in [({}, in_utc), ({"tz": HANOI}, in_hanoi)]:
        with act_as("somebody", **context):
            every = await Event.search()
            found = await Event.search(domain)
            assert " ".join(sorted(found.mapped("name"))) == names
            assert every.filtered_domain(domain) == found


async def test_a_day_is_as_long_as_its_clock_says(app: App) -> None:
    """In Paris the last Sunday of March has 23 hours."""
    start = dt.datetime(2024, 3, 30, 23, tzinfo=dt.UTC)
    hours = [start + dt.timedelta(hours=n) for n in range(-1, 25)]
    await Event.create([{"name": str(n), "at": at} for n, at in enumerate(hours, -1)])
    with act_as("somebody", tz="Europe/Paris"):
        assert await Event.count([("at", "=", dt.date(2024, 3, 31))]) == 23


async def test_a_day_in_a_list_or_an_unknown_zone_is_refused(app: App) -> None:
    with pytest.raises(DomainError, match="no point in time"):
        await Event.search([("at", "in", [DAY])])
    with act_as("somebody", tz="Mars/Olympus"), pytest.raises(DomainError, match="no time zone"):
        await Event.search([("at", "=", DAY)])


async def test_a_machine_without_a_time_zone_database_has_utc_and_says_what_it_lacks(
    server_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill()
    for name in [name for name in sys.modules if name.startswith("tzdata.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tzdata", None)
    zoneinfo.reset_tzpath(to=[])
    zoneinfo.ZoneInfo.clear_cache()
    try:
        assert len(await Event.search([("at", "=", DAY)])) == 2
        rows = await Event.search([("name", "=", "eve")]).group("at:day", n=Count())
        assert rows == [{"at:day": dt.datetime(2024, 4, 30, tzinfo=dt.UTC), "n": 1}]
        with act_as("ann", tz=HANOI), pytest.raises(DomainError, match="pip install tzdata"):
            await Event.search([("at", "=", DAY)])
        with act_as("ann", tz=HANOI), pytest.raises(ValidationError, match="pip install tzdata"):
            await Event.search().group("at:day", n=Count())
    finally:
        zoneinfo.reset_tzpath()
