"""Fields in the place of their names: orders, projections, prefetches, groups, values and paths behind relations."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from earnorm import (
    App,
    BaseModel,
    Count,
    Domain,
    DomainError,
    Embedded,
    EmbeddedModel,
    FieldNotLoaded,
    Inc,
    Int,
    Many2one,
    One2many,
    String,
    Sum,
    ValidationError,
)


class ObjectPlace(EmbeddedModel):
    city = String()
    street = String()


class ObjectTeam(BaseModel):
    _name = "object.team"

    name = String(required=True)
    path = String()
    tickets = One2many(lambda: ObjectTicket, "team_id")


class ObjectTicket(BaseModel):
    _name = "object.ticket"

    title = String(required=True)
    number = Int(required=True, default=0)
    state = String(default="new")
    team_id = Many2one(ObjectTeam)
    place = Embedded(ObjectPlace)


class ByState(NamedTuple):
    state: str
    tickets: int
    total: int


Ticket, Team = ObjectTicket, ObjectTeam


async def written() -> None:
    team = await Team.create({"name": "Rowers", "path": "/r"})
    await Ticket.create(
        [
            {
                "title": f"t{n}",
                "number": n,
                "team_id": team if n % 2 else None,
                "place": {"city": f"c{n}"},
            }
            for n in range(4)
        ]
    )


async def test_a_field_means_its_name_wherever_a_name_is_taken(server_app: App) -> None:
    await written()
    pairs: list[tuple[Any, Any]] = [
        (Ticket.search(order=-Ticket.number), Ticket.search(order="-number")),
        (
            Ticket.search(order=[Ticket.team_id._.name, -Ticket.number]),
            Ticket.search(order="team_id.name,-number"),
        ),
        (Ticket.search().order(Ticket.number, "-title"), Ticket.search().order("number", "-title")),
    ]
    for given, named in pairs:
        assert given._order == named._order
        assert (await given).mapped(Ticket.title) == (await named).mapped("title")
    found = await Ticket.search(order=Ticket.number, only=[Ticket.title, Ticket.place.city])
    with pytest.raises(FieldNotLoaded):
        _ = found[0].number
    assert found.mapped(Ticket.place.city) == ["c0", "c1", "c2", "c3"]
    for query in (
        Ticket.search(prefetch=[Ticket.team_id]),
        Ticket.search().prefetch(Ticket.team_id),
        Ticket.search(prefetch=(Ticket.team_id,)),
    ):
        read = await query.order(Ticket.number)
        assert read.mapped(Ticket.team_id._.name) == ["Rowers"]
    teams = await Team.search().prefetch(Team.tickets, limit=1, order=-Ticket.number)
    assert teams[0].tickets.mapped("title") == ["t3"]


async def test_mapped_grouped_and_sorted_take_fields(app: App) -> None:
    await written()
    found = await Ticket.search(prefetch=[Ticket.team_id])
    assert found.sorted(-Ticket.number).mapped(Ticket.number) == [3, 2, 1, 0]
    assert found.sorted([Ticket.number]).mapped("number") == [0, 1, 2, 3]
    assert {key: len(of) for key, of in found.grouped(Ticket.state).items()} == {"new": 4}
    assert found.mapped(Ticket.team_id).mapped(Team.name) == ["Rowers"]
    # A field inside that is called as a method of fields means the field.
    assert found.mapped(Ticket.team_id._.path) == found.mapped("team_id.path")


async def test_values_are_made_of_fields(app: App) -> None:
    await written()
    [ticket] = await Ticket.search(Ticket.number == 1)
    await ticket.write(Ticket.title.to("new") | Ticket.number.to(Inc(5)) | Ticket.team_id.to(None))
    assert (ticket.title, ticket.number, ticket.team_id) == ("new", 6, None)
    await Ticket.search(Ticket.number == 0).update(Ticket.place.city.to("here"))
    assert await Ticket.search(Ticket.place.city == "here").count() == 1


async def test_rows_of_groups_become_what_is_asked_for(server_app: App) -> None:
    await written()
    rows = await Ticket.search().group(
        Ticket.state, tickets=Count(), total=Sum(Ticket.number), into=ByState
    )
    assert rows == [ByState("new", 4, 6)]
    paths = await Ticket.search().group(Ticket.team_id._.path, n=Count())
    assert paths == [{"team_id.path": None, "n": 2}, {"team_id.path": "/r", "n": 2}]
    with pytest.raises(ValidationError, match="ByState does not take a row"):
        await Ticket.search().group(Ticket.state, other=Count(), into=ByState)


class ObjectKept(BaseModel):
    _name = "object.kept"

    number = Int()

    @property
    def title(self) -> str:
        return f"{self.number}"


async def test_the_id_on_the_class_is_a_field_and_no_other_property_makes_a_condition(
    app: App,
) -> None:
    kept: Any = ObjectKept
    one, other = await ObjectKept.create([{"number": 1}, {"number": 2}])
    for field in (kept.id, kept.pk):
        assert await ObjectKept.count(field == one.id) == 1
        assert (await ObjectKept.search(field != one.pk)).ids == [other.id]
        assert (await ObjectKept.search(order=-field)).ids == [other.id, one.id]
    assert (one.id, one.pk) == (str(one.pk), one.__dict__["_id"])
    # Compared on the class, a property is no field: Python makes True or False of it.
    for use in (
        lambda: ObjectKept.search(kept.title != "1"),
        lambda: ObjectKept.search((kept.number > 0) & (kept.title != "1")),
        lambda: ObjectKept.search([]).where(kept.title == "1"),
        lambda: Domain([]) | (kept.is_stored != 1),
    ):
        with pytest.raises(DomainError, match="no field of the model"):
            use()
    assert await ObjectKept.search(kept.id != one.id).delete() == 1
    assert (await ObjectKept.search([])).ids == [one.id]
