"""Index: every option reaches the server in its own words; a malformed one is refused where it is written."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    Boolean,
    ConfigurationError,
    DateTime,
    Dict,
    Embedded,
    EmbeddedModel,
    Index,
    Int,
    List,
    String,
    VectorSearchIndex,
)
from earnorm.features.indexes.declarations import declared_indexes, declared_search_indexes
from earnorm.fields.base import N

from .conftest import Commands


class Place(EmbeddedModel):
    city = String(db_name="c")


class Note(BaseModel):
    _name = "core.note"

    title = String(db_name="t")
    body = String()
    email = String(db_name="mail")
    state = String()
    active = Boolean()
    age = Int()
    created_at = DateTime()
    extra = Dict()
    place = Embedded(Place)
    tags = List(String())


@pytest.fixture
def note() -> Iterator[type[Note]]:
    yield Note
    Note._indexes, Note._options = (), None  # it stays registered for the other tests


def only(model: type[BaseModel], entry: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    model._indexes = [entry]  # type: ignore[list-item] # malformed ones as well
    (spec,) = declared_indexes(model)
    return spec.keys, dict(spec.options)


ENTRIES: list[tuple[object, tuple[Any, ...], dict[str, Any]]] = [
    (Index("email"), (("mail", 1),), {}),
    (Index("-created_at", "title"), (("created_at", -1), ("t", 1)), {}),
    (Index({"place.city": -1, "age": 1}), (("place.c", -1), ("age", 1)), {}),
    (Index("id", "age"), (("_id", 1), ("age", 1)), {}),
    (Index(("state", "hashed")), (("state", "hashed"),), {}),
    (Index({"extra.where": "2dsphere"}), (("extra.where", "2dsphere"),), {}),
    (Index("email", unique=True, sparse=True, hidden=True, name="m"), (("mail", 1),), {
        "unique": True, "sparse": True, "hidden": True, "name": "m"}),
    (Index("created_at", expire_after=60), (("created_at", 1),), {"expireAfterSeconds": 60}),
    (Index("created_at", expire_after=datetime.timedelta(hours=1)), (("created_at", 1),), {
        "expireAfterSeconds": 3600}),
    (Index("created_at", expire_after=0), (("created_at", 1),), {"expireAfterSeconds": 0}),
    (Index("email", partial=[("active", "=", True), ("age", ">", 3)]), (("mail", 1),), {
        "partialFilterExpression": {"active": True, "age": {"$gt": 3}}}),
    (Index("email", partial=Note.title.in_(["a", "b"])), (("mail", 1),), {
        "partialFilterExpression": {"t": {"$in": ["a", "b"]}}}),
    (Index(("title", "text"), ("body", "text"), weights={"title": 3}, language="german",
           language_field="lang"), (("t", "text"), ("body", "text")), {
        "weights": {"t": 3}, "default_language": "german", "language_override": "lang"}),
    (Index("$**", projection=["title", "extra.a"]), (("$**", 1),), {
        "wildcardProjection": {"t": 1, "extra.a": 1}}),
    (Index("$**", projection={"title": False}), (("$**", 1),), {"wildcardProjection": {"t": 0}}),
    (Index("extra.$**"), (("extra.$**", 1),), {}),
    (Index("title", collation="fr"), (("t", 1),), {"collation": {"locale": "fr"}}),
    (Index("title", collation={"locale": "fr", "strength": 1}), (("t", 1),), {
        "collation": {"locale": "fr", "strength": 1}}),
    ({"email": 1, "age": -1}, (("mail", 1), ("age", -1)), {}),
    ({"keys": ["email", "-age"], "unique": True}, (("mail", 1), ("age", -1)), {"unique": True}),
    ({"keys": [["email", 1]], "expireAfterSeconds": 5}, (("mail", 1),), {"expireAfterSeconds": 5}),
    ({"keys": {"email": 1}, "partial": [("active", "=", True)]}, (("mail", 1),), {
        "partialFilterExpression": {"active": True}}),
    ({"keys": "email", "background": True}, (("mail", 1),), {}),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "keys", "options"), ENTRIES, ids=lambda each: repr(each)[:60])
def test_a_declaration_in_mongodbs_words(
    note: type[Note], entry: object, keys: tuple[Any, ...], options: dict[str, Any]
) -> None:
    assert only(note, entry) == (keys, options)


def test_the_server_takes_every_one_of_them() -> None:
    """Held by test_index_diff, which creates generated ones; this list has to have each option."""
    used = {name for _, _, options in ENTRIES for name in options}
    assert used >= {"unique", "sparse", "hidden", "name", "expireAfterSeconds", "weights"}
    assert used >= {"partialFilterExpression", "collation", "wildcardProjection"}


MALFORMED: list[tuple[Any, str]] = [
    (lambda: Index(), "at least one key"),
    (lambda: Index("email", "-email"), "stands twice"),
    (lambda: Index(("email", 2)), "not a key with its direction"),
    (lambda: Index(("email", True)), "not a key with its direction"),
    (lambda: Index(("email", "texts")), "not a key with its direction"),
    (lambda: Index(3), "is not a key"),  # type: ignore[arg-type] # what is tested
    (lambda: Index(""), "not a key with its direction"),
    (lambda: Index("email", unique=1), "unique is True or False"),  # type: ignore[arg-type] # what is tested
    (lambda: Index("email", expire_after=-1), "time in seconds"),
    (lambda: Index("email", expire_after=1.5), "whole seconds"),
    (lambda: Index("email", "age", expire_after=5), "exactly one key"),
    (lambda: Index("email", weights={"email": 2}), "belong to a text index"),
    (lambda: Index(("email", "text"), weights=["email"]), "weights is a mapping"),  # type: ignore[arg-type] # what is tested
    (lambda: Index("email", projection=["a"]), "belongs to"),
    (lambda: Index("$**", projection="a"), "lists field paths"),
    (lambda: Index("email", collation={"strength": 1}), "collation is a locale"),
    (lambda: Index("email", partial={"active": True}), "takes a domain"),  # type: ignore[arg-type] # what is tested
    (lambda: Index("email", partial=[("active",)]), "partial"),  # type: ignore[list-item] # what is tested
    (lambda: VectorSearchIndex("v", dimensions=0), "dimensions"),
    (lambda: VectorSearchIndex("v", dimensions=3, similarity="cos"), "similarity is one of"),
    (lambda: VectorSearchIndex("v", dimensions=3, quantization="x"), "quantization"),
]


@pytest.mark.parametrize(("make", "message"), MALFORMED, ids=[m for _, m in MALFORMED])
def test_a_malformed_index_is_refused_where_it_is_written(make: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (Index("email", partial=[("actve", "=", True)]), "did you mean 'active'"),
        (Index("email", partial=[("state", "!=", "x")]), r"\$ne.*neither\s+negations"),
        (Index("email", partial=[("state", "like", "x")]), r"\$regex"),
        (Index("email", partial=[]), "always true"),
        ({"keys": ["email"], "uniqe": True}, "did you mean 'unique'"),
        ({"keys": []}, "at least one key"),
        ("email", "is not an index"),
    ],
    ids=repr,
)
async def test_what_only_the_model_can_tell_is_refused_at_first_use(
    memory_app: App, note: type[Note], entry: Any, message: str
) -> None:
    note._indexes = [entry]
    with pytest.raises(ConfigurationError, match=message) as caught:
        await note.count()
    assert "Note._indexes" in str(caught.value)


class Spot(String[N]):
    """A field kind that chooses its own kind of index."""

    index_kind = "2dsphere"


def test_a_field_kind_chooses_its_kind_of_index() -> None:
    class CoreSpotted(BaseModel):
        spot = Spot(index=True, db_name="s")

    assert [spec.keys for spec in declared_indexes(CoreSpotted)] == [(("s", "2dsphere"),)]


def test_options_of_fields_become_indexes() -> None:
    class CoreFieldIndexes(BaseModel):
        _abstract = True
        plain = Int(index=True)
        sparse = String(sparse=True, db_name="s")
        unique = String(unique=True)
        both = String(unique=True, sparse=True)
        needed = String(unique=True, required=True)

    found = {spec.name: dict(spec.options) for spec in declared_indexes(CoreFieldIndexes)}
    assert found == {
        "plain_1": {},
        "s_1": {"sparse": True},
        "unique_1": {"unique": True, "partialFilterExpression": {"unique": {"$gte": ""}}},
        # a sparse unique index would let stored nulls collide
        "both_1": {"unique": True, "partialFilterExpression": {"both": {"$gte": ""}}},
        "needed_1": {"unique": True},
    }


def test_an_entry_for_a_fields_own_keys_takes_its_place() -> None:
    class CoreTwice(BaseModel):
        code = String(unique=True)
        _indexes = [Index("code", name="by_code"), Index("code", collation="fr", name="fr")]

    specs = declared_indexes(CoreTwice)
    CoreTwice._indexes = ()
    assert [spec.name for spec in specs] == ["by_code", "fr"]
    assert specs[0].options["unique"] and "unique" not in specs[1].options


async def test_two_indexes_on_the_same_keys_with_other_collations_stand_side_by_side(
    server_app: App, note: type[Note]
) -> None:
    note._indexes = [Index("title"), Index("title", collation="fr", name="french")]
    await note.count()
    (diff,) = await server_app.indexes.diff([note])
    assert [spec.name for spec in diff.ok] == ["t_1", "french"] and diff.is_in_step


async def test_documents_expire_and_partial_uniqueness_holds(app: App, note: type[Note]) -> None:
    note._indexes = [Index("state", unique=True, partial=[("active", "=", True)])]
    await note.create([{"state": "x", "active": n == 0} for n in range(3)])
    from earnorm import DuplicateKey

    with pytest.raises(DuplicateKey):
        await note.create({"state": "x", "active": True})


# -- vector search --------------------------------------------------------------------------------


def test_a_vector_search_index_in_the_servers_words(note: type[Note]) -> None:
    note._indexes = [
        VectorSearchIndex("tags", dimensions=3, filters=["title"], quantization="scalar")
    ]
    assert declared_indexes(note) == []
    (spec,) = declared_search_indexes(note)
    assert (spec.name, spec.kind) == ("vector_index", "vectorSearch")
    assert spec.definition == {
        "fields": [
            {
                "type": "vector",
                "path": "tags",
                "numDimensions": 3,
                "similarity": "cosine",
                "quantization": "scalar",
            },
            {"type": "filter", "path": "t"},
        ]
    }


async def test_without_vector_search_on_the_server_a_warning_says_so_and_nothing_breaks(
    app: App, note: type[Note], caplog: pytest.LogCaptureFixture
) -> None:
    note._indexes = [VectorSearchIndex("tags", dimensions=3), Index("age")]
    with caplog.at_level(logging.WARNING, logger="earnorm"):
        assert await note.count() == 0
    assert [r for r in caplog.records if "'vector_index' was not created" in r.getMessage()]
    (diff,) = await app.indexes.diff([note])
    assert diff.search == () and "vector search" in diff.notes[0]
    assert [spec.name for spec in diff.ok] == ["age_1"]


# -- once -----------------------------------------------------------------------------------------


async def test_create_indexes_false_creates_none(commands: Commands, note: type[Note]) -> None:
    note._indexes, note._options = [Index("age")], {"capped_size": 4096}
    from earnorm import current_app

    app = current_app()
    settings = app.settings
    async with App(
        app._lifecycle.uri,
        database=settings.database,
        driver=app._lifecycle.driver,
        client_options=settings.client_options,
        create_indexes=False,
    ) as quiet:
        await note.count()
        (diff,) = await quiet.indexes.diff([note])
    assert not diff.exists and [spec.name for spec in diff.missing] == ["age_1"]
