"""Field rights of classes that share a collection: a class keeps what its bases and subclasses keep."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import earnorm
from earnorm import (
    AccessDenied,
    App,
    ConfigurationError,
    FieldNotLoaded,
    FieldWithheld,
    Principal,
    Sum,
    act_as,
    depends,
    models,
    system,
)
from earnorm.fields import Int, Many2one, String
from earnorm_cache import CachePlugin
from earnorm_security import FieldRights, Security, SecurityPlugin, last


class Hand(models.BaseModel):
    """The root: its wage is read by the office, its number by all."""

    _name = "kin.hand"
    _discriminator = "kind"
    _field_rights = [
        FieldRights("wage", read=["office"]),
        FieldRights("iban", read=["office"], mask=last(4)),
    ]
    name = String(required=True)
    number = Int(default=1)
    wage = Int(default=100)
    iban = String()


class Clerk(Hand):
    _name = "kin.clerk"
    floor = Int(default=2)


class Head(Hand):
    """A stricter class, with a field and a computed one of its own."""

    _name = "kin.head"
    _field_rights = [
        FieldRights("number", read=["board"]),
        FieldRights("bonus", read=["board"]),
        FieldRights("floor", write=["board"]),
    ]
    bonus = Int(default=7, db_name="b")
    total = Int(compute="_total", store=True)
    floor = Int(default=3)

    @depends("bonus")
    def _total(self) -> int:
        return self.bonus + 1


class Desk(models.BaseModel):
    _name = "kin.desk"
    hand_id = Many2one(Hand)
    number = Int(related="hand_id.number", store=True)


EVE = Principal("eve")
OFFICE = Principal("olga", ["office"])
BOARD = Principal("bo", ["office", "board"])


@pytest.fixture
async def app(opened: Any) -> AsyncIterator[App]:
    async with opened() as app:
        with system(reason="fill"):
            hand = await Hand.create({"name": "a", "iban": "DE00001111"})
            await Clerk.create({"name": "b", "number": 2})
            await Head.create({"name": "c", "number": 3, "wage": 900})
            await Desk.create({"hand_id": hand})
        yield app


async def values(model: type[models.BaseModel]) -> list[dict[str, Any]]:
    records = await model.search(order="name")
    return [{k: v for k, v in record.to_dict().items() if k != "id"} for record in records]


async def test_a_search_shows_what_each_class_that_it_may_find_shows(app: App) -> None:
    plain = {"name": "a", "kind": "kin.hand", "iban": "****1111"}
    with act_as(EVE):
        assert await values(Hand) == [
            plain,
            {"name": "b", "kind": "kin.clerk", "iban": None, "floor": 2},
            {"name": "c", "kind": "kin.head", "iban": None, "floor": 3},
        ]
        assert await values(Clerk) == [
            {"name": "b", "number": 2, "kind": "kin.clerk", "iban": None, "floor": 2}
        ]
        [head] = await Head.search()
        for name in ("number", "bonus", "wage", "total"):
            with pytest.raises(FieldWithheld):
                getattr(head, name)
    with act_as(OFFICE):
        assert [record.get("wage") for record in await values(Hand)] == [100, 100, 900]
        assert all("bonus" not in record for record in await values(Hand))
    with act_as(BOARD):
        [head] = (await Hand.search([("name", "=", "c")])).filtered(lambda r: True)
        assert isinstance(head, Head)
        assert (head.number, head.bonus, head.total, head.wage) == (3, 7, 8, 900)


async def test_a_record_of_a_laxer_class_is_read_again_by_its_own_class(app: App) -> None:
    with act_as(EVE):
        clerk = await Hand.get((await Clerk.search())[0].id)
        assert isinstance(clerk, Clerk)
        with pytest.raises(FieldNotLoaded) as unread:
            _ = clerk.number
        assert "number" in str(unread.value) and not isinstance(unread.value, FieldWithheld)
        await clerk.refresh()
        assert clerk.number == 2


Use = Callable[[], Awaitable[Any]]
USES: dict[str, Use] = {
    "a filter": lambda: Hand.search([("number", ">", 2)]),
    "a filter by a subclass's field": lambda: Hand.search([("bonus", "=", 7)]),
    "a filter by a computed field of it": lambda: Hand.search([("total", "=", 8)]),
    "a count": lambda: Hand.count([("bonus", ">", 1)]),
    "an order": lambda: Hand.search(order="number"),
    "an order by a subclass's field": lambda: Hand.search(order="bonus"),
    "a page": lambda: Hand.search(order="number").paginate(),
    "a group": lambda: Hand.search().group("number"),
    "an aggregate of a subclass's field": lambda: Hand.search().group(n=Sum("bonus")),
    "a path": lambda: Desk.search([("hand_id.bonus", "=", 7)]),
    "an order across": lambda: Desk.search(order="hand_id.number"),
    "an update by it": lambda: Hand.search([("bonus", "=", 7)]).update({"name": "x"}),
    "a deletion by it": lambda: Hand.search([("bonus", "=", 7)]).delete(),
    "only": lambda: Hand.search().only("number"),
    "an update of it": lambda: Hand.search().update({"number": 5}),
    "a related value": lambda: Desk.search([("number", "=", 1)]),
    "the class itself": lambda: Head.search([("number", ">", 2)]),
    "its order": lambda: Head.search(order="bonus"),
}


@pytest.mark.parametrize("use", USES)
async def test_a_use_of_a_field_needs_the_right_of_each_class(app: App, use: str) -> None:
    with act_as(OFFICE), pytest.raises(AccessDenied, match=r"'board'|values of 'number'"):
        await USES[use]()
    with act_as(BOARD):
        await USES[use]()


async def test_classes_beside_are_not_asked(app: App) -> None:
    with act_as(EVE):
        assert await Clerk.count([("number", "=", 2)]) == 1
        assert len(await Clerk.search(order="-number,floor")) == 1
        [clerk] = await Clerk.search()
        await clerk.write({"number": 4, "floor": 5})
        assert await Clerk.count([("bonus", "=", 7)]) == 0  # a clerk has none
        with pytest.raises(AccessDenied, match="set the field 'floor'"):
            await (await Head.search())[0].write({"floor": 5})


async def test_a_pipeline_sees_no_hidden_field_of_any_class(app: App) -> None:
    stages = [
        {"$project": {"n": "$number", "b": "$b", "w": "$wage", "name": 1}},
        {"$sort": {"name": 1}},
    ]
    with act_as(OFFICE):
        rows = await Hand.search().aggregate(stages)
        assert [set(row) - {"_id"} for row in rows] == [{"w", "name"}] * 3
        rows = await Clerk.search().aggregate(stages)
        assert [set(row) - {"_id"} for row in rows] == [{"w", "name", "n"}]


async def test_tables_streams_and_dicts_have_no_hidden_field(app: App) -> None:
    hidden = {"number", "bonus", "total", "b"}
    with act_as(OFFICE):
        assert hidden.isdisjoint((await Hand.search().to_pandas()).columns)
        async for record in Hand.search():
            assert hidden.isdisjoint(record.to_dict())
        for row in await Hand.search().to_dict():
            assert hidden.isdisjoint(row)
        [desk] = await Desk.search().prefetch("hand_id")
        assert hidden.isdisjoint(desk.hand_id.to_dict()) and desk.hand_id.wage == 100


async def test_a_save_leaves_hidden_fields_as_they_are(app: App) -> None:
    with act_as(EVE):
        for record in await Hand.search():
            record.name += "!"
            await record.save()
    with system(reason="look"):
        heads = await Head.search()
        assert [(h.name, h.number, h.bonus, h.wage) for h in heads] == [("c!", 3, 7, 900)]


async def test_events_have_no_hidden_field_of_any_class(app: App) -> None:
    with act_as(OFFICE):
        watch = Hand.watch()
        await watch.__aenter__()
    async with watch:
        with system(reason="change"):
            [head] = await Head.search()
            await head.write({"bonus": 8})
            await head.write({"number": 9})
            await head.write({"wage": 1, "bonus": 9})
        with act_as(OFFICE):
            event = await asyncio.wait_for(anext(watch), 20)
            assert event.kind == "write" and event.changed == {"wage"}
            assert event.record is not None
            assert {"number", "bonus", "total"}.isdisjoint(event.record.to_dict())


async def test_a_cache_keeps_the_classes_apart(opened: Any) -> None:
    async with opened(plugins=(CachePlugin(),)):
        with system(reason="fill"):
            head = await Head.create({"name": "c"})
        for _ in range(2):
            with act_as(BOARD):
                assert (await Hand.get(head.id)).to_dict()["bonus"] == 7
            with act_as(OFFICE):
                assert {"number", "bonus"}.isdisjoint((await Hand.get(head.id)).to_dict())


async def test_what_may_be_done_is_asked_by_class(app: App) -> None:
    security = app.services.of_type(Security)
    with act_as(OFFICE) as env:
        assert not security.can(env, Hand, "read", field="number")
        assert security.can(env, Clerk, "read", field="number")
        assert not security.can(env, Head, "filter", field="bonus")


async def test_a_class_that_is_defined_later_keeps_its_fields(app: App) -> None:
    with act_as(OFFICE):
        assert (await Clerk.search([("floor", "=", 2)]))[0].number == 2

        class Late(Clerk):
            _name = "kin.late"
            _field_rights = [FieldRights("floor", "extra", read=["board"])]
            extra = Int(default=1)

        try:
            with system(reason="fill"):
                await Late.create({"name": "d"})
            with pytest.raises(AccessDenied):
                await Clerk.search([("floor", "=", 2)])
            for record in await Clerk.search():
                assert {"floor", "extra"}.isdisjoint(record.to_dict())
            with pytest.raises(AccessDenied):
                await Clerk.search().update({"floor": 9})
        finally:
            with system(reason="clean up"):
                await Late.search().delete()
            earnorm.forget(Late)


async def test_the_field_that_tells_the_classes_apart_has_no_rights() -> None:
    class Wrong(models.BaseModel):
        _name = "kin.wrong"
        _discriminator = "kind"
        _field_rights = [FieldRights("kind", read=["board"])]

    try:
        with pytest.raises(ConfigurationError, match="'kind' tells the classes"):
            async with App("mongomock://", database="kin", plugins=[SecurityPlugin()]):
                await Wrong.search()
    finally:
        earnorm.forget(Wrong)
