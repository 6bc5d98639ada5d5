"""The conformance suite as an author calls it: in one call, or as one test for each check."""

from __future__ import annotations

import re
import subprocess
import sys
import unittest
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
import pytest

import earnorm
from earnorm import App, BaseModel, Int, String, forget
from earnorm.plugin import DocumentBatch, Layer, Operation, Stage, Step, ValueBatch, clock, hookimpl
from earnorm.testing import PluginBreaksContract, check_plugin, plugin_tests, servers
from earnorm.testing.conformance import CHECKS, Check, Result
from tests.testing.conformance.faults import (
    FAULTS,
    DividesByZero,
    LeavesTheTransaction,
    LowerField,
    StandsAroundEveryModel,
)
from tests.testing.projects import run_pytest

ROOT = Path(__file__).parents[3]


class SoundPlugin:
    """It does a little of everything, as the contract asks."""

    api = 1

    @hookimpl
    def register_services(self, app: App) -> Mapping[str, object]:
        return {"sound": [app.name]}

    @hookimpl
    def wrap_operation(self, model: type[BaseModel], operation: str) -> Iterable[tuple[int, Any]]:
        return [(Layer.DEFAULT, self.layer)] if getattr(model, "_sound", False) else []

    async def layer(self, op: Operation, call_next: Any) -> Any:
        return await call_next(op)


def results(outcomes: Iterable[Any]) -> dict[str, Result]:
    return {outcome.check.name: outcome.result for outcome in outcomes}


async def test_a_sound_plugin_passes_or_has_nothing_to_check() -> None:
    found = results(await check_plugin(SoundPlugin))
    assert list(found) == list(CHECKS)
    assert {name for name, result in found.items() if result is not Result.PASSED} == {
        *("entry_point", "settings_print_no_values", "observed_writes"),
        *("operators", "fields", "unique_nulls", "schemas"),
    }
    assert set(found.values()) == {Result.PASSED, Result.NOT_APPLICABLE}


async def test_an_authors_models_are_tried_too() -> None:
    class Letter(BaseModel):
        _name = "conformance_test.letter"
        _stamped = True
        text = String(required=True, unique=True)
        kind = String(readonly=True)
        pages = Int()

    class PagesPlugin:
        api = 1

        @hookimpl
        def register_steps(self, model: Any) -> Iterable[Step]:
            if model.attribute("_stamped"):
                yield Step(Stage.ALIAS, "body", self.take, names={"body"})
                yield Step(Stage.STAMP, "pages", self.fill, on="create")

        def take(self, batch: ValueBatch) -> None:
            for row in batch.rows:
                if "body" in row.values:
                    row.values["text"] = row.take("body")

        def fill(self, batch: DocumentBatch) -> None:
            filled.append(clock())
            batch.fill("pages", 1)

    filled: list[Any] = []
    try:
        await check_plugin(PagesPlugin, models=[Letter])
        assert filled
        filled.clear()
        sample = {Letter: lambda n: {"body": f"text {n}", "kind": "letter"}}
        await check_plugin(PagesPlugin, models=sample)
        assert filled
        with pytest.raises(
            PluginBreaksContract, match="takes a function of a number where records"
        ):
            await check_plugin(PagesPlugin, models={Letter: {"text": "always the same"}})
        with pytest.raises(
            PluginBreaksContract, match=r"of 'conformance_test\.letter' raises Valid"
        ):
            await check_plugin(PagesPlugin, models={Letter: {"pages": 2}})
    finally:
        forget(Letter)


async def test_what_a_plugin_cannot_be_without_is_given() -> None:
    class Settings(pydantic.BaseModel):
        address: str

    class Mailbox:
        api = 1
        version = "1.0"

    class News:
        api = 1
        requires = ("mailbox>=1",)

        def __init__(self, settings: Settings) -> None:
            self.address = settings.address

        @staticmethod
        @hookimpl
        def settings() -> type[pydantic.BaseModel]:
            return Settings

    await check_plugin(News, beside=[Mailbox], settings={"address": "a"})
    with pytest.raises(PluginBreaksContract, match=r"signatures .*address: Field required"):
        await check_plugin(News, beside=[Mailbox])
    with pytest.raises(PluginBreaksContract, match=r"signatures .*it requires 'mailbox>=1'"):
        await check_plugin(News, settings={"address": "a"})


