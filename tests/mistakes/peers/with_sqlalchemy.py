"""The planned mistakes of this folder, as programs with sqlalchemy make them; ``# R`` is a right use. See ``__main__``."""

# ruff: noqa: B018, E711
# pyright: strict, reportUnusedExpression=false
from __future__ import annotations

from typing import Literal, NamedTuple, TypedDict

from sqlalchemy import ForeignKey, String, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column, relationship

State = Literal["new", "done"]


class Base(MappedAsDataclass, DeclarativeBase, kw_only=True):
    pass


class Team(Base):
    __tablename__ = "team"
    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    name: Mapped[str]
    tickets: Mapped[list[Ticket]] = relationship(back_populates="team", init=False)


class Ticket(Base):
    __tablename__ = "ticket"
    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    title: Mapped[str] = mapped_column(String(80))
    owner_id: Mapped[int] = mapped_column(ForeignKey("team.id"))
    body: Mapped[str | None] = mapped_column(default=None)
    state: Mapped[State] = mapped_column(default="new")
    kind: Mapped[State | None] = mapped_column(default=None)
    number: Mapped[int] = mapped_column(default=0)
    team_id: Mapped[int | None] = mapped_column(ForeignKey("team.id"), default=None)
    team: Mapped[Team | None] = relationship(back_populates="tickets", default=None)

    @property
    def size(self) -> int:
        return len(self.title)


class Person(Base):
    __tablename__ = "person"
    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    name: Mapped[str]


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
    update(Ticket).values({"titel": "x"})  # M14
    update(Ticket).values({"title": 5})  # M15
    update(Ticket).values({Ticket.titel: "x"})  # M16
    update(Ticket).values({Ticket.title: 5})  # M17
    insert(Ticket).values({"titel": "x"})  # M18
    s.add(Ticket(titel="x", owner_id=1))  # M19
    select(Ticket).where("title = x")  # M22
    select(Ticket).where(Ticket.titel == "x")  # M23
    select(Ticket).where(Ticket.number == "x")  # M24
    select(Ticket).where((Ticket.number == "x") & (Ticket.title == "x"))  # M25
    select(Ticket).where(Ticket.number > "x")  # M26
    select(Ticket).where(Ticket.number.ilike("x"))  # M27
    select(Ticket).where(Ticket.kind.in_(["lost"]))  # M28
    select(Ticket).join(Ticket.team).where(Team.nmae == "x")  # M29
    select(Ticket).order_by("titel")  # M30
    select(Ticket).order_by(Ticket.titel)  # M31
    (await s.scalars(select(Ticket.title))).one().upperr()  # M33
    (await s.execute(select(Ticket.state, func.count()))).one().m  # M35
    print(t.team.name)  # M36
    await t.team  # M37
    t.team = p  # M39
    s.scalars(select(Ticket)).one()  # M40
    create_async_engine("x", pol_size=3)  # M41
    create_async_engine("x", pool_size="3")  # M42
    [m.nmae for m in team.tickets]  # M43
    [m.titel for m in team.tickets]  # M44
    insert(Ticket).values(TicketValues(titel="x"))  # M45


async def right(t: Ticket, team: Team, s: AsyncSession) -> None:
    select(Ticket).where(Ticket.number == 3)  # R1
    select(Ticket).where(Ticket.number > 3, Ticket.title == "x")  # R2
    select(Ticket).where(Ticket.title.ilike("x"))  # R3
    select(Ticket).where(Ticket.kind.in_(["new"]))  # R4
    select(Ticket).where(Ticket.kind == None)  # R5
    select(Ticket).order_by(-Ticket.number, Ticket.title)  # R6
    t.team = team  # R8
    Ticket(title="x", owner_id=1)  # R9
