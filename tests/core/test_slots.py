"""The size of records, their notes about unsaved changes, and the registers that live in the place of slots."""

from __future__ import annotations

import asyncio
import datetime
from contextvars import copy_context
from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    Date,
    Embedded,
    EmbeddedModel,
    Int,
    List,
    Many2one,
    ValidationError,
)
from earnorm.fields.refused import REFUSED
from earnorm.model.slots import UNTOUCHED, pending_of
from earnorm.model.writing import turns


class Part(EmbeddedModel):
    qty = Int()


class Slotted(BaseModel):
    _name = "slotted"
    n = Int()
    day = Date()
    part = Embedded(Part)
    parts = List(Embedded(Part))
    other = Many2one("slotted")


REFUSED_VALUES: dict[str, Any] = {
    "n": "many",
    "day": "someday",
    "part": {"qty": "many"},
    "parts": [{"qty": "many"}],
    "other": object(),
}


@pytest.mark.parametrize("cls", [BaseModel, EmbeddedModel])
def test_a_record_takes_no_more_memory_than_three_references(cls: type[Any]) -> None:
    """Eight bytes more for each record cost 1 % of a construction, and of a search."""
    reference = object.__basicsize__ // 2
    slots = cls.__basicsize__ - object.__basicsize__ - reference  # its weak references
    assert slots <= 3 * reference


def test_nothing_can_be_noted_for_all_untouched_records() -> None:
    record: Any = Slotted()
    assert pending_of(record) is UNTOUCHED
    for notes in (UNTOUCHED.changes, UNTOUCHED.originals):
        with pytest.raises(TypeError, match="_pending_or_new"):
            notes["n"] = 1
        with pytest.raises(TypeError, match="_pending_or_new"):
            notes.setdefault("n", 1)
    record.n = 2
    assert pending_of(record).changes and not (UNTOUCHED.changes or UNTOUCHED.originals)


async def test_a_refused_value_stays_as_it_was_given_while_other_records_convert(app: App) -> None:
    await Slotted.create([{"part": {"qty": 1}, "day": datetime.date(2024, 2, 29)} for _ in "ab"])
    one: Any
    one, other = await Slotted.search()
    for name, value in REFUSED_VALUES.items():
        setattr(one, name, value)
        assert getattr(one, name) == value and REFUSED
        if name != "parts":  # the record's own copy of a list
            assert getattr(one, name) is value
    assert isinstance(other.part, Part) and other.day == datetime.date(2024, 2, 29)
    with pytest.raises(ValidationError):
        await one.save()
    one.part, one.parts, one.day, one.other, one.n = Part(qty=2), [], None, None, 1
    assert not REFUSED and await one.save()
    one.n = "many"
    del one, value
    assert not REFUSED


async def test_a_turn_is_over_in_whichever_context_it_ends(memory_app: App) -> None:
    record = await Slotted.create({"n": 1})
    assert not turns._running
    with pytest.raises(ValidationError):
        await record.write({"n": "many"})
    assert not turns._running
    turn = turns.begin([record, record])
    assert turn is not None and list(turns._running.values()) == [turn]
    waiting = asyncio.create_task(record.write({"n": 2}), context=copy_context())
    with pytest.raises(ValueError, match="Context"):
        copy_context().run(turns.end, turn)  # as where a coroutine is thrown away
    assert not (turns._running or turn.taken)
    await waiting
    assert record.n == 2 and not turns._running
