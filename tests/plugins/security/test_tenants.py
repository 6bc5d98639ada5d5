"""Tenants: filled in, and enforced on reading, writing, links, unique values and numbers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import earnorm
from earnorm import (
    AccessDenied,
    App,
    Command,
    ConfigurationError,
    DuplicateKey,
    Env,
    Index,
    Int,
    Many2many,
    Many2one,
    NotFound,
    One2many,
    Principal,
    Reference,
    Sequence,
    String,
    Sum,
    ValidationError,
    act_as,
    models,
    system,
    transaction,
    transactional,
)
from earnorm.plugin import Operation, current_env
from earnorm.testing import Factory, make
from earnorm_security import Access, Rule, Security, why

from .conftest import Opener


class Company(models.BaseModel):
    _name = "tenants.company"
    name = String(required=True)


class User(models.BaseModel):
    _name = "tenants.user"
    login = String(required=True)
    company_id = Many2one(Company)
    company_ids = Many2many(Company)


class Partner(models.BaseModel):
    _name = "tenants.partner"
    _tenant_field = "company_id"
    _across_tenants = ["login", "friend_id", ("country", "vat")]
    _indexes = [
        Index("country", "vat", unique=True, sparse=True),
        Index("name", "town", unique=True),
    ]
    company_id = Many2one(Company)
    name = String(required=True)
    town = String(default="")
    code = String(unique=True)
    login = String(unique=True)
    country = String()
    vat = String()
    friend_id = Many2one("tenants.partner")
    orders = One2many("tenants.order", "partner_id")


class Order(models.BaseModel):
    _name = "tenants.order"
    _tenant_field = "company_id"
    company_id = Many2one(Company)
    number = Sequence("O-{number:03}", unique=True)
    partner_id = Many2one(Partner)
    others = Many2many(Partner)
    about = Reference(Partner, "tenants.tag")
    amount = Int(default=0)
    partner_name = String(related="partner_id.name", store=True)
    company_name = String(related="company_id.name", store=True)


class Tag(models.BaseModel):
    _name = "tenants.tag"
    _tenant_field = "company_id"
    _tenant_shared = True
    company_id = Many2one(Company)
    name = String(required=True, unique=True)
    partner_id = Many2one(Partner)


class Receipt(models.BaseModel):
    _name = "tenants.receipt"
    _tenant_field = "company_id"
    company_id = Many2one(Company)
    number = Sequence("{number}", gap_free=True, unique=True)


class World:
    """Two companies, and who works in them."""

    def __init__(self, app: App, companies: list[Company]) -> None:
        self.app = app
        self.a, self.b = companies
        self.ann = Principal("ann", attributes={"company_id": self.a.pk})
        self.bob = Principal("bob", attributes={"company_id": self.b.id})
        both = {"company_ids": [self.a.pk, self.b.id]}
        self.eve = Principal("eve", attributes={"company_id": self.a.pk, **both})
        self.max = Principal("max", attributes=both)


@pytest.fixture
async def world(opened: Opener) -> AsyncIterator[World]:
    async with opened() as app:
        with system(reason="the companies"):
            companies = list(await Company.create([{"name": "A"}, {"name": "B"}]))
        yield World(app, companies)


@contextmanager
def refused(error: type[Exception], text: str) -> Iterator[None]:
    with pytest.raises(error, match=text):
        yield


# -- made for a test ------------------------------------------------------------------------------


class Document(models.BaseModel):
    _name = "tenants.document"
    _tenant_field = "company_id"
    company_id = Many2one(Company, required=True)
    text = String(required=True)


class Page(models.BaseModel):
    _name = "tenants.page"
    _tenant_field = "company_id"
    company_id = Many2one(Company, required=True)
    document_id = Many2one(Document, required=True)


async def test_what_is_made_for_a_test_belongs_to_the_tenant_of_who_acts(world: World) -> None:
    with act_as(world.bob):
        document = await make(Document)
        pages = await Factory(Page).create(2)
    assert document.company_id.pk == world.b.pk
    with system(reason="look"):
        assert {page.company_id.pk for page in pages} == {world.b.pk}
        documents = await Document.search()
        assert {each.company_id.pk for each in documents} == {world.b.pk}
        assert await Company.count() == 2
        # The system works in no company, so one is made.
        assert (await make(Document)).company_id.pk not in (world.a.pk, world.b.pk)
    with act_as(world.ann), refused(AccessDenied, "create on model 'tenants.document' is denied"):
        await make(Document, company_id=world.b.pk)
    with act_as(world.max), refused(ValidationError, "say which"):
        await make(Document)
    with refused(AccessDenied, "nobody acts"):
        await make(Document)


# -- filled in ------------------------------------------------------------------------------------


async def test_new_records_get_the_tenant_in_which_who_acts_works(world: World) -> None:
    with act_as(world.ann):
        one = await Partner.create({"name": "one"})
        two = await Partner(name="two").save()
        async with Partner.bulk() as bulk:
            three = bulk.create({"name": "three"})
        await Partner.create_many([{"name": "four"}])
        five, _ = await Partner.upsert({"code": "5", "name": "five"}, "code")
        six = await one.copy({"name": "six"})
        order = await Order.create({})
        assert [p.company_id.pk for p in (one, two, three, five, six, order)] == [world.a.pk] * 6
        assert await Partner.count([("company_id", "=", world.a)]) == 6
        assert order.company_name == "A"  # what is filled in is computed with
    with system(reason="look"):
        assert await Partner.count([("company_id", "!=", world.a)]) == 0


async def test_who_has_several_says_which_or_works_in_one(world: World) -> None:
    with act_as(world.eve):
        assert (await Partner.create({"name": "1"})).company_id.pk == world.a.pk
        assert (
            await Partner.create({"name": "2", "company_id": world.b})
        ).company_id.pk == world.b.pk
    with act_as(world.max):
        with pytest.raises(ValidationError) as caught:
            await Partner.create([{"name": "3", "company_id": world.b.id}, {"name": "4"}])
        (detail,) = caught.value.errors()
        assert detail["loc"] == (1, "company_id") and detail["type"] == "tenant"
        assert "act_as(..., company_id=...)" in detail["msg"]
        with refused(ValidationError, "works in none of them"):
            await Partner.upsert({"code": "c", "name": "c"}, "code")
    for chosen in (world.b, world.b.pk, world.b.id):
        with act_as(world.max, company_id=chosen):
            partner = await Partner.create({"name": str(type(chosen))})
            assert partner.company_id.pk == world.b.pk
            assert set((await Partner.search()).mapped("company_id.pk")) == {world.b.pk}
    assert world.app


async def test_a_record_of_your_own_user_model_has_its_tenants(world: World) -> None:
    with system(reason="the users"):
        user = await User.create(
            {"login": "u", "company_id": world.a, "company_ids": [world.a, world.b]}
        )
        user = await User.get(user.id)
    with act_as(user):
        assert (await Partner.create({"name": "1"})).company_id.pk == world.a.pk
        assert await Partner.create({"name": "2", "company_id": world.b})
    with act_as(user, company_id=world.b.id):
        assert await Partner.count() == 1


async def test_without_a_tenant_nothing_is_visible_and_nothing_can_be_created(world: World) -> None:
    with system(reason="one"):
        await Partner.create({"name": "1", "company_id": world.a})
        await Tag.create([{"name": "shared"}, {"name": "own", "company_id": world.a}])
    for who in (None, "ann", Principal("x", attributes={"company_ids": []})):
        with act_as(who) if who is not None else nobody():
            assert await Partner.count() == await Tag.count() == 0
            for create in (
                lambda: Partner.create({"name": "2"}),
                lambda: Partner.create({"name": "2", "company_id": world.a.id}),
                lambda: Partner.upsert({"code": "2", "name": "2"}, "code"),
            ):
                with refused(AccessDenied, "denied"):
                    await create()
            with refused(
                AccessDenied,
                "each record belongs to a company_id, and (nobody acts|who acts has none)",
            ):
                await Partner.create({"name": "2"})


@contextmanager
def nobody() -> Iterator[None]:
    yield


async def test_a_chosen_tenant_is_one_of_the_own(world: World) -> None:
    for chosen in (world.b, world.b.id, "nonsense", 7, {"$ne": None}, ["x"]):
        with act_as(world.ann, company_id=chosen):
            for ask in (Partner.count, lambda: Partner.create({"name": "1"})):
                with refused(AccessDenied, "none of the principal's"):
                    await ask()
    hostile = Principal("p", attributes={"company_ids": [{"$ne": None}]})
    with act_as(hostile), refused(ConfigurationError, "no value of the field"):
        await Partner.count()


async def test_system_says_whose_record_it_is(world: World) -> None:
    with act_as(world.ann), system(reason="import"):
        with pytest.raises(ValidationError) as caught:
            await Partner.create([{"name": "1", "company_id": world.b}, {"name": "2"}])
        assert caught.value.errors()[0]["loc"] == (1, "company_id")
        with refused(ValidationError, "a value is required"):
            await Partner.upsert({"code": "1", "name": "1"}, "code")
        await Partner.upsert({"code": "1", "name": "1", "company_id": world.b}, "code")
        assert (await Tag.create({"name": "shared"})).company_id is None
        assert await Partner.count() == 1


# -- reading and writing --------------------------------------------------------------------------


async def filled(world: World) -> dict[str, Any]:
    with system(reason="fill"):
        records: dict[str, Any] = {}
        for name, company in (("a", world.a), ("b", world.b)):
            records[f"p{name}"] = await Partner.create({"name": name, "company_id": company})
            records[f"o{name}"] = await Order.create(
                {"company_id": company, "partner_id": records[f"p{name}"], "amount": 5}
            )
        records["shared"] = await Tag.create({"name": "shared"})
        records["ta"] = await Tag.create({"name": "ta", "company_id": world.a})
        records["tb"] = await Tag.create({"name": "tb", "company_id": world.b})
    return records


async def test_each_way_of_reading_shows_the_own_tenants_only(world: World) -> None:
    known = await filled(world)
    with act_as(world.ann):
        assert (await Partner.search()).mapped("name") == ["a"]
        assert await Partner.count() == 1
        assert await Order.search().group(total=Sum("amount")) == [{"total": 5}]
        assert [row["n"] for row in await Order.search().aggregate([{"$count": "n"}])] == [1]
        joined = await Order.search().aggregate(
            [{"$lookup": {"from": "tenants.partner", "pipeline": [], "as": "all"}}]
        )
        assert [[partner["name"] for partner in row["all"]] for row in joined] == [["a"]]
        assert await Order.count([("partner_id.name", "=", "b")]) == 0
        assert [p.name async for p in Partner.search()] == ["a"]
        with pytest.raises(NotFound):
            await Partner.get(known["pb"].id)
        assert (await Tag.search(order="name")).mapped("name") == ["shared", "ta"]
    with act_as(world.eve):
        assert await Partner.count() == 2


async def test_what_is_hidden_is_neither_written_nor_deleted(world: World) -> None:
    known = await filled(world)
    with act_as(world.ann):
        for record in (known["pb"], known["tb"]):
            with pytest.raises((NotFound, AccessDenied)):
                await record.write({"name": "x"})
        assert await Partner.search().update({"town": "x"}) == 1
        assert await Partner.search([("name", "=", "b")]).delete() == 0
        with refused(AccessDenied, "_tenant_field"):
            await Partner.create({"name": "z", "company_id": world.b})
        # What all share is read by all, and changed by the system.
        for change in (known["shared"].write({"name": "x"}), known["shared"].unlink()):
            with refused(AccessDenied, "_tenant_field"):
                await change
    with system(reason="look"):
        assert {(p.name, p.town) for p in await Partner.search()} == {("a", "x"), ("b", "")}


async def test_a_record_keeps_its_tenant(world: World) -> None:
    known = await filled(world)
    with act_as(world.eve):  # both are her own
        partner = await Partner.get(known["pa"].id)
        moves = [
            lambda: partner.write({"company_id": world.b}),
            lambda: partner.write({"company_id": None}),
            lambda: Partner.search().update({"company_id": world.b}),
            lambda: Partner.write_many({partner: {"company_id": world.b}}),
        ]
        for move in moves:
            with refused(AccessDenied, "_tenant_field|keeps its company_id"):
                await move()
        partner.company_id = world.b
        with refused(AccessDenied, "keeps its company_id"):
            await partner.save()
        # A form that sends all of its values changes none.
        other = await Partner.get(known["pa"].id)
        assert await other.write({"company_id": world.a, "name": "a2"})
        assert (
            await Partner.search([("name", "=", "a2")]).update({"company_id": world.a, "town": "t"})
            == 1
        )
    with system(reason="a company was sold"):
        await other.write({"company_id": world.b})
    with act_as(world.ann):
        assert await Partner.count() == 0


# -- links ----------------------------------------------------------------------------------------


async def test_a_link_leads_to_a_record_of_the_same_tenant(world: World) -> None:
    known = await filled(world)
    pb, tb, shared = known["pb"], known["tb"], known["shared"]
    with act_as(world.ann):
        for values in ({"partner_id": pb.id}, {"others": [pb.id]}, {"about": pb}):
            with refused(ValidationError, "no such record"):
                await Order.create(values)
    for env in (act_as(world.eve), system(reason="an import")):
        with env:
            wrong = [
                {"partner_id": pb},
                {"others": [known["pa"], pb]},
                {"about": pb},
                {"about": tb},
            ]
            for values in wrong:
                with pytest.raises(ValidationError) as caught:
                    await Order.create({"company_id": world.a, **values})
                assert [d["type"] for d in caught.value.errors()] == ["other_tenant"]
                order = await Order.get(known["oa"].id)
                with refused(ValidationError, "another company_id"):
                    await order.write(values)
                with refused(ValidationError, "another company_id"):
                    await Order.search([("id", "=", order.id)]).update(values)
            with refused(ValidationError, "another company_id"):  # one of them would
                await Order.search().update({"partner_id": pb})
            assert (
                await Order.search([("company_id", "=", world.b)]).update({"partner_id": pb}) >= 1
            )
            assert await Order.create({"company_id": world.b, "partner_id": pb, "about": shared})
            # Where it is listed, a link may lead to another tenant's record.
            assert await Partner.create(
                {
                    "company_id": world.a,
                    "name": f"friend of {current_env().system}",
                    "friend_id": pb,
                }
            )
    with act_as(world.ann), refused(ValidationError, "no such record"):
        await Partner.create({"name": "f", "friend_id": pb.id})


async def test_what_is_shared_links_to_what_is_shared(world: World) -> None:
    known = await filled(world)
    with system(reason="master data"):
        with refused(ValidationError, "another company_id"):
            await Tag.create({"name": "x", "partner_id": known["pa"]})
        with refused(ValidationError, "another company_id"):
            await known["shared"].write({"partner_id": known["pa"]})
        assert await known["ta"].write({"partner_id": known["pa"]})


async def test_records_that_are_made_together_link_to_each_other(world: World) -> None:
    with act_as(world.eve):
        partner = await Partner.create(
            {"name": "p", "orders": [earnorm.Command.create({"amount": 1})]}
        )
        assert await Order.count([("partner_id", "=", partner.id)]) == 1
    with act_as(world.eve, company_id=world.b):
        partner = await Partner.create(
            {"name": "q", "orders": [earnorm.Command.create({"amount": 1})]}
        )
        (order,) = await Order.search([("partner_id", "=", partner.id)])
        assert order.company_id.pk == world.b.pk and order.number == "O-001"
    with act_as(world.eve):
        with refused(ValidationError, "another company_id"):
            await Partner.create(
                {
                    "name": "r",
                    "company_id": world.b,
                    "orders": [earnorm.Command.create({"amount": 1, "company_id": world.a})],
                }
            )
        assert await Partner.count([("name", "=", "r")]) == 0
        async with Order.bulk() as bulk:
            bulk.create({"partner_id": (await Partner.search([("name", "=", "p")]))[0]})


async def test_a_principal_of_one_tenant_pays_nothing_more_for_its_links(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = await filled(world)
    sent: list[Operation] = []
    execute = App.execute

    async def noting(self: App, op: Operation) -> Any:
        sent.append(op)
        return await execute(self, op)

    monkeypatch.setattr(App, "execute", noting)
    with act_as(world.ann):
        await Order.create({"partner_id": known["pa"]})
        assert [op.env.reason for op in sent if "the tenants of" in op.env.reason] == []
    with act_as(world.eve):
        await Order.create({"partner_id": known["pa"]})
        assert len([op for op in sent if "the tenants of" in op.env.reason]) == 1


# -- unique values and numbers --------------------------------------------------------------------


async def test_unique_values_are_those_of_the_tenant(world: World) -> None:
    with act_as(world.ann):
        await Partner.create(
            {"name": "x", "code": "1", "login": "ann", "country": "fr", "vat": "1"}
        )
    with act_as(world.bob):
        await Partner.create({"name": "x", "code": "1"})
        with pytest.raises(DuplicateKey):
            await Partner.create({"name": "y", "code": "1"})
        with pytest.raises(DuplicateKey):
            await Partner.create({"name": "x"})
        for values in ({"login": "ann"}, {"country": "fr", "vat": "1"}):  # said to be across
            with pytest.raises(DuplicateKey):
                await Partner.create({"name": "z", **values})
    (diff,) = await world.app.indexes.diff([Partner])
    assert diff.is_in_step
    assert {tuple(key for key, _ in spec.keys) for spec in diff.ok} == {
        *(("company_id", "code"), ("company_id", "name", "town"), ("login",), ("country", "vat")),
    }


async def test_an_upsert_finds_the_record_of_the_tenant_in_which_who_acts_works(
    world: World,
) -> None:
    for who, town in ((world.ann, "a"), (world.bob, "b"), (world.eve, "e")):
        with act_as(who):
            await Partner.upsert({"code": "1", "name": "n", "town": town}, "code")
    with act_as(world.eve, company_id=world.b):
        partner, is_new = await Partner.upsert({"code": "1", "name": "n", "town": "eb"}, "code")
        assert not is_new and partner.company_id.pk == world.b.pk
        _partners, created = await Partner.upsert_many(
            [{"code": "1", "name": "m"}, {"code": "2", "name": "k"}], "code"
        )
        assert created == 1
    with system(reason="look"):
        found = {(p.company_id.pk, p.code, p.name, p.town) for p in await Partner.search()}
    assert found == {
        *((world.a.pk, "1", "n", "e"), (world.b.pk, "1", "m", "eb"), (world.b.pk, "2", "k", "")),
    }


async def test_each_tenant_has_its_own_numbers(world: World) -> None:
    for who, numbers in ((world.ann, ["O-001", "O-002"]), (world.bob, ["O-001", "O-002"])):
        with act_as(who):
            assert [o.number for o in await Order.create([{}, {}])] == numbers
    with act_as(world.eve):
        orders = await Order.create([{}, {"company_id": world.b}])
        assert [order.number for order in orders] == ["O-003", "O-003"]


async def test_no_tenant_has_a_gap_in_its_numbers(world: World) -> None:
    @transactional(retries=100)
    async def issue(number: int) -> None:
        with act_as(world.ann if number % 2 else world.bob):
            await Receipt.create({})
            if number % 3 == 0:
                raise ZeroDivisionError

    await asyncio.gather(*map(issue, range(16)), return_exceptions=True)
    with system(reason="look"):
        for company in (world.a, world.b):
            receipts = await Receipt.search([("company_id", "=", company)])
            numbers = sorted(int(receipt.number) for receipt in receipts)
            assert numbers == list(range(1, len(numbers) + 1)) and numbers


# -- declarations ---------------------------------------------------------------------------------


class Animal(models.BaseModel):
    _name = "tenants.animal"
    _discriminator = "kind"
    _tenant_field = "company_id"
    company_id = Many2one(Company)
    kind = String()
    tag = Sequence(unique=True)
    name = String(unique=True)


class Cat(Animal):
    _name = "tenants.cat"
    lives = Int(unique=True)
    chip = String(required=True, unique=True)
    prey_id = Many2one(Animal)


async def test_the_classes_of_a_family_have_the_tenants_of_their_root(world: World) -> None:
    with act_as(world.ann):
        cat = await Cat.create({"chip": "1", "lives": 9, "name": "c"})
        animal = await Animal.create({"name": "d"})
        assert [cat.tag, animal.tag] == ["1", "2"]
    with act_as(world.bob):
        other = await Cat.create({"chip": "1", "lives": 9, "name": "c"})
        assert other.tag == "1" and await Animal.create({"name": "d"})
        assert await Animal.create({"name": "e"})  # without a chip, as another one is
        with pytest.raises(DuplicateKey):
            await Cat.create({"chip": "1"})
        assert await Animal.count() == 3 and await Cat.count() == 1
        with pytest.raises((NotFound, AccessDenied)):
            await cat.write({"name": "x"})
        assert await Animal.search().update({"name": None}) == 3
    with act_as(world.eve):
        with refused(ValidationError, "another company_id"):
            await (await Animal.get(cat.id)).write({"prey_id": other})
        with refused(AccessDenied, "keeps its company_id|_tenant_field"):
            await Animal.search([("id", "=", cat.id)]).update({"company_id": world.b})


class PlainAnimal(models.BaseModel):
    _name = "tenants.plain_animal"
    _discriminator = "kind"
    company_id = Many2one(Company)
    kind = String()


class OwnAnimal(PlainAnimal):
    _name = "tenants.own_animal"
    _tenant_field = "company_id"


async def test_the_root_of_a_family_says_it_for_all(opened: Opener) -> None:
    async with opened():
        with refused(ConfigurationError, "the root of a family says it for all"):
            await OwnAnimal.count()


class Base(models.BaseModel):
    _abstract = True
    _tenant_field = "shop"
    shop = Int()


class Till(Base):
    _name = "tenants.till"
    name = String(unique=True)


class Register(Base):
    _name = "tenants.register"
    till_id = Many2one(Till)
    partner_id = Many2one(Partner)  # it has other tenants, so nothing has to agree


async def test_a_plain_value_may_be_the_tenant_and_a_base_may_say_it(world: World) -> None:
    attributes = {"shop": 1, "company_id": world.a.pk}
    with act_as(Principal("ann", attributes=attributes)):
        till = await Till.create({"name": "t"})
        partner = await Partner.create({"name": "p"})
        assert (await Register.create({"till_id": till, "partner_id": partner})).shop == 1
    wrong = Principal("bob", attributes={"shops": [True, 2]})
    with act_as(wrong), refused(ConfigurationError, "no value of the field"):
        await Till.count()
    with act_as(Principal("bob", attributes={"shops": [2]})):
        assert await Till.count() == 0 and await Till.create({"name": "t"})


class Plain(models.BaseModel):
    _name = "tenants.plain"
    company_id = Many2one(Company)
    name = String(unique=True)


class PlainOfTenants(models.BaseModel):
    _inherit = "tenants.plain"
    _tenant_field = "company_id"


class Extending:
    api = 1
    name = "extending_tenants"

    @earnorm.hookimpl
    def register_models(self) -> list[type[models.BaseModel]]:
        return [PlainOfTenants]


async def test_an_extension_may_give_tenants_to_a_model(opened: Opener) -> None:
    async with opened(plugins=(Extending(),)) as app:
        with system(reason="the companies"):
            company = await Company.create({"name": "a"})
        with act_as(Principal("ann", attributes={"company_id": company})):
            assert (await Plain.create({"name": "a"})).company_id.pk == company.pk
        assert await Plain.count() == 0
        (diff,) = await app.indexes.diff([Plain])
        assert [spec.name for spec in diff.ok] == ["company_id_1_name_1"]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"_tenant_field": "compny_id"}, "does not exist"),
        ({"_tenant_field": "total"}, "is computed"),
        ({"_tenant_field": "companies"}, "is a Many2many"),
        ({"_tenant_shared": True}, "_tenant_field = "),
        ({"_across_tenants": ["name"]}, "_tenant_field = "),
        ({"_tenant_field": "company_id", "_across_tenants": [3]}, "paths of fields"),
        ({"_tenant_field": "company_id", "_across_tenants": ["nme"]}, "did you mean 'name'"),
        ({"_tenant_field": 3}, "is of the type str"),
        ({"_tenant_feld": "company_id"}, "did you mean '_tenant_field'"),
        ({"_tenant_field": "name", "_options": {"collation": {"locale": "fr"}}}, "collation"),
    ],
)
async def test_a_mistake_in_a_declaration_stops_the_model(
    opened: Opener, body: dict[str, Any], problem: str
) -> None:
    class Wrong(models.BaseModel):
        _name = "tenants.wrong"
        locals().update(body)
        company_id = Many2one(Company)
        companies = Many2many(Company)
        name = String()
        total = String(related="company_id.name", store=True)

    async with opened():
        with refused(ConfigurationError, problem):
            await Wrong.count()
    earnorm.forget(Wrong)


async def test_a_model_with_tenants_is_refused_where_the_plugin_is_disabled(opened: Opener) -> None:
    from earnorm_security import SecurityPlugin

    async with App("mongomock://", database="t", plugins=[SecurityPlugin], disabled=["security"]):
        with refused(ConfigurationError, "_tenant_field"):
            await Partner.count()


# -- told -----------------------------------------------------------------------------------------


async def test_reports_and_reasons_name_it(world: World) -> None:
    known = await filled(world)
    security = world.app.services.of_type(Security)
    (report,) = security.report("tenants.partner")
    assert not report.is_open
    assert "restriction '_tenant_field' for everybody" in "\n".join(report.lines())
    with system(reason="support"):
        verdict = await why(known["pb"], "write", principal=world.ann)
    assert verdict.allowed is False
    assert [reason.name for reason in verdict.refusing] == ["_tenant_field"] * len(verdict.refusing)


class WithRights(models.BaseModel):
    _name = "tenants.with_rights"
    _tenant_field = "company_id"
    _access = [Access("boss", read=True, create=True)]
    _rules = [Rule("own", lambda env: [("name", "=", env.principal.id)], restrict=False)]
    company_id = Many2one(Company)
    name = String()


async def test_it_is_a_restriction_beside_rights_and_permissions(world: World) -> None:
    def boss(who: str, company: Company, *roles: str) -> Env:
        return Principal(who, roles, {"company_id": company.pk})

    with act_as(boss("ann", world.a)), refused(AccessDenied, "right to create"):
        await WithRights.create({"name": "ann"})
    with act_as(boss("ann", world.a, "boss")):
        await WithRights.create({"name": "ann"})
        with refused(AccessDenied, "own"):
            await WithRights.create({"name": "bob"})
    with act_as(boss("ann", world.b, "boss")):
        assert await WithRights.count() == 0
    async with transaction():
        pass


class Strict(models.BaseModel):
    _name = "tenants.strict"
    _tenant_field = "company_id"
    company_id = Many2one(Company, required=True)
    shop = Int()
    seen: list[object] = []

    @earnorm.constrains("company_id")
    def _see(self) -> None:
        type(self).seen.append(self.company_id.pk)


async def test_it_is_there_when_values_are_checked_and_may_be_required(world: World) -> None:
    with act_as(world.ann):
        await Strict.create([{}, {}])
        with refused(ValidationError, "a value is required"):
            Strict(shop=1)  # a constructor knows nobody who acts
        await Strict.create_many([{}])
        async with Strict.bulk() as bulk:
            bulk.create({})
    assert Strict.seen == [world.a.pk] * 4
    with system(reason="import"), refused(ValidationError, "company_id"):
        await Strict.create({})


async def test_no_change_of_the_field_is_overlooked(world: World) -> None:
    shop = Principal("ann", attributes={"shops": [1, 2]})
    with act_as(shop, shop=1):
        await Till.create([{"name": "a"}, {"name": "b"}])
    with act_as(shop):
        for change in (earnorm.Inc(1), earnorm.Unset(), earnorm.Max(2), 2, None):
            with refused(AccessDenied, "keeps its shop|_tenant_field"):
                await Till.search().update({"shop": change})
        async with Till.bulk() as bulk:
            for till in await Till.search():
                bulk.write(till, {"shop": 1, "name": till.name * 2})
        with pytest.raises(AccessDenied):
            async with Till.bulk() as bulk:
                for till in await Till.search():
                    bulk.write(till, {"shop": 2})
        tills = await Till.search(order="name")
        assert [(till.name, till.shop) for till in tills] == [("aa", 1), ("bb", 1)]
        with refused(AccessDenied, "keeps its shop"):
            await Till.write_many({tills[0]: {"shop": 1}, tills[1]: {"shop": 2}})


async def test_a_list_of_tenants_that_changes_counts_at_once(world: World) -> None:
    await filled(world)
    own = [world.a.pk, world.b.pk]
    with act_as(Principal("eve", attributes={"company_ids": own})):
        assert await Partner.count() == 2
        own.pop()
        assert await Partner.count() == 1


# -- links by records of a link model ---------------------------------------------------------------


class Song(models.BaseModel):
    _name = "tenants.song"
    _tenant_field = "company_id"
    company_id = Many2one(Company)
    title = String()
    list_ids = Many2many("tenants.playlist", through="tenants.entry")


class Playlist(models.BaseModel):
    _name = "tenants.playlist"
    _tenant_field = "company_id"
    company_id = Many2one(Company)
    song_ids = Many2many(Song, through="tenants.entry")


class Entry(models.BaseModel):
    _name = "tenants.entry"
    _tenant_field = "company_id"
    company_id = Many2one(Company)
    song_id = Many2one(Song)
    list_id = Many2one(Playlist)


async def test_a_link_by_a_record_of_a_link_model_stays_in_the_tenant(world: World) -> None:
    with act_as(world.ann):
        song = await Song.create({"title": "a"})
        own = await Playlist.create({"song_ids": [Command.link(song)]})
        assert [s.title for s in await own.song_ids] == ["a"]
    with act_as(world.bob):
        other = await Song.create({"title": "b"})
        theirs = await Playlist.create({})
        with pytest.raises(NotFound):
            await theirs.write({"song_ids": [Command.link(song.id)]})
        assert await Entry.count() == 0
    for acting in (act_as(world.max), system(reason="moves")):
        with acting:
            for values in (
                {"song_ids": [Command.link(other)]},
                {"song_ids": [Command.create({"title": "c", "company_id": world.b})]},
                {"song_ids": [Command.set([other])]},
            ):
                with pytest.raises(ValidationError):
                    await own.write(values)
            for values in (
                {"song_id": other, "list_id": own, "company_id": world.a},
                {"song_id": song, "list_id": own, "company_id": world.b},
            ):
                with refused(ValidationError, "other_tenant|another company_id"):
                    await Entry.create(values)
            entry = await Entry.find_one([("list_id", "=", own.id)])
            with refused(ValidationError, "another company_id"):
                await entry.write({"song_id": other})
    with system(reason="look"):
        assert await Entry.count() == 1
        assert await Song.count() == 2
        # A link that has come to be by other means is not seen across tenants.
        await (
            world.app.dangerous_raw("a wrong link")
            .db[Entry._collection]
            .insert_one({"song_id": other.pk, "list_id": own.pk, "company_id": world.a.pk})
        )
    with act_as(world.ann):
        own = await Playlist.get(own.id)
        assert [s.title for s in await own.song_ids] == ["a"]
        assert await Playlist.count([("song_ids.title", "=", "b")]) == 0
        [read] = await Playlist.search().prefetch("song_ids")
        assert [s.title for s in read.song_ids] == ["a"]


class Loose(models.BaseModel):
    _name = "tenants.loose"
    _tenant_field = "company_id"
    company_id = Many2one(Company)
    song_ids = Many2many(Song, through="tenants.loose_entry")


class LooseEntry(models.BaseModel):
    _name = "tenants.loose_entry"
    song_id = Many2one(Song)
    loose_id = Many2one(Loose)


class Across(models.BaseModel):
    _name = "tenants.across"
    _tenant_field = "company_id"
    _across_tenants = ["song_ids"]
    company_id = Many2one(Company)
    song_ids = Many2many(Song, through="tenants.across_entry")


class AcrossEntry(models.BaseModel):
    _name = "tenants.across_entry"
    song_id = Many2one(Song)
    across_id = Many2one(Across)


async def test_a_link_model_that_belongs_to_no_tenant_is_refused(world: World) -> None:
    with act_as(world.ann):
        with refused(ConfigurationError, "tenants.loose.song_ids: .* 'tenants.loose_entry'"):
            await Loose.create({})
        song = await Song.create({"title": "a"})
        across = await Across.create({"song_ids": [Command.link(song)]})
        assert len(await across.song_ids) == 1


# -- sequences of the program -----------------------------------------------------------------------


async def test_a_sequence_of_the_program_is_drawn_in_the_own_scope(world: World) -> None:
    for who, own, other in ((world.ann, world.a, world.b), (world.bob, world.b, world.a)):
        with act_as(who):
            assert await earnorm.sequence("bill", scope=own).next() == 1
            assert await earnorm.sequence("bill", scope=own.id).last() == 1
            assert await earnorm.sequence("bill").next() > 0  # one for all has no scope
            for scope in (other, other.pk, other.id, "x", 7):
                with refused(AccessDenied, "own tenants"):
                    await earnorm.sequence("bill", scope=scope).next()
                with refused(AccessDenied, "own tenants"):
                    await earnorm.sequence("bill", scope=scope).last()
            with refused(AccessDenied, "own tenants"):  # what a scope makes of the name
                await earnorm.sequence(f"bill[{other.id}]").last()
    with refused(AccessDenied, "own tenants"):
        await earnorm.sequence("bill", scope=world.a).last()
    with act_as(world.max):
        assert await earnorm.sequence("bill", scope=world.b).last() == 1
    with act_as(world.max, company_id=world.a.id), refused(AccessDenied, "own tenants"):
        await earnorm.sequence("bill", scope=world.b).last()
    with system(reason="all"):
        assert await earnorm.sequence("bill", scope="x").next() == 1
        assert await earnorm.sequence("bill", scope=world.a).last() == 1
