"""``query.why()``, ``why(record)`` and what ``access_denied`` is told; for system only."""

from __future__ import annotations

import pickle

import pytest

from earnorm import (
    AccessDenied,
    ConfigurationError,
    Domain,
    Int,
    Many2one,
    Principal,
    String,
    act_as,
    hookimpl,
    models,
    system,
    transaction,
)
from earnorm_security import Access, Encrypted, Role, Rule, context, new_key, user, why

calls: list[str] = []


def counted(env):
    calls.append("counted")
    return [("state", "=", "open")]


class Project(models.BaseModel):
    _name = "why.project"
    owner = String()


class Task(models.BaseModel):
    _name = "why.task"
    _access = [
        Access("member", read=True, write=True, create=True),
        Access("guest", read=True, export=False),
    ]
    _rules = [
        Rule("open", counted),
        Rule("own project", [("project_id.owner", "=", user.id)], roles=["member"]),
        Rule("small", [("size", "<", 10)], restrict=False, operations=["read"]),
        Rule("unlocked", [("locked", "!=", 1)], operations=["write"]),
        Rule("of the chief", [], roles=["chief"]),
    ]
    state = String(default="open")
    size = Int(default=1)
    locked = Int(default=0)
    project_id = Many2one(Project)


class Sealed(models.BaseModel):
    _name = "why.sealed"
    _rules = [
        Rule("number", [("number", "=", context.number)]),
        Rule("named", [("title", "=", "x")], operations=["write"]),
    ]
    number = Encrypted(String(), deterministic=True)
    title = String()


class Sheet(models.BaseModel):
    _name = "why.sheet"
    _discriminator = "kind"
    title = String()


class Budget(Sheet):
    _name = "why.budget"
    _access = [Access("chief", read=True)]
    _rules = [Rule("large", [("total", ">", 5)])]
    total = Int(default=0)


class Open(models.BaseModel):
    _name = "why.open"
    title = String()


ANN = Principal("ann", ["member"])
GIL = Principal("gil", ["guest"])


class Ear:
    """A plugin that hears of refusals."""

    api = 1
    name = "ear"

    def __init__(self):
        self.heard = []

    @hookimpl
    def access_denied(self, op, error, why):
        self.heard.append((op, error, why))


async def fill():
    with system(reason="fill"):
        own = await Project.create({"owner": "ann"})
        other = await Project.create({"owner": "bob"})
        return await Task.create(
            [
                {"project_id": own},
                {"project_id": own, "state": "closed"},
                {"project_id": own, "locked": 1},
                {"project_id": other, "size": 50},
                {"size": 50},
            ]
        )


def told(verdict):
    return {reason.name: reason.allows for reason in verdict.reasons}


async def test_a_query_tells_rights_rules_and_the_filter(opened):
    async with opened():
        await fill()
        calls.clear()
        with system(reason="support"):
            verdict = await Task.search([("size", ">", 0)]).why(principal=ANN)
        assert calls == ["counted"]  # the function of a rule is called once
        assert (verdict.model, verdict.principal, verdict.roles) == ("why.task", "ann", {"member"})
        assert verdict.allowed is None  # it depends on the record
        assert told(verdict) == {
            "read": True,
            "open": None,
            "own project": None,
            "small": None,
            "of the chief": False,
        }
        raw = [document async for document in _documents(opened, verdict.filter)]
        with act_as(ANN):
            assert {t.pk for t in await Task.search([("size", ">", 0)])} == {d["_id"] for d in raw}


async def _documents(opened, condition):
    from earnorm import current_app

    raw = current_app().dangerous_raw("the filter, as it is told")
    async for document in raw["why_task"].find(condition):
        yield document


