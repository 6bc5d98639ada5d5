"""Every check of the conformance suite fails for a planted fault, and that fault fails no other check."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from earnorm import BaseModel, Int, depends, forget
from earnorm.testing import PluginBreaksContract, check_plugin
from earnorm.testing.conformance import CHECKS, Outcome, Result
from tests.cli.distributions import write_distribution
from tests.testing.conformance.faults import (
    FAULTS,
    Fault,
    NeedsAnOperation,
    ObservesForTheLatestApp,
    ObservesOneKindOfChange,
    ObservesTheFirstStart,
)

ELSEWHERE = {"entry_point", "no_work_at_import"}
"""The checks whose faults are in a distribution or a module."""


async def failures(plugin: type, **options: object) -> dict[str, str]:
    """The checks that a plugin fails, each with the reason."""
    try:
        await check_plugin(plugin, **options)  # type: ignore[arg-type] # any options
    except PluginBreaksContract as error:
        failed = _failed(error.outcomes)
        for outcome in failed:  # the text names each of them, and tells the way to mend it
            assert f"{outcome.check.name} ({outcome.check.group})" in str(error)
            assert outcome.check.mend in str(error)
        return {outcome.check.name: outcome.reason for outcome in failed}
    return {}


def _failed(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.result is Result.FAILED]


@pytest.fixture(autouse=True)
def unpatched() -> Iterator[None]:
    """Take back what a fault did to every model."""
    yield
    if "shout" in vars(BaseModel):
        del BaseModel.shout  # type: ignore[attr-defined] # the fault adds it


FIRST = {fault.check: fault for fault in reversed(FAULTS)}


def left_out(check: str, number: int) -> set[str]:
    """The checks that a fault of another one does not meet by default; `nox -s fuzz` runs all.

    By default it meets another tenth of them, without those that wait for its own check.
    """
    if "EARNORM_FUZZ_EXAMPLES" in os.environ:
        return set()
    waiting = {check}
    while more := {n for n, c in CHECKS.items() if waiting & {*c.after}} - waiting:
        waiting |= more
    others = sorted(CHECKS.keys() - waiting)
    return CHECKS.keys() - {check, *others[number % 10 :: 10]}


@pytest.mark.fuzz
@pytest.mark.parametrize("fault", FIRST.values(), ids=str)
async def test_a_planted_fault_fails_its_check_and_no_other(fault: Fault) -> None:
    skip: list[str] = list(fault.options.get("skip", ()))  # type: ignore[call-overload] # names
    skip += left_out(fault.check, list(FIRST).index(fault.check))
    found = await failures(fault.plugin, **{**fault.options, "skip": skip})
    assert list(found) == [fault.check]
    assert fault.says in found[fault.check]


FURTHER = [fault for fault in FAULTS if fault not in FIRST.values()]


@pytest.mark.parametrize("fault", FURTHER, ids=str)
async def test_a_further_planted_fault_fails_its_check(fault: Fault) -> None:
    found = await failures(fault.plugin, **fault.options, skip=CHECKS.keys() - {fault.check})
    assert list(found) == [fault.check]
    assert fault.says in found[fault.check]


async def test_a_model_of_the_process_hides_no_fault() -> None:
    class Summed(BaseModel):
        _name = "faults.summed"
        one = Int()
        two = Int(compute="_double", store=True)

        @depends("one")
        def _double(self) -> int:
            return 2 * (self.one or 0)

    try:  # a start uses models with computed fields
        found = await failures(NeedsAnOperation, skip=CHECKS.keys() - {"signatures", "starts"})
    finally:
        forget(Summed)
    assert list(found) == ["starts"]


@pytest.mark.parametrize(
    ("plugin", "check"),
    [
        (ObservesForTheLatestApp, "two_apps"),
        (ObservesTheFirstStart, "starts_twice"),
        (ObservesOneKindOfChange, "observed_writes"),
    ],
)
@pytest.mark.parametrize("switch", ["disable", "disabled", "level"])
async def test_what_observers_raise_is_seen_in_a_silent_process(
    plugin: type, check: str, switch: str
) -> None:
    logger = logging.getLogger("earnorm")
    before = (logger.level, logger.disabled, logger.propagate)
    if switch == "disable":
        logging.disable(logging.CRITICAL)
    elif switch == "disabled":
        logger.disabled = True
    else:
        logger.setLevel(logging.CRITICAL + 1)
    silent = (logger.level, logger.disabled, logger.propagate, logging.root.manager.disable)
    try:
        found = await failures(plugin, idle=None, skip=CHECKS.keys() - {check})
        after = (logger.level, logger.disabled, logger.propagate, logging.root.manager.disable)
        assert silent == after
    finally:
        logging.disable(logging.NOTSET)
        logger.setLevel(before[0])
        logger.disabled = before[1]
    assert list(found) == [check]


def test_every_check_has_a_planted_fault() -> None:
    assert {fault.check for fault in FAULTS} | ELSEWHERE == CHECKS.keys()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory on ``sys.path``; what is imported from it is forgotten afterwards."""
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


