"""The law of inverses: given together, in any order and on any way, they run in the order of their class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earnorm import (
    BaseModel,
    Command,
    Inc,
    Int,
    Many2many,
    RecordSet,
    String,
    ValidationError,
    depends,
)

from .laws import World, law, world

START = {"text": "a b", "trail": "", "note": None}


def words(text: str | None) -> list[str]:
    return (text or "- -").split(" ")


class Name(BaseModel):
    """Fields that set one text, and add their names to a trail, so that the order shows."""

    _abstract = True

    text = String(default="- -")
    trail = String(default="")
    note = String()

    def _late(self) -> str:
        return (self.note or "").partition(":")[0]

    def _first(self) -> str:
        return words(self.text)[0]

    def _last(self) -> str:
        return words(self.text)[1]

    def _both(self) -> str:
        return (self.text or "")[:1]

    async def _set_late(self, value: str) -> None:
        self.note = f"{value}:{self.text}"
        self.trail = f"{self.trail}L"

    def _set_first(self, value: str) -> None:
        self.text = f"{value} {words(self.text)[1]}"
        self.trail = f"{self.trail}1"

    def _set_last(self, value: str) -> None:
        self.text = f"{words(self.text)[0]} {value}{words(self.text)[0]}"
        self.trail = f"{self.trail}2"

    def _set_both(self, value: str) -> None:
        self.text = f"{value} {value}"
        self.trail = f"{self.trail}B"


@dataclass(frozen=True)
class Kind:
    """A model, and the names of its fields with an inverse by the inverse, as they are declared."""

    model: type[BaseModel]
    names: Mapping[str, str]


def make(number: int, order: tuple[str, ...], store: bool) -> Kind:
    """Make a model with names of its own, so that sets of them have orders of their own."""
    names = {inverse: f"{inverse}_{number}" for inverse in order}
    members: dict[str, Any] = {"_name": f"inverses.n{number}", "__module__": __name__}
    for inverse, name in names.items():
        reads = "note" if inverse == "late" else "text"

        def compute(self: Any, inverse: str = inverse) -> Any:
            return getattr(self, f"_{inverse}")()

        members[f"_compute_{inverse}"] = depends(reads)(compute)
        members[name] = String(
            compute=f"_compute_{inverse}", inverse=f"_set_{inverse}", store=store
        )
    return Kind(type(f"Name{number}", (Name,), members), names)


KINDS = [
    make(number, order, store=bool(number % 2))
    for number, order in enumerate(
        [
            ("first", "last", "both", "late"),
            ("late", "both", "last", "first"),
            ("last", "late", "first", "both"),
            ("both", "first", "late", "last"),
            ("first", "both", "last", "late"),
            ("late", "last", "both", "first"),
        ]
    )
]


def expected(kind: Kind, before: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Set the plain values, then what the inverses set: methods first, then coroutine functions."""
    state = {n: values.get(n, before[n]) for n in ("text", "trail", "note")}
    for inverse in sorted(kind.names, key=lambda name: name == "late"):
        if (name := kind.names[inverse]) not in values:
            continue
        value, (one, two) = values[name], words(state["text"])
        if inverse == "first":
            state["text"] = f"{value} {two}"
        elif inverse == "last":
            state["text"] = f"{one} {value}{one}"
        elif inverse == "both":
            state["text"] = f"{value} {value}"
        else:
            state["note"] = f"{value}:{state['text']}"
        state["trail"] += {"first": "1", "last": "2", "both": "B", "late": "L"}[inverse]
    return state


def shown(kind: Kind, record: Any) -> dict[str, Any]:
    """The values of a record; those that are computed must agree with their sources."""
    for inverse, name in kind.names.items():
        assert getattr(record, name) == getattr(record, f"_{inverse}")()
    return {name: getattr(record, name) for name in START}


async def constructor(kind: Kind, values: dict[str, Any]) -> Any:
    record = kind.model(**values)
    await record.save()
    return record


async def save_new(kind: Kind, values: dict[str, Any]) -> Any:
    record = kind.model()
    await record.save(values)
    return record


async def create_many(kind: Kind, values: dict[str, Any]) -> Any:
    await kind.model.create_many([values])
    return await kind.model.search().first()


async def bulk(kind: Kind, values: dict[str, Any]) -> Any:
    async with kind.model.bulk() as batch:
        batch.create(values)
    return await kind.model.search().first()


async def assign(kind: Kind, values: dict[str, Any]) -> Any:
    """A program's own order is the order of its assignments; here it is that of the class."""
    record: Any = await kind.model.create(START)
    in_order = {name: number for number, name in enumerate(kind.names.values())}
    for name in sorted(values, key=lambda n: in_order.get(n, -1)):
        setattr(record, name, values[name])
    await record.save()
    return record


