"""``exists=True``: a link that is handed in must lead to a record that exists."""

from __future__ import annotations

import pytest
from bson import ObjectId

from earnorm import (
    Embedded,
    EmbeddedModel,
    List,
    Many2many,
    Many2one,
    Reference,
    String,
    ValidationError,
    mixins,
    models,
)
from earnorm.testing import count_queries


class Shelf(mixins.SoftDelete, models.BaseModel):
    _name = "existing.shelf"
    name = String()


class Line(EmbeddedModel):
    shelf_id = Many2one(Shelf, exists=True)


class Book(models.BaseModel):
    _name = "existing.book"
    shelf_id = Many2one(Shelf, exists=True)
    shelf_ids = Many2many(Shelf, exists=True)
    about = Reference(Shelf, exists=True)
    lines = List(Embedded(Line))
    free_id = Many2one(Shelf)


@pytest.mark.parametrize(
    ("values", "loc"),
    [
        (lambda pk: {"shelf_id": pk}, ("shelf_id",)),
        (lambda pk: {"shelf_ids": [pk]}, ("shelf_ids",)),
        (lambda pk: {"about": (Shelf, pk)}, ("about",)),
        (lambda pk: {"lines": [{}, {"shelf_id": pk}]}, ("lines", 1, "shelf_id")),
    ],
)
async def test_such_a_link_leads_to_a_record_that_exists(app, values, loc):
    shelf = await Shelf.create({"name": "a"})
    book = await Book.create(values(shelf.pk))
    missing = values(ObjectId())
    for way in (lambda: Book.create(missing), lambda: book.write(missing)):
        with pytest.raises(ValidationError) as refused:
            await way()
        assert [(p["loc"], p["type"]) for p in refused.value.errors()] == [(loc, "no_such_record")]
    assert await Book.count() == 1


async def test_archived_records_exist_and_other_fields_may_lead_nowhere(app):
    shelf = await Shelf.create({"name": "a"})
    await shelf.archive()
    assert await Shelf.count() == 0
    await Book.create({"shelf_id": shelf, "free_id": ObjectId()})


async def test_one_query_looks_for_all_targets_and_none_where_there_is_none(server_app):
    shelves = await Shelf.create([{"name": "a"}, {"name": "b"}])
    await Book.create({"free_id": shelves[0]})
    with count_queries() as counted:
        await Book.create([{"shelf_id": shelf, "shelf_ids": shelves} for shelf in shelves])
    assert [call.kind for call in counted] == ["find", "insert"]
    with count_queries() as counted:
        await Book.create([{"free_id": shelf} for shelf in shelves])
    assert [call.kind for call in counted] == ["insert"]


async def test_a_new_record_may_lead_to_one_that_is_created_with_it(app):
    class Node(models.BaseModel):
        _name = "existing.node"
        parent_id = Many2one("existing.node", exists=True)

    root = ObjectId()
    await Node.create([{"_id": root}, {"parent_id": root}])
    with pytest.raises(ValidationError, match="no such record"):
        await Node.create({"parent_id": ObjectId()})


def test_the_option_is_for_links_that_somebody_hands_in():
    for make in (
        lambda: Many2many(Shelf, inverse="book_ids", exists=True),
        lambda: Many2many(Shelf, through="existing.between", exists=True),
        lambda: Many2one(Shelf, related="shelf_id.other_id", exists=True),
        lambda: Many2one(Shelf, exists=1),
    ):
        with pytest.raises(TypeError, match="exists"):
            make()
