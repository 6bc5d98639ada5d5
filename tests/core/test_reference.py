"""Reference: one record of any of several models."""

from __future__ import annotations

import pytest
from bson import ObjectId

import earnorm
from earnorm import (
    App,
    BaseModel,
    ConfigurationError,
    DomainError,
    FieldNotLoaded,
    Many2one,
    Reference,
    String,
    ValidationError,
)
from earnorm.kernel import registry

from .conftest import Commands


class Book(BaseModel):
    _name = "ref.book"

    title = String()
    shelf_id = Many2one("ref.shelf")


class Shelf(BaseModel):
    _name = "ref.shelf"

    title = String()


class Remark(BaseModel):
    _name = "ref.remark"

    text = String()
    about = Reference(Book, Shelf)
    anything = Reference()


async def remarks(number: int = 6) -> None:
    shelf = await Shelf.create({"title": "s"})
    books = await Book.create([{"title": f"b{n}", "shelf_id": shelf} for n in range(2)])
    await Remark.create(
        [{"text": str(n), "about": books[n % 3] if n % 3 < 2 else shelf} for n in range(number)]
    )


async def test_it_is_stored_as_model_and_id(app: App) -> None:
    book = await Book.create({"title": "b"})
    raw = {"model": "ref.book", "id": book.pk}
    for given in (book, (Book, book.id), ("ref.book", book.pk), f"ref.book,{book.id}", raw):
        remark = await Remark.create({"text": "x", "about": given})
        stored = await app.dangerous_raw("look")["ref_remark"].find_one({"_id": remark.pk})
        assert stored["about"] == raw
        assert await Remark.search([("about", "=", given)]).count() >= 1
    assert remark.about == book
    assert f'"about":"ref.book,{book.id}"' in remark.to_json().replace(" ", "")


async def test_ghosts_load_with_one_query_for_each_model(commands: Commands) -> None:
    await remarks()
    found = await Remark.search(order="text")
    commands.clear()
    assert isinstance(found[0].about, Book) and isinstance(found[2].about, Shelf)
    with pytest.raises(FieldNotLoaded, match=r"ref.remark.about is not loaded"):
        _ = found[0].about.title
    assert (await found[0].about).title == "b0"
    assert [c["find"] for c in commands.named("find")] == ["ref_book"]
    assert found[4].about.title == "b1" and found[3].about is found[0].about
    again = await Remark.search(order="text").prefetch("about.shelf_id")
    assert [c["find"] for c in commands.named("find")][1:] == [
        "ref_remark",
        "ref_book",
        "ref_shelf",
        "ref_shelf",
    ]
    assert [r.about.title for r in again] == ["b0", "b1", "s"] * 2
    assert again[0].about.shelf_id.title == "s"


async def test_a_condition_may_ask_for_the_model_alone(app: App) -> None:
    await remarks()
    assert await Remark.search([("about.model", "=", "ref.shelf")]).count() == 2
    book = (await Book.search())[0]
    assert await Remark.search([("about.id", "=", book.id)]).count() == 2
    assert await Remark.search([("about", "in", [book])]).count() == 2
    assert await Remark.search([("about", "!=", None)]).count() == 6


@pytest.mark.parametrize(
    "wrong",
    [
        "ref.remark,000000000000000000000000",
        "ref.book,nonsense",
        "ref.book",
        3,
        {"$ne": None},
        {"model": "ref.book"},
        {"model": {"$gt": ""}, "id": ObjectId()},
        Remark(text="x"),
    ],
)
async def test_other_values_are_refused(app: App, wrong: object) -> None:
    with pytest.raises(ValidationError, match="about"):
        await Remark.create({"about": wrong})
    with pytest.raises((DomainError, ValidationError)):
        await Remark.search([("about", "=", wrong)])


async def test_a_reference_without_models_takes_any(app: App) -> None:
    shelf = await Shelf.create({"title": "s"})
    remark = await Remark.create({"anything": shelf})
    assert (await (await Remark.get(remark.id)).anything).title == "s"
    with pytest.raises(ValidationError, match="a model that exists"):
        await Remark.create({"anything": ("ref.nothing", ObjectId())})


async def test_a_reference_to_nowhere_stops_the_start() -> None:
    try:

        class Lost(BaseModel):
            _name = "ref.lost"

            about = Reference("ref.book", "ref.boook")

        with pytest.raises(
            ConfigurationError, match=r"ref.lost.about points at a model 'ref.boook'"
        ):
            await earnorm.App("mongomock://", database="r", plugins=[]).start()
    finally:
        registry._definitions.pop("ref.lost")


@pytest.mark.parametrize("comodel", [["post"], None, 3, lambda: None, dict])
def test_what_is_no_model_and_no_name_is_refused_where_it_is_declared(comodel: object) -> None:
    with pytest.raises(TypeError, match=r"takes models or their names"):
        Reference(comodel)  # type: ignore[arg-type]
