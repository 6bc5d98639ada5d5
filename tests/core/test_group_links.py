"""Groups by a field of each record that a Many2many links."""

from __future__ import annotations

import pytest

from earnorm import (
    App,
    BaseModel,
    Count,
    DomainError,
    Int,
    Many2many,
    Many2one,
    One2many,
    String,
    Sum,
)


class Colour(BaseModel):
    _name = "grouplinks.colour"
    name = String()


class Tag(BaseModel):
    _name = "grouplinks.tag"
    name = String()
    size = Int()
    colour_id = Many2one(Colour)
    item_ids = One2many("grouplinks.item", "main_id")


class Item(BaseModel):
    _name = "grouplinks.item"
    price = Int()
    tag_ids = Many2many(Tag)
    main_id = Many2one(Tag)


@pytest.fixture
async def items(app: App) -> None:
    red = await Colour.create({"name": "red"})
    a, b, none = await Tag.create(
        [{"name": "a", "colour_id": red}, {"name": "b", "colour_id": red}, {"size": 1}]
    )
    await Item.create(
        [
            {"price": 1, "tag_ids": [a, b]},
            {"price": 2, "tag_ids": [a]},
            {"price": 4},
            {"price": 8, "tag_ids": [b, none]},
        ]
    )


async def test_a_record_counts_once_for_each_record_that_it_links(items: None) -> None:
    rows = await Item.search().group("tag_ids.name", n=Count(), sum=Sum("price"))
    assert rows == [
        {"tag_ids.name": None, "n": 2, "sum": 12},
        {"tag_ids.name": "a", "n": 2, "sum": 3},
        {"tag_ids.name": "b", "n": 2, "sum": 9},
    ]
    rows = await Item.search([("price", "<", 4)]).group({"c": "tag_ids.colour_id.name"}, n=Count())
    assert rows == [{"c": "red", "n": 3}]


async def test_other_ways_to_several_records_are_refused(items: None) -> None:
    with pytest.raises(DomainError, match="the same list"):
        await Item.search().group("tag_ids", "tag_ids.name", n=Count())
    with pytest.raises(DomainError, match="the same list"):
        await Item.search().group("tag_ids.size", "tag_ids.name", n=Count())
    for refused in (
        Tag.search().group("item_ids.price", n=Count()),
        Item.search().group("main_id.item_ids.price", n=Count()),
        Item.search().group(n=Sum("tag_ids.size")),
        Item.search(order="tag_ids.name"),
    ):
        with pytest.raises(DomainError, match="several records"):
            await refused
