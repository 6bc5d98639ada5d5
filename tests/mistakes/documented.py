"""Mistakes in programs with models as the docs write them, and right uses beside them; only checkers read it.

``python -m tests.mistakes`` holds what mypy and pyright say of each line against the comment at its end: its number and
what it is are those of a mistake that both flag, with "unseen" of one that neither can. A line without one is right.
"""

# pyright: strict, reportUnusedExpression=false
# ruff: noqa: B018, E711

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypedDict

import earnorm
from earnorm import (
    BaseModel,
    Boolean,
    Count,
    Field,
    Inc,
    Int,
    Many2one,
    One2many,
    Query,
    ReadOnly,
    RecordSet,
    Selection,
    String,
)
from earnorm.fields.base import N

State = Literal["new", "done"]


class Percent(Field[float, N]):
    def annotation(self) -> Any:
        return float


class Team(BaseModel):
    name = String(required=True)
    members = One2many("person", "team_id")
    tickets = One2many(lambda: Ticket, "team_id")  # a class that comes later


class Ticket(BaseModel):
    title = String(required=True, max_length=80)
    body = String()
    state = Selection(["new", "done"], required=True, default="new")
    kind: Selection[State] = Selection(["new", "done"])
    number = Int(required=True, default=0)
    share = Percent()
    urgent = Boolean(default=False)
    team_id = Many2one(Team)
    owner_id = Many2one(Team, required=True)
    parent_id = Many2one(lambda: Ticket)  # the own model
    later_id: Many2one[Person] = Many2one("person")
    size: ReadOnly[int] = Int(compute="_size", required=True)

    def _size(self) -> int:
        return len(self.title)


class Person(BaseModel):
    name = String(required=True)
    team_id = Many2one(Team, required=True)


class TicketValues(TypedDict, total=False):
    title: str


class ByState(NamedTuple):
    state: str
    n: int


async def right(t: Ticket, q: Query[Ticket], team: Team, p: Person) -> None:
    t.body = None
    t.team_id = "7"
    t.team_id = None
    t.owner_id = team
    t.later_id = p
    t.share = 0.5
    t.urgent = None
    team.tickets = [t, "7", {"title": "new"}]
    (await t.load(Ticket.owner_id)).name
    for each in await (await q).load(Ticket.team_id):
        each.name.upper()
    domain = [("number", ">", 3)]
    Ticket.search(domain)
    mixed = [("number", ">", 3), Ticket.title == "x"]
    Ticket.search(mixed)
    Ticket.search(domain if mixed else None)
    Ticket.search(Ticket.body == None)
    Ticket.search(Ticket.team_id._.name == "x")
    Ticket.search(
        order=[-Ticket.number, Ticket.title], only=[Ticket.title], prefetch=[Ticket.team_id]
    )
    titles: list[str] = (await q.order(-Ticket.number, "body").only(Ticket.title)).mapped(
        Ticket.title
    )
    bodies: list[str | None] = (await q.prefetch(Ticket.team_id)).mapped(Ticket.body)
    names: list[str] = (await q).mapped(Ticket.team_id).mapped(Team.name)
    states: dict[str, RecordSet[Ticket]] = (await q).grouped(Ticket.state)
    await t.write(Ticket.title.to("x") | Ticket.team_id.to(team) | Ticket.number.to(Inc(1)))
    rows: list[ByState] = await q.group(Ticket.state, n=Count(), into=ByState)
    await Ticket.create(TicketValues(title="x"))
    print(titles, bodies, names, states, rows)
    Ticket.search(Ticket.team_id == "7")
    Ticket.search(Ticket.team_id == team)
    Ticket.search(Ticket.title.ilike("x"))
    Ticket.search(Ticket.body.ilike("x"))


async def mistakes_a(t: Ticket, q: Query[Ticket], team: Team, p: Person) -> None:
    print(t.titel)  # M01 read a misspelt field
    t.titel = "x"  # M02 assign to a misspelt field
    t.title = 5  # M03 assign a value of the wrong type
    t.title = None  # M04 assign None to a required field
    t.kind = "lost"  # M05 assign what is no choice (Literal)
    t.state = "lost"  # M06 unseen: assign what is no choice (documented Selection)
    t.size = 3  # M07 assign to a computed field
    Ticket(titel="x", owner_id=team)  # M08 unseen: constructor: a misspelt keyword
    Ticket(title=5, owner_id=team)  # M09 unseen: constructor: a wrong type
    Ticket(title=None, owner_id=team)  # M10 unseen: constructor: None for a required field
    Ticket(title="x")  # M11 unseen: constructor: a required keyword is missing
    Ticket(title="x", owner_id=team, kind="lost")  # M12 unseen: constructor: no choice
    Ticket(title="x", owner_id=team, size=3)  # M13 unseen: constructor: a computed field
    await t.write({"titel": "x"})  # M14 unseen: write: a misspelt key in a dict
    await t.write({"title": 5})  # M15 unseen: write: a wrong value in a dict
    await t.write(Ticket.titel.to("x"))  # M16 write: a misspelt field object
    await t.write(Ticket.title.to(5))  # M17 write: a wrong value for a field object
    await Ticket.create({"titel": "x"})  # M18 unseen: create: a misspelt key in a dict
    await Ticket.create(Ticket(titel="x"))  # M19 unseen: create(Task(…)): a misspelt keyword
    Ticket.search([("titel", "=", "x")])  # M20 unseen: domain: a misspelt name in a text
    Ticket.search([("title", "=~", "x")])  # M21 unseen: domain: an operator that isn't
    Ticket.search("title = x")  # M22 domain: a text
    Ticket.search(Ticket.titel == "x")  # M23 expression: a misspelt field
    Ticket.search(Ticket.number == "x")  # M24 expression: equal to a wrong type
    Ticket.search((Ticket.number == "x") & (Ticket.title == "x"))  # M25 the same, combined
    Ticket.search(Ticket.number > "x")  # M26 expression: greater than a wrong type
    Ticket.search(Ticket.number.ilike("x"))  # M27 expression: a text's operator on a number
    Ticket.search(Ticket.kind.in_(["lost"]))  # M28 expression: in, no choice
    Ticket.search(Ticket.team_id._.nmae == "x")  # M29 path: a misspelt field behind a relation
    q.order("titel")  # M30 unseen: order: a misspelt name in a text
    q.order(Ticket.titel)  # M31 order: a misspelt field object
    (await q).mapped(Ticket.title).upper()  # M33 mapped by a field object: the result's type
    (await q.group(Ticket.state, n=Count()))[0]["m"]  # M34 unseen: group: a wrong key of a dict row
    (await q.group(Ticket.state, n=Count(), into=ByState))[0].m  # M35 group: a wrong name of a row
    (await q).mapped("titel").upper()  # M32 unseen: mapped: a misspelt name in a text
    print(t.team_id.name)  # M36 an unset relation isn't handled
    await t.team_id  # M37 await what may be None
    (await t.load(Ticket.team_id)).name  # M38 load: None isn't handled
    t.team_id = p  # M39 a record of another model
    q.first().title  # M40 await forgotten
    earnorm.App("mongodb://", database="x", min_pol_size=3)  # M41 App: a misspelt setting
    await earnorm.init("mongodb://", database="x", pool_timeout="3")  # M42 init: a wrong type
    [
        m.nmae for m in team.members
    ]  # M43 unseen: One2many by name: a misspelt field of the other model
    [m.titel for m in team.tickets]  # M44 One2many by lambda: the same
    await Ticket.create(TicketValues(titel="x"))  # M45 create: a misspelt key of a TypedDict
