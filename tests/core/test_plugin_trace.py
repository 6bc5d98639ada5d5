"""EARNORM_TRACE_PLUGINS, the logger earnorm.plugins, and explain() layer by layer."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import earnorm
from earnorm import AccessDenied, App, BaseModel, Boolean, Int, Many2one, String, hookimpl, system
from earnorm.kernel.plugins import tracing
from earnorm.plugin import Layer, Reading, Stage, Step
from tests.cli.distributions import write_distribution

SECRET = "s3cret-value"


class Sheet(BaseModel):
    _name = "trace.sheet"
    owner = String()
    size = Int()
    hidden = Boolean(default=False)


class Page(BaseModel):
    _name = "trace.page"
    sheet_id = Many2one(Sheet)


class RulePlugin:
    """Narrows every search of sheets, by a value that nobody else may see."""

    api = 1
    name = "rule"

    @hookimpl
    def wrap_operation(self, model, operation):
        if model._name == "trace.sheet" and operation == "search":
            return [(Layer.SECURITY, self.narrow), (555, self.pass_on)]
        return []

    async def narrow(self, op, call_next):
        if op.env.system:
            return await call_next(op)
        rule = earnorm.Domain([("owner", "=", f"{SECRET} of {op.env.principal}")])
        options = op.options.replace(fields=frozenset({"_id", "size"}))
        return await call_next(op.replace(domain=op.domain & rule, options=options))

    async def pass_on(self, op, call_next):
        return await call_next(op)


class StampPlugin:
    api = 1
    name = "stamp"
    requires = ["rule"]

    @hookimpl
    async def startup(self):
        await asyncio.sleep(0.02)

    @hookimpl
    def register_models(self):
        yield from ()

    @hookimpl
    def register_reading(self, model):
        if "hidden" in model.fields:
            return Reading(base_domain=earnorm.Domain([("hidden", "!=", True)]))
        return None

    @hookimpl
    def register_steps(self, model):
        if model.name == "trace.sheet":
            yield Step(Stage.STAMP, "size", lambda batch: batch.fill("size", 1))


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("EARNORM_TRACE_PLUGINS", raising=False)
    yield
    monkeypatch.delenv("EARNORM_TRACE_PLUGINS", raising=False)
    tracing.follow_environment()
    assert tracing.log.level == logging.NOTSET


def made(**options: Any) -> App:
    return App("mongomock://", database="traced", plugins=[StampPlugin, RulePlugin], **options)


async def used(**options: Any) -> None:
    async with made(**options):
        await Sheet.create({"owner": SECRET})
        await Sheet.search([("owner", "=", SECRET)])
        await Sheet.search()


async def test_the_variable_shows_the_trace_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EARNORM_TRACE_PLUGINS", "1")
    await used(disabled=["watching"])
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("earnorm.plugins: App 'traced': ") for line in lines)
    told = [line.removeprefix("earnorm.plugins: App 'traced': ") for line in lines]
    assert told[0] == "2 plugins selected: plugins= names them"
    assert told[1].startswith(f"plugin 'rule', {__name__}:RulePlugin ({__file__}): active: ")
    assert told[1].endswith("plugins= names it; hooks: wrap_operation")
    assert "hooks: register_models, register_reading, register_steps, startup" in told[2]
    assert "features left out: watching" in told
    [started] = [line for line in told if line.startswith("started in")]
    assert started.endswith("; order: rule, stamp")
    [stamp] = [line for line in told if line.startswith("started: plugin 'stamp'")]
    startup = re.search(r"startup (\d+\.\d) ms", stamp)
    assert startup is not None and float(startup[1]) >= 20  # the time that it waited, too
    assert "register_models 0." in stamp
    [create] = [line for line in told if line.startswith("trace.sheet.create: ")]
    assert create.endswith(" → database; steps: STAMP stamp.size")
    searches = [line for line in told if line.startswith("trace.sheet.search: ")]
    assert len(searches) == 1  # they are put together once
    assert "SECURITY 100 rule → DEFAULT+55 555 rule" in searches[0]
    [stopped] = [line for line in told if line.startswith("stopped in")]
    assert stopped.endswith("; order: stamp, rule")
    assert SECRET not in "".join(lines)


async def test_not_selected_plugins_are_told_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    for name in ("named", "needed", "left", "off"):
        site, _ = write_distribution(tmp_path, name, "class Plugin:\n    api = 1\n")
        monkeypatch.syspath_prepend(str(site))
    caplog.set_level(logging.DEBUG, logger="earnorm.plugins")
    monkeypatch.setenv("EARNORM_PLUGINS", "named")
    async with App("mongomock://", database="x", required=["needed"], disabled=["off"]):
        pass
    text = caplog.text
    assert "2 plugins selected: EARNORM_PLUGINS names them" in text
    assert re.search(r"plugin 'named' 1.2 from earnorm-named, .*EARNORM_PLUGINS names it", text)
    assert re.search(r"plugin 'needed' .*: active: required=; hooks: none", text)
    assert re.search(r"plugin 'left' .*: not selected: EARNORM_PLUGINS leaves it out", text)
    assert re.search(r"plugin 'off' .*: disabled: disabled= or EARNORM_DISABLED", text)


async def test_a_failed_start_tells_how_far_it_came(caplog: pytest.LogCaptureFixture) -> None:
    class FailingPlugin:
        api = 1
        name = "zz"

        @hookimpl
        def startup(self):
            raise RuntimeError("no")

    caplog.set_level(logging.DEBUG, logger="earnorm.plugins")
    with pytest.raises(earnorm.PluginError):
        await App("mongomock://", database="x", plugins=[RulePlugin, FailingPlugin]).start()
    assert re.search(r"failed to start in [\d.]+ ms; order: rule$", caplog.text, re.MULTILINE)
    assert re.search(r"stopped in [\d.]+ ms; order: rule$", caplog.text, re.MULTILINE)


@pytest.mark.parametrize("value", [None, "", "0"])
async def test_without_the_variable_nothing_is_told_and_no_hook_is_timed(
    value: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if value is not None:
        monkeypatch.setenv("EARNORM_TRACE_PLUGINS", value)
    app = made()
    assert app.loaded.times is None
    await used()
    assert capsys.readouterr().err == ""


async def test_a_program_that_logs_to_stderr_sees_each_line_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EARNORM_TRACE_PLUGINS", "1")
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    try:
        await used()
    finally:
        logging.getLogger().removeHandler(handler)
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "2 plugins selected" in line]) == 1


# -- explain() ------------------------------------------------------------------------------------


@pytest.fixture
async def ruled(database: str) -> AsyncIterator[App]:
    """An App on a real server, which has query plans."""
    uri = os.environ["EARNORM_TEST_MONGO_URI"]
    async with App(uri, database=database, plugins=[StampPlugin, RulePlugin]) as app:
        yield app
        await app.dangerous_raw("a test's database").client.drop_database(database)


async def test_explain_tells_system_what_each_layer_makes_of_a_principals_search(
    ruled: App,
) -> None:
    await Sheet.create([{"owner": f"{SECRET} of ann", "size": 1}, {"owner": "bob", "size": 2}])
    query = Sheet.search([("size", ">", 0)])
    with system(reason="to see the rule"):
        plan = await query.explain(principal="ann")
        own = await query.explain()
    by_place = {(effect.plugin, effect.place): effect for effect in plan.layers}
    base, rule = by_place["stamp", "base_domain"], by_place["rule", "SECURITY"]
    assert plan.layers[0] is base and base.layer is None
    assert base.before == earnorm.Domain([("size", ">", 0)])
    assert rule.before == base.after
    assert rule.after == rule.before & earnorm.Domain([("owner", "=", f"{SECRET} of ann")])
    assert rule.options == {"fields": (None, frozenset({"_id", "size"}))}
    assert rule.changed
    idle = by_place["rule", "DEFAULT+55"]
    assert (idle.layer, idle.changed, idle.before) == (555, False, rule.after)
    assert str(idle) == "DEFAULT+55 555 rule: no change"
    assert f"'owner', '=', '{SECRET} of ann'" in str(rule)
    assert "fields None → ['_id', 'size']" in str(rule)
    assert SECRET not in repr(plan) + repr(plan.layers) + str(plan)
    assert plan.returned == 1
    # In its own name system passes the rule.
    assert not {e.place: e for e in own.layers}["SECURITY"].changed
    assert own.returned == 2
    # The search itself goes as before.
    assert await query.count() == 2
    with earnorm.act_as("ann"):
        assert len(await query) == 1


async def test_nobody_else_sees_what_layers_make_of_a_search(ruled: App) -> None:
    with earnorm.act_as("ann"):
        plan = await Sheet.search().explain()
        assert plan.layers == ()
        assert plan.returned is None
        for principal in ("bob", "ann"):
            with pytest.raises(AccessDenied, match="somebody else"):
                await Sheet.search().explain(principal=principal)


async def test_a_layer_that_answers_itself_passes_nothing_on() -> None:
    async def answer(op, call_next):
        return []

    class AnswerPlugin:
        api = 1

        @hookimpl
        def wrap_operation(self, operation):
            return [(Layer.CACHE, answer)] if operation == "search" else []

    async with App("mongomock://", database="x", plugins=[AnswerPlugin, RulePlugin]):
        with system(reason="to see it"):
            plan = await Sheet.search().explain()
    assert [str(effect) for effect in plan.layers if effect.plugin == "answer"] == [
        "CACHE 900 answer: passed nothing on"
    ]
    assert plan.layers[-1].plugin == "answer"
    assert plan.layers[-1].after is None


async def test_a_condition_about_other_records_is_told_by_the_layer_that_resolves_it(
    ruled: App,
) -> None:
    await Page.create({"sheet_id": await Sheet.create({"size": 7})})
    with system(reason="to see it"):
        plan = await Page.search([("sheet_id.size", "=", 7)]).explain()
    [resolve] = [effect for effect in plan.layers if effect.place == "RESOLVE"]
    assert resolve.before == earnorm.Domain([("sheet_id.size", "=", 7)])
    assert resolve.changed
