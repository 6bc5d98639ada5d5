"""Paths of conditions through dicts, lists and lists of lists, on to other records."""

from __future__ import annotations

import pytest

from earnorm import (
    App,
    BaseModel,
    Dict,
    DomainError,
    Embedded,
    EmbeddedModel,
    Int,
    Json,
    List,
    Many2one,
    String,
    ValidationError,
)


class Stuff(BaseModel):
    _name = "inside.stuff"

    name = String(db_name="n")


class Slot(EmbeddedModel):
    stuff_id = Many2one(Stuff, db_name="s")
    sku = String(db_name="k")


class Rack(BaseModel):
    _name = "inside.rack"

    by_key = Dict(Embedded(Slot), db_name="b")
    by_number = Dict(Many2one(Stuff), keys=Int())
    by_list = Dict(List(Many2one(Stuff)))
    ids = List(Many2one(Stuff), db_name="i")
    grid = List(List(Embedded(Slot)), db_name="g")
    numbers = List(List(Int()))


PATHS = {
    "by_key.k.stuff_id.name": True,
    "by_key.other.stuff_id.name": False,
    "by_number.7.name": True,
    "by_number.8.name": False,
    "by_list.k.name": True,
    "by_list.k.0.name": False,
    "by_list.k.1.name": True,
    "ids.name": True,
    "ids.0.name": False,
    "ids.1.name": True,
    "grid.0.stuff_id.name": True,
    "grid.0.1.stuff_id.name": True,
    "grid.0.0.stuff_id.name": False,
    "grid.1.stuff_id.name": False,
}


@pytest.mark.parametrize("path", PATHS)
async def test_a_path_leads_on_from_a_value_of_a_container(app: App, path: str) -> None:
    one, other = await Stuff.create([{"name": "x"}, {"name": "y"}])
    await Rack.create(
        {
            "by_key": {"k": {"stuff_id": one, "sku": "x"}, "other": {"stuff_id": other}},
            "by_number": {7: one, 8: other},
            "by_list": {"k": [other, one]},
            "ids": [other, one],
            "grid": [[{"stuff_id": other}, {"stuff_id": one, "sku": "x"}], [{"stuff_id": other}]],
        }
    )
    assert await Rack.search([(path, "=", "x")]).count() == int(PATHS[path])
    here = path.removesuffix(".name")
    assert await Rack.search([(here, "=", one)]).count() == int(PATHS[path])
    assert await Rack.search([(here, "any", [("name", "=", "x")])]).count() == int(PATHS[path])
    if path.endswith("stuff_id.name"):
        own = path.replace("stuff_id.name", "sku")
        assert await Rack.search([(own, "=", "x")]).count() == int(PATHS[path])


@pytest.mark.parametrize("path", ["by_key.k.stuff_id.name", "by_number.7.name", "by_list.k.name"])
async def test_loaded_records_are_judged_by_the_same_path(memory_app: App, path: str) -> None:
    one, other = await Stuff.create([{"name": "x"}, {"name": "y"}])
    racks = await Rack.create(
        [
            {"by_key": {"k": {"stuff_id": s}}, "by_number": {7: s}, "by_list": {"k": [s]}}
            for s in (one, other)
        ]
    )
    for rack, stuff in zip(racks, (one, other), strict=True):
        rack.by_key = {"k": Slot(stuff_id=stuff)}
        rack.by_number, rack.by_list = {7: stuff}, {"k": [stuff]}
    assert racks.filtered_domain([(path, "=", "x")]) == racks[:1]
    missing = path.replace(".k", ".z").replace("7", "8")
    assert not racks.filtered_domain([(missing, "=", "x")])


async def test_the_order_follows_one_value_of_a_dict(server_app: App) -> None:
    one, two = await Stuff.create([{"name": "a"}, {"name": "b"}])
    last, first = await Rack.create([{"by_number": {7: two}}, {"by_number": {7: one}}])
    assert (await Rack.search(order="by_number.7.name")).ids == [first.id, last.id]


@pytest.mark.parametrize("path", ["grid.stuff_id.name", "grid.stuff_id", "grid.sku", "numbers.x"])
async def test_a_list_inside_a_list_needs_a_position(memory_app: App, path: str) -> None:
    with pytest.raises(DomainError, match=r"list of lists.*name a position"):
        await Rack.search([(path, "=", "x")])
    with pytest.raises(DomainError, match="list of lists"):
        await Rack.search(order=path)


class Bag(BaseModel):
    _name = "inside.bag"

    numbers = List(Int())
    slots = List(Embedded(Slot))
    data = Json()


@pytest.mark.parametrize("part", ["01", "-0", "٣", "1" * 10, "1" * 900], ids=lambda part: part[:10])
async def test_what_is_no_position_is_a_key_and_never_counted(memory_app: App, part: str) -> None:
    bag = await Bag.create({"numbers": [1, 2, 3, 4], "slots": [{"sku": "a"}], "data": {part: 1}})
    bags = await Bag.search()
    for path in (f"numbers.{part}", f"slots.{part}.sku", f"slots.{part}"):
        with pytest.raises(DomainError):
            await Bag.search([(path, "=", 1)])
        with pytest.raises(DomainError):
            bags.filtered_domain([(path, "=", 1)])
        with pytest.raises(DomainError):
            await Bag.search(order=path)
        with pytest.raises(ValidationError):
            await bag.write({path: 1})
        with pytest.raises(ValidationError):
            await Bag.search().update({path: 1})
    path = f"data.{part}"
    assert await Bag.search([(path, "=", 1)], order=path).count() == 1
    assert bags.filtered_domain([(path, "=", 1)])
    await bag.write({path: 2})
    await bag.save({path: 3})
    assert bag.data == {part: 3}
