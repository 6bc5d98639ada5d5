"""Pending changes, case by case; test_pending_laws has the laws."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import pytest

import earnorm
from earnorm import (
    App,
    BaseModel,
    ConcurrencyError,
    Dict,
    Embedded,
    EmbeddedModel,
    Float,
    Inc,
    Int,
    Json,
    List,
    Operation,
    Pull,
    Set,
    String,
    ValidationError,
    constrains,
    hookimpl,
)
from earnorm.plugin import API

from .conftest import default_app
from .pending import Kept, line


async def test_an_item_with_undeclared_keys_is_pulled(app: App) -> None:
    raw = app.dangerous_raw("what others stored")["pending_kept"]
    pk = (await raw.insert_one({"lines": [{"u": 1, "sku": "a"}, {"sku": "b"}]})).inserted_id
    record = await Kept.get(pk)
    await record.write({"lines": Pull(record.lines[0])})  # type: ignore[index]
    assert (await raw.find_one({"_id": pk}))["lines"] == [{"sku": "b"}]


async def test_an_object_that_is_gone_is_not_half_written(app: App) -> None:
    record = await Kept.create({"main": line(1), "text": "a"})
    has_server = "transactions" in app.capabilities
    for value in (None, [1], "x") if has_server else (None,):
        record = await Kept.get(record.id)
        record.main.qty, record.text = 5, "b"  # type: ignore[union-attr]
        raw = app.dangerous_raw("another program")["pending_kept"]
        await raw.update_one({}, {"$set": {"main": value}})
        with pytest.raises(ConcurrencyError):
            await record.save()
        found = await raw.find_one({})
        assert found["main"] == value and found["text"] == "a"
        assert record.is_changed
        await raw.update_one({}, {"$set": {"main": {"sku": "s"}}})


class Range(EmbeddedModel):
    low = Int(default=0)
    high = Int(default=10)

    @constrains("low", "high")
    def _check(self) -> None:
        if self.low > self.high:  # type: ignore[operator]
            raise ValueError("low is above high")


class Ranged(BaseModel):
    _name, _collection = "pending.ranged", "pending_ranged"
    range = Embedded(Range)


async def test_two_programs_cannot_break_a_rule_about_an_object_together(app: App) -> None:
    record = await Ranged.create({"range": {"low": 1, "high": 5}})
    one, other = await Ranged.get(record.id), await Ranged.get(record.id)
    one.range.low, other.range.high = 4, 2  # type: ignore[union-attr]
    await one.save()
    with pytest.raises(ConcurrencyError):
        await other.save()
    await other.refresh()
    assert (other.range.low, other.range.high) == (4, 5)  # type: ignore[union-attr]


# -- new records, rollbacks, read-only, equality --------------------------------------------------


async def test_two_tasks_that_save_one_new_record_make_one_document(app: App) -> None:
    record = Kept(text="x")
    await asyncio.gather(record.save(), record.save())
    assert record.is_stored and not record.is_changed
    assert await Kept.search().count() == 1
    record.text = "y"
    await record.save()
    assert (await Kept.get(record.id)).text == "y"


async def test_a_new_record_that_another_task_saves_is_refused_in_a_transaction(
    server_app: App,
) -> None:
    record = Kept(text="x")
    outside = copy_context()
    async with earnorm.transaction():
        await Kept.search().count()  # the App prepares the model with its first operation
        other = asyncio.create_task(record.save(), context=outside)
        await asyncio.sleep(0)
        with pytest.raises(ConcurrencyError) as refused:
            await record.save()
    assert refused.value.code == "being_stored"
    await other
    assert await Kept.search().count() == 1


class Sealed(EmbeddedModel):
    by = String()
    note = String()


class Signed(BaseModel):
    _name, _collection = "pending.signed", "pending_signed"
    signers = List(String(), readonly=True)
    meta = Json(readonly=True)
    flags = Set(String(), readonly=True)
    seal = Embedded(Sealed, readonly=True)
    seals = List(Embedded(Sealed), readonly=True)
    text = String()


CHANGES: dict[str, Callable[[Any], object]] = {
    "signers": lambda r: r.signers.append("x"),
    "meta": lambda r: r.meta["v"].append(2),
    "flags": lambda r: r.flags.add("x"),
    "seal": lambda r: setattr(r.seal, "note", "x"),
    "seals": lambda r: setattr(r.seals[0], "by", "x"),
}


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize("way", ["save", "save with values", "set"])
async def test_a_change_in_place_of_a_readonly_value_is_refused(
    app: App, path: str, way: str
) -> None:
    values = {"by": "ann", "note": "n"}
    record = await Signed.create(
        {
            "signers": ["ann"],
            "meta": {"v": [1]},
            "flags": ["a"],
            "seal": values,
            "seals": [values],
        }
    )
    raw = app.dangerous_raw("what is stored")["pending_signed"]
    before = await raw.find_one({})
    records = await Signed.search()
    record = records[0]
    CHANGES[path](record)
    record.text = "t"
    with pytest.raises(ValidationError) as caught:
        if way == "set":
            await records.save()
        else:
            await record.save({"text": "u"} if way == "save with values" else None)
    (problem,) = caught.value.errors()
    assert problem["type"] == "readonly"
    assert problem["loc"] == (path,)
    assert await raw.find_one({}) == before
    assert record.is_changed
    await record.refresh()
    assert not record.is_changed


class Point(EmbeddedModel):
    x = Float()


class Series(BaseModel):
    _name, _collection = "pending.series", "pending_series"
    values = List(Float())
    by = Dict(Float())
    data = Json()
    points = List(Embedded(Point))
    point = Embedded(Point)


async def test_a_record_that_was_only_read_is_not_changed_by_a_nan(app: App) -> None:
    nan = float("nan")
    record = await Series.create(
        {
            "values": [nan],
            "by": {"a": nan},
            "data": {"a": [nan]},
            "points": [{"x": nan}],
            "point": {"x": nan},
        }
    )
    record = await Series.get(record.id)
    for name in ("values", "by", "data", "points", "point"):
        getattr(record, name)
        assert not record.is_changed, name
    record.point.x = 1.0  # type: ignore[union-attr]
    assert record.is_changed


async def test_a_list_of_objects_is_not_copied_at_its_first_read(app: App) -> None:
    record = await Kept.create({"lines": [line(1), line(2)]})
    record = await Kept.get(record.id)
    document = record.__dict__["lines"][0]
    assert record.lines[0].__dict__ is document  # type: ignore[index]
    record.lines.reverse()  # type: ignore[union-attr]
    assert record.is_changed
    record.lines.reverse()  # type: ignore[union-attr]
    assert not record.is_changed


# -- several writes through one record ------------------------------------------------------------


async def test_a_second_save_waits_and_sends_what_is_pending_then(app: App) -> None:
    record = await Kept.create({"text": "0"})

    async def assign_and_save(text: str) -> None:
        record.text = text
        await record.save()

    await asyncio.gather(*(assign_and_save(str(number)) for number in range(1, 6)))
    assert not record.is_changed
    assert (await Kept.get(record.id)).text == record.text == "5"


async def test_writes_and_saves_of_one_record_are_done_in_order(app: App) -> None:
    one, other = await Kept.create([{"text": "0"}, {"text": "0"}])
    both = Kept.browse([]) + one + other
    one.n = 1
    await asyncio.gather(
        both.save(), one.write({"text": "1"}), (Kept.browse([]) + other + one).write({"text": "2"})
    )
    assert (await Kept.search()).mapped("text") == ["2", "2"] == [one.text, other.text]


class Writing:
    """A plugin that saves the record of the test in a hook."""

    api = API
    name = "writing"

    def __init__(self) -> None:
        self.calls: list[Callable[[], Any]] = []

    @hookimpl
    async def before_write(self, op: Operation) -> None:
        if self.calls:
            await asyncio.create_task(self.calls.pop()())


async def test_a_save_inside_of_a_save_does_not_wait_for_it(database: str) -> None:
    plugin = Writing()
    async with default_app("pymongo", database, [plugin]):
        record = await Kept.create({"text": "0"})
        plugin.calls = [lambda: record.write({"n": 7})]
        record.text = "1"
        await asyncio.wait_for(record.save(), 20)
        found = await Kept.get(record.id)
        assert (found.text, found.n) == ("1", 7)


@pytest.mark.parametrize("of_set", [True, False])
async def test_a_refresh_and_a_write_of_one_record_are_done_in_order(
    server_app: App, of_set: bool
) -> None:
    record = await Kept.create({"n": 1})
    records = Kept.browse([]) + record
    refresh = records.refresh if of_set else record.refresh
    for calls in ((record.save, refresh), (refresh, record.save)):
        record.n = record.n + 4  # type: ignore[operator]
        await asyncio.gather(*(call() for call in calls))
        assert (await Kept.get(record.id)).n == record.n and not record.is_changed
    await asyncio.gather(record.write({"n": Inc(4)}), refresh())
    assert (await Kept.get(record.id)).n == record.n and not record.is_changed


async def test_writes_whose_hooks_write_the_other_record_do_not_wait_for_each_other(
    database: str,
) -> None:
    plugin = Writing()
    async with default_app("pymongo", database, [plugin]):
        one, other = await Kept.create([{"text": "0"}, {"text": "0"}])
        plugin.calls = [lambda: one.write({"n": 1}), lambda: other.write({"n": 1})]
        writes = asyncio.gather(one.write({"text": "1"}), other.write({"text": "1"}))
        await asyncio.wait_for(writes, 20)
        assert (await Kept.search()).mapped("n") == [1, 1]


async def test_who_is_cancelled_while_waiting_holds_up_nobody(server_app: App) -> None:
    record = await Kept.create({"text": "0"})
    record.text = "1"
    first = asyncio.create_task(record.save())
    await asyncio.sleep(0)
    second, third = (asyncio.create_task(record.write({"n": n})) for n in (2, 3))
    await asyncio.sleep(0)
    second.cancel()
    results = await asyncio.gather(first, second, third, return_exceptions=True)
    assert isinstance(results[1], asyncio.CancelledError)
    found = await Kept.get(record.id)
    assert (found.text, found.n) == ("1", 3)


async def test_nobody_waits_in_a_transaction(server_app: App) -> None:
    record = await Kept.create({"text": "0"})
    outside = copy_context()
    async with earnorm.transaction():
        await record.write({"text": "1"})
        # It waits at the server for the end of this transaction, which must not wait for it.
        other = asyncio.create_task(record.write({"n": 5}), context=outside)
        await asyncio.sleep(0.2)
        await asyncio.wait_for(record.write({"text": "2"}), 20)
    await other
    found = await Kept.get(record.id)
    assert (found.text, found.n) == ("2", 5)
