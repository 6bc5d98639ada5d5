"""Laws about what is pending in a record: nothing that a program changes is lost, whatever it awaits."""

from __future__ import annotations

import asyncio
import copy
import decimal
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

import earnorm
from earnorm import (
    App,
    BaseModel,
    ConcurrencyError,
    Decimal,
    Dict,
    Embedded,
    EmbeddedModel,
    Float,
    Int,
    Json,
    List,
    Pull,
    Push,
    Set,
    String,
    ValidationError,
    constrains,
)

from .laws import World, law, world
from .scheduler import Interrupted, Scheduler

BACKEND = "pymongo"


class Address(EmbeddedModel):
    city = String()
    zip = String(db_name="z")


class Line(EmbeddedModel):
    sku = String()
    qty = Int(default=0)
    marks = List(String())
    address = Embedded(Address)


class Box(EmbeddedModel):
    lines = List(Embedded(Line))
    label = String()


class Kept(BaseModel):
    """A record with a field of each kind whose values can change in place."""

    _name, _collection = "pending.kept", "pending_kept"

    n = Int(default=0)
    text = String()
    tags = List(String())
    codes = Set(String())
    prices = Dict(Decimal())
    data = Json()
    main = Embedded(Line)
    lines = List(Embedded(Line))
    by = Dict(Embedded(Line))
    box = Embedded(Box)


def line(number: int) -> dict[str, Any]:
    return {"sku": f"s{number}", "qty": number, "marks": [], "address": {"city": "c", "zip": "z"}}


def change_line(held: Line, number: int) -> None:
    if number % 3 == 0:
        held.qty = number
    elif number % 3 == 1:
        held.marks.append(str(number))  # type: ignore[union-attr]
    else:
        held.address.city = str(number)  # type: ignore[union-attr]


def change_lines(held: list[Line], number: int) -> None:
    if number % 4 == 0:
        held.append(Line(sku=str(number), marks=[], address=Address(city="n")))
    elif held:
        change_line(held[number % len(held)], number)


KINDS: dict[str, tuple[Callable[[], Any], Callable[[Any, int], object]]] = {
    "tags": (lambda: ["a"], lambda held, n: held.append(str(n))),
    "codes": (lambda: {"a"}, lambda held, n: held.add(str(n))),
    "prices": (
        lambda: {"a": decimal.Decimal(1)},
        lambda held, n: held.update({str(n): decimal.Decimal(n)}),
    ),
    "data": (lambda: {"a": [1]}, lambda held, n: held["a"].append(n)),
    "main": (lambda: line(1), change_line),
    "lines": (lambda: [line(1), line(2)], change_lines),
    "by": (lambda: {"x": line(1), "y": line(2)}, lambda held, n: change_line(held["xy"[n % 2]], n)),
    "box": (
        lambda: {"label": "b", "lines": [line(1), line(2)]},
        lambda held, n: change_lines(held.lines, n),
    ),
}
"""By field, a first value, and a change in place that depends on a number."""


@pytest.fixture(scope="module")
def app_world() -> Iterator[World]:
    with world(BACKEND) as started:
        yield started


def plain(record: Kept, name: str) -> Any:
    return copy.deepcopy(record.to_dict(include=[name])[name])


async def stored(record: Kept, name: str) -> Any:
    fresh = await Kept.search([("_id", "=", record._id)])
    return plain(fresh[0], name)


STEPS = ("change", "save", "write other", "write whole", "refresh", "refresh other", "roll back")


@law(60)
@hypothesis.given(
    name=st.sampled_from(sorted(KINDS)),
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 11)), max_size=8),
    is_new=st.booleans(),
)
def test_a_held_value_stays_the_records_own(
    app_world: World, name: str, steps: list[tuple[str, int]], is_new: bool
) -> None:
    first, change = KINDS[name]

    async def example() -> None:
        if is_new:
            record = Kept(**{name: first()})
            held = getattr(record, name)
            change(held, 0)
            in_memory = plain(record, name)
            await record.save()
            assert getattr(record, name) is held
        else:
            record = await Kept.create({name: first()})
            record = await Kept.get(record.id)
            held = getattr(record, name)
            in_memory = plain(record, name)
        in_database = in_memory
        for step, number in steps:
            before = held
            if step == "change":
                change(held, number)
                in_memory = plain(record, name)
            elif step == "save":
                await record.save()
                in_database = in_memory
                assert getattr(record, name) is held
            elif step == "write other":
                await record.write({"n": number})
                assert getattr(record, name) is held
            elif step == "write whole":
                await record.write({name: first()})
                held = getattr(record, name)
                in_memory = in_database = plain(record, name)
            elif step == "refresh":
                await record.refresh()
                held = getattr(record, name)
                in_memory = in_database
            elif step == "refresh other":
                await record.refresh("n")
                assert getattr(record, name) is held
            else:
                was_changed = record.is_changed
                with pytest.raises(ZeroDivisionError):
                    async with earnorm.transaction():
                        await record.save()
                        change(held, number)
                        if not was_changed:  # the first save had nothing to remember
                            in_memory = plain(record, name)
                        await record.save()
                        raise ZeroDivisionError
                held = getattr(record, name)
            if held is not before:
                change(before, 1)  # the old one is detached
            assert plain(record, name) == in_memory, step
            # An equal value that is assigned counts as a change.
            assert record.is_changed or in_memory == in_database, step
            assert not record.is_changed or step not in ("save", "write whole", "refresh"), step
            assert await stored(record, name) == in_database, step

    app_world.run(example)


