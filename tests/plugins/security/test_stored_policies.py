"""Policies in the database: they count like those in Python, keep their versions, and never open by accident."""

from __future__ import annotations

import asyncio
import logging

import pytest

from earnorm import (
    AccessDenied,
    ConfigurationError,
    Count,
    Int,
    Many2one,
    Principal,
    String,
    ValidationError,
    act_as,
    current_env,
    models,
    system,
    transaction,
)
from earnorm_security import Access, Rule
from earnorm_security.command import security_command
from earnorm_security.reporting import stored_policies
from earnorm_security.stored import PolicyVersion, RoleAssignment, StoredPolicy
from earnorm_security.stored import knowing as knowing_module

from .test_stored_roles import another


class Club(models.BaseModel):
    _name = "policies.club"
    lead = String()


class Note(models.BaseModel):
    """Open in Python."""

    _name = "policies.note"
    owner = String()
    size = Int(default=1)
    club_id = Many2one(Club)


class Form(models.BaseModel):
    """Has a rule and rights in Python."""

    _name = "policies.form"
    _access = [Access("clerk", read=True, write=True)]
    _rules = [Rule("of the clerk", [("owner", "=", "ann")], roles=["clerk"])]
    owner = String()
    size = Int(default=1)


OWN = [["owner", "=", {"var": "user.id"}]]
CLERK = Principal("ann", ["clerk"])


async def policy(model, kind, name="p", **values):
    values = {"operations": ["read"], **values}
    with system(reason="test"):
        return await StoredPolicy.create({"name": name, "model": model, "kind": kind, **values})


async def edit(record, **values):
    with system(reason="test"):
        await record.write(values)


async def fill(model=Note):
    with system(reason="test"):
        await model.create([{"owner": o, "size": n} for n, o in enumerate(["ann", "bob"], 1)])


async def owners(who, model=Note):
    with act_as(who):
        try:
            return sorted((await model.search()).mapped("owner"))
        except AccessDenied:
            return None


async def test_a_right_closes_its_model_for_all_others_and_goes_on_to_when_it_is_switched_off(
    opened,
):
    async with opened(stored_policies=True):
        await fill()
        assert await owners("eve") == ["ann", "bob"]
        right = await policy("policies.note", "right", roles=["clerk"])
        assert await owners(CLERK) == ["ann", "bob"] and await owners("eve") is None
        with act_as(CLERK):
            for refused in (
                lambda: Note.create({}),
                lambda: Note.search().update({"size": 2}),
                lambda: Note.search().delete(),
                lambda: Note.search().group(number=Count()),
                lambda: Note.search().to_polars(),
                lambda: Note.search().explain(),
                lambda: Note.search().aggregate([{"$match": {}}]),
                lambda: Note.backfill("size"),
            ):
                with pytest.raises(AccessDenied):
                    await refused()
            with pytest.raises(AccessDenied):
                async with Note.watch():
                    pass
        await edit(right, operations=["read", "aggregate", "write", "create", "unlink"])
        with act_as(CLERK):
            assert await Note.search().group(number=Count()) == [{"number": 2}]
            made = await Note.create({"owner": "eve"})
            await made.write({"size": 3})
            await made.unlink()
        await edit(right, active=False)
        assert await owners(CLERK) is None and await owners("eve") is None
        await edit(right, roles=["*"], active=True)
        assert await owners("eve") == ["ann", "bob"]


async def test_permissions_add_up_with_those_in_python_and_restrictions_take_away(opened):
    async with opened(stored_policies=True):
        await fill(Form)
        assert await owners(CLERK, Form) == ["ann"]
        small = await policy(
            "policies.form", "permission", roles=["clerk"], domain=[["size", "=", 2]]
        )
        assert await owners(CLERK, Form) == ["ann", "bob"]
        await policy("policies.form", "restriction", "r", domain=[["size", "<", 2]])
        assert await owners(CLERK, Form) == ["ann"]
        await edit(small, active=False)
        assert await owners(CLERK, Form) == ["ann"]


async def test_every_gate_asks_them(opened):
    async with opened(stored_policies=True):
        await fill()
        own = await policy(
            *("policies.note", "restriction"),
            operations=["read", "write", "create", "unlink"],
            domain=OWN,
        )
        with act_as("ann"):
            assert await Note.count() == 1
            assert [note.owner async for note in Note.search()] == ["ann"]
            assert (await Note.search().group("owner", number=Count())) == [
                {"owner": "ann", "number": 1}
            ]
            assert len(await Note.search().aggregate([{"$match": {}}])) == 1
            with pytest.raises(AccessDenied):
                await Note.create({"owner": "bob"})
            with pytest.raises(AccessDenied):
                await Note.search().update({"owner": "bob"})
            assert await Note.search([("owner", "=", "bob")]).delete() == 0
            async with Note.bulk() as bulk:
                bulk.create({"owner": "ann"})
            with pytest.raises(AccessDenied):
                async with Note.bulk() as bulk:
                    bulk.create({"owner": "bob"})
        await edit(own, active=False)
        assert await owners("ann") == ["ann", "ann", "bob"]