@pytest.mark.parametrize(
    ("position", "operation", "allowed", "refusing"),
    [
        (0, "read", True, set()),
        (0, "write", True, set()),
        (1, "read", False, {"open"}),
        (2, "read", True, set()),
        (2, "write", False, {"unlocked"}),
        (3, "read", False, {"own project", "small", "of the chief"}),
        (3, "write", False, {"own project", "small", "of the chief"}),
        (0, "unlink", False, {"unlink", "of the chief"}),
    ],
)
async def test_a_record_tells_what_it_does_not_fulfil(
    opened, position, operation, allowed, refusing
):
    async with opened():
        task = (await fill())[position]
        with system(reason="support"):
            verdict = await why(task, operation, principal=ANN)
        assert verdict.allowed is allowed
        assert verdict.record == task.id
        missed = {reason.name for reason in verdict.refusing}
        if operation == "unlink":
            assert "unlink" in missed
        else:
            assert missed == refusing
        # It is what the operation itself says.
        with act_as(ANN):
            found = await Task.count([("id", "=", task.id)]) == 1
        if operation == "read":
            assert found is allowed


async def test_a_missing_link_and_a_missing_role_are_named(opened):
    async with opened(roles=[Role("lead", implies=["member"])]):
        tasks = await fill()
        with system(reason="support"):
            of_other = await why(tasks[3], principal=Principal("ann", ["lead"]))
            without = await why(tasks[4], principal=ANN)
            of_guest = await why(tasks[0], "write", principal=GIL)
        assert of_other.roles == {"lead", "member"}
        [reason] = [r for r in of_other.reasons if r.name == "own project"]
        assert reason.detail == "the link 'project_id' leads to no record that fulfils it"
        assert reason.failing == [Domain([("project_id.owner", "=", "ann")])]
        [reason] = [r for r in without.reasons if r.name == "own project"]
        assert reason.detail == "the link 'project_id' is not set"
        [right] = [r for r in of_guest.reasons if r.name == "write" and r.kind == "right"]
        assert (right.allows, right.roles) == (False, {"member"})
        rules = [r for r in of_guest.reasons if r.name == "own project"]
        assert [r.right for r in rules] == ["read", "write"]
        assert {r.detail for r in rules} == {"none of its roles is the principal's"}
        text = str(of_other)
        assert "why.task" in text and "own project" in text and "refused" in text
        assert "project_id" not in repr(of_other)  # a repr gets into logs


async def test_only_system_may_ask_and_nothing_is_evaluated_for_others(opened):
    async with opened():
        [task, *_] = await fill()
        calls.clear()
        with act_as(ANN):
            for asking in (Task.search().why(), why(task), Task.search().why(principal=ANN)):
                with pytest.raises(AccessDenied, match=r"only inside earnorm.system"):
                    await asking
        assert calls == []
        with act_as(ANN), system(reason="support"):
            assert (await Task.search().why()).principal == "ann"
        with system(reason="support"):
            verdict = await Task.search().why()
        assert (verdict.principal, verdict.allowed) == (None, False)


async def test_a_record_that_is_not_there_and_an_open_model(opened):
    async with opened():
        [task, *_] = await fill()
        with system(reason="support"):
            await task.unlink()
            gone = await Task.search([("id", "=", task.id)]).why(principal=ANN)
            is_open = await Open.search().why("unlink", principal="bob")
        assert gone.allowed is False
        assert {r.detail for r in gone.refusing if r.domain is not None} == {
            "there is no such record"
        }
        assert is_open.allowed is True and is_open.filter == {}


async def test_what_is_no_operation_or_principal_is_an_error(opened):
    async with opened():
        with system(reason="support"):
            with pytest.raises(ConfigurationError, match=r"no operation 'wirte'.*'write'"):
                await Task.search().why("wirte")
            with pytest.raises(ConfigurationError, match="no operation"):
                await Task.search().why(None)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="has none"):
                await Task.search().why(principal=object())


