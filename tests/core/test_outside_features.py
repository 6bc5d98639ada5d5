"""Timestamps, revisions and sequences work as well from outside the core, on the hooks that everybody has."""

from __future__ import annotations

import ast
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from earnorm import App, ConcurrencyError, Int, Sequence, String, ValidationError, mixins, models

from . import outside
from .conftest import drop


class Dated(mixins.Timestamps, models.BaseModel):
    _name = "outside.dated"
    title = String()


class Numbered(models.BaseModel):
    _name = "outside.numbered"
    code = Sequence("N{number:03}")


class Counted(models.BaseModel):
    _name = "outside.counted"
    _counted = True
    stock = Int(default=0)


class AppWithout(App):
    left_out = ("timestamps", "revisions", "sequences")


@pytest.fixture
async def app(mongo_uri: str, database: str) -> AsyncIterator[App]:
    plugins = [outside.Timestamps, outside.Revisions, outside.Sequences]
    async with AppWithout(mongo_uri, database=database, plugins=plugins) as started:
        yield started
        await drop(started)


def test_they_import_nothing_of_the_core_but_the_face_for_plugins() -> None:
    tree = ast.parse(Path(outside.__file__).read_text())
    imported = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imported |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert {m for m in imported if m.partition(".")[0] == "earnorm"} == {"earnorm.plugin"}


async def test_times_are_set_and_handed_back(app: App) -> None:
    record = await Dated.create({"title": "x"})
    made, changed = record.created_at, record.updated_at
    assert made == changed
    await record.write({"title": "y"})
    assert record.created_at == made and record.updated_at > changed
    changed = record.updated_at
    assert await Dated.search().update({"title": "z"}) == 1
    await record.refresh()
    assert record.created_at == made and record.updated_at > changed


async def test_records_are_numbered(app: App) -> None:
    first = await Numbered.create({})
    others = await Numbered.create([{}, {"code": "own"}, {}])
    assert [first.code, *(each.code for each in others)] == ["N001", "N002", "own", "N003"]


async def test_a_lost_update_is_refused(app: App) -> None:
    mine = await Counted.create({"stock": 1})
    theirs = await Counted.get(mine.id)
    theirs.stock = 2
    await theirs.save()
    theirs.stock = 3
    await theirs.save()  # the count of one's own writes is known
    mine.stock = 5
    with pytest.raises(ConcurrencyError):
        await mine.save()
    with pytest.raises(ConcurrencyError):
        await mine.write({"stock": 5})
    await mine.refresh()
    assert mine.stock == 3
    await mine.write({"stock": 4})
    assert await Counted.search([("stock", "=", 4)]).update({"stock": 6}) == 1
    with pytest.raises(ConcurrencyError):
        await mine.write({"stock": 7})


async def test_nobody_writes_a_count_and_a_copy_begins_anew(app: App) -> None:
    record = await Counted.create({"stock": 1})
    with pytest.raises(ValidationError, match="can be set only on a new record"):
        await record.write({"_count": 7})
    await record.write({"stock": 2})
    copy = await record.copy()
    assert (record.__dict__["_count"], copy.__dict__["_count"]) == (1, 0)
    assert "_count" not in record.to_dict()