async def test_events_and_streams_hear_of_a_policy_on_their_way(opened):
    async with opened(stored_policies=True):
        with act_as("ann"):
            stream = Note.watch()
            await stream.__aenter__()
        with system(reason="test"):
            await Note.create({"owner": "bob", "size": 1})
        with act_as("ann"):
            assert (await anext(stream)).record.size == 1
        await policy("policies.note", "restriction", domain=OWN)
        with system(reason="test"):
            await Note.create([{"owner": "bob", "size": 2}, {"owner": "ann", "size": 3}])
        with act_as("ann"):
            assert (await asyncio.wait_for(anext(stream), 30)).record.size == 3
            await stream.close()


async def test_rules_about_other_records_and_their_links(opened):
    async with opened(stored_policies=True):
        with system(reason="test"):
            one, two = await Club.create([{"lead": "ann"}, {"lead": "bob"}])
            await Note.create([{"club_id": one, "owner": "x"}, {"club_id": two, "owner": "y"}])
        await policy(
            "policies.note", "restriction", domain=[["club_id.lead", "=", {"var": "user.id"}]]
        )
        assert await owners("ann") == ["x"]
        await policy("policies.club", "restriction", domain=[["lead", "=", {"var": "user.id"}]])
        with act_as("ann"), pytest.raises(ValidationError):
            await Note.create({"club_id": two})
        await policy(
            *("policies.note", "restriction", "w"),
            operations=["write"],
            domain=[["club_id.lead", "=", {"var": "context.boss"}]],
        )
        with act_as("ann", boss="ann"):
            assert await Note.search().update({"size": 5}) == 1
        with act_as("ann", boss="bob"), pytest.raises(AccessDenied):
            await Note.search().update({"size": 6})


async def test_what_is_stored_is_checked_and_named(opened):
    async with opened(stored_policies=True):
        good = {
            "name": "p",
            "model": "policies.note",
            "kind": "restriction",
            "operations": ["read"],
        }
        good["domain"] = OWN
        wrong = [
            ({"model": "policies.nte"}, "did you mean 'policies.note'"),
            ({"domain": [["ownr", "=", 1]]}, "no field 'ownr'"),
            ({"domain": [["owner", "regex", "(a+)+"]]}, "no operator 'regex'"),
            ({"domain": [["owner", "any", [["x", "=", 1]]]]}, "no operator 'any'"),
            ({"domain": [["owner", "=", {"$ne": None}]]}, "must not start"),
            ({"domain": [["owner", "=", {"ne": None}]]}, "a value is a text"),
            ({"domain": [["owner", "=", {"var": "os.environ"}]]}, "a value is a text"),
            ({"domain": [["owner", "=", {"var": "user.__class__"}]]}, "a value is a text"),
            ({"domain": [["owner", "=", "\0earnorm:user.id"]]}, ""),
            ({"domain": [["size", "=", "big"]]}, ""),
            ({"domain": [["$where", "=", "1"]]}, ""),
            ({"domain": [["club_id", "child_of", "6b0d9e3c47785a097fa02046"]]}, "is no tree"),
            ({"domain": None}, "is a list of conditions"),
            ({"domain": True}, "is a list of conditions"),
            ({"domain": ["&"]}, ""),
            (
                {"domain": ["&", ["size", "=", 1], "|", ["size", "=", 1]] * 9 + [["size", "=", 1]]},
                "",
            ),
            ({"domain": [["size", "in", list(range(2_000))]]}, "more than"),
            ({"operations": ["export"]}, "not about export"),
            ({"operations": []}, ""),
            ({"operations": ["fly"]}, ""),
            ({"kind": "wish"}, ""),
            ({"kind": "right", "roles": ["a"]}, "a right has no domain"),
            ({"kind": "right", "domain": None, "roles": []}, "for roles"),
            ({"roles": ["*"]}, "one without roles"),
            ({"roles": [""]}, ""),
            ({"name": ""}, ""),
        ]
        with system(reason="test"):
            for values, said in wrong:
                with pytest.raises(ValidationError, match=said or None):
                    await StoredPolicy.create({**good, **values})
            with pytest.raises(ValidationError) as caught:
                await StoredPolicy.create([good, {**good, "name": "q", "domain": [["n", "=", 1]]}])
            assert caught.value.errors()[0]["loc"] == (1, "domain")
            assert await StoredPolicy.count() == 0
            made = await StoredPolicy.create(good)
            for values in (
                *(values for values, _ in wrong),
                {"version": 5},
                {"held": []},
                {"model": "policies.form"},
                {"kind": "permission"},
                {"name": "other"},
            ):
                with pytest.raises(ValidationError):
                    await StoredPolicy.search().update(values)
            for way in (made.unlink, StoredPolicy.search().delete):
                with pytest.raises(AccessDenied, match="active=False"):
                    await way()
            assert (await StoredPolicy.search()).mapped("version") == [1]
            assert await PolicyVersion.count() == 1
        assert await owners("ann") == []


