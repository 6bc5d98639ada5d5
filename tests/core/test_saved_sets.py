"""A set of records is saved as a set: each record once, copies together, and an error says what was not written."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from copy import copy as copied
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import earnorm
from earnorm import (
    App,
    Command,
    ConcurrencyError,
    Inc,
    Int,
    List,
    Many2many,
    Many2one,
    NotFound,
    One2many,
    RecordSet,
    String,
    ValidationError,
    depends,
    models,
)
from earnorm.kernel.value_steps import ValueRow
from earnorm.model.writing.pipeline import take_back

from .laws import law, world


class Seat(models.BaseModel):
    _name = "sets.seat"
    name = String(default="")
    rank = Int(default=0)
    tags = List(String())


class VersionedSeat(models.BaseModel):
    _name = "sets.versioned"
    _versioned = True
    name = String(default="")
    rank = Int(default=0)
    tags = List(String())


class Part(models.BaseModel):
    _name = "sets.part"
    _discriminator = "kind"
    kind = String(required=True)
    name = String(default="")


class Bolt(Part):
    size = Int()


class Nut(Part):
    _versioned = True
    grade = Int()


# -- the reference ---------------------------------------------------------------------------------

FIELDS = ("name", "rank", "tags")


@dataclass(eq=False)
class Stored:
    """A document, and the number of times that it was written."""

    values: dict[str, Any]
    revision: int = 0
    is_deleted: bool = False


@dataclass(eq=False)
class Copy:
    """A record in memory."""

    record: Any
    stored: Stored | None
    values: dict[str, Any]
    revision: int = 0
    changes: dict[str, Any] = field(default_factory=dict[str, Any])
    before: dict[str, Any] = field(default_factory=dict[str, Any])
    """The values before the first change."""


class Refused(Exception):
    """The error that is expected, and the documents that it names."""

    def __init__(self, kind: type[Exception], named: Sequence[Stored] = ()) -> None:
        self.kind, self.named = kind, list(named)


def save(copies: Sequence[Copy], is_versioned: bool) -> int:
    """Do to the reference what ``RecordSet.save()`` does; raise what it raises."""
    distinct = list(dict.fromkeys(copies))
    new = [copy for copy in distinct if copy.stored is None]
    groups: dict[Stored, list[Copy]] = {}
    for copy in distinct:
        if copy.stored is not None:
            groups.setdefault(copy.stored, []).append(copy)
    groups = {s: group for s, group in groups.items() if any(c.changes for c in group)}
    for group in groups.values():
        for one, other in itertools.combinations(group, 2):
            if any(one.changes[n] != other.changes[n] for n in one.changes.keys() & other.changes):
                raise Refused(ValidationError)
    if is_versioned:
        mixed = [s for s, g in groups.items() if len({c.revision for c in g if c.changes}) > 1]
        if mixed:
            raise Refused(ConcurrencyError, mixed)
    lost = [s for s, group in groups.items() if _is_lost(s, group, is_versioned)]
    changed = [s for s in lost if not s.is_deleted]
    error = Refused(ConcurrencyError if changed else NotFound, lost) if lost else None
    if error is not None and new:
        raise error  # one transaction
    for stored, group in groups.items():
        if stored not in lost:
            _write(stored, group, is_versioned)
    for copy in new:
        copy.stored = Stored(dict(copy.values))
        copy.changes, copy.before = {}, {}
    if error is not None:
        raise error
    return len(groups) + len(new)


def _is_lost(stored: Stored, group: list[Copy], is_versioned: bool) -> bool:
    expected = next(copy.revision for copy in group if copy.changes)
    return stored.is_deleted or (is_versioned and stored.revision != expected)


def _write(stored: Stored, group: list[Copy], is_versioned: bool) -> None:
    written = {name: value for copy in group for name, value in copy.changes.items()}
    before = stored.revision
    stored.values |= written
    stored.revision += is_versioned
    for copy in group:
        if not is_versioned or copy.revision == before:
            copy.values |= written
            copy.revision, copy.changes, copy.before = stored.revision, {}, {}


# -- the law ---------------------------------------------------------------------------------------


class Example:
    def __init__(self, model: type[models.BaseModel]) -> None:
        self.model, self.is_versioned = model, model._versioned
        self.documents: list[Stored] = []
        self.copies: list[Copy] = []
        self.numbers = itertools.count(100)

    async def act(self, name: str, one: int, other: int, places: list[int]) -> None:
        if name == "new":
            self.copies.append(Copy(self.model(name="new"), None, {"name": "new", "rank": 0}))
        elif name == "create" or not self.documents:
            record: Any = await self.model.create({"name": "made"})
            stored = Stored({"name": "made", "rank": 0})
            self.documents.append(stored)
            self.copies.append(Copy(record, stored, dict(stored.values)))
        elif name == "fetch":
            copy = self._at(one)
            stored = copy.stored
            if stored is not None and not stored.is_deleted:
                record = await self.model.get(copy.record.pk)
                self.copies.append(Copy(record, stored, dict(stored.values), stored.revision))
        elif name == "change":
            self._change(self._at(one), FIELDS[other % 3], places[0] % 3)
        elif name in ("write", "delete"):
            await self._from_outside(self._at(one), name, FIELDS[other % 2])
        elif name == "save":
            await self._save([self._at(place) for place in places])

    def _at(self, place: int) -> Copy:
        return self.copies[place % len(self.copies)]

    @staticmethod
    def _change(copy: Copy, name: str, number: int) -> None:
        value: Any = {"name": f"n{number}", "rank": number + 1, "tags": [f"t{number}"]}[name]
        before = copy.before.setdefault(name, copy.values.get(name))
        if value in (copy.values.get(name), before):  # a change in place that goes back is none
            return
        if name == "tags" and copy.record.tags is not None:
            copy.record.tags[:] = value
        else:
            # The record keeps the list that it is given, and the reference has its own.
            setattr(copy.record, name, list(value) if name == "tags" else value)
        copy.values[name] = value
        copy.changes[name] = value

    async def _from_outside(self, copy: Copy, name: str, changed: str) -> None:
        """Another program writes or deletes the record."""
        if copy.stored is None or copy.stored.is_deleted:
            return
        matching = self.model.search([("id", "=", copy.record.pk)])
        if name == "delete":
            await matching.delete()
            copy.stored.is_deleted = True
            return
        number = next(self.numbers)
        value: Any = number if changed == "rank" else f"out{number}"
        await matching.update({changed: value})
        copy.stored.values[changed] = value
        copy.stored.revision += self.is_versioned

    async def _save(self, copies: list[Copy]) -> None:
        records: Any = RecordSet(self.model, [copy.record for copy in copies])
        try:
            expected = save(copies, self.is_versioned)
        except Refused as refused:
            with pytest.raises(refused.kind) as raised:
                await records.save()
            error: Any = raised.value
            if refused.named:
                named = {c.record.id for c in copies if c.stored in refused.named}
                assert {*error.ids} == named
        else:
            assert await records.save() == expected
        await self.check()

    async def check(self) -> None:
        existing: dict[Any, Any] = {r.id: r for r in await self.model.search()}
        expected: dict[Any, Stored] = {}
        for copy in self.copies:
            assert copy.record.is_changed is (bool(copy.changes) or copy.stored is None)
            assert _values(copy.record) == {"tags": None, **copy.values}
            if copy.stored is not None and self.is_versioned:
                assert copy.record._revision == copy.revision
            if copy.stored is not None and not copy.stored.is_deleted:
                expected[copy.record.id] = copy.stored
        assert existing.keys() == expected.keys()
        for pk, stored in expected.items():
            assert _values(existing[pk]) == {"tags": None, **stored.values}
            if self.is_versioned:
                assert (existing[pk]._revision or 0) == stored.revision


def _values(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in FIELDS}


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "new",
                "create",
                "fetch",
                "fetch",
                "change",
                "change",
                "change",
                "write",
                "delete",
                "save",
                "save",
            ]
        ),
        st.integers(0, 5),
        st.integers(0, 2),
        st.lists(st.integers(0, 5), min_size=1, max_size=5),
    ),
    min_size=6,
    max_size=16,
)


@pytest.mark.fuzz
@pytest.mark.parametrize("model", [Seat, VersionedSeat])
def test_a_set_is_saved_as_the_reference_says(model: type[models.BaseModel]) -> None:
    with world() as server:

        @law(80)
        @given(ACTIONS)
        def saved(actions: list[tuple[str, int, int, list[int]]]) -> None:
            async def example() -> None:
                await model.search().delete()
                one = Example(model)
                for action in [("create", 0, 0, [0]), *actions, ("save", 0, 0, [*range(5)])]:
                    await one.act(*action)
                await one.check()

            server.run(example)

        saved()


# -- examples --------------------------------------------------------------------------------------


async def test_two_copies_that_contradict_each_other_are_refused(app: App) -> None:
    await Seat.create({"name": "a"})
    one, other = await Seat.search(), await Seat.search()
    one[0].name, other[0].name = "b", "c"
    with pytest.raises(ValidationError, match="two copies of the record have different") as raised:
        await (one + other).save()
    assert [(d["loc"], d["type"]) for d in raised.value.errors()] == [((1, "name"), "conflict")]
    assert (await Seat.search())[0].name == "a" and one[0].is_changed and other[0].is_changed


async def test_changes_of_an_older_copy_are_refused_whichever_comes_first(app: App) -> None:
    await VersionedSeat.create({"name": "a"})
    old: Any = await VersionedSeat.search()
    await (await VersionedSeat.get(old[0].pk)).write({"rank": 1})
    new: Any = await VersionedSeat.search()
    old[0].name, new[0].tags = "b", ["t"]
    for seats in (old + new, new + old):
        with pytest.raises(ConcurrencyError, match="before and after another write") as raised:
            await seats.save()
        assert raised.value.ids == (new[0].id,)
    assert (await VersionedSeat.search())[0].to_dict(exclude=["id"])["name"] == "a"


async def test_an_older_copy_without_changes_does_not_pass_for_the_newest(app: App) -> None:
    await VersionedSeat.create({"name": "a"})
    old: Any = await VersionedSeat.search()
    await (await VersionedSeat.get(old[0].pk)).write({"rank": 1})
    new: Any = await VersionedSeat.search()
    new[0].name = "b"
    await (old + new).save()
    assert (old[0].name, old[0].rank, old[0]._revision) == ("a", 0, 0)
    old[0].rank += 1
    with pytest.raises(ConcurrencyError):
        await old.save()


async def test_a_new_record_that_is_there_twice_is_created_once(app: App) -> None:
    seat = Seat(name="a")
    assert await RecordSet(Seat, [seat, seat]).save() == 1
    assert (await Seat.search()).pks == [seat.pk]


async def test_two_new_records_with_one_id_are_refused_before_anything_is_written(app: App) -> None:
    stored = await Seat.create({"name": "a"})
    stored.name = "b"
    one = Seat(name="new", _id=(await Seat.create({})).pk)
    other = Seat(name="new", _id=one._id)
    with pytest.raises(ValidationError, match="has the same id"):
        await RecordSet(Seat, [stored, one, other]).save()
    assert (await Seat.get(stored.pk)).name == "a"


async def test_the_written_ones_of_a_conflict_know_it(app: App) -> None:
    await VersionedSeat.create([{"name": "a"}, {"name": "b"}, {"name": "c"}])
    seats = await VersionedSeat.search(order="name")
    await (await VersionedSeat.get(seats[1].pk)).write({"rank": 1})
    with pytest.raises(ConcurrencyError, match="1 of 3") as raised:
        await seats.write({"rank": 5})
    assert raised.value.ids == (seats[1].id,)
    assert seats.mapped("rank") == [5, 0, 5]
    seats[0].name = seats[2].name = "again"
    await seats.save()
    assert (await VersionedSeat.search(order="name")).mapped("rank") == [5, 5, 1]


async def test_a_write_that_the_server_computes_reaches_both_copies(app: App) -> None:
    await VersionedSeat.create({"name": "a"})
    one, other = await VersionedSeat.search(), await VersionedSeat.search()
    await (one + other + one).write({"rank": Inc(3)})
    assert [seat.rank for seat in one + other] == [3, 3]
    for seat in (*one, *other):
        seat.rank = 4
    assert await (one + other).save() == 1
    assert (await VersionedSeat.search())[0].rank == 4


async def test_a_mixed_family_is_saved_whole_or_not_at_all(server_app: App) -> None:
    await Bolt.create({"name": "b"})
    await Nut.create([{"name": "n"}, {"name": "m"}])
    parts: Any = await Part.search(order="name")
    await (await Nut.get(parts[1].pk)).write({"grade": 7})
    for part in parts:
        part.name += "!"
    parts |= Bolt(name="new")
    with pytest.raises(ConcurrencyError) as raised:
        await parts.save()
    assert raised.value.ids == (parts[1].id,)
    assert {*(await Part.search()).mapped("name")} == {"b", "m", "n"}
    assert all(part.is_changed for part in parts) and parts[3].id is None
    await parts[1].refresh()
    parts[1].name = "fresh"
    assert await parts.save() == 4
    assert {*(await Part.search()).mapped("name")} == {"b!", "fresh", "n!", "new"}


async def test_without_transactions_an_error_says_what_was_written(memory_app: App) -> None:
    await Bolt.create({"name": "b"})
    await Nut.create({"name": "n"})
    parts: Any = await Part.search(order="name")
    await (await Nut.get(parts[1].pk)).write({"grade": 7})
    for part in parts:
        part.name += "!"
    with pytest.raises(ConcurrencyError) as raised:
        await parts.save()
    assert raised.value.__notes__ == [
        f"written before, and there are no transactions here: bolt {parts[0].id}"
    ]
    assert [part.is_changed for part in parts] == [False, True]


async def test_in_a_transaction_the_conflict_takes_all_back(server_app: App) -> None:
    await VersionedSeat.create([{"name": "a"}, {"name": "b"}])
    seats = await VersionedSeat.search(order="name")
    await (await VersionedSeat.get(seats[1].pk)).write({"rank": 1})
    for seat in seats:
        seat.name = f"{seat.name}!"
    with pytest.raises(ConcurrencyError):
        async with earnorm.transaction():
            await seats.save()
    assert all(seat.is_changed for seat in seats)
    assert (await VersionedSeat.search(order="name")).mapped("name") == ["a", "b"]


# -- commands --------------------------------------------------------------------------------------


class Tool(models.BaseModel):
    _name = "sets.tool"
    name = String()
    bench_id = Many2one("sets.bench")


class Bench(models.BaseModel):
    _name = "sets.bench"
    name = String(default="")
    tool_ids = Many2many(Tool)
    own_ids = One2many("sets.tool", "bench_id")
    size = Int(compute="_compute_size", store=True)

    @depends("tool_ids", "own_ids.name")
    def _compute_size(self) -> int:
        return len(self.tool_ids.ids) + len(self.own_ids.ids)


class VersionedBench(Bench):
    _name = "sets.versioned_bench"
    _versioned = True
    own_ids = One2many("sets.versioned_tool", "bench_id")


class VersionedTool(models.BaseModel):
    _name = "sets.versioned_tool"
    name = String()
    bench_id = Many2one(VersionedBench)


@pytest.mark.parametrize("model", [Bench, VersionedBench])
@pytest.mark.parametrize("name", ["tool_ids", "own_ids"])
@pytest.mark.parametrize("place", ["the first", "the second", "both"])
@pytest.mark.parametrize("kind", ["create", "set"])
@pytest.mark.parametrize("has_more", [False, True])
async def test_all_copies_know_that_commands_are_carried_out(
    app: App, model: Any, name: str, place: str, kind: str, has_more: bool
) -> None:
    is_versioned = model is VersionedBench and name == "own_ids"
    target: Any = VersionedTool if is_versioned else Tool
    bench = await model.create({"name": "a"})
    read: Any = (await model.search()).ensure_one()
    _ = bench.size, read.size  # so that both have a value that is computed elsewhere
    tools = await target.create([{"name": "made"}]) if kind == "set" else None
    commands = [Command.create({"name": "made"})] if tools is None else [Command.set(tools)]
    setattr(bench if place != "the second" else read, name, commands)
    other: Any = copied(bench) if place == "both" else read
    if has_more:
        bench.name = "b"
    copies = RecordSet(model, [bench, other])
    assert await copies.save() == 1
    (tool,) = await target.search([("name", "=", "made")])
    for each in copies:
        assert not each.is_changed
        await getattr(each, name)
        assert getattr(each, name).ids == [tool.id]
        assert each.size == 1 and each.name == ("b" if has_more else "a")
    for each in (other, bench, copies):
        await each.save()
    other.name = "c"
    await other.save()
    assert await target.search().count() == 1
    assert (await model.search())[0].to_dict(include=["name", "size"]) == {"name": "c", "size": 1}


async def test_a_rollback_gives_all_copies_their_commands_again(server_app: App) -> None:
    bench = await Bench.create({"name": "a"})
    bench.tool_ids = [Command.create({"name": "made"})]
    other = copied(bench)
    with pytest.raises(RuntimeError):
        async with earnorm.transaction():
            await RecordSet(Bench, [bench, other]).save()
            raise RuntimeError
    assert bench.is_changed and other.is_changed
    await RecordSet(Bench, [bench, other]).save()
    assert await Tool.search().count() == 1 and not other.is_changed


async def test_an_older_copy_learns_nothing_of_commands(app: App) -> None:
    bench = await VersionedBench.create({"name": "a"})
    old: Any = (await VersionedBench.search()).ensure_one()
    await bench.write({"name": "b"})
    bench.tool_ids = [Command.create({"name": "made"})]
    await RecordSet(VersionedBench, [bench, old]).save()
    assert (old.name, old.tool_ids.ids, old._revision) == ("a", [], 0)
    old.name = "c"
    with pytest.raises(ConcurrencyError):
        await old.save()


async def test_a_value_that_a_step_hands_back_reaches_all_copies(app: App) -> None:
    bench = await Bench.create({"name": "a"})
    bench.name = "given"
    read: Any = (await Bench.search()).ensure_one()
    row = ValueRow({"name": "given"}, (), bench)
    row.copies = [read]
    row.hand_back("name", "handed back")
    take_back(row)
    assert bench.name == read.name == "handed back" and not bench.is_changed
