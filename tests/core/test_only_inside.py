"""``only("main.qty")`` fetches some fields of embedded objects; nothing else is shown or written."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterable
from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    ConcurrencyError,
    DomainError,
    Embedded,
    EmbeddedModel,
    FieldNotLoaded,
    Int,
    Json,
    List,
    Many2one,
    Point,
    Pull,
    RecordSet,
    String,
    ValidationError,
    constrains,
    hookimpl,
    transaction,
)
from earnorm.plugin import Layer

from .conftest import default_app


class PartOwner(BaseModel):
    name = String(required=True)


class PartPlace(EmbeddedModel):
    city = String(required=True)
    zip = String(db_name="z", required=True)


class PartRow(EmbeddedModel):
    qty = Int(required=True, db_name="q")
    low = Int(required=True)
    place = Embedded(PartPlace)
    tags = List(String())
    owner_id = Many2one(PartOwner)


class PartOrder(BaseModel):
    name = String()
    main = Embedded(PartRow, db_name="m")
    lines = List(Embedded(PartRow))
    extra = Json()


class PartBounds(EmbeddedModel):
    low = Int(required=True)
    high = Int(required=True)
    note = String()

    @constrains("low", "high")
    def check_order(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


class PartRange(BaseModel):
    name = String()
    inner = Embedded(PartBounds)
    main = Embedded(PartRow)

    @constrains("main")
    def check_main(self) -> None:
        if self.main is not None and self.main.low > self.main.qty:
            raise ValueError("low is above qty")


def row(qty: int, low: int, **more: Any) -> dict[str, Any]:
    return {"qty": qty, "low": low, "place": {"city": "Huế", "zip": "5"}, "tags": ["a"], **more}


async def order(**more: Any) -> PartOrder:
    return await PartOrder.create(
        {"name": "n", "main": row(1, 2), "lines": [row(3, 4), row(5, 6)], **more}
    )


async def part(made: BaseModel, *paths: str) -> Any:
    return await type(made).search([("id", "=", made.id)]).only(*paths).first()


async def test_what_was_not_fetched_says_how_to_load_it(app: App) -> None:
    record = await part(await order(), "main.qty", "main.place.city", "lines.qty")
    assert (record.main.qty, record.main.place.city) == (1, "Huế")
    assert [line.qty for line in record.lines] == [3, 5]
    for read, path in (
        (lambda: record.main.low, "main.low"),
        (lambda: record.main.place.zip, "main.place.zip"),
        (lambda: record.lines[1].low, "lines.low"),
    ):
        head = path.partition(".")[0]
        with pytest.raises(FieldNotLoaded) as caught:
            read()
        assert f"add '{path}' to .only(...)" in str(caught.value)
        assert f'await record.refresh("{head}")' in str(caught.value)
    await record.refresh("main")
    assert (record.main.low, record.main.place.zip, record.lines[0].qty) == (2, "5", 3)
    with pytest.raises(FieldNotLoaded):
        _ = record.lines[0].low
    await record.refresh()
    assert record.lines[0].low == 4 and record.name == "n"


async def test_every_way_to_search_takes_paths(app: App) -> None:
    await order()
    await order(main=None, lines=None)
    query = PartOrder.search(order="id").only("main.qty", "main", "lines.qty", "lines.low")
    assert (await query)[0].main.low == 2  # the whole includes its parts
    thin = PartOrder.search(only=["id", "main.qty"], order="id")
    pages = [
        list(await thin),
        [record async for record in thin],
        list((await thin.page(1)).records),
        list((await thin.paginate(5)).records),
        [await thin.first(), (await thin)[1]],
    ]
    for first, second in pages:
        assert first is not None
        assert first.main.qty == 1 and second.main is None
        for read in (lambda r=first: r.main.low, lambda r=first: r.name, lambda r=second: r.lines):
            with pytest.raises(FieldNotLoaded):
                read()
    by_low = await PartOrder.search(only=["main.qty"], order="main.low").paginate(5)
    assert by_low.records[1].main.qty == 1


async def test_a_path_that_leads_nowhere_is_refused(app: App) -> None:
    for path, message in (
        ("nope.qty", "no field 'nope'"),
        ("main.nope", "no field 'nope'"),
        ("main.place.nope", "no field 'nope'"),
        ("main.qty.x", "'main.qty' is a Int"),
        ("main.owner_id.name", "prefetch"),
        ("extra.key", "name 'extra' whole"),
        ("lines.0.qty", "no field '0'"),
        ("main.", "no field ''"),
    ):
        with pytest.raises(DomainError, match=message):
            await PartOrder.search().only(path)


async def test_what_is_shown_leaves_out_what_was_not_fetched(app: App) -> None:
    record = await part(await order(), "main.qty", "main.place.city", "lines.tags")
    shown = {"qty": 1, "place": {"city": "Huế"}}
    lines = [{"tags": ["a"]}, {"tags": ["a"]}]
    assert record.to_dict() == {"id": record.id, "main": shown, "lines": lines}
    assert record.main.to_json() == '{"qty":1,"place":{"city":"Huế"}}'
    assert "low" not in repr(record.main)
    assert copy.deepcopy(record.main).to_dict() == shown
    with pytest.raises(FieldNotLoaded):
        _ = copy.deepcopy(record.main).low
    with pytest.raises(FieldNotLoaded):
        PartOrder.pydantic_model(include=["main"]).model_validate(record)
    assert RecordSet(PartOrder, [record]).mapped("main.place.city") == ["Huế"]
    with pytest.raises(FieldNotLoaded):
        RecordSet(PartOrder, [record]).mapped("lines.low")


async def test_a_condition_in_memory_needs_what_it_names(app: App) -> None:
    record = await part(await order(), "main.qty", "lines.qty", "lines.place.city")
    records = RecordSet(PartOrder, [record])
    for fulfilled in (
        [("main.qty", "=", 1)],
        [("main", "!=", None)],
        [("lines.qty", ">", 4)],
        [("lines.0.qty", "=", 3)],
        [("lines", "elem", [("qty", "=", 3), ("place.city", "=", "Huế")])],
    ):
        assert len(records.filtered_domain(fulfilled)) == 1, fulfilled
    for unknown in (
        [("main.low", "=", 1)],
        [("lines.low", ">", 4)],
        [("lines.1.place.zip", "=", "5")],
        [("lines", "elem", [("low", "=", 3)])],
    ):
        with pytest.raises(FieldNotLoaded):
            records.filtered_domain(unknown)
    assert records.sorted("main.qty").ids == [record.id]
    for path in ("main.low", "main", "lines.low"):
        with pytest.raises(FieldNotLoaded):
            records.sorted(path)


async def test_a_changed_field_is_written_by_its_path(app: App) -> None:
    made = await order()
    record = await part(made, "main.qty", "main.place.city")
    main = record.main
    main.qty, main.place.city, main.low = 10, "Hội An", 20
    main.place.zip = "6"
    assert record.is_changed and main.low == 20
    await record.save()
    assert not record.is_changed and record.main is main
    stored = await PartOrder.get(made.id)
    expected = {**row(10, 20), "place": {"city": "Hội An", "zip": "6"}}
    assert stored.main.to_dict() == {**expected, "owner_id": None}
    main.qty = "many"
    with pytest.raises(ValidationError) as caught:
        await record.save()
    assert caught.value.errors()[0]["loc"] == ("main", "qty")
    main.qty = None
    with pytest.raises(ValidationError) as caught:
        await record.save()
    assert caught.value.errors()[0]["loc"] == ("main", "qty")
    main.qty = 11
    await record.save({"main.low": 21, "name": "new"})
    await record.write({"main.place.zip": "7"})
    stored = await PartOrder.get(made.id)
    assert (stored.main.qty, stored.main.low, stored.main.place.zip) == (11, 21, "7")
    record = await part(made, "main.qty")
    record.main = {"qty": 1, "low": 1}
    await record.save()
    assert (await PartOrder.get(made.id)).main.place is None


async def test_a_write_into_a_part_keeps_the_object_and_makes_it_whole(app: App) -> None:
    made = await order()
    record = await part(made, "main.qty", "main.place.city", "lines.qty")
    main, place = record.main, record.main.place
    await record.write({"main.place.zip": "7"})
    assert record.main is main and main.place is place
    assert main.to_dict() == {**row(1, 2), "place": {"city": "Huế", "zip": "7"}, "owner_id": None}
    place.city, main.low = "Hội An", 3
    await record.save()
    stored = await PartOrder.get(made.id)
    assert stored.main == main and (stored.main.place.city, stored.main.low) == ("Hội An", 3)
    record.main = main  # what reading gives stays the record's own
    assert record.main is main
    with pytest.raises(FieldNotLoaded):
        _ = record.lines[0].low


async def test_an_object_is_written_by_its_path_only_where_it_still_is(app: App) -> None:
    record = await part(made := await order(), "main.qty")
    await made.write({"main": None})
    record.main.qty = 7
    with pytest.raises(ConcurrencyError):
        await record.save()
    assert (await PartOrder.get(made.id)).main is None


async def test_items_of_a_list_are_not_written_in_part(app: App) -> None:
    made = await order()
    record = await part(made, "name", "lines.qty", "main.tags")

    def first() -> None:
        record.lines[0].qty = 9

    def more() -> None:
        record.lines.append(PartRow(qty=1, low=1))

    def again() -> None:
        record.lines = record.lines

    def less() -> None:
        record.lines.pop()

    for change in (first, more, again, less):
        record.name = "new"
        change()
        for values in (None, {"name": "x"}):
            with pytest.raises(ValidationError) as caught:
                await record.save(values)
            (detail,) = caught.value.errors()
            if change is not again:
                assert (detail["loc"], detail["type"]) == (("lines",), "partly_loaded")
            assert 'refresh("lines")\' first' in detail["msg"]
        assert (await PartOrder.get(made.id)).name == "n"
        await record.refresh("lines")
        assert [line.low for line in record.lines] == [4, 6]
        record = await part(made, "name", "lines.qty", "main.tags")
    await record.refresh("lines")
    record.lines[0].qty = 9
    record.main.tags.append("b")
    await record.save()
    stored = await PartOrder.get(made.id)
    assert (stored.lines[0].qty, stored.lines[0].low, stored.main.tags) == (9, 4, ["a", "b"])
    record = await part(made, "lines.qty")
    record.lines = [row(1, 1)]
    await record.save()
    assert len((await PartOrder.get(made.id)).lines) == 1


async def test_a_part_is_stored_nowhere_as_the_whole(app: App) -> None:
    made = await order()
    record, other = await part(made, "main.qty", "main.place.city", "lines.qty"), await order()
    before = other.to_dict()
    other.main = record.main
    other.lines = record.lines
    for call in (
        other.save,
        lambda: other.write({"main": record.main}),
        lambda: other.write({"main.place": record.main.place}),
        lambda: PartOrder.create({"main": record.main}),
        lambda: PartOrder.create({"lines": [record.main]}),
        lambda: PartOrder.search().update({"main": record.main}),
        lambda: other.write({"lines": Pull(record.lines[0])}),
        lambda: PartOrder(main=record.main).save(),
    ):
        with pytest.raises(ValidationError, match="only some of its fields were fetched"):
            await call()
    record.main = record.main
    with pytest.raises(ValidationError, match="only some of its fields were fetched"):
        await record.save()
    assert (await PartOrder.get(other.id)).to_dict() == before
    assert (await PartOrder.get(made.id)).main.low == 2


async def test_a_part_is_compared_as_far_as_it_is_known(app: App) -> None:
    one, whole = await part(made := await order(), "main.qty"), await PartOrder.get(made.id)
    assert one.main == one.main
    assert one.main != PartRow(qty=2, low=2)
    with pytest.raises(FieldNotLoaded):
        _ = one.main == whole.main


async def test_a_copy_has_all_of_it(app: App) -> None:
    record = await part(made := await order(), "main.qty", "main.place.city", "lines.qty")
    record.main.qty, record.main.place.city = 8, "Hội An"
    copied = await PartOrder.get((await record.copy()).id)
    whole = await PartOrder.get(made.id)
    assert copied.lines[0].to_dict() == whole.lines[0].to_dict()
    assert (copied.main.qty, copied.main.low, copied.name) == (8, 2, "n")
    assert copied.main.place.to_dict() == {"city": "Hội An", "zip": "5"}
    record.main.place.city = 5
    with pytest.raises(ValidationError, match=r"main\.place\.city"):
        await record.copy()
    record.main.place.city = "Hội An"
    record.lines[0].qty = 4
    with pytest.raises(ValidationError, match="only some of its fields were fetched"):
        await record.copy()
    assert whole.main.qty == 1 and await PartOrder.search().count() == 2


async def test_a_rule_sees_all_of_it_and_the_write_expects_what_it_saw(app: App) -> None:
    made = await PartRange.create({"main": row(5, 2), "inner": {"low": 1, "high": 3}})
    record = await part(made, "main.qty", "main.place.city")
    record.main.qty = 1
    with pytest.raises(ValidationError, match="low is above qty"):
        await record.save()
    assert (await PartRange.get(made.id)).main.qty == 5
    record.main.qty = 3
    await record.save()
    stored = await PartRange.get(made.id)
    assert (stored.main.qty, stored.main.low, stored.main.place.zip) == (3, 2, "5")
    inner = await part(made, "inner.low")
    inner.inner.low = 9
    with pytest.raises(FieldNotLoaded, match="refresh"):
        await inner.save()
    await inner.refresh("inner")
    inner.inner.low = 2
    await inner.save()
    assert (await PartRange.get(made.id)).inner.low == 2


async def test_what_a_rule_saw_must_still_be_there(server_app: App) -> None:
    made = await PartRange.create({"main": row(5, 2)})
    record = await part(made, "main.qty")
    record.main.qty = 3

    collection = server_app.dangerous_raw("to look at the database itself")["part_range"]
    execute = server_app.execute

    async def interrupted(op: Any) -> Any:
        if op.name == "write":
            await collection.update_one({}, {"$set": {"main.low": 4}})
        return await execute(op)

    server_app.execute = interrupted  # type: ignore[method-assign] # the test stands between
    try:
        with pytest.raises(ConcurrencyError):
            await record.save()
    finally:
        del server_app.execute
    assert (await PartRange.get(made.id)).main.qty == 5


async def test_a_rollback_brings_the_part_back(server_app: App) -> None:
    record = await part(made := await order(), "main.qty", "lines.qty")
    with pytest.raises(RuntimeError):
        async with transaction():
            record.main.qty = 7
            await record.save()
            raise RuntimeError
    assert record.is_changed and record.main.qty == 7
    with pytest.raises(FieldNotLoaded):
        _ = record.main.low
    await record.save()
    assert (await PartOrder.get(made.id)).main.to_dict()["low"] == 2


async def test_relations_inside_a_part_load(app: App) -> None:
    owner = await PartOwner.create({"name": "Ann"})
    await order(main=row(1, 2, owner_id=owner.id), lines=[row(1, 2, owner_id=owner.id)])
    await order(main=row(1, 2, owner_id=owner.id))
    records = await PartOrder.search().only("main.owner_id", "lines.owner_id")
    assert (await records[0].main.owner_id).name == "Ann"
    assert records[1].main.owner_id.name == "Ann"
    assert (await records[0].lines[0].owner_id).name == "Ann"
    await records[0].refresh("main")
    assert (await records[0].main.owner_id).name == "Ann"
    query = PartOrder.search().only("main.owner_id").prefetch("main.owner_id")
    assert [record.main.owner_id.name for record in await query] == ["Ann", "Ann"]


async def test_searches_at_once_keep_their_own_fields(app: App) -> None:
    made = await order()
    fields: Iterable[tuple[str, ...]] = (("main.qty",), ("main.low",), ("main",), ("name",))
    first, second, whole, name = await asyncio.gather(*[part(made, *each) for each in fields])
    assert (first.main.qty, second.main.low, whole.main.low, name.name) == (1, 2, 2, "n")
    for read in (lambda: first.main.low, lambda: second.main.qty, lambda: name.main):
        with pytest.raises(FieldNotLoaded):
            read()


async def test_copies_of_a_record_are_saved_together(app: App) -> None:
    made = await order()
    one, two = await part(made, "main.qty"), await part(made, "main.low", "main.place.zip")
    one.main.qty = 50
    two.name = "two"
    await RecordSet(PartOrder, [one, two]).save()
    stored = await PartOrder.get(made.id)
    assert (stored.main.qty, stored.main.low, stored.name) == (50, 2, "two")


class Narrowing:
    """A plugin whose layer takes a field out of what a search fetches, or fetches it whole."""

    api = 1

    def __init__(self, hidden: str = "", added: str = "") -> None:
        self.hidden, self.added = hidden, added

    @hookimpl
    def wrap_operation(self, operation: str, model: Any) -> Any:
        if operation == "search" and model._name == "part_order":
            yield Layer.SECURITY, self.layer

    async def layer(self, op: Any, call_next: Any) -> Any:
        fields = op.options.fields
        if fields is not None and fields != {"_id"}:
            fields = (fields - {self.hidden}) | ({self.added} - {""})
            op = op.replace(options=op.options.replace(fields=frozenset(fields)))
        return await call_next(op)


async def test_a_layer_that_hides_a_field_hides_all_of_it(database: str) -> None:
    async with default_app("pymongo", database, [Narrowing(hidden="main")]):
        record = await part(await order(), "main.qty", "name", "lines.qty")
        assert record.main is None and record.name == "n"
        assert record.lines[0].qty == 3


async def test_a_layer_that_needs_the_whole_shows_no_more_of_it(database: str) -> None:
    async with default_app("pymongo", database, [Narrowing(added="main")]):
        record = await part(await order(), "main.qty", "main.place.city")
        assert record.main.to_dict() == {"qty": 1, "place": {"city": "Huế"}}
        with pytest.raises(FieldNotLoaded):
            _ = record.main.low


class Spot(BaseModel):
    _name = "part_spot"

    at = Point()
    all = List(Point())


async def test_a_point_has_no_parts_to_fetch(memory_app: App) -> None:
    await Spot.create({"at": (1, 2)})
    for path, name in (("at.type", "at"), ("at.coordinates", "at"), ("all.type", "all")):
        with pytest.raises(DomainError, match=f"name '{name}' whole"):
            await Spot.search().only(path)
