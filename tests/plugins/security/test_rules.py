"""Record rules: which records an operation reaches, and what can be learned about the others."""

from __future__ import annotations

import pytest

from earnorm import (
    AccessDenied,
    DuplicateKey,
    EarnORMError,
    NotFound,
    Operation,
    PerRecord,
    PluginError,
    Principal,
    Sum,
    Update,
    act_as,
    current_env,
    hookimpl,
    models,
    system,
    transaction,
)
from earnorm.fields import Int, String
from earnorm_security import Access, Rule


def own(env):
    return [("owner", "=", env.principal.id if env.principal else "")]


class Note(models.BaseModel):
    """Everybody reads published and own notes, changes own drafts; a chief changes everything."""

    _name = "security.note"
    _rules = [
        Rule("living", [("state", "!=", "dead")]),
        Rule(
            "readable",
            lambda env: ["|", ("state", "=", "published"), *own(env)],
            operations=["read"],
        ),
        Rule("own", own, roles=["author"], operations=["write", "create", "unlink"]),
        Rule("all", [], roles=["chief"], operations=["write", "create", "unlink"]),
    ]
    title = String(required=True, unique=True)
    owner = String(db_name="o")
    state = String(default="draft")
    size = Int(default=0)


ANN = Principal("ann", roles=["author"])
BOB = Principal("bob", roles=["author"])
CHIEF = Principal("zoe", roles=["chief"])
FAILING = ({"$push": {"o": "x"}}, {"$set": {"o.x": 1}})  # the owner is a text
NOTES = [
    {"title": "a-draft", "owner": "ann", "size": 1},
    {"title": "a-public", "owner": "ann", "state": "published", "size": 2},
    {"title": "b-draft", "owner": "bob", "size": 4},
    {"title": "b-public", "owner": "bob", "state": "published", "size": 8},
    {"title": "dead", "owner": "ann", "state": "dead", "size": 16},
]


async def fill():
    with system(reason="set-up"):
        return {note.title: note for note in await Note.create(NOTES)}


async def snapshot():
    with system(reason="look"):
        return sorted((n.title, n.owner, n.state, n.size) for n in await Note.search(order="title"))


async def titles(domain=None):
    return sorted((await Note.search(domain)).mapped("title"))


async def test_search_and_count_see_what_the_rules_leave(opened):
    async with opened():
        await fill()
        with act_as(ANN):
            assert await titles() == ["a-draft", "a-public", "b-public"]
            assert await Note.count() == 3
            assert await Note.count([("size", ">", 2)]) == 1
        assert await titles() == ["a-public", "b-public"]
        with system(reason="look"):
            assert len(await titles()) == 5


async def test_group_and_streams_see_what_the_rules_leave(opened):
    async with opened():
        await fill()
        with act_as(ANN):
            rows = await Note.search().group(total=Sum("size"))
            assert [row["total"] for row in rows] == [11]
            assert sorted([n.title async for n in Note.search()]) == await titles()


async def test_a_hidden_record_is_found_by_id_no_more_than_a_missing_one(opened):
    async with opened():
        notes = await fill()
        hidden = notes["b-draft"]
        with act_as(ANN):
            assert not (await Note.search([("id", "=", hidden.id)])).exists()
            assert await Note.count([("title", "=", "b-draft")]) == 0
            with pytest.raises(NotFound):
                await hidden.refresh()


async def test_writing_a_hidden_record_is_like_writing_a_missing_one(opened):
    async with opened():
        notes = await fill()
        before = await snapshot()
        gone = notes["a-draft"]
        with system(reason="set-up"):
            await gone.unlink()
        expected = [row for row in before if row[0] != "a-draft"]
        with act_as(ANN):
            errors = []
            for note in (notes["b-draft"], notes["dead"], gone):
                with pytest.raises(NotFound) as caught:
                    await note.write({"size": 99})
                errors.append(str(caught.value))
                assert await note.unlink() == 0
            assert len(set(errors)) == 1
        assert await snapshot() == expected