async def test_whoever_may_acts() -> None:
    class OnlyAnn:
        api = 1

        @hookimpl
        def wrap_operation(self) -> Iterable[tuple[int, Any]]:
            return [(Layer.SECURITY, self.layer)]

        async def layer(self, op: Operation, call_next: Any) -> Any:
            if op.env.principal is None or op.env.principal.id != "ann":
                raise earnorm.AccessDenied("ann may")
            return await call_next(op)

    await check_plugin(OnlyAnn, acting=lambda: earnorm.act_as("ann"), idle=None)
    with pytest.raises(PluginBreaksContract, match="let acting= act as somebody who may"):
        await check_plugin(OnlyAnn, idle=None)


async def test_without_a_server_a_check_that_needs_one_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("EARNORM_TEST_MONGO_URI")
    monkeypatch.setenv("EARNORM_TEST_MONGOD", "/nowhere/mongod")
    monkeypatch.setattr(servers, "_started", {})  # not that of the run of these tests
    with pytest.raises(PluginBreaksContract) as caught:
        await check_plugin(LeavesTheTransaction, idle=None)
    failed = {o.check.name: o.reason for o in caught.value.outcomes if o.result is Result.FAILED}
    assert list(failed) == ["leaves_no_connection", "transactions"]
    assert "'/nowhere/mongod', which is no executable file" in failed["transactions"]
    assert "or say memory_only=True" in failed["transactions"]
    found = results(await check_plugin(LeavesTheTransaction, idle=None, memory_only=True))
    needing = {name for name, check in CHECKS.items() if check.needs_server}
    assert {found[name] for name in needing} == {Result.NOT_APPLICABLE}


ONE_LINE = """
from earnorm import Operator
from earnorm.plugin import hookimpl
from earnorm.testing import plugin_tests

class Sound:
    api = 1

    @hookimpl
    def register_operators(self):
        return [Operator("is it", lambda f, v: v, lambda p, v: {p: v}, lambda v: lambda vs: v in vs)]

TestContract = plugin_tests(Sound, operands={"is it": ["a", 5]})
"""
ONLY = ("-rsf", "-k", "operators or leaves_no_connection")


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (("--earnorm-memory",), "", "--earnorm-memory: no real server"),
        ((), "earnorm_backend = memory", "earnorm_backend = memory: no real server"),
    ],
)
def test_the_one_line_in_a_run_in_memory_passes_what_needs_a_server_by_and_says_so(
    tmp_path: Path, arguments: Sequence[str], settings: str, said: str
) -> None:
    done = run_pytest(tmp_path, ONE_LINE, *ONLY, *arguments, settings=settings)
    assert "2 skipped" in done.stdout and "failed" not in done.stdout, done.stdout
    assert said in done.stdout


def test_the_one_line_starts_the_server_that_the_fixtures_would_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EARNORM_TEST_MONGO_URI")
    shared = ONE_LINE + (
        "\ndef test_it_is_the_server_of_the_fixtures(mongo_uri):\n"
        "    from earnorm.testing.servers import lasting_mongod\n"
        "    assert lasting_mongod() == mongo_uri\n"
    )
    only = (ONLY[0], ONLY[1], f"{ONLY[2]} or fixtures")
    done = run_pytest(tmp_path, shared, *only)
    assert "3 passed" in done.stdout and "failed" not in done.stdout, done.stdout


def test_the_one_line_without_a_server_fails_and_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EARNORM_TEST_MONGO_URI")
    monkeypatch.setenv("EARNORM_TEST_MONGOD", "/nowhere/mongod")
    done = run_pytest(tmp_path, ONE_LINE, *ONLY)
    assert "2 failed" in done.stdout, done.stdout
    assert "EARNORM_TEST_MONGOD names '/nowhere/mongod'" in done.stdout


async def test_what_an_author_leaves_out_is_not_checked_and_the_rest_is() -> None:
    cost = "idle_costs_nothing"
    found = results(await check_plugin(StandsAroundEveryModel, skip=[cost]))
    assert [name for name, result in found.items() if result is Result.NOT_CHECKED] == [cost]
    with pytest.raises(ValueError, match=r"'updats'.*did you mean 'updates'"):
        await check_plugin(SoundPlugin, skip=["updats"])
    with pytest.raises(TypeError, match=r"modles=.*did you mean 'models'"):
        await check_plugin(SoundPlugin, modles={})  # type: ignore[call-arg] # the mistake
    with pytest.raises(TypeError, match="given as its class"):
        await check_plugin(SoundPlugin())  # type: ignore[arg-type] # the mistake


