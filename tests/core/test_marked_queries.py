"""``cached()`` and ``uncached()`` mark the operations of a query for whichever plugin keeps answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from earnorm import App, Int, Layer, Operation, hookimpl, models
from earnorm.exceptions import ValidationError
from earnorm.plugin import CACHING, Caching


class Marked(models.BaseModel):
    _name = "marked_query"

    number = Int()


class Looking:
    """A plugin that notes how the reads of the program are marked."""

    api = 1
    name = "looking"

    def __init__(self) -> None:
        self.marks: list[tuple[str, Caching | None]] = []

    @hookimpl
    def wrap_operation(self, app: App, model: Any, operation: str) -> Iterable[tuple[int, Any]]:
        return [(Layer.CACHE, self._look)]

    async def _look(self, op: Operation, call_next: Any) -> Any:
        if op.name in ("search", "count", "group"):
            self.marks.append((op.name, op.note(CACHING)))
        return await call_next(op)


async def test_a_plugin_reads_what_a_query_says_of_its_answer() -> None:
    looking = Looking()
    async with App("mongomock://", database="marked", plugins=[looking]):
        await Marked.create({"number": 1})
        query = Marked.search()
        await query
        await query.cached()
        await query.cached(ttl=5).where([("number", "=", 1)]).count()
        await query.uncached().group("number")
        await query.cached().uncached().exists()
        await query.cached().page(1, 10)
    assert looking.marks == [
        ("search", None),
        ("search", Caching(True)),
        ("count", Caching(True, 5)),
        ("group", Caching(False)),
        ("count", Caching(False)),
        *looking.marks[5:],
    ]
    assert {mark for _, mark in looking.marks[5:]} == {Caching(True)}


async def test_without_a_plugin_it_does_nothing() -> None:
    async with App("mongomock://", database="marked", plugins=[]):
        await Marked.create({"number": 1})
        assert len(await Marked.search().cached()) == len(await Marked.search().uncached()) == 1


@pytest.mark.parametrize("ttl", [0, -1, True, "5", float("nan")])
def test_a_time_is_one(ttl: Any) -> None:
    with pytest.raises(ValidationError, match="ttl"):
        Marked.search().cached(ttl)