async def test_a_readable_record_that_may_not_be_changed_is_refused_and_nothing_is_written(opened):
    async with opened():
        notes = await fill()
        before = await snapshot()
        with act_as(ANN):
            for attempt in (
                notes["b-public"].write({"size": 99}),
                notes["b-public"].unlink(),
                Note.search().update({"size": 99}),
                Note.search().delete(),
            ):
                with pytest.raises(AccessDenied) as caught:
                    await attempt
                assert "'security.note'" in str(caught.value) and "'author'" in str(caught.value)
                assert "bob" not in str(caught.value) and "99" not in str(caught.value)
        assert await snapshot() == before


async def test_own_records_are_written_and_deleted(opened):
    async with opened():
        notes = await fill()
        with act_as(ANN):
            await notes["a-draft"].write({"size": 5})
            assert await Note.search([("owner", "=", "ann")]).update({"size": 6}) == 2
            assert await notes["a-public"].unlink() == 1
        after = await snapshot()
        assert ("a-draft", "ann", "draft", 6) in after
        assert ("dead", "ann", "dead", 16) in after  # the hidden one was not matched


async def test_a_write_cannot_move_a_record_out_of_the_rule(opened):
    async with opened():
        notes = await fill()
        before = await snapshot()
        with act_as(ANN):
            for values in ({"owner": "bob"}, {"state": "dead"}, {"owner": None}):
                with pytest.raises(AccessDenied):
                    await notes["a-draft"].write(values)
            assert await snapshot() == before
            await notes["a-draft"].write({"owner": "ann", "state": "published"})
        with act_as(CHIEF):
            await notes["a-public"].write({"owner": "bob"})


async def test_a_change_for_each_record_is_held_to_the_rules_one_by_one(opened):
    async with opened() as app:
        notes = await fill()
        before = await snapshot()
        draft, public = notes["a-draft"].pk, notes["a-public"].pk

        async def write(changes):
            domain = [("id", "in", [draft, public])]
            values = PerRecord({pk: Update({"$set": spec}) for pk, spec in changes.items()})
            op = Operation("write", Note, current_env(), values=values)
            return await app.execute(op.replace(domain=op.domain & domain))

        with act_as(ANN):
            with pytest.raises(AccessDenied):
                await write({draft: {"size": 7}, public: {"o": "bob"}})
            assert await snapshot() == before
            assert await write({draft: {"size": 7}, public: {"o": "ann", "size": 3}}) == 2


async def test_a_change_whose_outcome_is_not_known_beforehand_is_refused(opened):
    async with opened() as app:
        await fill()
        before = await snapshot()
        with act_as(ANN):
            for operators in (*FAILING, {"$rename": {"title": "o"}}):
                op = Operation("write", Note, current_env(), values=Update(operators))
                op = op.replace(domain=op.domain & [("title", "=", "a-draft")])
                # What only the server knows is judged when it is stored, and undone.
                with pytest.raises(AccessDenied if "$rename" in operators else EarnORMError):
                    await app.execute(op)
                assert await snapshot() == before
            op = op.replace(values=Update({"$inc": {"size": 1}}))  # no rule looks at it
            assert await app.execute(op) == 1
        assert await snapshot() != before


async def test_every_created_document_must_satisfy_the_create_rules(opened):
    async with opened():
        with act_as(ANN):
            with pytest.raises(AccessDenied, match="document 1") as caught:
                await Note.create([{"title": "x", "owner": "ann"}, {"title": "y", "owner": "bob"}])
            assert "bob" not in str(caught.value)
            assert await snapshot() == []
            await Note.create([{"title": "x", "owner": "ann"}, {"title": "y", "owner": "ann"}])
        assert len(await snapshot()) == 2


async def test_where_rules_are_for_roles_nobody_else_passes(opened):
    async with opened() as app:
        notes = await fill()
        with act_as(Principal("ann")) as env:
            assert not app.services["security"].can(env, Note, "write")
            with pytest.raises(AccessDenied):
                await notes["a-draft"].write({"size": 1})
            with pytest.raises(AccessDenied):
                await Note.create({"title": "x", "owner": "ann"})


