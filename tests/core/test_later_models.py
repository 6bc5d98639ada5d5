"""Relations to models that are defined later: a function that returns the class, for people and for type checkers."""

from __future__ import annotations

from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    ConfigurationError,
    Many2many,
    Many2one,
    One2many,
    String,
)


class LaterTeam(BaseModel):
    _name = "later.team"

    name = String(required=True)
    tickets = One2many(lambda: LaterTicket, "team_id")
    watched = Many2many(lambda: LaterTicket)


class LaterTicket(BaseModel):
    _name = "later.ticket"

    title = String(required=True)
    team_id = Many2one(LaterTeam)
    parent_id = Many2one(lambda: LaterTicket)


async def test_a_function_names_the_model_as_its_class_does(app: App) -> None:
    team = await LaterTeam.create({"name": "Rowers"})
    first = await LaterTicket.create({"title": "first", "team_id": team})
    second = await LaterTicket.create({"title": "second", "team_id": team, "parent_id": first.id})
    await team.write({"watched": [first]})

    read = await LaterTeam.search(prefetch=["tickets", "watched"])
    assert [t.title for t in read[0].tickets] == ["first", "second"]
    assert read[0].watched.ids == [first.id]
    assert (await LaterTicket.search(LaterTicket.parent_id.title == "first")).ids == [second.id]
    assert LaterTicket.parent_id.comodel_name == "later.ticket"


def missing() -> Any:
    return Nowhere  # type: ignore[name-defined]  # noqa: F821  that is the fault


def other() -> Any:
    return str


@pytest.mark.parametrize("given", [missing, other])
def test_a_function_that_returns_no_model_is_named(given: Any) -> None:
    field = Many2one[Any](given)
    with pytest.raises(ConfigurationError, match=r"Nowhere|which is no model"):
        _ = field.comodel


def test_what_is_neither_is_refused() -> None:
    with pytest.raises(TypeError, match="a model, its name or a function"):
        Many2one(3)  # type: ignore[arg-type]  # that is the fault
