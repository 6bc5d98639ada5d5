"""The planned mistakes of this folder, as programs with sqlmodel make them; ``# R`` is a right use. See ``__main__``."""

# ruff: noqa: B018, E711
# pyright: strict, reportUnusedExpression=false
from __future__ import annotations

from typing import Literal, NamedTuple, TypedDict

from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import selectinload
from sqlmodel import Field, Relationship, SQLModel, col, func, select
from sqlmodel.ext.asyncio.session import AsyncSession

State = Literal["new", "done"]


class Team(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str
    tickets: list[Ticket] = Relationship(back_populates="team")


class Ticket(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    title: str = Field(max_length=80)
    body: str | None = None
    state: State = "new"
    kind: State | None = None
    number: int = 0
    owner_id: int = Field(foreign_key="team.id")
    team_id: int | None = Field(default=None, foreign_key="team.id")
    team: Team | None = Relationship(back_populates="tickets")

    @property
    def size(self) -> int:
        return len(self.title)


class Person(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str


class TicketValues(TypedDict, total=False):
    title: str


class ByState(NamedTuple):
    state: str
    n: int


async def mistakes(t: Ticket, team: Team, p: Person, s: AsyncSession) -> None:
    print(t.titel)  # M01
    t.titel = "x"  # M02
    t.title = 5  # M03
    t.title = None  # M04
    t.kind = "lost"  # M05
    t.state = "lost"  # M06
    t.size = 3  # M07
    Ticket(titel="x", owner_id=1)  # M08
    Ticket(title=5, owner_id=1)  # M09
    Ticket(title=None, owner_id=1)  # M10
    Ticket(title="x")  # M11
    Ticket(title="x", owner_id=1, kind="lost")  # M12
    Ticket(title="x", owner_id=1, size=3)  # M13
    t.sqlmodel_update({"titel": "x"})  # M14
    t.sqlmodel_update({"title": 5})  # M15
    Ticket.model_validate({"titel": "x"})  # M18
    s.add(Ticket(titel="x", owner_id=1))  # M19
    select(Ticket).where("title = x")  # M22
    select(Ticket).where(Ticket.titel == "x")  # M23
    select(Ticket).where(Ticket.number == "x")  # M24
    select(Ticket).where((Ticket.number == "x") & (Ticket.title == "x"))  # M25
    select(Ticket).where(Ticket.number > "x")  # M26
    select(Ticket).where(col(Ticket.number).ilike("x"))  # M27
    select(Ticket).where(col(Ticket.kind).in_(["lost"]))  # M28
    select(Ticket).join(Team).where(Team.nmae == "x")  # M29
    select(Ticket).order_by("titel")  # M30
    select(Ticket).order_by(Ticket.titel)  # M31
    (await s.exec(select(Ticket.title))).one().upperr()  # M33
    (await s.exec(select(Ticket.state, func.count()))).one().m  # M35
    print(t.team.name)  # M36
    await t.team  # M37
    t.team = p  # M39
    s.exec(select(Ticket)).one()  # M40
    create_async_engine("x", pol_size=3)  # M41
    create_async_engine("x", pool_size="3")  # M42
    [m.nmae for m in team.tickets]  # M43
    [m.titel for m in team.tickets]  # M44
    Ticket.model_validate(TicketValues(titel="x"))  # M45


async def right(t: Ticket, team: Team, s: AsyncSession) -> None:
    select(Ticket).where(Ticket.number == 3)  # R1
    select(Ticket).where(Ticket.number > 3, Ticket.title == "x")  # R2
    select(Ticket).where(col(Ticket.title).ilike("x"))  # R3
    select(Ticket).where(col(Ticket.kind).in_(["new"]))  # R4
    select(Ticket).where(Ticket.kind == None)  # R5
    select(Ticket).order_by(-Ticket.number)  # R6
    select(Ticket).order_by(Ticket.title)  # R7
    select(Ticket).options(selectinload(Ticket.team))  # R8
    Ticket(title="x", owner_id=1)  # R9
