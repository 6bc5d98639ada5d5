"""EarnORM's own plugins, the third party's and the example pass the conformance suite."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from earnorm import BaseModel, String, forget
from earnorm.testing import check_plugin
from earnorm.testing.conformance import CHECKS, Outcome, Result
from earnorm_audit import AuditPlugin
from earnorm_cache import CachePlugin
from earnorm_pool import PoolPlugin
from earnorm_security import Access, Rule, SecurityPlugin

EXAMPLE = Path(__file__).parents[3] / "examples" / "plugin_in_one_file.py"


def passed(outcomes: object) -> set[str]:
    return {o.check.name for o in outcomes if o.result is Result.PASSED}  # type: ignore[attr-defined] # outcomes


class Guarded(BaseModel):
    """A model with rules for everybody."""

    _name = "conformance_contract.guarded"
    _access = [Access("*", read=True, write=True, create=True, unlink=True)]
    _rules = [Rule("no hidden ones", domain=[("name", "!=", "hidden")])]
    name = String(required=True)


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """Drop the model."""
    yield
    forget(Guarded)


BRINGS_NO_VALUES = {"operators", "fields", "unique_nulls", "schemas"}


async def test_audit_passes() -> None:
    outcomes = await check_plugin(AuditPlugin, idle={"_audit": False})
    assert CHECKS.keys() - passed(outcomes) == BRINGS_NO_VALUES


async def test_cache_passes() -> None:
    outcomes = await check_plugin(CachePlugin, idle={"_cache": False})
    assert CHECKS.keys() - passed(outcomes) == BRINGS_NO_VALUES | {"observed_writes"}


async def test_pool_passes() -> None:
    outcomes = await check_plugin(PoolPlugin)
    assert CHECKS.keys() - passed(outcomes) == BRINGS_NO_VALUES


async def test_security_passes() -> None:
    outcomes = await check_plugin(SecurityPlugin, models=[Guarded])
    assert CHECKS.keys() - passed(outcomes) == BRINGS_NO_VALUES | {"observed_writes"}


async def test_the_third_partys_plugin_passes(hello: Path) -> None:
    class Person(BaseModel):
        """The model that the plugin adds fields to."""

        _name = "contract.person"
        name = String(required=True)

    plugin = importlib.import_module("earnorm_hello").HelloPlugin
    try:
        outcomes = await check_plugin(plugin, models=[Person], idle=None)
    finally:
        forget(Person)
    assert CHECKS.keys() - passed(outcomes) == {"idle_costs_nothing"}


async def test_the_example_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("plugin_in_one_file", EXAMPLE)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "plugin_in_one_file", example)
    spec.loader.exec_module(example)
    outcomes: list[Outcome] = []
    try:
        outcomes += await check_plugin(example.TidePlugin, models=[example.Harbour], idle=None)
    finally:
        forget(example.Harbour)
    not_passed = CHECKS.keys() - passed(outcomes)
    assert not_passed == {"entry_point", "settings_print_no_values", "idle_costs_nothing"}
