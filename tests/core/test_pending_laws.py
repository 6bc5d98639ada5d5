"""Laws about pending changes: nothing that a program changes is lost, whatever it awaits."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

import earnorm
from earnorm import BaseModel, Command, Inc, Many2many, Many2one, One2many, Push, String
from earnorm.testing import Interrupted, Scheduler

from .laws import World, law, world
from .pending import KINDS, Kept, line

BACKEND = "pymongo"
pytestmark = pytest.mark.fuzz


@pytest.fixture(scope="module")
def app_world() -> Iterator[World]:
    with world(BACKEND) as started:
        yield started


def plain(record: Kept, name: str) -> Any:
    return copy.deepcopy(record.to_dict(include=[name])[name])


async def stored(record: Kept, name: str) -> Any:
    fresh = await type(record).search([("_id", "=", record._id)])
    return plain(fresh[0], name)


STEPS = (
    "change",
    "save",
    "write other",
    "write whole",
    "write inside",
    "refresh",
    "refresh other",
    "roll back",
)
INSIDE = {"main": ("main.sku", "address"), "box": ("box.label", "lines")}
"""By field, a path into it that nothing else changes, and another field there."""


@law(100)
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
            elif step == "write inside":
                if name in INSIDE:
                    path, other = INSIDE[name]
                    inner = getattr(held, other)
                    await record.write({path: f"w{number}"})
                    assert getattr(record, name) is held and getattr(held, other) is inner
                    in_memory = in_database = plain(record, name)
                    assert in_memory[path.partition(".")[2]] == f"w{number}"
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


@law(100)
@hypothesis.given(
    action=st.sampled_from(sorted(ACTIONS)),
    name=st.sampled_from([*sorted(KINDS), "text", "n", "assign"]),
    at=st.integers(0, 3),
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
        # The object keeps what was changed in it, and takes the rest of what was written.
        is_merged = field == "main" and action in ("write inside", "write whole")
        if not is_merged:
            assert plain(record, field) == expected[field]
        await record.save()
        assert not record.is_changed
        for each in ("n", "text", *KINDS):
            assert await stored(record, each) == plain(record, each), each
        if not is_merged:
            assert await stored(record, field) == expected[field]
        else:
            found = await stored(record, "main")
            assert found["sku"] == ("w" if action == "write inside" else "s5")
            assert found["marks"] == expected["main"]["marks"]

    app_world.run(example)


WORKS = (
    "assign",
    "in place",
    "object",
    "save",
    "save set",
    "write",
    "increase",
    "refresh one",
    "label",
    "part",
)


class Label(BaseModel):
    _name = "pending.label"

    name = String(unique=True)


class Part(BaseModel):
    _name = "pending.part"

    name = String(unique=True)
    owner_id = Many2one("pending.shared")


class Shared(Kept):
    """A record with links, which two tasks share."""

    _name, _collection = "pending.shared", "pending_shared"

    label_ids = Many2many(Label)
    part_ids = One2many(Part, "owner_id")


class Revised(Kept):
    _name, _collection = "pending.revised", "pending_revised"
    _versioned = True


@law(300)
@hypothesis.given(
    model=st.sampled_from([Shared, Revised]),
    is_new=st.booleans(),
    works=st.tuples(
        *[st.lists(st.sampled_from(WORKS), min_size=1, max_size=4)] * 2,
    ),
    choices=st.lists(st.integers(0, 1), min_size=1, max_size=40),
)
def test_two_tasks_on_one_record_lose_nothing(
    app_world: World,
    model: type[Kept],
    is_new: bool,
    works: tuple[list[str], list[str]],
    choices: list[int],
) -> None:
    async def example() -> None:
        await Label.search().delete()
        await Part.search().delete()
        record = model(tags=[], main=line(1), text="")
        if not is_new:
            await record.save()
        done: list[str] = []
        increased = 0

        async def work(mine: str, steps: list[str]) -> None:
            nonlocal increased
            for number, step in enumerate(steps):
                mark = f"{mine}{number}"
                if step == "assign":
                    record.text = mark
                elif step == "in place":
                    record.tags.append(mark)  # type: ignore[union-attr]
                    done.append(mark)
                elif step == "object":
                    record.main.marks.append(mark)  # type: ignore[union-attr]
                elif step in ("label", "part") and model is Shared:
                    # The other task may assign others before these are sent.
                    setattr(record, f"{step}_ids", [Command.create({"name": mark})])
                    await record.save()
                elif step == "save" or not record.is_stored:
                    await record.save()
                elif step == "save set":
                    await (model.browse([]) + record + record).save()
                elif step == "write":
                    await record.write({"data": [mark]})
                elif step == "increase":
                    increased += 1
                    await record.write({"n": Inc(1)})
                else:
                    await record.refresh("codes")

        turns = iter(choices)
        scheduler = Scheduler(lambda _: next(turns, 0))
        results = await scheduler.run([work("a", works[0]), work("b", works[1])])
        assert results == [None, None]
        assert record.tags == done
        await record.save()
        assert not record.is_changed
        assert record.n == increased
        for name in ("n", "data", "text", "tags", "main"):
            assert await stored(record, name) == plain(record, name), name
        assert await model.search([("id", "=", record)]).count() == 1
        if isinstance(record, Shared):
            again = await Shared.get(record.id)
            assert len(await again.label_ids) == await Label.count()
            assert len(await again.part_ids) == await Part.count()

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


@law(100)
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


# -- paths ----------------------------------------------------------------------------------------

FIELDS = ("sku", "qty", "marks", "address.city", "address.zip")


def put(record: Kept, path: str, number: int) -> None:
    part: Any = record.main
    *outer, name = path.split(".")
    for each in outer:
        part = getattr(part, each)
    setattr(part, name, {"qty": number, "marks": [str(number)]}.get(name, str(number)))


@law(100)
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
