"""Plugins keep the event loop for no longer the more records an operation is about."""

from __future__ import annotations

import os
import uuid
from types import ModuleType

import pytest

import earnorm
import earnorm_audit
import earnorm_cache
import earnorm_security
from benchmarks.stalls import CASES
from earnorm import BaseModel, Principal, String, act_as
from earnorm_security import Rule
from tests.benchmarks.stretches import Work, growth, pausing

MOST = 18
"""The lines that run for each record without a turn of the loop: some loops do next to nothing for each."""
TITLES = ("create", "search", "assign and save", "write", "write_many", "unlink", "bulk")


class Judged(BaseModel):
    """A record that a rule judges."""

    _name = "stalls.judged"
    _rules = [Rule("own", lambda env: [("owner", "=", env.principal.id)], roles=["user"])]
    owner = String()
    note = String()


ANN = Principal("ann", roles=["user"])


@pytest.mark.parametrize(
    ("plugin", "module"),
    [("audit", earnorm_audit), ("cache", earnorm_cache), ("security", earnorm_security)],
)
async def test_no_operation_keeps_the_loop_longer_for_more_records(
    plugin: str, module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"stalls_{uuid.uuid4().hex[:12]}"
    uri, lines = os.environ["EARNORM_TEST_MONGO_URI"], dict[str, float]()
    async with earnorm.App(uri, database=name, plugins=[plugin]) as app:
        raw = app.dangerous_raw("the cases look at it")
        try:
            for title in TITLES:

                async def prepare(number: int, title: str = title) -> Work:
                    work, _ = await CASES[title](raw, number)
                    return work

                lines[title] = await growth(prepare, lambda: pausing(monkeypatch), module)
            never = await growth(prepare, lambda: pausing(monkeypatch, 1_000_000), module)
            assert never > MOST, "without pauses it is seen"
        finally:
            await raw.client.drop_database(name)
    assert {title: number for title, number in lines.items() if number > MOST} == {}


async def test_rules_keep_the_loop_no_longer_for_more_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"stalls_{uuid.uuid4().hex[:12]}"
    uri, lines = os.environ["EARNORM_TEST_MONGO_URI"], dict[str, float]()
    async with earnorm.App(uri, database=name, plugins=["security"]) as app:
        with act_as(ANN):

            async def created(number: int) -> Work:
                values = [{"owner": "ann", "note": "x"} for _ in range(number)]
                return lambda: Judged.create(values)

            async def written(number: int) -> Work:
                records = await (await created(number))()
                return lambda: records.write({"note": "y"})

            async def saved(number: int) -> Work:
                records = await (await created(number))()
                for record in records:
                    record.note = "z"
                return records.save

            async def found(number: int) -> Work:
                await (await created(number))()
                return Judged.search

            async def deleted(number: int) -> Work:
                records = await (await created(number))()
                return records.unlink

            try:
                for prepare in (created, written, saved, found, deleted):
                    lines[prepare.__name__] = await growth(
                        prepare, lambda: pausing(monkeypatch), earnorm_security
                    )
            finally:
                database = app.dangerous_raw("the test is over")
                await database.client.drop_database(name)
    assert {title: number for title, number in lines.items() if number > MOST} == {}
