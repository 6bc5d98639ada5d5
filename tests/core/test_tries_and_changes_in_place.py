"""A further try of a function never makes a change in place twice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from earnorm import (
    App,
    BaseModel,
    Dict,
    Embedded,
    EmbeddedModel,
    Int,
    List,
    String,
    TransactionError,
    transactional,
)

from .conftest import DRIVERS, default_app


class Stop(EmbeddedModel):
    visits = Int(default=0)


class Tour(BaseModel):
    _name = "tries.tour"
    name = String()
    tags = List(String(), default=list)
    start = Embedded(Stop)
    stops = List(Embedded(Stop), default=list)
    extra = Dict(default=dict)


@pytest.fixture(params=DRIVERS)
async def app(request: pytest.FixtureRequest, database: str) -> AsyncIterator[App]:
    async with default_app(request.param, database) as app:
        yield app


def add_tag(tour: Tour) -> None:
    tour.tags.append("new")


def visit_start(tour: Tour) -> None:
    assert tour.start is not None
    tour.start.visits += 1


def visit_stop(tour: Tour) -> None:
    tour.stops[0].visits += 1


def count_extra(tour: Tour) -> None:
    tour.extra["n"] = tour.extra.get("n", 0) + 1


CHANGES: list[Callable[[Tour], None]] = [add_tag, visit_start, visit_stop, count_extra]

Counts = tuple[int, int, int, int]


def counts(tour: Tour) -> Counts:
    assert tour.start is not None
    visits = tour.start.visits or 0, tour.stops[0].visits or 0
    return len(tour.tags), *visits, int(tour.extra.get("n", 0))


def new_tour() -> Tour:
    return Tour(name="coast", tags=[], start=Stop(), stops=[Stop()], extra={})


def fail(tries: list[int]) -> None:
    """End the first two tries as a clash with another transaction would."""
    tries.append(1)
    if len(tries) < 3:
        raise TransactionError("met another one", transient=True)


async def stored(tour: Tour) -> Counts:
    return counts(await Tour.get(tour.id))


@pytest.mark.parametrize("change", CHANGES)
async def test_a_record_from_outside_is_not_changed_in_place_twice(
    app: App, change: Callable[[Tour], None]
) -> None:
    tour, tries = await new_tour().save(), list[int]()

    @transactional()
    async def visit() -> None:
        change(tour)
        await tour.save()
        fail(tries)

    with pytest.raises(TransactionError, match="twice") as raised:
        await visit()
    assert raised.value.code == "changed_twice" and not raised.value.transient
    assert await stored(tour) == (0, 0, 0, 0) and len(tries) == 1


async def test_a_new_record_from_outside_is_not_changed_in_place_twice(app: App) -> None:
    tour, tries = new_tour(), list[int]()

    @transactional()
    async def create() -> None:
        tour.tags.append("new")
        await tour.save()
        fail(tries)

    with pytest.raises(TransactionError, match=r"Tour\.tags was changed in place"):
        await create()
    assert not tour.is_stored and await Tour.count() == 0


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_from_before_is_stored_once(
    app: App, change: Callable[[Tour], None]
) -> None:
    tour, tries = await new_tour().save(), list[int]()

    @transactional()
    async def save() -> None:
        await tour.save()
        fail(tries)

    change(tour)
    expected = counts(tour)
    await save()
    assert await stored(tour) == counts(tour) == expected and sum(expected) == 1


@pytest.mark.parametrize("change", CHANGES)
async def test_a_record_that_is_read_or_assigned_inside_is_changed_once(
    app: App, change: Callable[[Tour], None]
) -> None:
    outside, tries = await new_tour().save(), list[int]()

    @transactional()
    async def visit() -> None:
        inside = await Tour.get(outside.id)
        change(inside)
        await inside.save()
        fail(tries)

    await visit()
    assert sum(await stored(outside)) == 1

    await outside.refresh()
    tries.clear()

    @transactional()
    async def rename() -> None:
        outside.name = "the coast"  # from here on the transaction knows the record as it was
        change(outside)
        await outside.save()
        fail(tries)

    await rename()
    assert await stored(outside) == counts(outside) and sum(counts(outside)) == 2


async def test_a_change_that_may_be_made_twice_is_no_error(app: App) -> None:
    tour, tries = await new_tour().save(), list[int]()

    @transactional()
    async def mark() -> None:
        if "new" not in tour.tags:
            tour.tags.append("new")
        assert tour.start is not None
        tour.start.visits = 7
        await tour.save()
        fail(tries)

    await mark()
    assert await stored(tour) == (1, 7, 0, 0)
