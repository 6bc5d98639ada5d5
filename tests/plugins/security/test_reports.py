"""``earnorm security report`` and ``explain``, and what doctor tells of open models."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest

from earnorm import App, ConfigurationError, NotFound, act_as, models, system
from earnorm.cli import doctor
from earnorm.plugin import Finding, hookimpl
from earnorm_security import Access
from earnorm_security.command import security_command
from earnorm_security.reporting import NAMED, ModelReport, open_models
from tests.core.conftest import definitions

from . import reported
from .reported import ANN, ROLES, Bill, Leaver, Person, calls

NAMES = [f"reported.{name}" for name in ("bill", "forgotten", "closed", "sheet", "account")]


def command(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "earnorm.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_the_report_lists_roles_rules_and_open_models(opened):
    extra = {"reported.bill": [Access("guest", create=True)]}
    async with opened(access=extra, roles=ROLES) as app:
        calls.clear()
        reports = {one.model: one for one in app.services["security"].report(*NAMES)}
        assert calls == []  # no function of a rule is called
    bill = reports["reported.bill"]
    assert not bill.is_open and bill.bookkeeping is None
    assert bill.roles == {
        "*": ["read"],
        "clerk": ["read", "write", "aggregate", "watch", "explain"],
        "guest": ["create"],
    }
    rules = {rule.name: rule for rule in bill.rules}
    assert (rules["own"].kind, rules["own"].reads) == ("permission", ["owner"])
    assert (rules["cheap"].kind, rules["cheap"].operations) == ("restriction", ["write"])
    assert rules["cheap"].reads is None
    assert (
        "  permission 'of the clerk' for clerk, on create, read, unlink, write; reads nothing"
        in [*bill.lines()]
    )
    assert reports["reported.forgotten"].is_open
    assert [*reports["reported.forgotten"].lines()] == ["reported.forgotten: open to everybody"]
    assert [*reports["reported.closed"].lines()] == ["reported.closed: closed"]
    # A class without rules of its own in a family with some is not open.
    assert not reports["reported.account"].is_open and not reports["reported.sheet"].is_open


async def test_no_model_is_open_where_the_default_is_closed(opened):
    async with opened(default="closed") as app:
        assert not any(one.is_open for one in app.services["security"].report(*NAMES))


async def test_explain_takes_a_user_its_roles_and_a_context(opened, capsys):
    async with opened(roles=ROLES) as app:
        with system(reason="fill"):
            bill = await Bill.create({"owner": "ann", "tenant": "a", "amount": 5})
            clerk = await Person.create({"roles": ["clerk"]})
        name, pk = "reported.bill", bill.id
        await security_command(app, "explain", name, "ann", id=pk, context=["tenant=a"])
        assert "read on reported.bill" in (said := capsys.readouterr().out)
        assert "by ann: allowed" in said and "restriction 'tenant'" in said
        await security_command(app, "explain", name, "ann", id=pk)
        assert "by ann: refused" in capsys.readouterr().out
        await security_command(
            app, "explain", name, "eve", ["head"], context=["tenant=a"], op="write"
        )
        assert "with the roles clerk, head: depends on the record" in capsys.readouterr().out
        await security_command(
            app, "explain", name, clerk.id, user_model="reported.person", op="export"
        )
        assert "right 'export' of reported.bill: refuses; no role has it" in capsys.readouterr().out
        await security_command(app, "explain", "reported.closed")
        assert "read on reported.closed by nobody: refused" in capsys.readouterr().out
        # It is what the operation itself says.
        with act_as(ANN, tenant="a"):
            assert await Bill.count() == 1
        with act_as(ANN):
            assert await Bill.count() == 0


async def test_explain_finds_an_archived_user(opened, capsys):
    async with opened(roles=ROLES) as app:
        with system(reason="fill"):
            gone = await Leaver.create({"roles": ["clerk"]})
            await gone.archive()
        await security_command(
            app, "explain", "reported.bill", gone.id, user_model="reported.leaver", op="export"
        )
        assert f"by {gone.id}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "text", "arguments"),
    [
        (ConfigurationError, "name the model", {}),
        (ConfigurationError, "reported.bil'", {"model": "reported.bil"}),
        (ConfigurationError, "whose role", {"model": "reported.bill", "role": ["a"]}),
        (
            ConfigurationError,
            "not both",
            {"model": "reported.bill", "user": "a", "role": ["a"], "user_model": "reported.person"},
        ),
        (ConfigurationError, "no operation 'fly'", {"model": "reported.bill", "op": "fly"}),
        (
            ConfigurationError,
            "name=value",
            {"model": "reported.bill", "user": "a", "context": ["tenant"]},
        ),
        (
            NotFound,
            "reported.person|record",
            {"model": "reported.bill", "user": "nobody", "user_model": "reported.person"},
        ),
    ],
)
async def test_what_explain_cannot_answer_is_an_error(opened, error, text, arguments):
    async with opened() as app:
        with pytest.raises(error, match=text):
            await security_command(app, "explain", **arguments)


async def test_what_no_action_is_and_an_unknown_model_are_errors(opened, capsys):
    async with opened() as app:
        with pytest.raises(ConfigurationError, match="none of 'report', 'explain'"):
            await security_command(app, "explian")
        with pytest.raises(ConfigurationError, match=r"reported\.bil"):
            await security_command(app, "report", "reported.bil")
        await security_command(app, "report", "reported.bill", as_json=True)
        [told] = json.loads(capsys.readouterr().out)
        assert told["model"] == "reported.bill" and told["roles"]["*"] == ["read"]


def test_a_finding_names_so_many_open_models_and_no_more():
    reports = [ModelReport(f"m{n:02}", True, None, {}, ()) for n in range(NAMED + 3)]
    [finding] = open_models(reports)
    assert finding.level == "warning"
    assert finding.what.startswith(f"{NAMED + 3} models are open")
    assert finding.what.endswith("m19 and 3 others")
    assert "closed" in finding.what_to_do
    assert list(open_models([])) == []


async def test_the_commands_work_with_the_app_of_the_program():
    app = ["--app", f"{reported.__name__}:make"]
    report, explained, found, filled = await asyncio.gather(
        asyncio.to_thread(command, "security", "report", *app),
        asyncio.to_thread(
            *(command, "security", "explain", "--model", "reported.bill", "--user", "ann"),
            *("--role", "clerk", "--role", "b", "--op", "write", *app),
        ),
        asyncio.to_thread(command, "doctor", "--json", *app),
        asyncio.to_thread(command, "recompute", "--defaults", "--model", "reported.bill", *app),
    )
    assert filled.strip() == "reported.bill.amount: 0 written"  # the command is the system
    assert report.splitlines()[0] == "reported.forgotten: open to everybody"
    assert "by ann with the roles b, clerk: refused" in explained  # no tenant is set
    [finding] = [one for one in json.loads(found) if "open" in one["what"]]
    assert finding["level"] == "warning"
    assert finding["what"].startswith("1 model is open")
    assert "reported.forgotten" in finding["what"]


async def test_doctor_names_a_plugin_that_hands_in_something_else():
    class Wrong:
        api = 1
        name = "wrong"
        answer: object = ("ok",)

        @hookimpl
        def diagnose(self):
            return self.answer

    # Models of other tests may be wrong on purpose.
    with definitions(alone=True):
        app = App("mongomock://", database="doctor", plugins=[Wrong])
        await _doctored(app, Wrong)


async def _doctored(app, wrong):
    class Fine(models.BaseModel):
        _name = "doctored.fine"

    async with app:
        [finding] = await doctor._models(app)
        assert (finding.level, "plugin 'wrong'" in finding.what) == ("error", True)
        wrong.answer = [Finding("ok", "all is well")]
        assert Finding("ok", "all is well") in await doctor._models(app)
        wrong.answer = None
        assert len(await doctor._models(app)) == 1