ACTIONS: dict[str, Callable[[Kept], Any]] = {
    "save": lambda record: record.save(),
    "save with values": lambda record: record.save({"n": 7}),
    "write": lambda record: record.write({"n": 7}),
    "write whole": lambda record: record.write({"tags": ["w"], "main": line(5)}),
    "push": lambda record: record.write({"tags": Push("p")}),
    "write inside": lambda record: record.write({"main.sku": "w"}),
    "refresh": lambda record: record.refresh(),
    "refresh one": lambda record: record.refresh("tags", "main"),
}


@law(60)
@hypothesis.given(
    action=st.sampled_from(sorted(ACTIONS)),
    name=st.sampled_from([*sorted(KINDS), "text", "n", "assign"]),
    at=st.integers(0, 6),
    is_new=st.booleans(),
)
def test_what_is_changed_at_any_await_stays_pending(
    app_world: World, action: str, name: str, at: int, is_new: bool
) -> None:
    hypothesis.assume(not is_new or action.startswith("save"))

    async def example() -> None:
        record = Kept(**{field: first() for field, (first, _) in KINDS.items()})
        if not is_new:
            await record.save()
            record = await Kept.get(record.id)
        held = {field: getattr(record, field) for field in KINDS}
        if action.startswith("save"):
            record.text = "first"
            for field, (_, change) in KINDS.items():
                change(held[field], 4)
        expected: dict[str, Any] = {}

        def meanwhile(number: int) -> None:
            if number != at:
                return
            if name == "text":
                record.text = "second"
            elif name == "n":
                record.n = 99
            elif name == "assign":
                record.tags = ["x", "y"]
            else:
                KINDS[name][1](held[name], 10)
            field = "tags" if name == "assign" else name
            expected[field] = plain(record, field)

        task = Interrupted(ACTIONS[action](record), meanwhile)
        await task
        if not expected:  # it did not wait so often
            return
        (field,) = expected
        is_merged = field == "main" and action == "write inside"
        if not is_merged:
            assert plain(record, field) == expected[field]
        await record.save()
        assert not record.is_changed
        for each in ("n", "text", *KINDS):
            assert await stored(record, each) == plain(record, each), each
        if not is_merged:
            assert await stored(record, field) == expected[field]
        else:
            assert (await stored(record, "main"))["sku"] == "w"

    app_world.run(example)


WORKS = ("assign", "in place", "object", "save", "write", "refresh one")


@law(40)
@hypothesis.given(
    works=st.tuples(
        *[st.lists(st.sampled_from(WORKS), min_size=1, max_size=4)] * 2,
    ),
    choices=st.lists(st.integers(0, 1), min_size=1, max_size=40),
)
def test_two_tasks_on_one_record_lose_nothing(
    app_world: World, works: tuple[list[str], list[str]], choices: list[int]
) -> None:
    async def example() -> None:
        record = await Kept.create({"tags": [], "main": line(1), "text": ""})
        done: list[str] = []

        async def work(mine: str, steps: list[str]) -> None:
            for number, step in enumerate(steps):
                mark = f"{mine}{number}"
                if step == "assign":
                    record.text = mark
                elif step == "in place":
                    record.tags.append(mark)  # type: ignore[union-attr]
                    done.append(mark)
                elif step == "object":
                    record.main.marks.append(mark)  # type: ignore[union-attr]
                elif step == "save":
                    await record.save()
                elif step == "write":
                    await record.write({"n": number})
                else:
                    await record.refresh("n")

        turns = iter(choices)
        scheduler = Scheduler(lambda _: next(turns, 0))
        results = await scheduler.run([work("a", works[0]), work("b", works[1])])
        assert results == [None, None]
        assert record.tags == done
        await record.save()
        assert not record.is_changed
        for name in ("n", "text", "tags", "main"):
            assert await stored(record, name) == plain(record, name), name

    app_world.run(example)


# -- keys that nobody declared --------------------------------------------------------------------

UNKNOWN = st.dictionaries(
    st.sampled_from(["u1", "u2", "u3"]),
    st.recursive(st.none() | st.integers(0, 9) | st.just(float("nan")), st.lists, max_leaves=3),
    max_size=3,
)


def in_order(value: Any) -> str:
    """Return a text that is the same for equal values, NaN among them, whatever their keys' order."""
    if isinstance(value, dict):
        return repr({key: in_order(value[key]) for key in sorted(value)})
    return repr(list(map(in_order, value))) if isinstance(value, list) else repr(value)


