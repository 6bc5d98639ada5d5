"""What steps store of an embedded object of which only some fields were fetched: memory shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from earnorm import App, BaseModel, Embedded, EmbeddedModel, FieldNotLoaded, Int, List, String
from earnorm.plugin import DocumentBatch, DocumentRow, ModelView, Stage, Step, hookimpl

from .conftest import default_app


class Place(EmbeddedModel):
    city = String()
    nr = Int()


class Line(EmbeddedModel):
    qty = Int()
    sku = String(db_name="s")
    place = Embedded(Place)


class Sheet(BaseModel):
    _name = "stepped.sheet"

    title = String()
    main = Embedded(Line, db_name="m")
    lines = List(Embedded(Line))


Change = Callable[[DocumentRow], None]
STEPS: Mapping[str, Change] = {
    "put": lambda row: row.put("main", {"qty": 5, "sku": "step", "place": {"city": "c", "nr": 9}}),
    "put without a field": lambda row: row.put("main", {"sku": "step"}),
    "put none": lambda row: row.put("main", None),
    "fill": lambda row: row.fill("main", {"qty": 6, "sku": "fill"}),
    "set": lambda row: row.merge("$set", {"m.s": "step"}),
    "increase": lambda row: row.merge("$inc", {"m.qty": 1}),
    "remove": lambda row: row.merge("$unset", {"m.s": True}),
    "set deep": lambda row: row.merge("$set", {"m.place.nr": 4}),
    "put a list": lambda row: row.put("lines", [{"qty": 7, "sku": "step"}]),
    "push": lambda row: row.merge("$push", {"lines": {"qty": 8, "s": "step"}}),
}


async def a_title(record: Any) -> None:
    record.title = "new"
    await record.save()


async def a_fetched_field(record: Any) -> None:
    record.main.qty = 9
    await record.save()


async def a_field_that_was_not_fetched(record: Any) -> None:
    record.main.sku = "new"
    await record.save()


async def a_path(record: Any) -> None:
    await record.write({"main.sku": "new"})


async def a_value(record: Any) -> None:
    await record.write({"title": "new"})


WRITES = (a_title, a_fetched_field, a_field_that_was_not_fetched, a_path, a_value)
ONLY = (
    ("title", "main.qty", "lines.qty"),
    ("title", "main.qty", "main.sku", "lines"),
    ("title", "main.place.nr", "main.qty"),
)


class Stepping:
    api = 1
    name = "stepping"
    change: Any = None

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        return [Step(Stage.STAMP, "stepping", self.run, on="write")] if model.cls is Sheet else []

    def run(self, batch: DocumentBatch) -> None:
        change = self.change
        for row in batch.rows if change is not None else ():
            change(row)


def agrees(held: Any, stored: Any) -> bool:
    """Return whether all that memory shows of a value is what is stored."""
    if isinstance(held, EmbeddedModel):
        return isinstance(stored, EmbeddedModel) and all(
            _is_hidden(held, name) or agrees(getattr(held, name), getattr(stored, name))
            for name in type(held)._fields
        )
    if isinstance(held, list):
        return len(held) == len(stored) and all(map(agrees, held, stored))
    return bool(held == stored)


def _is_hidden(held: Any, name: str) -> bool:
    try:
        getattr(held, name)
    except FieldNotLoaded:
        return True
    return False


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("step", STEPS)
async def test_a_part_shows_what_steps_store(database: str, step: str, write: Any) -> None:
    plugin = Stepping()
    async with default_app("memory", database, (plugin,)):
        for only in ONLY:
            line = {"qty": 1, "sku": "s", "place": {"city": "c", "nr": 2}}
            made = await Sheet.create({"title": "t", "main": line, "lines": [line]})
            record: Any = (await Sheet.search([("id", "=", made.pk)]).only(*only))[0]
            held = record.main
            plugin.change = STEPS[step]
            await write(record)
            plugin.change = None
            stored: Any = await Sheet.get(made.pk)
            assert record.title == stored.title and not record.is_changed
            for name in ("main", "lines"):
                if not _is_hidden(record, name):
                    assert agrees(getattr(record, name), getattr(stored, name)), (only, name)
            if step in ("put", "put without a field", "fill", "push") and write is not a_path:
                assert record.main is held
            # What the step changed is no obstacle to the next write.
            record.title = "again"
            await record.save()
            assert (await Sheet.get(made.pk)).title == "again"
