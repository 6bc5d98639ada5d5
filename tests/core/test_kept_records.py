"""A record that is kept keeps no other record of its search, and those that live load their relations together."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earnorm import App, Embedded, EmbeddedModel, List, Many2one, One2many, String, models

from .conftest import Commands
from .laws import law, world


class Writer(models.BaseModel):
    _name = "kept.writer"
    name = String()
    text_ids = One2many("kept.text", "writer_id")


class Source(EmbeddedModel):
    writer_id = Many2one(Writer)


class Text(models.BaseModel):
    _name = "kept.text"
    name = String()
    writer_id = Many2one(Writer)
    main = Embedded(Source)
    sources = List(Embedded(Source))


@pytest.fixture
def no_cycles() -> Iterator[None]:
    """Without the cyclic collector a record dies only if nothing refers to it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def texts(number: int) -> None:
    writers = await Writer.create([{"name": f"w{n}"} for n in range(number)])
    await Text.create([{"name": f"t{n}", "writer_id": w} for n, w in enumerate(writers)])


async def _searched() -> list[Any]:
    return list(await Text.search())


async def _created() -> list[Any]:
    return list(await Text.create([{"name": "new"} for _ in range(4)]))


async def _refreshed() -> list[Any]:
    found = await Text.search()
    await found.refresh()
    return list(found)


async def _streamed() -> list[Any]:
    return [text async for text in Text.search()]


async def _linked() -> list[Any]:
    found = list(await Text.search())
    writers: list[Any] = [text.writer_id for text in found]
    await writers[0]
    return found


async def _embedded() -> list[Any]:
    await Text.search().update({"main": {"writer_id": (await Writer.search())[0]}})
    found: list[Any] = list(await Text.search())
    await found[0].main.writer_id
    return found


@pytest.mark.usefixtures("no_cycles")
@pytest.mark.parametrize("way", [_searched, _created, _refreshed, _streamed, _linked, _embedded])
async def test_a_kept_record_keeps_no_other(memory_app: App, way: Any) -> None:
    await texts(4)
    records = await way()
    kept, others = (
        records[2],
        [weakref.ref(record) for record in records if record is not records[2]],
    )
    del records
    assert kept.name is not None
    assert [other() for other in others] == [None] * len(others)


@pytest.mark.usefixtures("no_cycles")
async def test_the_loop_keeps_no_document_of_a_search(server_app: App) -> None:
    await Text.create([{"name": "one of many"} for _ in range(50)])
    await asyncio.sleep(0)
    kept = (await Text.search())[7]
    # Nothing is awaited since: the loop still has what woke this task.
    dicts: list[dict[Any, Any]] = [o for o in gc.get_objects() if type(o) is dict]
    documents = [d for d in dicts if type(name := d.get("name")) is str and name == "one of many"]
    assert len(documents) == 1 and documents[0] is kept.__dict__


@pytest.mark.usefixtures("no_cycles")
async def test_a_stream_frees_what_it_has_passed(memory_app: App) -> None:
    await texts(6)
    passed: list[weakref.ref[Any]] = []
    async for text in Text.search():
        passed.append(weakref.ref(text))
        del text
    assert [one() for one in passed] == [None] * 6


async def test_records_whose_set_is_gone_load_together(commands: Commands) -> None:
    await texts(5)
    kept: list[Any] = sorted(await Text.search(), key=lambda text: str(text.name))[1:4]
    gc.collect()
    commands.clear()
    await kept[0].writer_id
    assert [text.writer_id.name for text in kept] == ["w1", "w2", "w3"]
    assert len(commands.named("find")) == 1
    (sent,) = commands.named("find")
    assert len(sent["filter"]["_id"]["$in"]) == 3  # those that are gone are not asked for
    writers = [text.writer_id for text in kept]
    del kept
    commands.clear()
    await writers[0].text_ids
    assert [w.text_ids[0].name for w in writers] == ["t1", "t2", "t3"]
    assert len(commands.named("find")) == 1


@st.composite
def keepings(draw: st.DrawFn) -> tuple[int, set[int], bool, int]:
    number = draw(st.integers(1, 8))
    kept = draw(st.sets(st.integers(0, number - 1), min_size=1))
    return number, kept, draw(st.booleans()), draw(st.sampled_from(sorted(kept)))


@pytest.mark.fuzz
def test_all_that_live_and_no_others_are_loaded() -> None:
    with world("memory") as server:

        @law(100)
        @given(keepings())
        def together(keeping: tuple[int, set[int], bool, int]) -> None:
            async def example() -> None:
                number, places, has_set, asked = keeping
                await Text.search().delete()
                await Writer.search().delete()
                await texts(number)
                found = await Text.search(order="name")
                kept: dict[int, Any] = {place: found[place] for place in places}
                if not has_set:
                    del found
                await kept[asked].writer_id
                for place in random.Random(number).sample(sorted(places), len(places)):
                    assert kept[place].writer_id.name == f"w{place}"  # it is loaded

            server.run(example)

        together()
