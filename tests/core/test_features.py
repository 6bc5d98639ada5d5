"""Each built-in feature can be left out: what doesn't need it works, and a model that needs it says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

import earnorm
from earnorm import (
    App,
    ConfigurationError,
    Date,
    Int,
    List,
    Many2one,
    PluginError,
    Sequence,
    String,
    depends,
    mixins,
    models,
)
from earnorm.features import FEATURES
from earnorm.plugin import ModelView, hookimpl


class Shelf(models.BaseModel):
    _name = "feature.shelf"
    name = String(required=True)


class Book(models.BaseModel):
    _name = "feature.book"
    title = String(required=True)
    pages = Int(min_value=1)
    printed = Date()
    tags = List(String())
    shelf_id = Many2one("feature.shelf")


class Archived(mixins.SoftDelete, models.BaseModel):
    _name = "feature.archived"


class Signed(mixins.Authors, models.BaseModel):
    _name = "feature.signed"


class Illustrated(models.BaseModel):
    _name = "feature.illustrated"
    cover = earnorm.File()


class Indexed(models.BaseModel):
    _name = "feature.indexed"
    code = String(unique=True)


class Listed(models.BaseModel):
    _name = "feature.listed"
    _indexes = [{"code": 1}]
    code = String()


class Chapter(models.BaseModel):
    _name = "feature.chapter"
    book_id = Many2one("feature.book", on_delete="cascade")


class Topic(models.BaseModel):
    _name = "feature.topic"
    _parent_store = True
    parent_id = Many2one("feature.topic", on_delete="restrict")


class Medium(models.BaseModel):
    _name = "feature.medium"
    _discriminator = "kind"


class Film(Medium):
    _name = "feature.film"


class Priced(models.BaseModel):
    _name = "feature.priced"
    net = Int(default=1)
    gross = Int(compute="_gross", store=True)

    @depends("net")
    def _gross(self) -> int:
        return (self.net or 0) * 2


class Labelled(models.BaseModel):
    _name = "feature.labelled"
    _inherits = {"feature.book": "book_id"}
    book_id = Many2one("feature.book", required=True)


class Versioned(models.BaseModel):
    _name = "feature.versioned"
    _versioned = True


class Numbered(models.BaseModel):
    _name = "feature.numbered"
    number = Sequence("F{number}")


class Stamped(mixins.Timestamps, models.BaseModel):
    _name = "feature.stamped"


NEEDING: Mapping[str, Mapping[type[models.BaseModel], str]] = {
    "archive": {Archived: "_soft_delete"},
    "authors": {Signed: "the field 'created_by'"},
    "coalescing": {},
    "delegation": {Labelled: "_inherits"},
    "files": {Illustrated: "the field 'cover'"},
    "indexes": {
        Indexed: "an index of the field 'code'",
        Listed: "_indexes",
        Chapter: "an index of the field 'book_id'",
        Topic: "an index of the field 'parent_id'",
    },
    "on_delete": {
        Chapter: "on_delete of the field 'book_id'",
        Topic: "on_delete of the field 'parent_id'",
    },
    "parent_store": {Topic: "_parent_store"},
    "polymorphism": {Medium: "_discriminator", Film: "_discriminator"},
    "recompute": {Priced: "the field 'gross'", Labelled: "the field 'title'"},
    "revisions": {Versioned: "_versioned"},
    "sequences": {Numbered: "the field 'number'"},
    "slow_queries": {},
    "timestamps": {Stamped: "the field 'created_at'"},
}
"""For each feature the models that need it, and what each has of it."""
EVERY = {model for models_ in NEEDING.values() for model in models_}


def app_without(*features: str) -> App:
    made = type("AppWithout", (App,), {"left_out": features})
    app: App = made("mongomock://", database="features", plugins=[])
    return app


def test_every_feature_has_its_models_here() -> None:
    assert NEEDING.keys() == FEATURES.keys()


async def use_plain_models() -> None:
    """Create, read, write and delete, singly, in number and by domain, with a relation."""
    shelf = await Shelf.create({"name": "A"})
    book = await Book.create({"title": "x", "pages": 3, "tags": ["new"], "shelf_id": shelf})
    others = await Book.create([{"title": "y", "pages": 9}, {"title": "z"}])
    book.pages = 4
    await book.save()
    await book.write({"printed": "2024-02-29"})
    await others.write({"tags": ["old"]})
    assert await Book.search([("pages", ">", 3), ("tags", "=", "new")]).update({"pages": 5}) == 1
    assert (await Book.get(book.id)).to_dict()["pages"] == 5
    found = await Book.search(
        ["|", ("shelf_id.name", "=", "A"), ("title", "ilike", "Y")], order="title"
    ).prefetch("shelf_id")
    assert [each.title for each in found] == ["x", "y"] and found[0].shelf_id.name == "A"
    assert await Book.count([("pages", "=?", None)]) == 3
    assert len(await Book.search().group("title")) == 3
    assert [each.title async for each in Book.search(order="-title")] == ["z", "y", "x"]
    assert await others.unlink() == 2
    assert await Book.search([("id", "=", book.id)]).delete() == 1
    assert await shelf.unlink() == 1 and await Shelf.count() == 0


async def use_one(model: type[models.BaseModel]) -> None:
    record = await model.create({"title": "x"} if model is Labelled else {})
    assert await model.get(record.id) == record


@pytest.mark.parametrize("feature", FEATURES)
async def test_without_a_feature_everything_else_works(feature: str) -> None:
    async with app_without(feature):
        await use_plain_models()
        for model in EVERY - NEEDING[feature].keys():
            await use_one(model)


@pytest.mark.parametrize("feature", FEATURES)
async def test_a_model_that_needs_what_is_left_out_is_refused(feature: str) -> None:
    async with app_without(feature):
        for model, what in NEEDING[feature].items():
            with pytest.raises(ConfigurationError) as caught:
                await model.count()
            assert str(caught.value) == (
                f"{model._name}: {what} needs the feature {feature!r}, which App 'features' leaves out"
            )
            with pytest.raises(ConfigurationError, match="leaves out"):
                await model.create({})


async def test_a_plain_model_needs_none_of_them() -> None:
    async with app_without(*FEATURES):
        await use_plain_models()
    async with app_without():
        for model in EVERY:
            await use_one(model)


class Stamper:
    api = 1
    name = "stamper"

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        return "_stamped" if model.attribute("_stamped") else None


class Marked(models.BaseModel):
    _name = "feature.marked"
    _stamped = True


async def test_a_plugin_whose_class_is_at_hand_is_asked_as_well() -> None:
    selected: Iterable[object] = [Stamper]
    async with App("mongomock://", database="features", plugins=selected):
        assert await Marked.count() == 0
    async with App("mongomock://", database="features", plugins=[]):
        assert await Marked.count() == 0
    async with App("mongomock://", database="features", plugins=selected, disabled=["stamper"]):
        with pytest.raises(ConfigurationError) as caught:
            await Marked.count()
    assert str(caught.value) == (
        "feature.marked: _stamped needs the plugin 'stamper', which App 'features' leaves out"
    )


async def test_a_plugin_may_take_the_place_of_a_feature_and_not_stand_beside_it() -> None:
    class Revisions:
        api = 1
        name = "revisions"

    with pytest.raises(PluginError, match="a feature of the core has the name 'revisions'"):
        App("mongomock://", database="features", plugins=[Revisions])
    made = type("AppWithout", (App,), {"left_out": ["revisions"]})
    async with made("mongomock://", database="features", plugins=[Revisions]):
        assert await Versioned.count() == 0


class Numbered(models.BaseModel):
    _name = "feature.numbered"
    number = Sequence("N{number}")
    title = String()


class Copied(models.BaseModel):
    """Computed from a model that an App without sequences cannot use."""

    _name = "feature.copied"
    numbered_id = Many2one("feature.numbered")
    title = String(related="numbered_id.title", store=True)
    shout = String(compute="_shout", store=True)

    @depends("title")
    def _shout(self) -> str | None:
        return self.title and self.title.upper()


class Unnumbered(App):
    left_out = ("sequences",)


async def test_a_model_computed_from_one_that_cannot_be_used_stops_nothing_but_itself() -> None:
    async with Unnumbered("mongomock://", database="features"):
        shelf = await Shelf.create({"name": "a"})
        assert shelf.name == "a"
        with pytest.raises(ConfigurationError, match=r"feature\.numbered.*'sequences'"):
            await Copied.create({})
