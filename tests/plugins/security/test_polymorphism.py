"""Rules of several classes in one collection: whichever class is asked, a record is seen or not."""

from __future__ import annotations

import pytest

from earnorm import AccessDenied, NotFound, Principal, act_as, models, system
from earnorm.fields import Boolean, Int, Many2one, String
from earnorm_audit import AuditPlugin
from earnorm_cache import CachePlugin
from earnorm_security import Access, Rule

STAFF = Principal("ann", roles=["staff"])
BOSS = Principal("bob", roles=["staff", "boss"])


class Paper(models.BaseModel):
    _name = "securepoly.paper"
    _discriminator = "kind"
    _rules = [Rule("shown", [("hidden", "=", False)])]
    title = String(required=True)
    hidden = Boolean(required=True, default=False)
    stars = Int(default=0)


class Letter(Paper):
    _name = "securepoly.letter"
    _rules = [Rule("mine", lambda env: [("owner", "=", env.principal and env.principal.id)])]
    owner = String()


class Contract(Paper):
    _name = "securepoly.contract"
    _access = [
        Access("boss", read=True, write=True, create=True, unlink=True),
        Access("staff", read=True),
    ]
    amount = Int()


class Secret(Paper):
    _name = "securepoly.secret"
    _access = [Access("boss", read=True)]


class Shelf(models.BaseModel):
    _name = "securepoly.shelf"
    paper_id = Many2one(Paper)


async def fill():
    with system(reason="set-up"):
        await Paper.create([{"title": "plain"}, {"title": "hidden", "hidden": True}])
        await Letter.create(
            [
                {"title": "mine", "owner": "ann"},
                {"title": "mine hidden", "owner": "ann", "hidden": True},
                {"title": "yours", "owner": "bob"},
            ]
        )
        await Contract.create([{"title": "contract", "amount": 5}])
        await Secret.create([{"title": "secret"}])


def titles(found):
    return sorted(record.title for record in found)


async def test_the_root_shows_what_each_class_shows(opened):
    async with opened():
        await fill()
        with act_as(STAFF):
            assert titles(await Paper.search()) == ["contract", "mine", "plain"]
            assert await Paper.count() == 3
            assert titles(await Letter.search()) == ["mine"]
            assert titles([each async for each in Paper.search()]) == ["contract", "mine", "plain"]
            with pytest.raises(AccessDenied):
                await Secret.search()
        with act_as(BOSS):
            assert titles(await Paper.search()) == ["contract", "plain", "secret", "yours"]
        assert titles(await Paper.search()) == ["plain"]


async def test_nothing_hidden_is_found_by_a_condition_a_relation_or_an_id(opened):
    async with opened():
        await fill()
        with system(reason="set-up"):
            yours = (await Letter.search([("owner", "=", "bob")]))[0]
            await Shelf.create({"paper_id": yours})
        with act_as(STAFF):
            assert await Paper.search([("owner", "=", "bob")]).count() == 0
            assert await Paper.search([("owner", "!=", "ann")]).count() == 2
            assert await Shelf.search([("paper_id.title", "=", "yours")]).count() == 0
            for model in (Paper, Letter):
                with pytest.raises(NotFound):
                    await model.get(yours.id)
            shelf = (await Shelf.search())[0]
            with pytest.raises(NotFound):
                await shelf.paper_id


async def test_the_root_changes_all_that_was_asked_for_or_nothing(opened):
    async with opened():
        await fill()
        with act_as(STAFF):
            for change in (Paper.search().update({"stars": 1}), Paper.search().delete()):
                with pytest.raises(AccessDenied):
                    await change  # a contract can be read, and not changed
            assert (
                await Paper.search([("kind", "!=", "securepoly.contract")]).update({"stars": 1})
                == 2
            )
            with pytest.raises(AccessDenied):
                await Paper.search([("title", "=", "contract")]).delete()
        with system(reason="look"):
            assert titles(await Paper.search([("stars", "=", 1)])) == ["mine", "plain"]
        with act_as(BOSS):
            with pytest.raises(AccessDenied):
                await Paper.search().delete()  # the secret is read only
            assert await Paper.search([("kind", "!=", "securepoly.secret")]).delete() == 3
        with system(reason="look"):
            assert titles(await Paper.search()) == ["hidden", "mine", "mine hidden", "secret"]


async def test_what_leaves_a_rule_of_its_class_is_refused_through_the_root(opened):
    async with opened():
        await fill()
        with act_as(STAFF):
            mine = await Letter.find_one([("title", "=", "mine")])
            for asked in (mine, Paper.browse([mine.ensure_one().id])):
                with pytest.raises(AccessDenied, match=r"record rules \((mine, )?shown(, mine)?\)"):
                    await asked.ensure_one().write({"owner": "bob"})
            with pytest.raises(AccessDenied):
                await Paper.search([("title", "=", "mine")]).update({"hidden": True})
            with pytest.raises(AccessDenied):
                await Letter.create({"title": "x", "owner": "bob"})
            await Paper.create({"title": "new"})
            assert (await Letter.create({"title": "x", "owner": "ann"})).kind == "securepoly.letter"


async def test_audit_and_cache_know_the_class_of_what_the_root_changes(opened):
    async with opened(plugins=(AuditPlugin(), CachePlugin())) as app:
        await fill()
        with act_as(STAFF):
            letter = (await Letter.find_one([("title", "=", "mine")])).ensure_one()
            for model in (Paper, Letter):
                assert (await model.get(letter.id)).stars == 0
            await Paper.search([("title", "=", "mine")]).update({"stars": 3})
            for model in (Paper, Letter):
                assert (await model.get(letter.id)).stars == 3
        with system(reason="look"):
            entries = await app.model("audit.entry").search([("operation", "=", "write")])
        assert [entry.model for entry in entries] == ["securepoly.letter"]