async def test_an_authors_values_and_operands_are_tried() -> None:
    class ExactlyPlugin:
        api = 1

        @hookimpl
        def register_operators(self) -> Iterable[earnorm.Operator]:
            return [DividesByZero.operator]

        @hookimpl
        def register_fields(self) -> Mapping[str, type[earnorm.Field[Any, Any]]]:
            return {"Lower": LowerField}

    with pytest.raises(PluginBreaksContract) as caught:
        await check_plugin(
            ExactlyPlugin, values={"Lower": ["a", "Zoe"]}, operands={"divisible by": [0]}
        )
    failed = {o.check.name: o.reason for o in caught.value.outcomes if o.result is Result.FAILED}
    assert "'Zoe'" in failed["fields"]
    assert "('number', 'divisible by', 0)" in failed["operators"]


def test_each_check_is_a_test_of_its_own() -> None:
    case = plugin_tests(SoundPlugin, skip=["two_apps"])
    assert case.__name__ == "SoundPluginTests"
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    assert result.wasSuccessful()
    assert result.testsRun == len(CHECKS)
    reasons = {test.id().rpartition("test_")[2]: reason for test, reason in result.skipped}
    assert reasons["operators"] == "it brings no operators"
    assert reasons["two_apps"] == "skip= names it"


def test_pytest_shows_the_check_that_fails_and_why(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import asyncio\n"
        "from earnorm.plugin import hookimpl\n"
        "from earnorm.testing import plugin_tests\n"
        "class Leaving:\n"
        "    api = 1\n"
        "    @hookimpl\n"
        "    def startup(self):\n"
        "        self.task = asyncio.create_task(asyncio.sleep(3600))\n"
        "TestContract = plugin_tests(Leaving, memory_only=True)\n"
    )
    command = (sys.executable, "-m", "pytest", "-p", "no:asyncio", "-p", "no:cacheprovider")
    done = subprocess.run(
        [*command, "-q", "-rf", "--rootdir", str(tmp_path), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    failed = re.findall(r"^FAILED .*::TestContract::test_(\w+)", done.stdout, re.MULTILINE)
    assert failed == ["leaves_nothing"], done.stdout
    assert "a stop leaves the task sleep" in done.stdout
    assert "to mend:  shutdown() cancels each task and awaits it" in done.stdout


def test_every_check_says_in_a_sentence_what_it_requires_and_how_to_mend_it() -> None:
    for check in CHECKS.values():
        assert check.requirement.endswith(".")
        assert check.mend.endswith(".")
        assert section_of(check), f"docs/{check.page} has no section {check.section!r}"


def section_of(check: Check) -> str:
    page = (ROOT / "docs" / check.page).read_text()
    sections = re.split(r"^## (.+)$", page, flags=re.MULTILINE)
    return dict(zip(sections[1::2], sections[2::2], strict=True)).get(check.section, "")


@pytest.mark.parametrize(
    "check", [c for c in CHECKS.values() if c.group == "values"], ids=lambda c: c.name
)
def test_the_section_that_a_check_of_values_names_tells_of_what_has_to_be_mended(
    check: Check,
) -> None:
    named = re.findall(r"\b(\w+)\(\)|\b([a-z]+_[a-z]+)\b|\b(prepare|matches)\b", check.mend)
    names = {name for groups in named for name in groups if name}
    assert names, check.mend
    missing = sorted(name for name in names if f"`{name}" not in section_of(check))
    missing = [name for name in missing if f"{name}=" not in section_of(check)]
    assert missing == [], f"docs/{check.page}, {check.section!r}"


def test_a_check_builds_on_checks_that_are_there() -> None:
    for check in CHECKS.values():
        assert set(check.after) <= CHECKS.keys()


def test_the_page_lists_every_check_as_the_code_has_it() -> None:
    page = (ROOT / "docs" / "plugin-testing.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]*) \|$", page, re.MULTILINE)
    told = [(name, requirement, server) for name, requirement, server in rows if name in CHECKS]
    assert told == [
        (check.name, check.requirement, "yes" if check.needs_server else "")
        for check in CHECKS.values()
    ]
    mentioned = {fault.check for fault in FAULTS}
    assert mentioned <= CHECKS.keys()