async def write(kind: Kind, values: dict[str, Any]) -> Any:
    record = await kind.model.create(START)
    await record.write(values)
    return record


async def save(kind: Kind, values: dict[str, Any]) -> Any:
    record = await kind.model.create(START)
    await record.save(values)
    return record


async def write_set(kind: Kind, values: dict[str, Any]) -> Any:
    records = await kind.model.create([START, START])
    await RecordSet(kind.model, list(records)).write(values)
    assert shown(kind, records[0]) == shown(kind, records[1])
    return records[0]


NEW = {
    "constructor": constructor,
    "create": lambda kind, values: kind.model.create(values),
    "save of a new record": save_new,
    "create_many": create_many,
    "bulk": bulk,
}
STORED = {"assign": assign, "write": write, "save": save, "RecordSet.write": write_set}
WAYS: dict[str, Any] = {**NEW, **STORED}
ASSIGNING = ("constructor", "assign", "create_many", "bulk")
"""The ways that take no coroutine function as an inverse."""


@st.composite
def cases(draw: Any) -> tuple[Kind, dict[str, Any], list[str]]:
    kind = draw(st.sampled_from(KINDS))
    text = st.text("xyz", min_size=1, max_size=2)
    values: dict[str, Any] = {}
    for name in draw(st.permutations([*kind.names.values(), "text", "trail"])):
        if draw(st.booleans()):
            one = draw(text)
            values[name] = f"{one} {draw(text)}" if name == "text" else one
    return kind, values, draw(st.lists(st.sampled_from([*WAYS]), min_size=1, max_size=3))


@pytest.fixture(scope="module", params=["memory", "pymongo"])
def earth(request: pytest.FixtureRequest) -> Iterator[World]:
    with world(request.param) as one:
        yield one


@pytest.mark.fuzz
@law(150)
@given(case=cases())
def test_inverses_run_in_the_order_of_their_class_on_every_way(earth: World, case: Any) -> None:
    kind, values, ways = case

    async def example() -> None:
        for way in ways:
            await kind.model.search().delete()
            taken = dict(values)
            if way in ASSIGNING:
                taken.pop(kind.names["late"], None)
            before = START if way in STORED else {"text": "- -", "trail": "", "note": None}
            record = await WAYS[way](kind, taken)
            state = expected(kind, before, taken)
            assert shown(kind, record) == state, way
            assert shown(kind, await kind.model.get(record.pk)) == state, way
            assert not record.is_changed

    earth.run(example)


class Label(BaseModel):
    _name = "inverses.label"

    name = String()


class Counted(BaseModel):
    _name = "inverses.counted"

    number = Int(default=0)
    label_ids = Many2many(Label)
    double = Int(compute="_compute_double", inverse="_set_double")
    labels = Int(compute="_compute_labels", inverse="_set_labels")

    @depends("number")
    def _compute_double(self) -> int:
        return (self.number or 0) * 2

    def _set_double(self, value: int) -> None:
        if value % 2:
            raise ValidationError(self._name, [{"loc": ("double",), "msg": "odd", "type": "odd"}])
        self.number = value // 2

    @depends("label_ids")
    def _compute_labels(self) -> int:
        return len(self.label_ids)

    def _set_labels(self, value: int) -> None:
        self.label_ids = [Command.create({"name": str(n)}) for n in range(value)]


def test_a_change_of_what_an_inverse_sets_is_refused_and_not_lost(earth: World) -> None:
    async def example() -> None:
        record = await Counted.create({"number": 5})
        with pytest.raises(ValidationError, match="number: is set by the inverse of double") as it:
            await record.write({"number": Inc(1), "double": 4})
        assert it.value.errors()[0]["type"] == "change"
        assert (await Counted.get(record.pk)).number == 5 == record.number

    earth.run(example)


def test_an_inverse_that_refuses_names_its_field_on_every_way(earth: World) -> None:
    async def example() -> None:
        await Counted.search().delete()
        record = await Counted.create({})
        attempts: list[Any] = [
            lambda: Counted.create([{}, {"double": 1}]),
            lambda: record.write({"double": 1}),
            lambda: record.save({"double": 1}),
            lambda: RecordSet(Counted, [record]).write({"double": 1}),
        ]
        for attempt in attempts:
            with pytest.raises(ValidationError, match="double: odd"):
                await attempt()
        assert await Counted.search().count() == 1

    earth.run(example)


def test_an_inverse_may_set_a_relation_by_commands(earth: World) -> None:
    async def example() -> None:
        made = await Counted.create({"labels": 2})
        await made.write({"labels": 1})
        built = Counted(labels=1)
        await built.save()
        for record, number in ((made, 3), (built, 1)):
            assert len((await Counted.get(record.pk)).__dict__["label_ids"]) == number

    earth.run(example)
