"""Long work pauses, so that other tasks run; what they change in a pause is neither lost nor taken back."""

from __future__ import annotations

import asyncio
import json
import operator
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from functools import partial
from types import FrameType
from typing import Any

import pytest

import earnorm
from earnorm import App, BaseModel, Embedded, EmbeddedModel, Int, List, Many2one, String, mixins
from earnorm.kernel import pauses
from earnorm.kernel.transactions.held_records import HOLDERS
from earnorm.model.schema import Schema
from earnorm.testing import Interrupted

from .calls import PACKAGE
from .conftest import default_app

MANY = 12
"""Records of a set: more than are looked at between two pauses below."""


class Part(EmbeddedModel):
    qty = Int(default=0)


class Maker(BaseModel):
    _name = "pauses.maker"

    name = String()


class Thing(mixins.Timestamps, BaseModel):
    _name = "pauses.thing"
    _versioned = True

    n = Int(default=0)
    text = String()
    parts = List(Embedded(Part))
    maker_id = Many2one(Maker)


@pytest.fixture
def each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pause after each record, whatever the clock says."""
    monkeypatch.setattr(pauses, "EVERY", 1)
    monkeypatch.setattr(pauses, "TURN", -1.0)


@pytest.fixture
async def app(database: str) -> AsyncIterator[App]:
    async with default_app("pymongo", database) as started:
        yield started


async def things(number: int = MANY) -> Any:
    await Thing.create([{"n": i, "parts": [{"qty": i}]} for i in range(number)])
    return await Thing.search(order="n")


async def stored() -> list[Any]:
    return list(await Thing.search(order="_id"))


# -- the mechanism --------------------------------------------------------------------------------


class Clock:
    """Counts how often it is looked at; each look takes so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.looks = seconds, 0

    def __call__(self) -> float:
        self.looks += 1
        return self.looks * self.seconds


@pytest.fixture
def turns() -> Iterator[Callable[[], int]]:
    """Return a function that tells how many turns the loop has made since the test began."""
    number = 0

    async def count() -> None:
        nonlocal number
        while True:
            await asyncio.sleep(0)
            number += 1

    task = asyncio.ensure_future(count())
    yield lambda: number
    task.cancel()


async def test_a_pause_waits_for_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    others: list[int] = []

    async def other() -> None:
        while True:
            others.append(len(others))
            await asyncio.sleep(0)

    monkeypatch.setattr(pauses._thread, "paused_at", 0.0)
    monkeypatch.setattr(pauses, "clock", Clock(0.003))  # each record takes 3 ms
    task = asyncio.ensure_future(other())
    await asyncio.sleep(0)
    begun = len(others)
    for _ in range(40):
        await pauses.pause()
    task.cancel()
    # Every fourth look finds that 10 ms are over, and the look after the pause counts, too.
    assert len(others) - begun == 40 // 4


async def test_few_records_never_look_at_the_clock(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(1.0)
    monkeypatch.setattr(pauses, "clock", clock)
    records = await things(pauses.EVERY - 1)
    for record in records:
        record.n += 1
    await records.save()
    await records.write({"text": "x"})
    async with earnorm.transaction():
        await records.write({"text": "y"})
    await records.refresh()
    await Thing.search().prefetch("maker_id")
    await records.unlink()
    assert clock.looks == 0


async def test_the_parts_of_a_sequence_are_all_of_it() -> None:
    for number in (0, 1, pauses.EVERY, pauses.EVERY + 1, 3 * pauses.EVERY + 7):
        items = list(range(number))
        assert [item for part in pauses.parts(items) for item in part] == items
        assert [item for span in pauses.spans(number) for item in items[span]] == items
    few = [1, 2]
    assert [part is few for part in pauses.parts(few)] == [True]


async def test_work_that_is_cancelled_in_a_pause_is_finished_first(each: None) -> None:
    done: list[int] = []

    async def work() -> None:
        finishing = pauses.Finishing()
        for number in range(5):
            done.append(number)
            await finishing.pause()
        finishing.end()

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [0, 1, 2, 3, 4]


async def test_what_is_freed_later_is_freed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "EVERY", 2)
    items = list(range(5))
    pauses.free_later(items)
    lengths = [len(items)]
    while items:
        await asyncio.sleep(0)
        lengths.append(len(items))
    assert lengths == [5, 3, 1, 0]


