"""Mistakes in programs with annotated models, and right uses beside them; only checkers read it.

``python -m tests.mistakes`` holds what mypy and pyright say of each line against the comment at its end: its number and
what it is are those of a mistake that both flag, with "unseen" of one that neither can. A line without one is right.
"""

# pyright: strict, reportUnusedExpression=false
# ruff: noqa: B018, E711

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypedDict, get_args

import earnorm
from earnorm import (
    Count,
    Field,
    Inc,
    Int,
    Many,
    Many2many,
    Many2one,
    One,
    One2many,
    Query,
    ReadOnly,
    RecordSet,
    Selection,
    String,
    TypedModel,
    Value,
)
from earnorm.fields.base import N
from earnorm.mixins import SoftDelete

State = Literal["new", "done"]


class Percent(Field[float, N]):
    def annotation(self) -> Any:
        return float


class Group(TypedModel):
    name: Value[str] = String(required=True)
    tasks: Many[Task] = One2many("task", "group_id", init=False)


class Task(SoftDelete, TypedModel):
    title: Value[str] = String(required=True, max_length=80)
    body: Value[str | None] = String(default=None)
    state: Value[State] = Selection(get_args(State), required=True, default="new")
    number: Value[int] = Int(required=True, default=0)
    share: Value[float | None] = Percent(default=None)
    group_id: One[Group | None] = Many2one("group", default=None)
    owner_id: One[Group] = Many2one("group", required=True)
    parent_id: One[Task | None] = Many2one(lambda: Task, default=None)
    tag_ids: Many[Group] = Many2many(Group, init=False)
    size: ReadOnly[int] = Int(compute="_size", required=True, init=False)

    def _size(self) -> int:
        return len(self.title)


class Person(TypedModel):
    name: Value[str] = String(required=True)


class TicketValues(TypedDict, total=False):
    title: str


class ByState(NamedTuple):
    state: str
    n: int


async def right(t: Task, q: Query[Task], group: Group) -> None:
    t.body = None
    t.group_id = "7"
    t.group_id = None
    t.owner_id = group
    t.share = 0.5
    t.active = False
    t.state = "done"
    group.tasks = [t, "7", {"title": "new"}]
    t.tag_ids = [group]
    Task(title="x", owner_id=group)
    Task(title="x", owner_id="7", body=None, active=False, state="done")
    (await t.load(Task.owner_id)).name.upper()
    for each in await (await q).load(Task.group_id):
        each.name.upper()
    (await group.load(Group.tasks)).mapped(Task.title)
    Task.search(Task.body == None)
    Task.search(Task.body.ilike("x"))
    Task.search(Task.number > 3)
    Task.search(Task.size >= 3)
    Task.search((Task.state == "new") & Task.group_id._.name.ilike("x"))
    Task.search(Task.parent_id._.parent_id._.number > 3)
    Task.search(Task.group_id == group)
    Task.search(Task.owner_id == "7")
    Task.search(Task.tag_ids == group)
    titles: list[str] = (await q.order(-Task.number, "body").only(Task.title)).mapped(Task.title)
    bodies: list[str | None] = (await q.prefetch(Task.group_id)).mapped(Task.body)
    names: list[str] = (await q).mapped(Task.group_id).mapped(Group.name)
    states: dict[State, RecordSet[Task]] = (await q).grouped(Task.state)
    await t.write(Task.title.to("x") | Task.group_id.to(group) | Task.number.to(Inc(1)))
    rows: list[ByState] = await q.group(Task.state, n=Count(), into=ByState)
    await Task.create(TicketValues(title="x"))
    await Task.create(Task(title="x", owner_id=group))
    print(titles, bodies, names, states, rows)


async def mistakes_b(t: Task, q: Query[Task], group: Group, p: Person) -> None:
    print(t.titel)  # M01 read a misspelt field
    t.titel = "x"  # M02 assign to a misspelt field
    t.title = 5  # M03 assign a value of the wrong type
    t.title = None  # M04 assign None to a required field
    t.state = "lost"  # M05 assign what is no choice (Literal)
    t.state = "lost"  # M06 assign what is no choice (documented Selection)
    t.size = 3  # M07 assign to a computed field
    Task(titel="x", owner_id=group)  # M08 constructor: a misspelt keyword
    Task(title=5, owner_id=group)  # M09 constructor: a wrong type
    Task(title=None, owner_id=group)  # M10 constructor: None for a required field
    Task(title="x")  # M11 constructor: a required keyword is missing
    Task(title="x", owner_id=group, state="lost")  # M12 constructor: no choice
    Task(title="x", owner_id=group, size=3)  # M13 constructor: a computed field
    await t.write({"titel": "x"})  # M14 unseen: write: a misspelt key in a dict
    await t.write({"title": 5})  # M15 unseen: write: a wrong value in a dict
    await t.write(Task.titel.to("x"))  # M16 write: a misspelt field object
    await t.write(Task.title.to(5))  # M17 write: a wrong value for a field object
    await Task.create({"titel": "x"})  # M18 unseen: create: a misspelt key in a dict
    await Task.create(Task(titel="x", owner_id=group))  # M19 create(Task(…)): a misspelt keyword
    Task.search([("titel", "=", "x")])  # M20 unseen: domain: a misspelt name in a text
    Task.search([("title", "=~", "x")])  # M21 unseen: domain: an operator that isn't
    Task.search("title = x")  # M22 domain: a text
    Task.search(Task.titel == "x")  # M23 expression: a misspelt field
    Task.search(Task.number == "x")  # M24 expression: equal to a wrong type
    Task.search((Task.number == "x") & (Task.title == "x"))  # M25 the same, combined
    Task.search(Task.number > "x")  # M26 expression: greater than a wrong type
    Task.search(Task.number.ilike("x"))  # M27 expression: a text's operator on a number
    Task.search(Task.state.in_(["lost"]))  # M28 expression: in, no choice
    Task.search(Task.group_id._.nmae == "x")  # M29 path: a misspelt field behind a relation
    q.order("titel")  # M30 unseen: order: a misspelt name in a text
    q.order(Task.titel)  # M31 order: a misspelt field object
    (await q).mapped(Task.title).upper()  # M33 mapped by a field object: the result's type
    (await q.group(Task.state, n=Count()))[0]["m"]  # M34 unseen: group: a wrong key of a dict row
    (await q.group(Task.state, n=Count(), into=ByState))[0].m  # M35 group: a wrong name of a row
    (await q).mapped("titel").upper()  # M32 unseen: mapped: a misspelt name in a text
    print(t.group_id.name)  # M36 an unset relation isn't handled
    await t.group_id  # M37 await what may be None
    (await t.load(Task.group_id)).name  # M38 load: None isn't handled
    t.group_id = p  # M39 a record of another model
    q.first().title  # M40 await forgotten
    earnorm.App("mongodb://", database="x", min_pol_size=3)  # M41 App: a misspelt setting
    await earnorm.init("mongodb://", database="x", pool_timeout="3")  # M42 init: a wrong type
    [m.titel for m in group.tasks]  # M43 One2many by name: a misspelt field of the other model
    [m.titel for m in group.tasks]  # M44 One2many by lambda: the same
    await Task.create(TicketValues(titel="x"))  # M45 create: a misspelt key of a TypedDict