async def test_each_edit_is_a_version_with_who_and_when_and_can_be_restored(opened):
    rows = {
        name: [Access("admin", read=True, write=True, create=True)]
        for name in ("security.policy", "security.policy.version")
    }
    async with opened(stored_policies=True, access=rows):
        await fill()
        with act_as(Principal("eve", ["admin"])):
            made = await StoredPolicy.create(
                {
                    "name": "own",
                    "model": "policies.note",
                    "kind": "restriction",
                    "operations": ["read"],
                    "domain": OWN,
                }
            )
        assert await owners("ann") == ["ann"]
        await edit(made, domain=[], note="all of them")
        assert await owners("ann") == ["ann", "bob"]
        with act_as(Principal("eve", ["admin"])):
            first, second = await made.versions()
            assert (first.by, first.system, first.domain, first.number) == ("eve", False, OWN, 1)
            assert (second.by, second.reason, second.note) == (None, "test", "all of them")
            assert first.at <= second.at
            await made.restore(1)
            assert (made.version, made.domain, made.note) == (3, OWN, None)
            for write in (
                lambda: first.write({"by": "bob"}),
                lambda: first.unlink(),
                lambda: PolicyVersion.create({"policy": "x", "number": 9, "at": first.at}),
            ):
                with pytest.raises(AccessDenied, match=r"only the plugin|no role has the right"):
                    await write()
        assert await owners("ann") == ["ann"]
        with system(reason="test"), pytest.raises(AccessDenied, match="only the plugin"):
            await PolicyVersion.search().delete()


async def test_a_rolled_back_edit_leaves_no_version_and_closes_nothing(opened):
    async with opened(stored_policies=True):
        await fill()
        with pytest.raises(ZeroDivisionError):
            async with transaction():
                await policy("policies.note", "restriction", domain=OWN)
                assert await owners("ann") == ["ann", "bob"]
                raise ZeroDivisionError
        assert await owners("ann") == ["ann", "bob"]
        with system(reason="test"):
            assert await PolicyVersion.count() == 0


async def test_another_app_knows_of_a_policy_within_a_second(opened):
    async with opened(stored_policies=True) as app, another(app, stored_policies=True) as other:
        await fill()
        with other.activate():
            assert await owners("ann") == ["ann", "bob"]
        with app.activate():
            await policy("policies.note", "restriction", domain=OWN)
        await asyncio.sleep(knowing_module.FRESH)
        with other.activate():
            assert await owners("ann") == ["ann"]


@pytest.mark.parametrize("kind", ["right", "permission", "restriction"])
async def test_a_policy_that_cannot_be_read_any_more_allows_nothing_and_is_reported(
    opened, kind, caplog, capsys
):
    async with opened(stored_policies=True) as app:
        await fill()
        await policy("policies.note", "right", "r", roles=["clerk"])
        values = {"roles": ["clerk"]} if kind == "right" else {"domain": OWN}
        made = await policy("policies.note", kind, **values)
        assert await owners(CLERK) == (["ann", "bob"] if kind == "right" else ["ann"])
        raw = app.dangerous_raw("a field was renamed since")
        broken = {"operations": "read"} if kind == "right" else {"domain": [["gone", "=", 1]]}
        await raw.security_policies.update_one({"_id": made.pk}, {"$set": broken})
        if kind == "right":
            await raw.security_policies.update_one({"name": "r"}, {"$set": {"roles": None}})
        await raw.security_state.update_one({}, {"$inc": {"policies": 1}})
        app.services["security"].knowledge.forget()
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            assert await owners(CLERK) == (None if kind == "right" else [])
        assert "'p' of model 'policies.note' allows nothing" in caplog.text
        assert "ann" not in caplog.text
        [report] = await app.services["security"].full_report("policies.note")
        assert next(one for one in report.stored if one.name == "p").problem
        await security_command(app, "report", "policies.note")
        assert "it allows nothing:" in capsys.readouterr().out
        with system(reason="test"):
            said = str(await Note.search().why(principal=CLERK))
        if kind != "right":
            assert "version 1 cannot be read, and allows nothing: " in said and "'gone'" in said