async def test_a_class_of_a_family_has_its_say(opened):
    async with opened():
        with system(reason="fill"):
            small, large = await Budget.create([{"total": 1}, {"total": 9}])
            plain = await Sheet.create({"title": "a"})
        chief = Principal("cy", ["chief"])
        with system(reason="support"):
            for record, who, allowed in (
                (small, chief, False),
                (large, chief, True),
                (large, ANN, False),
                (plain, ANN, True),
            ):
                verdict = await Sheet.search([("id", "=", record.id)]).why(principal=who)
                assert verdict.allowed is allowed
                with act_as(who):
                    assert (await Sheet.count([("id", "=", record.id)]) == 1) is allowed
            verdict = await Sheet.search([("id", "=", large.id)]).why(principal=ANN)
        assert next((r.model, r.name) for r in verdict.refusing) == ("why.budget", "read")


async def test_no_secret_value_is_told(opened):
    pytest.importorskip("cryptography")
    ear = Ear()
    async with opened((ear,), keys={"one": new_key()}):
        with system(reason="fill"):
            sealed = await Sealed.create({"number": "4711-geheim", "title": "x"})
        with act_as("ann", number="4711-geheim"):
            assert await Sealed.count() == 1
            with system(reason="support"):
                verdict = await Sealed.search([("number", "=", "4711-geheim")]).why()
            with pytest.raises(AccessDenied):
                await sealed.write({"title": "y"})
        assert verdict.allowed is None
        assert "(secret)" in str(verdict)
        [(_, _, denied)] = ear.heard
        for one in (verdict, denied):
            assert "geheim" not in f"{one}{one!r}{one.filter}{one.domain}"
        assert "$in" not in str(verdict.filter)  # nor its encrypted forms


async def test_observers_are_told_why_and_the_user_is_not(opened):
    ear = Ear()
    async with opened((ear,)):
        tasks = await fill()
        with act_as(ANN):
            with pytest.raises(AccessDenied) as by_rule:
                await tasks[2].write({"size": 2})
            with pytest.raises(AccessDenied) as by_right:
                await tasks[0].unlink()
            with pytest.raises(AccessDenied) as created:
                await Task.create({"state": "closed"})
        [(_, _, rule), (_, _, right), (_, _, document)] = ear.heard
        assert (rule.operation, rule.principal, rule.allowed) == ("write", "ann", False)
        assert told(rule)["unlocked"] is None and rule.filter is not None
        assert "locked" in str(rule.filter)
        assert [r.name for r in right.refusing if r.kind == "right"] == ["unlink"]
        assert right.domain is None
        assert "state" in str(document.filter)
        for caught in (by_rule, by_right, created):
            error = caught.value
            assert vars(error) == {} and not hasattr(error, "why")
            again = pickle.loads(pickle.dumps(error))
            assert str(again) == str(error) and "'locked'" not in str(error)


async def test_what_is_told_of_a_refusal_calls_no_function_anew(opened):
    number = []
    for plugins in ((), (Ear(),)):
        async with opened(plugins):
            calls.clear()
            with act_as(ANN), pytest.raises(AccessDenied):
                await Task.create({"state": "closed"})
            number.append(len(calls))
    assert number[0] == number[1] > 0


async def test_a_refusal_in_a_transaction_is_told_and_so_is_an_export(opened):
    pytest.importorskip("pyarrow")
    ear = Ear()
    async with opened((ear,)):
        await fill()
        with act_as(GIL):
            with pytest.raises(AccessDenied):
                async with transaction():
                    await Task.create({})
            with pytest.raises(AccessDenied):
                await Task.search().to_arrow()
        assert [why.operation for _, _, why in ear.heard] == ["create", "export"]


async def test_a_permission_to_read_does_not_hide_that_none_to_write_allows(opened):
    async with opened():
        tasks = await fill()
        with system(reason="fill"):
            await tasks[3].write({"size": 1})
        with system(reason="support"):
            verdict = await why(tasks[3], "write", principal=ANN)
        assert verdict.allowed is False
        missed = {(reason.right, reason.name) for reason in verdict.refusing}
        assert missed == {("write", "own project"), ("write", "of the chief")}
