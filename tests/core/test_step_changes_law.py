"""What the program and steps change in one write is made one after the other, in the database and in the record."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from earnorm import (
    AddToSet,
    Embedded,
    EmbeddedModel,
    Inc,
    Int,
    List,
    Max,
    Min,
    Mul,
    PluginError,
    Pop,
    Pull,
    Push,
    String,
    Unset,
    depends,
    models,
)
from earnorm.plugin import CHANGES, DocumentBatch, ModelView, Stage, Step, hookimpl

from .laws import World, law, world

pytestmark = pytest.mark.fuzz


class Point(EmbeddedModel):
    x = Int()
    y = Int()


class Thing(models.BaseModel):
    _name = "step_changes.thing"
    code = String()
    name = String()
    n = Int()
    tags = List(Int())
    pt = Embedded(Point)
    twice = Int(compute="_twice", store=True)

    @depends("n")
    def _twice(self) -> int:
        return 2 * (self.n or 0)


class Versioned(Thing):
    _name = _collection = "step_changes.versioned"
    _versioned = True


# -- the reference --------------------------------------------------------------------------------


class Conflict(Exception):
    """No update makes both changes."""


JOINED = {"$inc", "$mul", "$max", "$min", "$push", "$addToSet", "$pullAll"}
ABSENT = object()


def changed(value: Any, operator: str, operand: Any) -> Any:
    """Return a value after one change, as a server makes it; nothing counts as 0 or as no items."""
    number = 0 if value is ABSENT or value is None else value
    items: list[Any] = [] if value is ABSENT or value is None else value
    match operator:
        case "$set":
            return operand
        case "$unset":
            return ABSENT
        case "$inc":
            return operand + number
        case "$mul":
            return operand * number
        case "$max":
            return operand if value is ABSENT or value is None else max(value, operand)
        case "$min":
            return operand if value is ABSENT else None if value is None else min(value, operand)
        case "$push":
            return [*items, *operand]
        case "$addToSet":
            return list(dict.fromkeys([*items, *operand]))
        case "$pullAll":
            return ABSENT if value is ABSENT else [item for item in items if item not in operand]
        case _:
            return ABSENT if value is ABSENT else items[:-1]


@dataclass
class Document:
    """A document, and by path the changes of this write: ``known``, or the operator."""

    values: dict[str, Any]
    made: dict[str, str] = field(default_factory=dict[str, str])

    def has(self, root: str) -> bool:
        return any(path.partition(".")[0] == root for path in self.made)

    def change(self, operator: str, path: str, operand: Any) -> None:
        root, dot, inner = path.partition(".")
        if dot and root in self.made:
            pass  # the whole value is known
        elif operator in ("$set", "$unset"):
            self.made = {p: how for p, how in self.made.items() if not p.startswith(f"{path}.")}
            self.made[path] = "known"
        elif path not in self.made:
            self.made[path] = operator
        elif self.made[path] not in ("known", operator) or (
            self.made[path] == operator and operator not in JOINED
        ):
            raise Conflict
        place = self.values
        if dot:
            place = self.values[root] = dict(self.values.get(root) or {})
        key = inner if dot else root
        after = changed(place.get(key, ABSENT), operator, operand)
        if after is ABSENT:
            place.pop(key, None)
        else:
            place[key] = after


Do = tuple[str, str, Any]
"""A change: an operator, or ``put``, ``fill`` or ``increase``; a path; an operand."""


def apply(document: Document, do: Do) -> None:
    operator, path, operand = do
    if operator == "put":
        document.change("$set", path, operand)
    elif operator in ("fill", "fill all"):
        if not document.has(path):
            document.change("$set", path, operand)
    else:
        document.change("$inc" if operator == "increase" else operator, path, operand)


# -- the plugins ----------------------------------------------------------------------------------


class Stepping:
    """Two steps, each with changes of its own."""

    api = 1
    name = "stepping"

    def __init__(self) -> None:
        self.dos: tuple[list[Do], list[Do]] = ([], [])
        self.late: Any = None

    @hookimpl
    def register_steps(self, model: ModelView) -> Iterable[Step]:
        if model.name.startswith("step_changes"):
            for place, name in enumerate(("one", "two")):
                yield Step(
                    Stage.STAMP,
                    name,
                    lambda batch, p=place: self.run(batch, p),
                    CHANGES,
                    on="write",
                )

    def run(self, batch: DocumentBatch, place: int) -> None:
        for operator, path, operand in self.dos[place]:
            given = copy.deepcopy(operand)
            if operator == "increase":
                batch.increase(path, given)
            elif operator == "fill all":
                batch.fill(path, given)
            else:
                for row in batch.rows:
                    if operator in ("put", "fill"):
                        getattr(row, operator)(path, given)
                    elif operator in ("$push", "$addToSet"):
                        row.merge(operator, {path: {"$each": given}})
                    else:
                        row.merge(operator, {path: given})
        if self.late is not None and place:
            self.late()


@pytest.fixture(scope="module")
def stepping() -> Iterator[tuple[World, Stepping]]:
    plugin = Stepping()
    with world("pymongo", (plugin,)) as made:
        yield made, plugin


# -- the cases ------------------------------------------------------------------------------------

NUMBERS = st.integers(-3, 9)
LISTS = st.lists(st.integers(0, 4), min_size=1, max_size=2)
POINTS = st.fixed_dictionaries({"x": NUMBERS, "y": NUMBERS})

CHANGES_OF = {
    "$inc": Inc,
    "$mul": Mul,
    "$max": Max,
    "$min": Min,
    "$unset": lambda _: Unset(),
    "$push": lambda items: Push(*items),
    "$addToSet": lambda items: AddToSet(*items),
    "$pullAll": lambda items: Pull(*items),
    "$pop": lambda which: Pop("last"),
}
SERVER = {
    "n": [("$inc", NUMBERS), ("$mul", NUMBERS), ("$max", NUMBERS), ("$min", NUMBERS)],
    "tags": [("$push", LISTS), ("$addToSet", LISTS), ("$pullAll", LISTS), ("$pop", st.just(1))],
    "pt.x": [("$inc", NUMBERS), ("$max", NUMBERS), ("$set", NUMBERS)],
    "pt": [],
}
WHOLE = {"n": NUMBERS | st.none(), "tags": LISTS, "pt": POINTS}


def given_to(path: str) -> st.SearchStrategy[Do]:
    """A change that the program makes."""
    some = [st.tuples(st.just(op), st.just(path), operand) for op, operand in SERVER[path]]
    if path in WHOLE:
        some.append(st.tuples(st.just("$set"), st.just(path), WHOLE[path]))
        some.append(st.tuples(st.just("$unset"), st.just(path), st.just(True)))
    return st.one_of(some)


def done_to(path: str) -> st.SearchStrategy[Do]:
    """A change that a step makes."""
    some: list[Any] = [given_to(path)]
    if path in WHOLE:
        hows = st.sampled_from(["put", "put", "fill", "fill all"])
        some.append(st.tuples(hows, st.just(path), WHOLE[path]))
    if path == "n":
        some += [st.tuples(st.just("increase"), st.just("n"), NUMBERS)] * 2
    return st.one_of(some)


PROGRAMS = st.lists(st.sampled_from(list(SERVER)), max_size=3, unique=True).flatmap(
    lambda paths: st.tuples(*map(given_to, [p for p in paths if p != "pt.x" or "pt" not in paths]))
)
STEPS = st.lists(st.sampled_from([*SERVER, "n"]).flatmap(done_to), max_size=3)
WAYS = ("write", "save with", "save", "write_many", "bulk", "update", "set", "saved set")


def values_of(program: Iterable[Do]) -> dict[str, Any]:
    """The values that the program hands in for its changes."""
    return {
        path: copy.deepcopy(operand) if operator == "$set" else CHANGES_OF[operator](operand)
        for operator, path, operand in program
    }


def assign(record: Any, program: Iterable[Do]) -> None:
    """Assign what can be assigned."""
    for _, path, operand in program:
        if path == "pt.x":
            record.pt.x = operand
        else:
            setattr(record, path, copy.deepcopy(operand))


async def send(way: str, record: Any, other: Any, program: tuple[Do, ...]) -> None:
    """Change the record by the program's changes; the other one is written as well on some ways."""
    model, values = type(record), values_of(program)
    match way:
        case "write":
            await record.write(values)
        case "save with":
            await record.save(values)
        case "save":
            await record.save()
        case "write_many":
            await model.write_many({record: values, other: {"name": "other"}})
        case "bulk":
            async with model.bulk() as bulk:
                bulk.write(record, values)
        case "update":
            await model.search([("id", "=", record.id)]).update(values)
        case _:
            records = (await model.search([("id", "=", "0" * 24)])) + record + other
            await (records.write(values) if way == "set" else records.save())


