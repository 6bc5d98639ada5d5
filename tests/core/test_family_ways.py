"""No way through the root of a family stores a value that the record's own class refuses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    Command,
    Inc,
    Int,
    Many2one,
    One2many,
    String,
    ValidationError,
    constrains,
    validates,
)


class Animal(BaseModel):
    _name = "ways.animal"
    _discriminator = "kind"

    kind = String()
    code = String(unique=True)
    name = String(max_length=9)
    level = Int()
    weight = Int()
    other = Int()
    zoo_id = Many2one("ways.zoo")

    most = 50

    @constrains("weight")
    def _light(self) -> None:
        if self.weight and self.weight > self.most:
            raise ValueError("too heavy")


class Dog(Animal):
    _name = "ways.dog"

    name = String(max_length=5)
    level = Int(max_value=3)
    most = 20


class Puppy(Dog):
    _name = "ways.puppy"

    most = 5

    @validates("level")
    def _doubled(self, value: int) -> int:
        return 1 if value == 2 else value


class Cat(Animal):
    _name = "ways.cat"


class Zoo(BaseModel):
    _name = "ways.zoo"

    animal_ids = One2many(Animal, "zoo_id")


Way = Callable[[Any, dict[str, Any]], Awaitable[object]]


async def write_many_ids(pk: Any, values: dict[str, Any]) -> None:
    await Animal.write_many({pk: values})


async def write_many_records(pk: Any, values: dict[str, Any]) -> None:
    await Animal.write_many({await Animal.get(pk): values})


async def write_many_mixed(pk: Any, values: dict[str, Any]) -> None:
    cat = await Cat.create({"code": "more", "name": "c"})
    try:
        await Animal.write_many({cat.id: {"name": "d"}, pk: values})
    finally:
        await cat.unlink()


async def ghost(pk: Any, values: dict[str, Any]) -> None:
    await Animal.browse([pk])[0].write(values)


async def ghosts(pk: Any, values: dict[str, Any]) -> None:
    cat = await Cat.create({"code": "more", "name": "c"})
    try:
        await Animal.browse([cat.pk, pk]).write(values)
    finally:
        await cat.unlink()


async def ghost_save_values(pk: Any, values: dict[str, Any]) -> None:
    await Animal.browse([pk])[0].save(values)


async def ghost_save(pk: Any, values: dict[str, Any]) -> None:
    record: Any = Animal.browse([pk])[0]
    for name, value in values.items():
        setattr(record, name, value)
    await record.save()


async def ghosts_save(pk: Any, values: dict[str, Any]) -> None:
    records = Animal.browse([pk])
    for name, value in values.items():
        setattr(records[0], name, value)
    await records.save()


async def changed_before_it_was_loaded(pk: Any, values: dict[str, Any]) -> None:
    record: Any = Animal.browse([pk])[0]
    for name, value in values.items():
        setattr(record, name, value)
    await record
    await record.save()


async def update(pk: Any, values: dict[str, Any]) -> None:
    await Animal.search([("id", "=", pk)]).update(values)


async def update_of_a_middle_class(pk: Any, values: dict[str, Any]) -> None:
    await Dog.search([("code", "=", "a")]).update(values)


async def bulk(pk: Any, values: dict[str, Any]) -> None:
    async with Animal.bulk() as calls:
        calls.write(await Animal.get(pk), values)


async def bulk_ghost(pk: Any, values: dict[str, Any]) -> None:
    async with Animal.bulk() as calls:
        calls.write(Animal.browse([pk]), values)


async def upsert(pk: Any, values: dict[str, Any]) -> None:
    await Animal.upsert({"code": "a", **values}, on="code")


async def upsert_many(pk: Any, values: dict[str, Any]) -> None:
    await Animal.upsert_many([{"code": "a", **values}, {"code": "new", "name": "n"}], on="code")


async def command(pk: Any, values: dict[str, Any]) -> None:
    zoo = await Zoo.create({"animal_ids": [Command.link(pk)]})
    zoo = await Zoo.get(zoo.pk)
    await zoo.write({"animal_ids": [Command.update(pk, values)]})


WAYS: list[Way] = [
    *(write_many_ids, write_many_records, write_many_mixed, ghost, ghosts, ghost_save_values),
    *(ghost_save, ghosts_save, changed_before_it_was_loaded, update, update_of_a_middle_class),
    *(bulk, bulk_ghost, upsert, upsert_many, command),
]
NO_CHANGES = {ghost_save, ghosts_save, changed_before_it_was_loaded}


async def stored(app: App) -> dict[str, Any]:
    found = await app.dangerous_raw("the test compares")["ways_animal"].find_one({"code": "a"})
    return {name: found.get(name) for name in ("name", "level", "weight", "other")}


BEFORE = {"code": "a", "name": "a", "level": 1, "weight": 1, "other": 1}


@pytest.mark.parametrize("way", WAYS)
async def test_no_way_stores_what_the_class_of_the_record_refuses(app: App, way: Way) -> None:
    for cls in (Dog, Puppy):
        record = await cls.create(BEFORE)
        before = await stored(app)
        refused: list[dict[str, Any]] = [{"name": "toolong"}, {"level": 4, "other": 2}]
        refused += [{"weight": 21}, {"level": Inc(3)}]
        refused += [{"weight": 6}] if cls is Puppy else []
        for values in refused:
            if way in NO_CHANGES and isinstance(values.get("level"), Inc):
                continue
            with pytest.raises(ValidationError):
                await way(record.pk, values)
            assert await stored(app) == before, values
        await Animal.search([("code", "in", ["a", "new"])]).delete()


@pytest.mark.parametrize("way", WAYS)
async def test_what_the_class_accepts_is_stored_as_it_makes_it(app: App, way: Way) -> None:
    for cls in (Dog, Puppy, Cat):
        if cls is Cat and way is update_of_a_middle_class:
            continue
        record = await cls.create(BEFORE)
        values = {"name": "b", "level": 2, "weight": 4, "other": 3}
        await way(record.pk, values)
        assert await stored(app) == {**values, "level": 1 if cls is Puppy else 2}
        if cls is Cat:
            await way(record.pk, {"name": "toolong", "level": 40, "weight": 45})
            assert (await stored(app))["level"] == 40
        await Animal.search([("code", "in", ["a", "new"])]).delete()


async def test_a_class_without_a_record_that_matches_has_no_say(app: App) -> None:
    await Cat.create([{"code": "a", "name": "c"}, {"code": "b", "name": "c"}])
    await Dog.create({"code": "d", "name": "d"})
    assert await Animal.search([("name", "=", "c")]).update({"name": "toolong"}) == 2
    with pytest.raises(ValidationError, match="5 char"):
        await Animal.search().update({"name": "longest"})
    assert set((await Animal.search()).mapped("name")) == {"toolong", "d"}
    assert await Animal.search().update({"name": "e"}) == 3


async def test_a_field_that_every_class_judges_alike_is_written_at_once(app: App) -> None:
    animals = [await cls.create({"code": cls._name}) for cls in (Animal, Dog, Puppy, Cat)]
    assert await Animal.search().update({"other": 5}) == 4
    assert await Animal.write_many({one.id: {"other": n} for n, one in enumerate(animals)}) == 4
    assert [one.other for one in await Animal.search(order="_id")] == [0, 1, 2, 3]
