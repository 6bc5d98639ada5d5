"""The machine's models for the library, and the values that it draws for their fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from earnorm import (
    Embedded,
    EmbeddedModel,
    Int,
    Json,
    List,
    Many2many,
    Many2one,
    One2many,
    String,
    depends,
    mixins,
    models,
)

from .record_kinds import BUG, MEMBER, NOTE, PERSON, TASK, Kind, Part


class Piece(EmbeddedModel):
    sku = String(db_name="s")
    qty = Int(default=0)


class Owner(models.BaseModel):
    _name = "machine.owner"
    name = String()
    task_ids = One2many("machine.task", "owner_id")


class Label(models.BaseModel):
    _name = "machine.label"
    _id = String()
    name = String()
    task_ids = Many2many("machine.task", inverse="label_ids")
    seated_ids = Many2many("machine.task", through="machine.seat")


class Seat(models.BaseModel):
    """Links tasks and labels."""

    _name = "machine.seat"
    task_id = Many2one("machine.task", required=True)
    label_id = Many2one(Label, required=True)


class Task(mixins.SoftDelete, models.BaseModel):
    _name = "machine.task"
    _discriminator = "kind"
    title = String(db_name="t")
    number = Int(default=0)
    nums = List(Int())
    meta = Json()
    main = Embedded(Piece)
    parts = List(Embedded(Piece), default=list)
    owner_id = Many2one(Owner)
    label_ids = Many2many(Label)
    seat_ids = Many2many(Label, through="machine.seat")
    full = String(default="- -")
    first = String(compute="_first", inverse="_set_first")
    last = String(compute="_last", inverse="_set_last")
    size = Int(compute="_size", store=True)

    @depends("full")
    def _first(self) -> str:
        return (self.full or "- -").split(" ")[0]

    @depends("full")
    def _last(self) -> str:
        return (self.full or "- -").split(" ")[1]

    def _set_first(self, value: str) -> None:
        self.full = f"{value} {(self.full or '- -').split(' ')[1]}"

    def _set_last(self, value: str) -> None:
        self.full = f"{(self.full or '- -').split(' ')[0]} {value}"

    @depends("number", "parts.qty")
    def _size(self) -> int:
        return (self.number or 0) + sum(part.qty or 0 for part in self.parts or ())


class Bug(Task):
    _name = "machine.bug"
    severity = Int()


class Note(models.BaseModel):
    _name = "machine.note"
    _versioned = True
    text = String(db_name="x")
    nums = List(Int(), default=list)
    main = Embedded(Piece)
    parts = List(Embedded(Piece))
    label_ids = Many2many(Label)


class Person(models.BaseModel):
    _name = "machine.person"
    _versioned = True
    name = String(db_name="n")
    nicks = List(String())
    level = Int(default=0)


class Member(models.BaseModel):
    _name = "machine.member"
    _inherits = {"machine.person": "person_id"}
    person_id = Many2one(Person, db_name="p", required=True)
    code = Int(default=0)
    label_ids = Many2many(Label)


MODELS: Mapping[str, tuple[type[models.BaseModel], Kind]] = {
    "task": (Task, TASK),
    "bug": (Bug, BUG),
    "note": (Note, NOTE),
    "person": (Person, PERSON),
    "member": (Member, MEMBER),
}


INSIDE = ("main.sku", "main.qty", "parts.qty")

small = st.integers(0, 3)
text = st.sampled_from(["a", "b"])
part = st.builds(Part, st.fixed_dictionaries({}, optional={"sku": text, "qty": small}))
part = part.map(lambda p: Part({"qty": 0, **p.values}))
meta = st.one_of(small, st.fixed_dictionaries({"k": st.lists(small, max_size=2)}))
labels = st.lists(st.sampled_from(["x", "y", "z"]), unique=True, max_size=3)
OPTIONAL: Mapping[str, st.SearchStrategy[Any]] = {
    "title": text | st.none(),
    "text": text | st.none(),
    "number": small,
    "nums": st.none() | st.lists(small, max_size=2),
    "meta": st.none() | meta,
    "main": st.none() | part,
    "parts": st.lists(part, max_size=2),
    "severity": small | st.none(),
    "label_ids": labels,
    "full": st.sampled_from(["a b", "c d"]),
    "name": text | st.none(),
    "nicks": st.none() | st.lists(text, max_size=2),
    "level": small,
    "code": small,
    "owner_id": st.none() | st.sampled_from([0, 1]),
}


def values(kind: Kind) -> st.SearchStrategy[dict[str, Any]]:
    """Draw values of a model, those that it delegates included."""
    names = [*kind.keys, *(kind.above.keys if kind.above else ())]
    optional = {name: OPTIONAL[name] for name in names if name in OPTIONAL}
    return st.fixed_dictionaries({}, optional=optional)


new = st.sampled_from([*MODELS]).flatmap(lambda k: st.tuples(st.just(k), values(MODELS[k][1])))
which = st.integers(0, 7)
WAYS = ("link", "unlink", "set", "delete", "update")
commands = st.lists(
    st.tuples(
        st.sampled_from(WAYS), st.lists(which, max_size=2), st.fixed_dictionaries({"number": small})
    ),
    min_size=1,
    max_size=3,
)