def plain(record: Any) -> dict[str, Any]:
    """The values of a record, with None for no value and no items."""
    point = record.pt
    return {
        "n": record.n,
        "tags": list(record.tags or []),
        "pt": None if point is None else (point.x, point.y),
    }


def expected(values: Mapping[str, Any]) -> dict[str, Any]:
    point = values.get("pt")
    return {
        "n": values.get("n"),
        "tags": values.get("tags", []),
        "pt": None if point is None else (point.get("x"), point.get("y")),
    }


@law(250)
@hypothesis.given(
    model=st.sampled_from([Thing, Versioned]),
    way=st.sampled_from(WAYS),
    program=PROGRAMS,
    one=STEPS,
    two=STEPS,
    drift=st.none() | NUMBERS,
    pending=st.sampled_from(["", "before", "late"]),
)
def test_changes_are_made_one_after_the_other(
    stepping: tuple[World, Stepping],
    model: Any,
    way: str,
    program: tuple[Do, ...],
    one: list[Do],
    two: list[Do],
    drift: int | None,
    pending: str,
) -> None:
    """The database has what the changes make in their order, and so has the record.

    ``drift`` is a number that another program has stored since the record was read, ``pending`` a
    number that was assigned and not saved: before the write, or while it was on its way.
    """
    saves = way in ("save", "saved set")
    if saves:
        program = tuple(do for do in program if do[0] == "$set")
    if model is Versioned and way != "update":
        drift = None  # a lost update is refused
    if pending == "before" and (way != "write" or any(do[1] == "n" for do in program)):
        pending = ""
    loop, plugin = stepping

    async def example() -> None:
        start = {"n": 1, "tags": [1, 2], "pt": {"x": 1, "y": 2}}
        record, other = await model.create([{**start, "code": "a"}, {**start, "code": "b"}])
        record, other = await model.get(record.id), await model.get(other.id)
        raw = loop.app.dangerous_raw("the law looks at documents")[model._collection]
        if drift is not None:
            await raw.update_one({"_id": record.pk}, {"$set": {"n": drift}})
        before = [await raw.find_one({"_id": each.pk}) for each in (record, other)]
        if saves:
            assign(record, program)
        if way == "saved set":
            other.name = "other"
        if pending == "before":
            record.n = 50
        plugin.dos = (one, two)
        assigned = [True] if pending == "before" else []
        if pending == "late":
            plugin.late = lambda: (assigned.append(True), setattr(record, "n", 50))
        changes = {
            "set": [program, program],
            "saved set": [program or None, ()],
            "write_many": [program or None, ()],
        }.get(way, [program or None])
        references = [Document(copy.deepcopy(document)) for document in before]
        conflict = False
        try:
            for document, given in zip(references, changes, strict=False):
                if given is None:
                    continue  # nothing is written without a value
                for do in (*given, *one, *two):
                    apply(document, do)
        except Conflict:
            conflict = True
        if way == "set" and not program:
            references, conflict = [Document(copy.deepcopy(d)) for d in before], False
        try:
            await send(way, record, other, program)
        except PluginError as error:
            assert conflict and error.code == "step_conflict", error
            assert "plugin 'stepping': the step '" in str(error)
            assert [await raw.find_one({"_id": each.pk}) for each in (record, other)] == before
            return
        finally:
            plugin.dos, plugin.late = ([], []), None
        assert not conflict
        written = bool(program) or way in ("write_many", "saved set")
        for each, document in zip((record, other), references, strict=True):
            stored = await raw.find_one({"_id": each.pk})
            assert expected(stored) == expected(document.values)
            assert stored["twice"] == 2 * (stored.get("n") or 0) or drift is not None
            if way == "update" or (not written and drift is not None):
                continue
            if each is record and assigned:
                assert record.is_changed and record.n == 50
                assert {**plain(each), "n": None} == {**expected(stored), "n": None}
                await record.save()
                stored = await raw.find_one({"_id": each.pk})
                assert expected(stored) == {**expected(document.values), "n": 50}
            elif drift is None or each is not record or document.has("n"):
                assert plain(each) == expected(stored)
                assert each.twice == stored["twice"]
            assert not each.is_changed

    loop.run(example)
