"""Delegation: the fields of another record, read, searched, created and written through this one."""

from __future__ import annotations

from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    Command,
    Email,
    FieldNotLoaded,
    Int,
    List,
    Many2one,
    NotFound,
    One2many,
    String,
    ValidationError,
)

from .conftest import Commands


class Partner(BaseModel):
    _name = "del.partner"
    name = String(required=True)
    email = Email(db_name="mail")
    tags = List(String())
    score = Int(default=0)

    def label(self) -> str:
        return self.name


class Member(BaseModel):
    _name = "del.member"
    _inherits = {"del.partner": "partner_id"}

    partner_id = Many2one(Partner, required=True)
    login = String(required=True, unique=True)
    name = String(related="partner_id.name")  # declared again, for type checkers
    score = Int()  # the member's own


async def ann() -> Member:
    return await Member.create({"login": "ann", "name": "Ann", "email": "a@b.co", "tags": ["x"]})


async def test_one_create_makes_both_records(app: App) -> None:
    member: Any = await ann()
    assert (member.name, member.email, member.tags) == ("Ann", "a@b.co", ["x"])
    partner = (await Partner.search())[0]
    assert (partner.name, partner.email, partner.score) == ("Ann", "a@b.co", 0)
    assert member.partner_id == partner
    stored = await app._backend.collection("del_member").find({})
    assert set(stored[0]) <= {"_id", "partner_id", "login", "score"}
    both: Any = await Member.create(
        [{"login": str(n), "name": f"N{n}", "score": n} for n in (1, 2)]
    )
    assert [(m.name, m.score) for m in both] == [("N1", 1), ("N2", 2)]
    assert await Partner.count() == 3


async def test_an_existing_record_is_taken_and_written(app: App) -> None:
    partner = await Partner.create({"name": "Old"})
    member: Any = await Member.create({"login": "a", "partner_id": partner, "email": "n@b.co"})
    assert await Partner.count() == 1 and member.name == "Old"
    assert (await Partner.get(partner.id)).email == "n@b.co"


async def test_nothing_is_written_where_either_part_is_refused(app: App) -> None:
    await ann()
    with pytest.raises(ValidationError) as caught:
        await Member.create([{"login": "b", "name": "B"}, {"email": "no", "name": "C"}])
    assert sorted(d["loc"] for d in caught.value.errors()) == [(1, "email"), (1, "login")]
    assert (await Partner.count(), await Member.count()) == (1, 1)
    with pytest.raises(ValidationError):
        await (await Member.search())[0].write({"login": 5, "name": "Other"})
    assert (await Partner.search())[0].name == "Ann"


async def test_both_are_written_in_one_transaction(server_app: App) -> None:
    await ann()
    with pytest.raises(ValidationError, match="login"):
        await Member.create({"login": "ann", "name": "Twice"})
    assert await Partner.count() == 1


async def test_fields_are_read_through_the_loaded_relation(app: App) -> None:
    await ann()
    member: Any = (await Member.search())[0]
    with pytest.raises(FieldNotLoaded, match=r"partner_id"):
        _ = member.name
    await member.partner_id
    assert (member.name, member.email) == ("Ann", "a@b.co")
    assert (await Member.search().prefetch("partner_id")).mapped("email") == ["a@b.co"]


async def test_only_of_a_delegated_field_fetches_the_link(app: App) -> None:
    await ann()
    member: Any = await Member.search().only("name").first()
    with pytest.raises(FieldNotLoaded, match=r"await record\.partner_id"):
        _ = member.name
    with pytest.raises(FieldNotLoaded, match="'login' to"):
        _ = member.login
    await member.partner_id
    assert member.name == "Ann"
    other: Any = await Member.search().only("email", "login").prefetch("partner_id").first()
    assert (other.email, other.login) == ("a@b.co", "ann")
    light: Any = await Member.search().only("login").prefetch("partner_id").first()
    assert light.partner_id.name == "Ann"


async def test_fields_are_searched_through_the_relation(app: App) -> None:
    await ann()
    await Member.create({"login": "bob", "name": "Bob"})
    assert (await Member.search([("name", "=", "Ann")])).mapped("login") == ["ann"]
    assert (await Member.search(Member.name.ilike("b"))).mapped("login") == ["bob"]
    assert await Member.search([("email", "=", "a@b.co"), ("login", "=", "ann")]).count() == 1


async def test_a_write_goes_to_each_its_own(commands: Commands) -> None:
    await ann()
    member: Any = (await Member.search().prefetch("partner_id"))[0]
    await member.write({"name": "Anna", "login": "anna", "score": 5})
    assert (member.name, member.login, member.score) == ("Anna", "anna", 5)
    commands.clear()
    await member.write({"login": "again"})
    assert len(commands.named("update")) == 1
    members = await Member.search()
    assert await members.write({"email": "new@b.co"}) == 1
    partner = (await Partner.search())[0]
    assert (partner.name, partner.email, partner.score) == ("Anna", "new@b.co", 0)