async def test_the_validator_gets_no_more_values_at_once(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    validate_many = Schema.validate_many

    def noted(schema: Schema, values: Any) -> Any:
        sizes.append(len(values))
        return validate_many(schema, values)

    monkeypatch.setattr(Schema, "validate_many", noted)
    monkeypatch.setattr(pauses, "EVERY", 5)
    await Thing.create([{"n": i} for i in range(MANY)])
    assert sizes == [5, 5, 2]
    sizes.clear()
    with pytest.raises(earnorm.ValidationError) as refused:
        await Thing.create([{"n": "x" if i in (1, 7, 11) else i} for i in range(MANY)])
    assert [detail["loc"] for detail in refused.value.errors()] == [(1, "n"), (7, "n"), (11, "n")]


def _calls_of_turns(work: Callable[[], Awaitable[object]]) -> Awaitable[int]:
    """Do the work; return the most calls of functions of EarnORM between two turns of the loop."""

    async def run() -> int:
        now = most = 0

        def count(frame: FrameType, event: str, argument: object) -> None:
            nonlocal now
            now += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

        async def turns() -> None:
            nonlocal now, most
            while True:
                most, now = max(most, now), 0
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(turns())
        await asyncio.sleep(0)
        before = sys.getprofile()
        sys.setprofile(count)
        try:
            await work()
        finally:
            sys.setprofile(before)
            counting.cancel()
        return max(most, now)

    return run()


@pytest.mark.parametrize("title", ["write", "refresh", "read", "unlink", "save"])
async def test_the_work_between_two_turns_does_not_grow_with_the_number_of_records(
    app: App, monkeypatch: pytest.MonkeyPatch, title: str
) -> None:
    """But for one plain look at each record, which is a call at most: 0.1 µs."""
    monkeypatch.setattr(pauses, "EVERY", 5)
    monkeypatch.setattr(pauses, "TURN", -1.0)
    calls: list[int] = []
    sizes = (100, 300)
    for number in sizes:
        await Thing.search().delete()
        records = await things(number)
        for record in records if title == "save" else ():
            record.n += 1
        works: dict[str, Callable[[], Awaitable[object]]] = {
            "write": lambda records=records: records.write({"text": "x"}),
            "refresh": records.refresh,
            "read": records.read,
            "unlink": records.unlink,
            "save": records.save,
        }
        calls.append(await _calls_of_turns(works[title]))
    assert (calls[1] - calls[0]) / (sizes[1] - sizes[0]) <= 1.1, calls


# -- what others change in a pause ----------------------------------------------------------------

Operation = Callable[[Any], Awaitable[object]]


async def _save(records: Any) -> None:
    for record in records:
        record.n += 100
        record.parts[0].qty += 100
    await records.save()


async def _write(records: Any) -> None:
    await records.write({"n": 100})


async def _write_many(records: Any) -> None:
    await Thing.write_many({record: {"n": 100} for record in records})


async def _refresh(records: Any) -> None:
    await records.refresh()


async def _bulk(records: Any) -> None:
    async with Thing.bulk() as bulk:
        for record in records:
            bulk.write(record, {"n": 100})


OPERATIONS: dict[str, Operation] = {
    "save": _save,
    "write": _write,
    "write_many": _write_many,
    "refresh": _refresh,
    "bulk": _bulk,
}


@pytest.mark.parametrize("title", OPERATIONS)
async def test_what_is_assigned_in_a_pause_stays_an_unsaved_change(
    app: App, each: None, title: str
) -> None:
    records = await things()
    waits = 0

    def between(wait: int) -> None:
        nonlocal waits
        waits = wait + 1
        record = records[wait * 5 % MANY]
        record.text = f"changed at {wait}"
        record.parts[0].qty = -wait

    async def run() -> None:
        await OPERATIONS[title](records)

    await Interrupted(run(), between)
    assert waits > MANY  # it has paused
    by_id = {record.pk: record for record in await stored()}
    for record in records:
        fresh = by_id[record.pk]
        # Whatever memory shows is stored, or is known to be unsaved.
        assert record.is_changed or (record.text, record.n) == (fresh.text, fresh.n)
    await records.save()
    for record, fresh in zip(records, await stored(), strict=True):
        assert record.to_dict() == fresh.to_dict()
    last = {wait * 5 % MANY: wait for wait in range(waits)}
    assert [r.text for r in records] == [f"changed at {last[i]}" for i in range(MANY)]


async def test_objects_that_change_while_they_are_created_are_stored_as_they_were_taken(
    app: App, each: None
) -> None:
    new = [Thing(n=i, parts=[{"qty": i}]) for i in range(MANY)]

    def between(wait: int) -> None:
        new[wait * 5 % MANY].text = f"changed at {wait}"

    async def run() -> None:
        await Thing.create(new)

    await Interrupted(run(), between)
    for record, fresh in zip(new, await stored(), strict=True):
        assert record.is_changed or record.text == fresh.text
        assert record.n == fresh.n and record._revision == fresh._revision
    await earnorm.RecordSet(Thing, new).save()
    for record, fresh in zip(new, await stored(), strict=True):
        assert record.to_dict() == fresh.to_dict()


@pytest.mark.parametrize("is_made", [False, True])
async def test_a_rollback_takes_back_each_record_and_nothing_of_others(
    app: App, each: None, is_made: bool
) -> None:
    records = await things()
    before = [record.to_dict() for record in records]
    ending = False

    def between(wait: int) -> None:
        if ending:  # another task assigns while the records are taken back
            records[wait % MANY].text = f"changed at {wait}"

    made: list[Thing] = []

    async def run() -> None:
        nonlocal ending
        try:
            async with earnorm.transaction():
                await _save(records)
                if is_made:
                    made.extend(await Thing.create([{"n": -1} for _ in range(MANY)]))
                ending = True
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass

    await Interrupted(run(), between)
    ending = False
    assert not any(record.is_stored for record in made)
    assert [{**record.to_dict(), "text": None} for record in records] == before
    assert all(record.is_changed or record.text is None for record in records)
    assert sum(record.is_changed for record in records) > MANY // 2
    assert HOLDERS == {}
    await records.save()
    for record, fresh in zip(records, await stored(), strict=True):
        assert record.to_dict() == fresh.to_dict()


# -- cancelled in a pause -------------------------------------------------------------------------


async def _waits_of(operation: Operation, records: Any) -> int:
    counted = Interrupted(_awaited(operation, records), lambda wait: None)
    await counted
    return counted.waits


@pytest.mark.parametrize("title", OPERATIONS)
async def test_a_cancellation_leaves_no_record_behind_the_others(
    app: App, each: None, title: str
) -> None:
    operation = OPERATIONS[title]
    waits = await _waits_of(operation, await things())
    for stop in range(0, waits, waits // 10):
        await Thing.search().delete()
        records = await things()
        before = [record._revision for record in records]
        await _cancelled(_awaited(operation, records), partial(operator.eq, stop))
        now = [record._revision for record in await Thing.search(order="n")]
        # Before the answer nobody knows what is written, after it all do.
        written = [r for r, old, new in zip(records, before, now, strict=True) if old != new]
        known = [
            r for r, new in zip(records, now, strict=True) if r in written and r._revision == new
        ]
        assert known in ([], written)


async def test_a_cancelled_creation_leaves_all_objects_stored_or_none(app: App, each: None) -> None:
    async def create(given: Any) -> None:
        await Thing.create(given)

    def objects() -> list[Thing]:
        return [Thing(n=i, parts=[{"qty": i}]) for i in range(MANY)]

    waits = await _waits_of(create, objects())
    outcomes: set[bool] = set()
    for stop in range(0, waits, waits // 10):
        new = objects()
        await _cancelled(create(new), partial(operator.eq, stop))
        (outcome,) = {record.is_stored for record in new}
        outcomes.add(outcome)
    assert outcomes == {False, True}


async def _awaited(operation: Operation, records: Any) -> None:
    await operation(records)


async def _cancelled(work: Coroutine[Any, Any, object], now: Callable[[int], bool]) -> bool:
    """Run the work in a task, and cancel that once it is time; return whether it was cancelled."""
    is_over = False

    def between(wait: int) -> None:
        nonlocal is_over
        if not is_over and now(wait):
            is_over = True
            task.cancel()

    async def run() -> None:
        await Interrupted(work, between)

    task = asyncio.ensure_future(run())
    await asyncio.wait([task])
    return task.cancelled()


async def test_a_transaction_that_is_cancelled_at_its_end_takes_back_every_record(
    app: App, each: None
) -> None:
    records = await things()
    before = [record.to_dict() for record in records]
    told: list[str] = []

    async def run() -> None:
        async with earnorm.transaction() as running:
            running.after_rollback(lambda: told.append("rolled back"))
            await _save(records)
            raise ZeroDivisionError

    def is_half_done(wait: int) -> bool:
        return records[0].n == 0 and records[-1].n > 100

    assert await _cancelled(run(), is_half_done)
    assert [record.to_dict() for record in records] == before
    assert told == ["rolled back"] and HOLDERS == {}


# -- what is synchronous, part by part ------------------------------------------------------------


async def test_the_parts_of_a_set_are_sets_and_others_run_between_them(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = await things()
    monkeypatch.setattr(pauses, "EVERY", 5)
    monkeypatch.setattr(pauses, "TURN", -1.0)
    ran = 0

    async def other() -> None:
        nonlocal ran
        while True:
            ran += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    seen: list[Any] = []
    async for part in earnorm.in_parts(records):
        assert isinstance(part, earnorm.RecordSet)
        seen.append(part)
    task.cancel()
    assert [len(part) for part in seen] == [5, 5, 2] and ran == 3
    assert [record for part in seen for record in part] == list(records)


@pytest.mark.parametrize("names", [{}, {"include": iter(["n", "text"])}, {"exclude": ["parts"]}])
async def test_awaited_exports_are_those_of_the_set(
    app: App, each: None, names: dict[str, Any]
) -> None:
    records = await things()
    names = {name: list(value) for name, value in names.items()}
    query = Thing.search(order="n")
    assert await query.to_dict(**names) == records.to_dict(**names)
    assert json.loads(await query.to_json(**names)) == json.loads(records.to_json(**names))
    assert await query.where([("n", "<", 0)]).to_json() == "[]"
