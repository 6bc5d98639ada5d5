"""What a step fills in is stored as what a caller gives, and what a caller may not give no step may."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import bson
import hypothesis
import pytest
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from hypothesis import strategies as st

from earnorm import App, Int, List, PluginError, String, ValidationError, models
from earnorm.plugin import (
    MISSING,
    DocumentBatch,
    ModelView,
    Stage,
    Step,
    ValueBatch,
    hookimpl,
)

from .kinds import KINDS, Kinds
from .laws import World, world

CODEC = CodecOptions[Any](uuid_representation=UuidRepresentation.STANDARD)


class Filling:
    """Fills one value into every new record, in one of four ways."""

    api = 1
    name = "filling"
    field = how = ""
    value: Any = None

    @hookimpl
    def register_steps(self, model: ModelView) -> Iterable[Step]:
        if model.name == "core.kinds":
            yield Step(Stage.PLAN, "values", self.of_values)
            yield Step(Stage.STAMP, "documents", self.of_documents, on="create")

    def of_values(self, batch: ValueBatch) -> None:
        if self.how == "value row":
            for row in batch.rows:
                row.fill(self.field, self.value)

    def of_documents(self, batch: DocumentBatch) -> None:
        if self.how == "batch":
            batch.fill(self.field, self.value)
        for row in batch.rows:
            if self.how == "row":
                row.fill(self.field, self.value)
            elif self.how == "put":
                row.put(self.field, self.value)


HOWS = ("value row", "batch", "row", "put")


@pytest.fixture(scope="module")
def filling() -> Iterator[tuple[World, Filling]]:
    plugin = Filling()
    with world("memory", (plugin,)) as made:
        yield made, plugin


async def stored(plugin: Filling, name: str, value: Any, how: str) -> tuple[bytes, bytes]:
    """Create a record, and return the stored value in memory and in the database."""
    plugin.field, plugin.value, plugin.how = name, value, how
    record = await Kinds.create({} if how else {name: value})
    plugin.how = ""
    again = await Kinds.get(record.id)
    key = type(record)._schema.fields[name].db_name
    return tuple(
        bson.encode({"v": one._stored().get(key)}, codec_options=CODEC) for one in (record, again)
    )  # type: ignore[return-value]


@hypothesis.given(data=st.data(), name=st.sampled_from(sorted(KINDS)), how=st.sampled_from(HOWS))
def test_what_a_step_fills_in_is_stored_as_what_is_given(
    filling: tuple[World, Filling], data: st.DataObject, name: str, how: str
) -> None:
    made, plugin = filling
    value = data.draw(KINDS[name].given)

    async def example() -> None:
        given = await stored(plugin, name, value, "")
        assert given[0] == given[1]
        assert await stored(plugin, name, value, how) == given
        own = bson.decode(given[1], CODEC)["v"]
        with suppress(ValidationError):
            given = await stored(plugin, name, own, "")
        # Otherwise no caller may give it, and a step may, which has it from row.get().
        assert await stored(plugin, name, own, how) == given

    made.run(example)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", sorted(KINDS))
def test_what_nobody_may_give_no_step_fills_in(
    filling: tuple[World, Filling], name: str, how: str
) -> None:
    made, plugin = filling

    async def example() -> None:
        before = await Kinds.count()
        for value in KINDS[name].refused:
            with pytest.raises(PluginError) as caught:
                await stored(plugin, name, value, how)
            assert caught.value.code == "step_value"
            step = "values" if how == "value row" else "documents"
            assert str(caught.value).startswith(
                f"plugin 'filling': the step {step!r}: it fills the field {name!r} of model 'core.kinds' "
            )
        assert await Kinds.count() == before

    made.run(example)


class Kept(models.BaseModel):
    _name = "step_values.kept"
    title = String()
    number = Int()
    tags = List(String())


class Reading:
    """Notes what each field of a changed record was read with."""

    api = 1
    name = "looking"

    def __init__(self) -> None:
        self.read: dict[str, Any] = {}

    @hookimpl
    def register_steps(self, model: ModelView) -> Iterable[Step]:
        if model.name == "step_values.kept":
            yield Step(Stage.PLAN, "look", self.look)

    def look(self, batch: ValueBatch) -> None:
        for row in batch.rows:
            self.read = {name: row.read(name) for name in ("title", "number", "tags")}


async def test_a_row_tells_what_its_record_was_read_with(database: str) -> None:
    plugin = Reading()
    async with App("mongomock://", database=database, plugins=[plugin]):
        made = await Kept.create({"title": "a", "number": 1, "tags": ["x"]})
        assert plugin.read == {"title": MISSING, "number": MISSING, "tags": MISSING}
        record = await Kept.get(made.id)
        record.title, record.number = "b", None
        assert record.tags is not None
        record.tags.append("y")
        await record.save()
        assert plugin.read == {"title": "a", "number": 1, "tags": ["x"]}
        await record.write({"title": "c"})
        assert plugin.read == {"title": "b", "number": None, "tags": ["x", "y"]}
        record.tags = ["z"]
        await record.save()
        assert plugin.read["tags"] == ["x", "y"]
        (few,) = await Kept.search([], only=["number"])
        await few.write({"number": 3})
        assert plugin.read == {"title": MISSING, "number": None, "tags": MISSING}
        assert repr(MISSING) == "MISSING" and not MISSING
        await Kept.search([("title", "=", "c")]).update({"number": 4})
        assert set(plugin.read.values()) == {MISSING}


async def test_a_row_does_not_read_an_unknown_field(database: str) -> None:
    class Wrong(Reading):
        def look(self, batch: ValueBatch) -> None:
            for row in batch.rows:
                row.read("nmber")

    async with App("mongomock://", database=database, plugins=[Wrong()]):
        for attempt in (Kept.create({}), Kept.search().update({"title": "a"})):
            with pytest.raises(PluginError, match=r"no field 'nmber'; did you mean 'number'\?"):
                await attempt
