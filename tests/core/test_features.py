"""Each built-in feature can be left out: what doesn't need it works, and a model that needs it says so."""

from __future__ import annotations

import ast
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

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

FOLDER = Path(earnorm.__file__).parent / "features"


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
    "timestamps": {Stamped: "the field 'created_at'"},
}
"""For each feature the models that need it, and what each has of it."""
EVERY = {model for models_ in NEEDING.values() for model in models_}


async def use(call: Callable[[], object]) -> None:
    """Make a call, wait for its result, take its first item: as far as the memory backend has it."""
    try:
        result = call()
        if isinstance(result, Awaitable):
            await result
        elif hasattr(result, "__anext__"):
            await anext(result)
    except earnorm.NotSupported:
        pass


async def _lock() -> None:
    with suppress(earnorm.TransactionError):
        await Shelf.search().lock()


def _coalescing() -> None:
    with earnorm.coalescing():
        pass


async def _why() -> object:
    with earnorm.system(reason="a test"):
        return await Shelf.search().why(principal=earnorm.Principal("ann"))


CALLS: Mapping[str, Mapping[str, Callable[[], object]]] = {
    "archive": {
        "RecordSet.archive": lambda: Archived.browse(()).archive(),
        "RecordSet.unarchive": lambda: Archived.browse(()).unarchive(),
    },
    "bodies": {"Declared.pydantic_model": lambda: Shelf.pydantic_model()},
    "bulk": {
        "BaseModel.bulk": lambda: Shelf.bulk(),
        "BaseModel.create_many": lambda: Shelf.create_many([]),
    },
    "coalescing": {"coalescing": _coalescing},
    "backfilling": {"BaseModel.backfill": lambda: Shelf.backfill()},
    "explaining": {
        "Query.explain": lambda: Shelf.search().explain(),
        "Query.why": _why,
    },
    "exporting": {
        f"{of}.to_{kind}": lambda of=of, kind=kind: getattr(  # type: ignore[misc] # mypy infers no type for the defaults
            Shelf.search() if of == "Query" else Shelf.browse(()), f"to_{kind}"
        )()
        for of in ("Query", "RecordSet")
        for kind in ("pandas", "polars", "arrow")
    }
    | {
        "Query.to_dict": lambda: Shelf.search().to_dict(),
        "Query.to_json": lambda: Shelf.search().to_json(),
    },
    "grouping": {
        "Query.group": lambda: Shelf.search().group("name"),
        "Query.aggregate": lambda: Shelf.search().aggregate([]),
    },
    "indexes": {"App.indexes": lambda: earnorm.current_app().indexes},
    "locking": {"Query.lock": _lock},
    "paging": {
        "Query.page": lambda: Shelf.search().page(),
        "Query.paginate": lambda: Shelf.search().paginate(),
    },
    "provenance": {"App.parts": lambda: earnorm.current_app().parts("feature.shelf")},
    "recompute": {"App.recompute": lambda: earnorm.current_app().recompute(Priced)},
    "sequences": {"sequence": lambda: earnorm.sequence("shelf").next()},
    "upserts": {
        "BaseModel.upsert": lambda: Indexed.upsert({"code": "u"}, "code"),
        "BaseModel.upsert_many": lambda: Indexed.upsert_many([{"code": "u"}], "code"),
    },
    "watching": {"BaseModel.watch": lambda: aiter(Shelf.watch())},
}
"""For each feature the calls that need it."""


def app_without(*features: str) -> App:
    made = type("AppWithout", (App,), {"left_out": features})
    app: App = made("mongomock://", database="features", plugins=[])
    return app


def folder_of(feature: str) -> str:
    return FEATURES[feature].removeprefix("earnorm.features.").partition(".")[0]


def test_every_folder_is_in_the_list_of_features() -> None:
    folders = [each.parent.name for each in FOLDER.glob("*/__init__.py")]
    assert sorted(map(folder_of, FEATURES)) == sorted(folders)


def test_every_feature_with_hooks_names_its_class_and_the_others_have_no_plugin() -> None:
    for feature, place in FEATURES.items():
        assert (":" in place) == (FOLDER / folder_of(feature) / "plugin.py").exists(), feature