async def test_the_parent_stays_when_the_record_is_deleted(app: App) -> None:
    member = await ann()
    assert await member.unlink() == 1
    assert (await Partner.count(), await Member.count()) == (1, 0)


async def test_where_a_delegated_value_cannot_go_is_said(app: App) -> None:
    member: Any = await ann()
    for attempt in (
        Member.search().update({"email": "x@b.co"}),
        Member.write_many({member: {"email": "x@b.co"}}),
    ):
        with pytest.raises(ValidationError, match=r"belongs to the record of partner_id"):
            await attempt
    with pytest.raises(ValidationError, match=r"belongs to the record of partner_id"):
        member.email = "x@b.co"


def test_what_cannot_be_delegated_is_refused() -> None:
    with pytest.raises(TypeError, match=r"'del.partnr' has to be defined before.*del.partner"):
        type("A", (BaseModel,), {"_inherits": {"del.partnr": "partner_id"}})
    with pytest.raises(TypeError, match=r"'partner_id' is no Many2one to 'del.partner'"):
        type("B", (BaseModel,), {"_inherits": {"del.partner": "partner_id"}, "partner_id": Int()})


@pytest.mark.parametrize("values", [{}, {"name": "Ann"}])
async def test_ways_that_make_no_other_record_say_so_in_one_error(
    app: App, values: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError) as caught:
        await Member.create_many([{"login": "a", **values}, {"login": "b", **values}])
    errors = caught.value.errors()
    assert [(d["loc"], d["type"]) for d in errors] == [((0, "partner_id"), "missing")]
    assert "make no del.partner for a new record" in errors[0]["msg"]
    with pytest.raises(ValidationError) as caught:
        async with Member.bulk() as bulk:
            bulk.create({"login": "a", **values})
    assert [{**d, "loc": ()} for d in caught.value.errors()] == [{**errors[0], "loc": ()}]
    assert (await Partner.count(), await Member.count()) == (0, 0)


async def test_ways_that_make_no_other_record_take_one_that_is_stored(app: App) -> None:
    partner = await Partner.create({"name": "Ann"})
    await Member.create_many([{"login": "a", "partner_id": partner}])
    async with Member.bulk() as bulk:
        bulk.create({"login": "b", "partner_id": partner.id})
        bulk.create(Member(login="c", partner_id=partner))
    async with Member.bulk() as bulk:
        bulk.write(await Member.search(), {"score": 3})
    assert (await Member.search(order="login")).mapped("score") == [3, 3, 3]
    with pytest.raises(ValidationError, match="belongs to the record of partner_id"):
        await Member.create_many([{"login": "d", "partner_id": partner, "name": "New"}])
    assert await Partner.count() == 1


async def test_links_that_were_not_fetched_are_read_with_one_query(commands: Commands) -> None:
    for login in ("ann", "bob", "eve"):
        await Member.create({"login": login, "name": login})
    ids = (await Member.search(order="login")).ids
    commands.clear()
    assert await Member.browse(ids[:2]).write({"name": "New"}) == 2
    assert [len(commands.named(name)) for name in ("find", "update")] == [1, 1]
    assert (await Partner.search(order="name")).mapped("name") == ["New", "New", "eve"]
    member = (await Member.search([("login", "=", "eve")]).only("login"))[0]
    await member.write({"name": "Eve", "login": "EVE"})
    assert (await Member.search(order="login").prefetch("partner_id"))[0].name == "Eve"
    with pytest.raises(FieldNotLoaded):
        _ = member.partner_id  # the record itself is as it was


async def test_a_value_for_a_record_that_is_gone_is_refused(app: App) -> None:
    member = await ann()
    ghost = Member.browse([member.id])
    await member.unlink()
    with pytest.raises(NotFound):
        await ghost.write({"name": "New"})
    assert (await Partner.search())[0].name == "Ann"


class Club(BaseModel):
    _name = "del.club"

    guest_ids = One2many("del.guest", "club_id")


class Guest(BaseModel):
    _name = "del.guest"
    _inherits = {"del.partner": "partner_id"}

    partner_id = Many2one(Partner, required=True)
    club_id = Many2one(Club)


async def test_a_command_writes_a_delegated_value(app: App) -> None:
    club = await Club.create({"guest_ids": [Command.create({"name": "Ann"})]})
    guest = (await Guest.search())[0]
    await club.write({"guest_ids": [Command.update(guest.id, {"name": "Anna"})]})
    assert (await Partner.search()).mapped("name") == ["Anna"]


class Located(BaseModel):
    _abstract = True

    partner_id = Many2one(Partner, required=True)


class Shop(Located):
    _name = "del.shop"
    _inherits = {"del.partner": "partner_id"}


class Visit(Located):
    """Points at a partner and delegates nothing."""

    _name = "del.visit"


async def test_a_link_of_a_base_class_is_copied_where_the_class_delegates(app: App) -> None:
    shop = await Shop.create({"name": "High"})
    visit = await Visit.create({"partner_id": shop.partner_id})
    assert (await shop.copy()).partner_id != shop.partner_id
    assert (await visit.copy()).partner_id == shop.partner_id
    assert await Partner.count() == 2
