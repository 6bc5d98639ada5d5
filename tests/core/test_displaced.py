"""An embedded object was changed, and another program put something else in its place meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    ConcurrencyError,
    EarnORMError,
    Embedded,
    EmbeddedModel,
    Int,
    RecordSet,
    String,
)


class Inner(EmbeddedModel):
    qty = Int()


class Box(EmbeddedModel):
    kind = String()
    n = Int()
    inner = Embedded(Inner)


class Crate(Box):
    m = Int()


class Sheet(BaseModel):
    _name = "displaced.sheet"

    title = String()
    box = Embedded(Box, discriminator="kind", db_name="b")


Way = Callable[[Any, Any], Awaitable[object]]


async def save(record: Any, other: Any) -> None:
    await record.save()


async def save_set(record: Any, other: Any) -> None:
    await RecordSet(Sheet, [record]).save()


async def save_two(record: Any, other: Any) -> None:
    other.title = "new"
    await RecordSet(Sheet, [other, record]).save()


async def save_with(record: Any, other: Any) -> None:
    await record.save({"title": "new"})


async def write_beside(record: Any, other: Any) -> None:
    await record.write({"box.n": 3})


WAYS = (save, save_set, save_two, save_with, write_beside)
PLACES: dict[str, tuple[str, Any, str]] = {
    "no object": ("b", None, "concurrency"),
    "no key": ("b", ..., "concurrency"),
    "an object of another kind": ("b.kind", "box", "concurrency"),
    "a text": ("b", "x", "concurrency"),
    "a list": ("b", [1], "concurrency"),
    "a list of objects": ("b", [{"kind": "crate", "n": 1}], "concurrency"),
    "a list of objects inside": ("b.inner", [{"qty": 1}], "displaced"),
    "a text inside": ("b.inner", "x", "displaced"),
    "a number inside": ("b.inner", 5, "displaced"),
    "a list inside": ("b.inner", [], "displaced"),
    "nothing inside": ("b.inner", None, "concurrency"),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("way", WAYS)
async def test_a_save_that_would_write_into_another_value_says_so(
    app: App, way: Way, place: tuple[str, Any, str]
) -> None:
    path, value, code = place
    box = Crate(n=1, m=1, inner=Inner(qty=1))
    record: Any = await Sheet.create({"title": "t", "box": box})
    other: Any = await Sheet.create({"title": "other"})
    held = record.box
    held.n, held.inner.qty = 2, 2
    collection = app.dangerous_raw("another program")["displaced_sheet"]
    change = {"$unset": {path: 1}} if value is ... else {"$set": {path: value}}
    await collection.update_one({"_id": record.pk}, change)
    before = await collection.find_one({"_id": record.pk})
    with pytest.raises(EarnORMError) as caught:
        await way(record, other)
    assert isinstance(caught.value, ConcurrencyError) and caught.value.code == code
    assert await collection.find_one({"_id": record.pk}) == before
    assert record.is_changed and record.box is held and (held.n, held.inner.qty) in ((2, 2), (3, 2))