SOUND = "class Plugin:\n    api = 1\n"


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ("", "has no entry point in earnorm.plugins"),
        ("thing = {module}:Plugin2", "cannot be loaded: AttributeError"),
        ("thing = {module}:Other", "is the class"),
    ],
)
async def test_a_wrong_entry_point_fails_its_check_and_no_other(
    site: Path, monkeypatch: pytest.MonkeyPatch, points: str, says: str
) -> None:
    where, module = write_distribution(site, "thing", SOUND + "class Other:\n    api = 1\n")
    info = where / "earnorm_thing-1.2.dist-info"
    (info / "entry_points.txt").write_text(f"[earnorm.plugins]\n{points.format(module=module)}\n")
    (info / "RECORD").write_text(f"{module}.py,,\n")
    monkeypatch.syspath_prepend(str(where))
    skip = left_out("entry_point", len(points))
    found = await failures(importlib.import_module(module).Plugin, skip=skip)
    assert list(found) == ["entry_point"]
    assert says in found["entry_point"]


async def test_a_right_entry_point_passes(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, module = write_distribution(site, "thing", SOUND)
    monkeypatch.syspath_prepend(str(where))
    outcomes = await check_plugin(importlib.import_module(module).Plugin)
    assert [o.result for o in outcomes if o.check.name == "entry_point"] == [Result.PASSED]


@pytest.mark.parametrize(
    ("work", "says"),
    [
        ("import os; os.environ['EARNORM_FAULT'] = '1'", "changes the environment"),
        ("import socket; socket.socket().close()", "opens a socket"),
        ("import threading; threading.Thread(target=print).start()", "starts a thread"),
        ("import subprocess, sys; subprocess.run([sys.executable, '-c', ''])", "starts a process"),
        ("print('hello')", "prints"),
        ("import logging; logging.basicConfig()", "configures logging"),
        ("import pathlib; pathlib.Path(__file__ + '.cache').write_text('')", "opens a file"),
    ],
)
async def test_work_at_import_fails_its_check_and_no_other(
    site: Path, monkeypatch: pytest.MonkeyPatch, work: str, says: str
) -> None:
    # The module is sound when the test imports it, and not when the suite does.
    where, module = write_distribution(site, "busy", SOUND)
    monkeypatch.syspath_prepend(str(where))
    plugin = importlib.import_module(module).Plugin
    (where / f"{module}.py").write_text(f"{work}\n{SOUND}")
    skip = CHECKS.keys() - {"no_work_at_import"}
    found = await failures(plugin, skip=skip)
    assert list(found) == ["no_work_at_import"]
    assert says in found["no_work_at_import"]
    assert f"{module}.py, line 1" in found["no_work_at_import"]


async def test_work_of_a_library_is_not_the_plugins(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, module = write_distribution(site, "user", f"import library_of_it\n{SOUND}")
    (where / "library_of_it.py").write_text("print('hello')\n")
    monkeypatch.syspath_prepend(str(where))
    plugin = importlib.import_module(module).Plugin
    assert await failures(plugin, skip=CHECKS.keys() - {"no_work_at_import"}) == {}
