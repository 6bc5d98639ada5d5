"""The types of bodies that are declared as classes."""

from __future__ import annotations

from typing import Any, assert_type

import pydantic

from earnorm import BaseModel, Body, EmbeddedModel, Int, Many2one, String


class Place(EmbeddedModel):
    city = String(required=True)


class Team(BaseModel):
    name = String(required=True)


class Ticket(BaseModel):
    title = String(required=True)
    number = Int()
    team_id = Many2one(Team)


class Api(Body, extra="forbid"):
    """A base with settings."""


class PlaceIn(Body, of=Place):
    city: str


class TeamOut(Body, of=Team):
    name: str


class TicketIn(Api, of=Ticket, exclude={"id"}):
    title: str
    password: str = pydantic.Field()


class TicketPatch(Body, of=Ticket, partial=True):
    title: str | None = None


class TicketOut(Body, of=Ticket, include=["id", "team_id"]):
    id: str
    team_id: TeamOut | None


async def bodies(ticket: Ticket) -> None:
    body = TicketIn.model_validate({"title": "x", "number": 1, "password": "y"})
    assert_type(body, TicketIn)
    assert_type(body.title, str)
    assert_type(body.password, str)
    assert_type(body.number, Any)
    assert_type(body.to_values(), dict[str, Any])
    assert_type(await Ticket.create(body.to_values()), Ticket)
    assert_type(TicketPatch().title, str | None)
    assert_type(TicketIn(title="x", password="y"), TicketIn)
    team = TicketOut.model_validate(ticket).team_id
    assert_type(team, TeamOut | None)