async def test_a_policy_about_a_model_that_is_gone_is_reported(opened):
    async with opened(stored_policies=True) as app:
        security = app.services["security"]
        security._report = lambda names, policy: []  # the models of other tests
        made = await policy("policies.note", "restriction", domain=OWN)
        raw = app.dangerous_raw("the model was renamed since")
        await raw.security_policies.update_one(
            {"_id": made.pk}, {"$set": {"model": "policies.gone"}}
        )
        await raw.security_state.update_one({}, {"$inc": {"policies": 1}})
        security.knowledge.forget()
        [report] = await security.full_report()
        assert [*report.lines()] == [
            "policies.gone: closed",
            "  stored restriction 'p', version 1; it allows nothing: this App has no such model",
        ]


async def test_a_permission_that_is_taken_away_leaves_the_records_closed(opened):
    async with opened(stored_policies=True):
        await fill()
        made = await policy(
            "policies.note", "permission", operations=["read", "write"], domain=[["size", "=", 1]]
        )
        assert await owners("eve") == ["ann"]
        await edit(made, active=False)
        assert await owners("eve") == []
        await edit(made, active=True, operations=["write"])
        assert await owners("eve") == []
        await edit(made, operations=["read"])
        assert await owners("eve") == ["ann"]
        with act_as("eve"), pytest.raises(AccessDenied):
            await Note.search().update({"size": 9})
        await policy("policies.note", "permission", "all", domain=[])
        assert await owners("eve") == ["ann", "bob"]


async def test_why_names_the_policy_that_allows_or_refuses(opened):
    async with opened(stored_policies=True, stored_roles=True):
        await fill()
        await policy("policies.note", "right", "clerks read", roles=["clerk"])
        await policy("policies.note", "restriction", "own ones", domain=OWN)
        with system(reason="test"):
            await RoleAssignment.create({"principal": "ann", "role": "clerk"})
            verdict = await Note.search().why(principal="ann")
            text = str(verdict)
            assert verdict.roles == {"clerk"}
            assert "by the stored policy 'clerks read' (version 1)" in text
            assert "restriction 'own ones (stored)'" in text and "version 1" in text
            assert (await Note.search().why(principal="eve")).allowed is False
        with act_as("eve"), pytest.raises(AccessDenied, match="'clerk'"):
            await Note.search()


async def test_a_stored_rule_has_a_name_of_its_own_beside_one_in_python(opened):
    extra = {"policies.form": [Rule("p (stored)", [("size", "<", 9)])]}
    async with opened(stored_policies=True, rules=extra):
        await fill(Form)
        await policy("policies.form", "restriction", domain=[["size", ">", 1]])
        assert await owners(CLERK, Form) == []


async def test_who_is_limited_stores_no_policy_on_any_way(opened):
    async with opened(stored_policies=True):
        made = await policy("policies.note", "restriction", domain=OWN)
        values = {"name": "x", "model": "policies.note", "kind": "permission"}
        values |= {"operations": ["read"], "domain": []}
        with act_as("ann"):
            for way in (
                lambda: StoredPolicy.create(values),
                lambda: StoredPolicy.create_many([values]),
                lambda: made.write({"active": False}),
                lambda: made.restore(1),
                lambda: made.copy({"name": "y"}),
                lambda: StoredPolicy.search().update({"active": False}),
                lambda: StoredPolicy.search(),
                lambda: PolicyVersion.search(),
                lambda: current_env().app.model("security.state").search().update({"policies": 0}),
                lambda: current_env().app.model("security.state").search().delete(),
            ):
                with pytest.raises(AccessDenied):
                    await way()


async def test_what_was_not_read_is_not_told(opened):
    async with opened(stored_policies=True) as app:
        security = app.services["security"]
        with pytest.raises(ConfigurationError, match="inside of an operation"):
            security.report()
        assert [one.model for one in await security.full_report("policies.note")] == [
            "policies.note"
        ]
        [told] = stored_policies(security.current)
        assert told.level == "ok" and "earnorm security report" in told.what_to_do
        assert [*stored_policies(None)] == []


async def test_in_memory_edits_count_at_once(opened):
    from earnorm import App
    from earnorm_security import SecurityPlugin, SecuritySettings

    plugin = SecurityPlugin(SecuritySettings(stored_policies=True, stored_roles=True))
    async with App("mongomock://", database="stored_memory", plugins=[plugin]):
        await fill()
        made = await policy("policies.note", "restriction", roles=["clerk"], domain=OWN)
        assert await owners("ann") == ["ann", "bob"]
        with system(reason="test"):
            await RoleAssignment.create({"principal": "ann", "role": "clerk"})
        assert await owners("ann") == ["ann"]
        await edit(made, domain=[])
        assert await owners("ann") == ["ann", "bob"]
        with system(reason="test"):
            assert [v.number for v in await made.versions()] == [1, 2]