def test_every_feature_has_its_models_or_calls_here() -> None:
    # Nothing of a program's code needs the log of slow queries.
    assert NEEDING.keys() | CALLS.keys() | {"slow_queries"} == FEATURES.keys()


def handing_over() -> Iterator[tuple[str, str]]:
    """Yield the folder and the name of each method that imports a feature when it is called."""
    for file in ("model/base.py", "model/query.py", "model/recordset.py", "application.py"):
        tree = ast.parse((FOLDER.parent / file).read_text())
        for cls in (node for node in tree.body if isinstance(node, ast.ClassDef)):
            for method in cls.body:
                for node in ast.walk(method):
                    if isinstance(node, ast.ImportFrom) and str(node.module).startswith(
                        "earnorm.features."
                    ):
                        assert isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
                        yield str(node.module).split(".")[2], f"{cls.name}.{method.name}"


def test_every_method_that_hands_over_to_a_feature_is_called_here() -> None:
    called = {(folder_of(feature), name) for feature in CALLS for name in CALLS[feature]}
    handed = set(handing_over())
    assert len(handed) > 15 and handed <= called


async def use_plain_models(*, grouped: bool = True) -> None:
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
    if grouped:
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
        await use_plain_models(grouped=feature != "grouping")
        needing = NEEDING.get(feature, {})
        for model in EVERY - needing.keys():
            await use_one(model)
        for other in CALLS.keys() - {feature}:
            for call in CALLS[other].values():
                if not (feature == "indexes" and other == "upserts"):  # it needs a unique index
                    await use(call)


@pytest.mark.parametrize("feature", NEEDING)
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


@pytest.mark.parametrize("feature", CALLS)
@pytest.mark.parametrize("chosen", ["left_out", "disabled", "environment"])
async def test_a_call_that_needs_what_is_left_out_is_refused(
    monkeypatch: pytest.MonkeyPatch, feature: str, chosen: str
) -> None:
    if chosen == "environment":
        monkeypatch.setenv("EARNORM_DISABLED_PLUGINS", feature)
    disabled = [feature] if chosen == "disabled" else []
    app = (
        app_without(feature)
        if chosen == "left_out"
        else App("mongomock://", database="features", plugins=[], disabled=disabled)
    )
    async with app:
        for name, call in CALLS[feature].items():
            with pytest.raises(ConfigurationError) as caught:
                await use(call)
            assert caught.value.code == "left_out"
            subject, _, told = str(caught.value).partition(" needs the feature ")
            assert told == f"{feature!r}, which App 'features' leaves out"
            # A model of its own is refused as well, and before the call.
            assert name.rpartition(".")[2] in subject or feature in NEEDING


async def test_a_plain_model_needs_none_of_them() -> None:
    async with app_without(*FEATURES):
        await use_plain_models(grouped=False)
    async with app_without():
        for model in EVERY:
            await use_one(model)


async def test_outside_of_every_app_nothing_is_left_out() -> None:
    assert Shelf.pydantic_model().__name__


def test_what_is_always_there_cannot_be_disabled_and_a_feature_can_be_required() -> None:
    def made(**arguments: list[str]) -> App:
        return App("mongomock://", database="features", **arguments)  # type: ignore[arg-type] # lists alone

    with pytest.raises(ConfigurationError, match="names 'model', which no App can leave out"):
        made(plugins=[], disabled=["model"])
    with pytest.raises(ConfigurationError, match="'paging' is required by this program"):
        made(plugins=[], required=["paging"], disabled=["paging"])
    app = made(plugins=["paging"], required=["revisions"])
    assert {"paging", "revisions"} <= app.loaded.available and app.loaded.names() == []


@pytest.mark.parametrize(
    ("name", "told"),
    [("pagin", "did you mean 'paging'"), ("securty", "did you mean 'security'"), ("xyz", "name")],
)
def test_a_name_to_disable_that_nobody_has_is_an_error(name: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as caught:
        App("mongomock://", database="features", plugins=[], disabled=[name])
    assert caught.value.code == "unknown_plugin" and repr(name) in str(caught.value)


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
