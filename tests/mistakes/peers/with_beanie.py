"""The planned mistakes of this folder, as programs with beanie make them; ``# R`` is a right use. See ``__main__``."""

# ruff: noqa: B018
# pyright: strict, reportUnusedExpression=false
from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

import pydantic
from beanie import BackLink, Document, Link, init_beanie
from beanie.odm.operators.find.comparison import In
from beanie.odm.operators.find.evaluation import RegEx
from beanie.odm.operators.find.logical import And

State = Literal["new", "done"]


class Team(Document):
    name: str
    tickets: list[BackLink[Ticket]] = pydantic.Field(
        default=[], json_schema_extra={"original_field": "team"}
    )


class Ticket(Document):
    title: Annotated[str, pydantic.Field(max_length=80)]
    owner: Link[Team]
    body: str | None = None
    state: State = "new"
    kind: State | None = None
    number: int = 0
    team: Link[Team] | None = None

    @property
    def size(self) -> int:
        return len(self.title)


class Person(Document):
    name: str


class TicketValues(TypedDict, total=False):
    title: str


class ByState(pydantic.BaseModel):
    state: str
    n: int


async def mistakes(t: Ticket, team: Link[Team], group: Team, p: Person, database: Any) -> None:
    print(t.titel)  # M01
    t.titel = "x"  # M02
    t.title = 5  # M03
    t.title = None  # M04
    t.kind = "lost"  # M05
    t.state = "lost"  # M06
    t.size = 3  # M07
    Ticket(titel="x", owner=team)  # M08
    Ticket(title=5, owner=team)  # M09
    Ticket(title=None, owner=team)  # M10
    Ticket(title="x")  # M11
    Ticket(title="x", owner=team, kind="lost")  # M12
    Ticket(title="x", owner=team, size=3)  # M13
    await t.set({"titel": "x"})  # M14
    await t.set({"title": 5})  # M15
    await t.set({Ticket.titel: "x"})  # M16
    await t.set({Ticket.title: 5})  # M17
    await Ticket.model_validate({"titel": "x"}).insert()  # M18
    await Ticket(titel="x", owner=team).insert()  # M19
    Ticket.find({"titel": "x"})  # M20
    Ticket.find({"title": {"$eqq": "x"}})  # M21
    Ticket.find("title = x")  # M22
    Ticket.find(Ticket.titel == "x")  # M23
    Ticket.find(Ticket.number == "x")  # M24
    Ticket.find(And(Ticket.number == "x", Ticket.title == "x"))  # M25
    Ticket.find(Ticket.number > "x")  # M26
    Ticket.find(RegEx(Ticket.number, "x"))  # M27
    Ticket.find(In(Ticket.kind, ["lost"]))  # M28
    Ticket.find(Ticket.owner.nmae == "x")  # M29
    Ticket.find().sort("titel")  # M30
    Ticket.find().sort(Ticket.titel)  # M31
    (await Ticket.find().aggregate([{"$group": {"_id": "$state"}}]).to_list())[0]["m"]  # M34
    (await Ticket.find().aggregate([], projection_model=ByState).to_list())[0].m  # M35
    print(t.team.name)  # M36
    await t.team  # M37
    (await t.fetch_link(Ticket.team)).name  # M38
    t.team = p  # M39
    Ticket.find_one().title  # M40
    await init_beanie(database=database, document_modles=[Ticket])  # M41
    await init_beanie(database="x", document_models=[Ticket])  # M42
    [m.nmae for m in group.tickets]  # M43
    [m.titel for m in group.tickets]  # M44
    await Ticket.model_validate(TicketValues(titel="x")).insert()  # M45


async def right(t: Ticket, team: Link[Team], group: Team, database: Any) -> None:
    Ticket.find(Ticket.number == 3)  # R1
    Ticket.find(Ticket.number > 3, Ticket.title == "x")  # R2
    Ticket.find(RegEx(Ticket.title, "x"))  # R3
    Ticket.find(In(Ticket.kind, ["new"]))  # R4
    Ticket.find(Ticket.owner.name == "x", fetch_links=True)  # R5
    Ticket.find().sort(-Ticket.number)  # R6
    await t.set({Ticket.title: "x"})  # R7
    t.owner = group  # R8
    Ticket(title="x", owner=group)  # R9
    [m.title for m in group.tickets]  # R10
