"""Every stage of a step on every way of writing: the order, what it sees, and where a refusal is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

import earnorm
from earnorm import App, Boolean, Int, PluginError, String, ValidationError, models
from earnorm.plugin import DocumentBatch, ModelView, Stage, Step, ValueBatch, Way, hookimpl
from tests.plugins.contract.conftest import Opener


class Sheet(models.BaseModel):
    _name = "stages.sheet"

    code = String(unique=True)
    number = Int()
    is_new = Boolean()


class Noting:
    """A step on every stage, which notes when it ran, and what the records had by then."""

    api = 1
    name = "noting"

    def __init__(self, **doing: Callable[[Any], object]) -> None:
        self.seen: list[tuple[Way, Stage]] = []
        self.doing = doing

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        if model.name == "stages.sheet":
            for stage in Stage:
                yield Step(stage, "note", self.noting(stage))

    def noting(self, stage: Stage) -> Callable[[Any], None]:
        def note(batch: ValueBatch | DocumentBatch) -> None:
            self.seen.append((batch.way, stage))
            if stage.name in self.doing:
                self.doing[stage.name](batch)

        return note


async def create() -> list[Any]:
    return [await Sheet.create({"code": "a", "number": 1})]


async def create_several() -> list[Any]:
    return list(await Sheet.create([{"code": "a", "number": 1}, {"code": "b", "number": 13}]))


async def create_many() -> list[Any]:
    await Sheet.create_many([{"code": "a", "number": 1}, {"code": "b", "number": 13}])
    return list(await Sheet.search(order="code"))


async def save_new() -> list[Any]:
    return [await Sheet(code="a", number=1).save()]


async def upsert_new() -> list[Any]:
    return [(await Sheet.upsert({"code": "a", "number": 1}, "code"))[0]]


async def bulk_new() -> list[Any]:
    async with Sheet.bulk() as bulk:
        return [bulk.create({"code": "a", "number": 1}), bulk.create({"code": "b", "number": 13})]


async def old(plugin: Noting) -> list[Any]:
    """Make two stored records, of which the plugin knows nothing."""
    doing, plugin.doing = plugin.doing, {}
    records = list(await Sheet.create([{"code": "a"}, {"code": "b"}]))
    plugin.doing = doing
    plugin.seen.clear()
    return records


async def save(records: list[Any]) -> None:
    for record, number in zip(records, (1, 13), strict=True):
        record.number = number
    await earnorm.RecordSet(Sheet, records).save()


async def write(records: list[Any]) -> None:
    await earnorm.RecordSet(Sheet, records).write({"number": 1})


async def write_one(records: list[Any]) -> None:
    await records[0].write({"number": 1})


async def write_many(records: list[Any]) -> None:
    await Sheet.write_many({records[0]: {"number": 1}, records[1]: {"number": 13}})


async def update(records: list[Any]) -> None:
    await Sheet.search().update({"number": 1})


async def upsert(records: list[Any]) -> None:
    await Sheet.upsert({"code": "a", "number": 1}, "code")


async def upsert_many(records: list[Any]) -> None:
    values = [{"code": "a", "number": 1}, {"code": "b", "number": 13}]
    await Sheet.upsert_many(values, "code")


async def bulk(records: list[Any]) -> None:
    async with Sheet.bulk() as batch:
        batch.write(records[0], {"number": 1})
        batch.write(records[1], {"number": 13})


NEW: list[tuple[Callable[[], Awaitable[list[Any]]], Way]] = [
    (create, Way.CREATE),
    (create_several, Way.CREATE),
    (save_new, Way.CREATE),
    (create_many, Way.CREATE_MANY),
    (upsert_new, Way.UPSERT),
    (bulk_new, Way.BULK),
]
OLD: list[tuple[Callable[[list[Any]], Awaitable[None]], Way]] = [
    (save, Way.SAVE),
    (write, Way.WRITE),
    (write_one, Way.WRITE),
    (write_many, Way.EACH),
    (update, Way.UPDATE),
    (upsert, Way.UPSERT),
    (upsert_many, Way.UPSERT),
    (bulk, Way.BULK),
]


def in_order(seen: list[tuple[Way, Stage]]) -> list[Stage]:
    """Return the stages in their order; fail where one ran before an earlier one of its write."""
    stages = [stage for _, stage in seen]
    distinct = list(dict.fromkeys(stages))
    assert distinct == sorted(distinct)
    return distinct


@pytest.mark.parametrize(("make", "way"), NEW, ids=[make.__name__ for make, _ in NEW])
async def test_a_new_record_passes_every_stage_in_order(
    opened: Opener, make: Any, way: Way
) -> None:
    plugin = Noting(
        CLASS=lambda batch: [row.values.update(is_new=True) for row in batch.rows],
        IDENTITY=lambda batch: [_known(row) for row in batch.rows],
        SETTLE=lambda batch: [row.hand_back("number", 99) for row in batch.rows],
    )
    async with opened(plugins=[plugin]):
        for record in await make():
            again = await Sheet.get(record.id)
            assert again.is_new is record.is_new is True  # from CLASS
            waits = make is not create_many
            assert (record.number == 99) is waits and again.number in (1, 13)  # from SETTLE
        assert in_order(plugin.seen) == list(Stage)
        assert way in {seen for seen, _ in plugin.seen}


def _known(row: Any) -> None:
    # An upsert writes first, and creates where there was nothing to write.
    assert row.document is None or row.document["_id"] == row.pk is not None


@pytest.mark.parametrize(("change", "way"), OLD, ids=[change.__name__ for change, _ in OLD])
async def test_a_change_passes_every_stage_in_order(opened: Opener, change: Any, way: Way) -> None:
    plugin = Noting(
        CLASS=lambda batch: [row.values.update(is_new=False) for row in batch.rows],
        SETTLE=lambda batch: [row.hand_back("number", 99) for row in batch.rows],
    )
    async with opened(plugins=[plugin]):
        records = await old(plugin)
        await change(records)
        assert in_order(plugin.seen) == list(Stage)
        assert {seen for seen, _ in plugin.seen} == {way}
        for record in records[: 1 if change in (write_one, upsert) else 2]:
            again = await Sheet.get(record.id)
            assert again.is_new is False and again.number in (1, 13)
            if change not in (update, upsert, upsert_many):  # these know no record here
                assert (record.is_new, record.number) == (False, 99)


async def test_a_deletion_passes_the_value_stages(opened: Opener) -> None:
    plugin = Noting()
    async with opened(plugins=[plugin]):
        records = await old(plugin)
        await records[0].unlink()
        assert plugin.seen == [(Way.UNLINK, stage) for stage in Stage if stage < Stage.IDENTITY]


def unlucky(batch: DocumentBatch) -> None:
    for row in batch.rows:
        if row.get("number") == 13:
            row.refuse("number", "unlucky", "unlucky")


@pytest.mark.parametrize("stage", ["IDENTITY", "STAMP", "CONSTRAIN", "JUDGE", "GUARD"])
@pytest.mark.parametrize("make", [create_several, create_many, bulk_new])
async def test_a_document_step_refuses_a_new_record_by_its_position(
    opened: Opener, make: Any, stage: str
) -> None:
    async with opened(plugins=[Noting(**{stage: unlucky})]):
        with pytest.raises(ValidationError, match="unlucky") as caught:
            await make()
        assert [each["loc"] for each in caught.value.errors()] == [(1, "number")]
        assert await Sheet.search([("number", "=", 13)]).count() == 0


@pytest.mark.parametrize("change", [save, write_many, upsert_many, bulk])
async def test_a_document_step_refuses_a_change_by_its_position(
    opened: Opener, change: Any
) -> None:
    plugin = Noting(CONSTRAIN=unlucky)
    async with opened(plugins=[plugin]):
        with pytest.raises(ValidationError, match="unlucky") as caught:
            await change(await old(plugin))
        assert [each["loc"] for each in caught.value.errors()] == [(1, "number")]
        assert await Sheet.search([("number", "!=", None)]).count() == 0


async def test_the_position_is_that_in_the_call_and_not_in_the_operation(opened: Opener) -> None:
    plugin = Noting(CONSTRAIN=unlucky)
    async with opened(plugins=[plugin]):
        one, two = await old(plugin)
        wrong = {"number": 13}
        attempts: list[tuple[Callable[[], Awaitable[Any]], int]] = [
            (lambda: Sheet.write_many({one: {}, two: wrong}), 1),  # one operation, one row
            (lambda: Sheet.create_many([{"code": "c"}, wrong], batch_size=1), 1),
            (lambda: Sheet.create_many([{"code": "d"}, {"code": "e"}, wrong], batch_size=2), 2),
            (lambda: _bulk_of_both(one, two), 2),
        ]
        for attempt, position in attempts:
            with pytest.raises(ValidationError, match="unlucky") as caught:
                await attempt()
            assert [each["loc"] for each in caught.value.errors()] == [(position, "number")]
        result = await Sheet.create_many(
            [{"code": "f"}, wrong, {"code": "g"}, {"number": 13}], ordered=False
        )
        assert result.written == 2 and result.positions == [1, 3]


async def _bulk_of_both(one: Any, two: Any) -> None:
    async with Sheet.bulk() as bulk:
        bulk.write(one, {"number": 2})
        bulk.create({"code": "h"})
        bulk.write(two, {"number": 13})


async def test_a_document_step_gives_no_other_id(opened: Opener) -> None:
    def renumber(batch: DocumentBatch) -> None:
        for row in batch.rows:
            row.put("_id", "0" * 24)

    async with opened(plugins=[Noting(IDENTITY=renumber)]):
        with pytest.raises(PluginError, match=r"ids are given before Stage\.PLAN") as caught:
            await create()
        assert caught.value.code == "step_value"
        assert await Sheet.count() == 0


async def test_a_value_step_gives_an_id(opened: Opener) -> None:
    class Named(models.BaseModel):
        _name = "stages.named"
        _id = String(required=True)
        title = String(unique=True)

    class Naming:
        api = 1

        @hookimpl
        def register_steps(self, model: ModelView) -> Iterable[Step]:
            if model.name == "stages.named":
                yield Step(Stage.DEFAULT, "id", self.give, ~Way.UPDATE)

        def give(self, batch: ValueBatch) -> None:
            for row in batch.rows if batch.is_new and batch.way is not Way.UPSERT else ():
                row.fill("_id", f"id-{row.values['title']}")

    async with opened(plugins=[Naming]):
        assert (await Named.create({"title": "a"})).id == "id-a"
        await Named.create_many([{"title": "b"}])
        async with Named.bulk() as bulk:
            bulk.create({"title": "c"})
        new = await Named.upsert({"title": "d"}, "title", new={"_id": "id-d"})
        assert new[0].id == "id-d"  # a step that sees an upsert does not know whether it is new
        assert (await Named.search(order="title")).ids == ["id-a", "id-b", "id-c", "id-d"]
