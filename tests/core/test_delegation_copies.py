"""Copies of records that delegate: each gets a parent of its own, and nothing of the original changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earnorm import (
    BaseModel,
    DuplicateKey,
    Embedded,
    EmbeddedModel,
    Int,
    List,
    Many2many,
    Many2one,
    NotFound,
    RecordSet,
    String,
    ValidationError,
)

from .laws import World, law, world


class Address(BaseModel):
    _name = "delcopy.address"

    street = String(required=True)
    door = String(copy=False)
    code = Int(default=0)


class Tag(BaseModel):
    _name = "delcopy.tag"

    title = String()


class Size(EmbeddedModel):
    width = Int()


class Partner(BaseModel):
    """A parent that delegates itself."""

    _name = "delcopy.partner"
    _inherits = {"delcopy.address": "address_id"}
    _discriminator = "kind"

    kind = String()
    address_id = Many2one(Address, required=True)
    name = String(required=True)
    email = String(unique=True, copy=True)
    code = Int(default=0)  # hides the address's
    tag_ids = Many2many(Tag)
    size = Embedded(Size)


class Company(Partner):
    _name = "delcopy.company"

    vat = String()


class Account(BaseModel):
    _name = "delcopy.account"

    bank = String()
    notes = List(String())


class User(BaseModel):
    _name = "delcopy.user"
    _inherits = {"delcopy.partner": "partner_id", "delcopy.account": "account_id"}

    partner_id = Many2one(Partner, required=True, unique=True)
    account_id = Many2one(Account)
    login = String(required=True)
    code = Int(default=0)  # hides the partner's


MODELS: list[Any] = [User, Partner, Address, Account, Tag]
PATHS = ("partner_id.address_id", "account_id")


async def clear() -> None:
    for model in MODELS:
        await model.search().delete()


async def counts() -> list[int]:
    return [await model.search().count() for model in MODELS]


async def documents(earth: World, user: Any) -> list[dict[str, Any]]:
    """The stored documents of a user and of its parents, without their ids and links."""
    links = ("partner_id", "account_id", "address_id")
    found: list[dict[str, Any]] = []
    ids: dict[str, Any] = {"delcopy_user": user.pk}
    for name in ("delcopy_user", "delcopy_partner", "delcopy_address", "delcopy_account"):
        (document,) = await earth.app._backend.collection(name).find({"_id": ids[name]})
        for link, collection in zip(links, ("partner", "account", "address"), strict=True):
            if link in document:
                ids[f"delcopy_{collection}"] = document.pop(link)
        del document["_id"]
        found.append(document)
    return found


@pytest.fixture(scope="module", params=["memory", "pymongo"])
def earth(request: pytest.FixtureRequest) -> Iterator[World]:
    with world(request.param) as one:
        yield one


OWN: dict[str, Any] = {
    "login": ("user", "ann"),
    "name": ("partner", "Ann"),
    "tag_ids": ("partner", ()),
    "street": ("address", "Road"),
    "door": ("address", "1"),
    "bank": ("account", "B"),
    "notes": ("account", ["x"]),
    "size": ("partner", {"width": 3}),
}
GIVEN: dict[str, Any] = {
    "login": "bob",
    "name": "Bob",
    "street": "Lane",
    "door": "2",
    "bank": "C",
    "notes": ["y", "z"],
    "code": 9,
}
PLACE = {"login": 0, "name": 1, "size": 1, "street": 2, "door": 2, "bank": 3, "notes": 3, "code": 0}


@st.composite
def cases(draw: Any) -> tuple[dict[str, Any], list[str], str, bool, int]:
    optional = ("door", "bank", "notes", "size", "tag_ids")
    own = [name for name in OWN if name not in optional or draw(st.booleans())]
    default = {name: v for name, v in GIVEN.items() if draw(st.booleans())}
    loaded = draw(st.sampled_from(["kept", "ghost", "plain", "prefetched", "only"]))
    return default, own, loaded, draw(st.booleans()), draw(st.integers(1, 3))


@pytest.mark.fuzz
@law(100)
@given(case=cases())
def test_a_copy_has_parents_of_its_own_with_their_values(earth: World, case: Any) -> None:
    default, own, loaded, company, number = case

    async def example() -> None:
        await clear()
        partners: list[Any] = []
        originals: list[Any] = []
        for _ in range(number):
            values = {name: OWN[name][1] for name in own}
            tags = values.pop("tag_ids", None) is not None
            parts: dict[str, dict[str, Any]] = {}
            for name in values:
                parts.setdefault(OWN[name][0], {})[name] = values[name]
            parts["partner"].update(parts["address"], **({"vat": "V"} if company else {}))
            if tags:
                parts["partner"]["tag_ids"] = [await Tag.create({"title": "t"})]
            model: Any = Company if company else Partner
            partner = await model.create(parts["partner"])
            await partner.address_id.write({"code": 5})
            await partner.write({"code": 4})
            partners.append(partner)
            given_values = {**parts["user"], **parts.get("account", {}), "code": 3}
            originals.append(await User.create({**given_values, "partner_id": partner}))
        before = [await documents(earth, user) for user in originals]
        assert len(originals) == number
        query = User.search(order="_id")
        source: Any = {
            "kept": lambda: RecordSet(User, originals),
            "ghost": lambda: User.browse([user.pk for user in originals]),
            "plain": lambda: query,
            "prefetched": lambda: query.prefetch("partner_id", "account_id"),
            "only": lambda: query.only("login"),
        }[loaded]()
        if loaded in ("plain", "prefetched", "only"):
            source = await source
        numbers = await counts()
        copies = await source.copy(default)
        assert [await documents(earth, user) for user in originals] == before
        for copy, parts_before in zip(copies, before, strict=True):
            expected = [dict(part) for part in parts_before]
            expected[2].pop("door", None)
            for name, value in default.items():
                expected[PLACE[name]][name] = value
            assert await documents(earth, copy) == expected
            stored: Any = await User.search([("id", "=", copy)]).prefetch("partner_id")
            assert type(stored[0].partner_id)._name == (Company if company else Partner)._name
        made = [after - n for n, after in zip(numbers, await counts(), strict=True)]
        assert made == [number] * 4 + [0]

    earth.run(example)


def test_a_link_that_is_given_is_taken_and_its_values_are_not_copied(earth: World) -> None:
    async def example() -> None:
        await clear()
        ann: Any = await User.create({"login": "ann", "name": "Ann", "street": "Road"})
        other = await Partner.create({"name": "Other", "street": "Lane"})
        bob: Any = await ann.copy({"login": "bob", "partner_id": other})
        assert bob.partner_id == other and (await Partner.get(other.pk)).name == "Other"
        assert (await counts())[:3] == [2, 2, 2]

    earth.run(example)


def test_unsaved_values_of_loaded_parents_are_copied_like_the_records_own(earth: World) -> None:
    async def example() -> None:
        await clear()
        ann: Any = await User.create({"login": "ann", "name": "Ann", "street": "Road"})
        ann.partner_id.name = "Anna"
        bob: Any = await ann.copy({"login": "bob"})
        assert (bob.name, (await Partner.get(ann.partner_id.pk)).name) == ("Anna", "Ann")

    earth.run(example)


def test_nothing_is_copied_where_a_part_is_refused(earth: World) -> None:
    async def example() -> None:
        await clear()
        users: Any = await User.create(
            [{"login": n, "name": n, "street": "R", "email": f"{n}@x"} for n in "ab"]
        )
        before = await counts()
        with pytest.raises(ValidationError) as caught:
            await users.copy({"login": 5, "name": None, "street": 7})
        located = sorted(detail["loc"] for detail in caught.value.errors())
        assert located == [(n, name) for n in (0, 1) for name in ("login", "name", "street")]
        assert await counts() == before
        if "transactions" in earth.app.capabilities:
            with pytest.raises(DuplicateKey, match="email"):
                await users.copy()
            assert await counts() == before
        await users[0].copy({"email": "c@x"})
        assert (await counts())[:4] == [n + 1 for n in before[:4]]
        await users[1].partner_id.unlink()
        with pytest.raises(NotFound):
            await (await User.search()).copy()
        assert (await counts())[0] == 3

    earth.run(example)


def test_a_link_that_was_never_set_stays_unset_in_a_copy(earth: World) -> None:
    async def example() -> None:
        await clear()
        partner: Any = await Partner.create({"name": "Ann", "street": "Road"})
        for read in (False, True):
            found: Any = (await Partner.search([("id", "=", partner)]))[0]
            if read:
                assert len(found.tag_ids) == 0
            copy = await found.copy()
            (document,) = await earth.app._backend.collection("delcopy_partner").find(
                {"_id": copy.pk}
            )
            assert "tag_ids" not in document and "size" not in document

    earth.run(example)


def test_a_ghost_of_a_family_is_copied_as_the_record_that_it_is(earth: World) -> None:
    async def example() -> None:
        await clear()
        company = await Company.create({"name": "C", "street": "Road", "vat": "V"})
        partner = await Partner.create({"name": "P", "street": "Road"})
        copies: Any = await Partner.browse([company.pk, partner.pk]).copy({"name": "new"})
        assert [type(copy)._name for copy in copies] == [Company._name, Partner._name]
        assert (copies[0].vat, copies[1].name) == ("V", "new")

    earth.run(example)