@law(60)
@hypothesis.given(data=st.data())
def test_undeclared_keys_are_kept_at_every_place(app_world: World, data: st.DataObject) -> None:
    def document(depth: int = 0) -> dict[str, Any]:
        keys: dict[str, Any] = {"sku": "s", "qty": 1, **data.draw(UNKNOWN)}
        if depth == 0 and data.draw(st.booleans()):
            keys["address"] = {"city": "c", "z": "1", **data.draw(UNKNOWN)}
        names = data.draw(st.permutations(sorted(keys)))
        return {name: keys[name] for name in names}

    value: dict[str, Any] = {
        "main": document(),
        "lines": [document() for _ in range(data.draw(st.integers(0, 3)))],
        "by": {"x": document(1)},
        "box": {"label": "b", "lines": [document(), document(1)], **data.draw(UNKNOWN)},
    }
    changed = data.draw(
        st.sets(st.sampled_from(["main", "address", "lines", "by", "box", "label"]))
    )

    async def example() -> None:
        raw = app_world.app.dangerous_raw("what others stored")["pending_kept"]
        pk = (await raw.insert_one(copy.deepcopy(value))).inserted_id
        record = await Kept.get(pk)
        wanted = copy.deepcopy(value)
        if "main" in changed:
            record.main.sku = "new"  # type: ignore[union-attr]
            wanted["main"]["sku"] = "new"
        if "address" in changed and "address" in wanted["main"]:
            record.main.address.city = "new"  # type: ignore[union-attr]
            wanted["main"]["address"]["city"] = "new"
        if "lines" in changed and wanted["lines"]:
            record.lines[-1].qty = 5  # type: ignore[index]
            wanted["lines"][-1]["qty"] = 5
        if "by" in changed:
            record.by["x"].sku = "new"  # type: ignore[index]
            wanted["by"]["x"]["sku"] = "new"
        if "box" in changed:
            record.box.lines[0].sku = "new"  # type: ignore[union-attr, index]
            wanted["box"]["lines"][0]["sku"] = "new"
        if "label" in changed:
            record.box.label = "new"  # type: ignore[union-attr]
            wanted["box"]["label"] = "new"
        await record.save()
        found = await raw.find_one({"_id": pk}, {"_id": 0})
        assert in_order(found) == in_order(wanted)
        assert not record.is_changed
        assert "u1" not in repr(record.to_dict())

    app_world.run(example)


async def test_an_item_with_undeclared_keys_is_pulled(app: App) -> None:
    raw = app.dangerous_raw("what others stored")["pending_kept"]
    pk = (await raw.insert_one({"lines": [{"u": 1, "sku": "a"}, {"sku": "b"}]})).inserted_id
    record = await Kept.get(pk)
    await record.write({"lines": Pull(record.lines[0])})  # type: ignore[index]
    assert (await raw.find_one({"_id": pk}))["lines"] == [{"sku": "b"}]


# -- paths ----------------------------------------------------------------------------------------

FIELDS = ("sku", "qty", "marks", "address.city", "address.zip")


def put(record: Kept, path: str, number: int) -> None:
    part: Any = record.main
    *outer, name = path.split(".")
    for each in outer:
        part = getattr(part, each)
    setattr(part, name, {"qty": number, "marks": [str(number)]}.get(name, str(number)))


@law(60)
@hypothesis.given(mine=st.sets(st.sampled_from(FIELDS)), theirs=st.sets(st.sampled_from(FIELDS)))
def test_two_programs_that_change_different_fields_of_an_object_keep_both(
    app_world: World, mine: set[str], theirs: set[str]
) -> None:
    theirs = theirs - mine

    async def example() -> None:
        record = await Kept.create({"main": line(1), "n": 1})
        one, other = await Kept.get(record.id), await Kept.get(record.id)
        wanted = await Kept.get(record.id)
        for path in mine:
            put(one, path, 7)
            put(wanted, path, 7)
        for path in theirs:
            put(other, path, 8)
            put(wanted, path, 8)
        await asyncio.gather(one.save(), other.save())
        assert await stored(record, "main") == plain(wanted, "main")
        assert not one.is_changed and not other.is_changed

    app_world.run(example)


async def test_an_object_that_is_gone_is_not_half_written(app: App) -> None:
    record = await Kept.create({"main": line(1), "text": "a"})
    for value in (None, [1], "x"):
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
    results = await asyncio.gather(record.save(), record.save(), return_exceptions=True)
    refused = [each for each in results if isinstance(each, ConcurrencyError)]
    assert [each.code for each in refused] == ["being_stored"]
    assert await Kept.search().count() == 1
    record.text = "y"
    await record.save()
    assert await stored(record, "text") == "y"


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
    record = await Signed.get(record.id)
    CHANGES[path](record)
    record.text = "t"
    with pytest.raises(ValidationError) as caught:
        if way == "set":
            await Signed.browse([record]).save()
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