class Notice(models.BaseModel):
    """Everybody reads all of them; rules for a role stand beside no others."""

    _name = "security.notice"
    _rules = [Rule("all", [], roles=["clerk"], operations=["write", "unlink"])]
    title = String()


async def test_a_right_without_a_rule_for_the_principal_reaches_less_than_one_without_rules(opened):
    async with opened():
        with system(reason="set-up"):
            notice = await Notice.create({"title": "x"})
        with act_as(ANN):
            assert await Notice.count() == 1
            for change in (
                notice.write({"title": "y"}),
                notice.unlink(),
                Notice.search().update({"title": "y"}),
                Notice.search().delete(),
            ):
                with pytest.raises(AccessDenied, match="'clerk'"):
                    await change
        with act_as(Principal("carl", roles=["clerk"])):
            await notice.write({"title": "y"})
            assert await notice.unlink() == 1


async def test_the_rules_of_several_roles_widen_each_other_within_the_global_ones(opened):
    async with opened():
        notes = await fill()
        with act_as(Principal("ann", roles=["author", "chief"])):
            await notes["b-public"].write({"size": 9})  # by "all"
            with pytest.raises(NotFound):
                await notes["dead"].write({"size": 9})  # "living" is global


async def test_rules_hold_inside_a_transaction(opened):
    async with opened():
        notes = await fill()
        with act_as(ANN):
            with pytest.raises(AccessDenied):
                async with transaction():
                    await Note.create({"title": "new", "owner": "ann"})
                    await notes["b-public"].write({"size": 9})
            assert await Note.count([("title", "=", "new")]) == 0
            async with transaction():
                created = await Note.create({"title": "new", "owner": "ann"})
                await created.write({"size": 3})
                assert await Note.count([("title", "=", "new")]) == 1


async def test_a_unique_index_tells_of_a_hidden_record_that_the_value_is_taken(opened):
    async with opened():
        await fill()
        with act_as(ANN), pytest.raises(DuplicateKey) as caught:
            await Note.create({"title": "b-draft", "owner": "ann"})
        assert "bob" not in str(caught.value)


async def test_access_denied_observers_hear_of_it_once(opened):
    heard = []

    class Listener:
        api = 1
        name = "listener"

        @hookimpl
        def access_denied(self, op, error):
            heard.append((op.name, op.env.principal.id))

    async with opened(plugins=(Listener(),)):
        notes = await fill()
        with act_as(ANN), pytest.raises(AccessDenied):
            await notes["b-public"].write({"size": 9})
    assert heard == [("write", "ann")]


class Broken(models.BaseModel):
    _name = "security.broken"
    _rules = [Rule("faulty", lambda env: env.context["answer"]())]
    title = String()


@pytest.mark.parametrize(
    "answer", [lambda: None, lambda: 1 / 0, lambda: "title", lambda: {"title": "x"}]
)
async def test_a_rule_function_that_fails_or_returns_no_domain_opens_nothing(opened, answer):
    async with opened():
        with system(reason="set-up"):
            record = await Broken.create({"title": "x"})
        with act_as("ann", answer=answer):
            for attempt in (
                Broken.count(),
                Broken.create({"title": "y"}),
                record.write({"title": "y"}),
                record.unlink(),
            ):
                with pytest.raises(PluginError, match=r"'faulty' of model 'security\.broken'"):
                    await attempt
        with system(reason="look"):
            assert (await Broken.search()).mapped("title") == ["x"]


class Guarded(models.BaseModel):
    _name = "security.guarded"
    _access = [Access("editor", read=True, write=True)]
    _rules = [Rule("mine", own)]
    owner = String()


async def test_rights_come_before_rules(opened):
    async with opened():
        with system(reason="set-up"):
            await Guarded.create([{"owner": "ann"}, {"owner": "bob"}])
        with act_as(ANN), pytest.raises(AccessDenied, match="'editor'"):
            await Guarded.count()
        with act_as(Principal("ann", roles=["editor"])):
            assert await Guarded.count() == 1
