"""What a step fills in is stored as what a caller gives, and what a caller may not give no step may."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from typing import Any

import bson
import hypothesis
import pytest
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from hypothesis import strategies as st

from earnorm import (
    App,
    Embedded,
    EmbeddedModel,
    FieldNotLoaded,
    Int,
    List,
    PluginError,
    String,
    UpdateItems,
    ValidationError,
    models,
)
from earnorm.plugin import (
    MISSING,
    DocumentBatch,
    Layer,
    ModelView,
    Operation,
    Stage,
    Step,
    ValueBatch,
    hookimpl,
)

from .conftest import drop
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


class Taking:
    """Notes the records of rows, takes texts that begin with "no", and fills in numbers and places."""

    api = 1
    name = "taking"

    def __init__(self) -> None:
        self.seen: list[tuple[bool, Any]] = []

    @hookimpl
    def register_steps(self, model: ModelView) -> Iterable[Step]:
        if model.name == "step_values.kept":
            yield Step(Stage.DEFAULT, "take", self.take)

    def take(self, batch: ValueBatch) -> None:
        for row in batch.rows:
            self.seen.append((batch.is_new, row.record))
            if str(row.values.get("title")).startswith("no"):
                row.take("title")
            if "no" in (row.values.get("tags") or ()):
                row.take("tags")


@pytest.fixture
async def taking(database: str) -> AsyncIterator[Taking]:
    plugin = Taking()
    async with App("mongomock://", database=database, plugins=[plugin]):
        yield plugin


async def test_a_row_has_the_record_that_its_values_were_given_to(taking: Taking) -> None:
    record = Kept(title="a")
    await record.save()
    await Kept.create({"title": "b"})
    await record.write({"title": "c"})
    record.title = "d"
    await record.save()
    await Kept.search([("title", "=", "d")]).update({"title": "e"})
    assert taking.seen == [
        (True, record),
        (True, None),
        (False, record),
        (False, record),
        (False, None),
    ]
    assert taking.seen[0][1] is record


@pytest.mark.parametrize("how", ["save", "save with", "saved set"])
async def test_a_record_shows_what_is_stored_where_a_step_took_its_value(
    taking: Taking, how: str
) -> None:
    record = await Kept.create({"title": "a", "tags": ["x"]})
    other = await Kept.create({"title": "b"})
    record.title = "no"
    assert record.tags is not None
    record.tags.append("no")
    other.title = "c"
    if how == "save":
        await record.save()
    elif how == "save with":
        await record.save({"number": 5})
    else:
        await ((await Kept.search([("title", "=", "nothing")])) + record + other).save()
    again = await Kept.get(record.id)
    assert (record.title, record.tags) == (again.title, again.tags) == ("a", ["x"])
    assert not record.is_changed and record.number == again.number
    assert how != "saved set" or (await Kept.get(other.id)).title == "c"


async def test_a_new_record_has_no_value_that_a_step_took(taking: Taking) -> None:
    record = Kept(title="no", number=1)
    await record.save()
    assert record.title is None and not record.is_changed


class Spot(EmbeddedModel):
    x = Int()


class Placed(models.BaseModel):
    _name = "step_values.placed"

    at = Embedded(Spot)
    spots = List(Embedded(Spot))
    number = Int()


@pytest.mark.parametrize("stage", [Stage.DEFAULT, Stage.VALIDATE, Stage.PLAN])
async def test_a_path_into_a_field_is_a_value_of_it(database: str, stage: Stage) -> None:
    class Placing:
        api = 1

        @hookimpl
        def register_steps(self, model: ModelView) -> Iterable[Step]:
            if model.name == "step_values.placed":
                yield Step(stage, "place", self.place)

        def place(self, batch: ValueBatch) -> None:
            for row in batch.rows:
                if not batch.is_new:
                    row.fill("at", {"x": 50})

    async with App("mongomock://", database=database, plugins=[Placing()]):
        record = await Placed.create({"at": {"x": 1}})
        await record.write({"at.x": 9})
        assert record.at is not None and record.at.x == 9
        await record.write({"number": 1})
        assert record.at.x == 50 == (await Placed.get(record.id)).to_dict()["at"]["x"]


async def test_a_put_takes_the_place_of_changed_items(database: str, mongo_uri: str) -> None:
    class Putting:
        api = 1

        @hookimpl
        def register_steps(self, model: ModelView) -> Iterable[Step]:
            if model.name == "step_values.placed":
                yield Step(Stage.STAMP, "put", self.put, on="write")

        def put(self, batch: DocumentBatch) -> None:
            for row in batch.rows:
                if row.has("spots"):
                    row.put("spots", [{"x": 7}])

    async with App(mongo_uri, database=database, plugins=[Putting()]) as app:
        record = await Placed.create({"spots": [{"x": 1}, {"x": 2}]})
        await record.write({"spots": UpdateItems([("x", "=", 2)], {"x": 3})})
        again = await Placed.get(record.id)
        for each in (record, again):
            assert each.spots is not None and [spot.x for spot in each.spots] == [7]
        assert not record.is_changed
        await drop(app)


async def test_a_position_beside_chosen_items_is_refused(database: str, mongo_uri: str) -> None:
    class Counting:
        api = 1

        @hookimpl
        def register_steps(self, model: ModelView) -> Iterable[Step]:
            if model.name == "step_values.placed":
                yield Step(Stage.STAMP, "count", self.count, on="write")

        def count(self, batch: DocumentBatch) -> None:
            for row in batch.rows:
                row.merge("$inc", {"spots.0.x": 1})

    async with App(mongo_uri, database=database, plugins=[Counting()]) as app:
        one, other = await Placed.create([{"spots": [{"x": 1}]}, {"spots": [{"x": 1}]}])
        items = {"spots": UpdateItems([("x", "=", 1)], {"x": 3})}
        for attempt in (
            lambda: one.write(items),
            lambda: Placed.write_many({one: {"number": 1}, other: items}),
        ):
            with pytest.raises(PluginError, match="'count': it changes 'spots") as caught:
                await attempt()
            assert caught.value.code == "step_conflict"
        assert {placed.number for placed in await Placed.search()} == {None}
        await drop(app)


class Hiding:
    """Increases the number of every write, and lets nobody read it after a write."""

    api = 1

    @hookimpl
    def register_steps(self, model: ModelView) -> Iterable[Step]:
        if model.name == "step_values.placed":
            yield Step(Stage.STAMP, "count", lambda batch: batch.increase("number"), on="write")

    @hookimpl
    def wrap_operation(self, model: Any, operation: str) -> Any:
        if model._name == "step_values.placed" and operation == "search":
            yield Layer.SECURITY, self.hide

    async def hide(self, op: Operation, call_next: Any) -> Any:
        return await call_next(op) if op.origin == "program" else []


async def test_a_number_that_nobody_can_read_is_not_loaded_any_more(database: str) -> None:
    async with App("mongomock://", database=database, plugins=[Hiding()]):
        one, two = await Placed.create([{"number": 1}, {"number": 1}])
        two.number = 7
        await Placed.write_many({one: {"at": {"x": 1}}, two: {"at": {"x": 2}}})
        with pytest.raises(FieldNotLoaded):
            _ = one.number
        assert one.at is not None and one.at.x == 1 and not one.is_changed
        assert two.number == 7 and two.is_changed
        assert [each.number for each in await Placed.search()] == [2, 2]
        await one.write({"at": {"x": 3}})
        assert [each.number for each in await Placed.search(order="number")] == [2, 3]
