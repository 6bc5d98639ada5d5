"""The law of links: for every domain about links, the server and memory find the same records.

Links of every kind are never set, null, empty, set, and set to records that are gone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import event, given
from hypothesis import strategies as st

from earnorm import (
    BaseModel,
    Command,
    Count,
    Embedded,
    EmbeddedModel,
    FieldNotLoaded,
    List,
    Many2many,
    Many2one,
    One2many,
    RecordSet,
    Reference,
    String,
    ValidationError,
)

from .laws import World, law, world

CASES = int(os.environ.get("EARNORM_FUZZ_EXAMPLES", "300"))
DOMAINS = 5
"""The domains that are asked about one set of documents; a case is one domain."""


class Tag(BaseModel):
    _name = "links.tag"

    name = String()
    parent_id = Many2one("links.tag", db_name="up")


class Team(BaseModel):
    _name = "links.team"

    name = String()
    doc_ids = Many2many["Doc"]("links.doc")


class Place(EmbeddedModel):
    name = String()
    tag_id = Many2one(Tag, db_name="t")


class Doc(BaseModel):
    _name = "links.doc"

    one_id = Many2one(Tag, db_name="o")
    many_ids = Many2many(Tag, db_name="m")
    about = Reference(Tag, Team)
    place = Embedded(Place)
    places = List(Embedded(Place), db_name="ps")
    note_ids = One2many["Note"]("links.note", "doc_id")
    team_ids = Many2many(Team, inverse="doc_ids")
    linked_ids = Many2many(Team, through="links.link")
    page_ids = One2many["Page"]("links.doc_page", "doc_id")


class Note(BaseModel):
    _name = "links.note"

    name = String()
    doc_id = Many2one(Doc, db_name="d")


class Page(BaseModel):
    _name = "links.doc_page"

    name = String()
    doc_id = Many2one(Doc, required=True)


class Link(BaseModel):
    _name = "links.link"

    doc_id = Many2one(Doc)
    team_id = Many2one(Team)


COUNTS = {"tag": 3, "team": 2, "doc": 4}
IDS = {name: [ObjectId() for _ in range(count + 2)] for name, count in COUNTS.items()}
"""The last two of each model are the ids of records that are gone."""
UP = ".parent_id" * 3
PREFETCH = (
    f"one_id{UP}",
    f"many_ids{UP}",
    "about",
    f"place.tag_id{UP}",
    f"places.tag_id{UP}",
    "note_ids",
    "team_ids",
    "linked_ids",
)


@dataclass(frozen=True)
class Of:
    """A place for a record of a model: the record itself, or its id."""

    model: str
    number: int
    as_id: bool

    @property
    def pk(self) -> ObjectId:
        return IDS[self.model][self.number]


# -- documents -------------------------------------------------------------------------------------

names = st.sampled_from([None, "a", "b"])


def to(model: str) -> st.SearchStrategy[ObjectId]:
    """The id of a record, one in three of them gone."""
    count = COUNTS[model]
    return st.integers(0, count - 1).map(IDS[model].__getitem__) | st.sampled_from(
        IDS[model][count:]
    )


def document(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A document in which each of these keys has a value, is null, or is missing."""
    return st.fixed_dictionaries({}, optional={k: st.none() | s for k, s in fields.items()})


def documents(count: int, each: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[Any]:
    return st.lists(each, min_size=count, max_size=count)


places = document(name=names, t=to("tag"))
references = st.builds(lambda pk: {"model": "links.tag", "id": pk}, to("tag")) | st.builds(
    lambda pk: {"model": "links.team", "id": pk}, to("team")
)
docs = document(
    o=to("tag"),
    m=st.lists(to("tag"), max_size=2, unique=True),
    about=references,
    place=places,
    ps=st.lists(places, max_size=2),
)
stored = st.fixed_dictionaries(
    {
        "tag": documents(3, document(name=names, up=to("tag"))),
        "team": documents(
            2, document(name=names, doc_ids=st.lists(to("doc"), max_size=2, unique=True))
        ),
        "doc": documents(4, docs),
        "note": documents(3, document(name=names, d=to("doc"))),
        "link": documents(3, document(doc_id=to("doc"), team_id=to("team"))),
    }
)


async def store(raw: Any, drawn: dict[str, Any]) -> None:
    for name, several in drawn.items():
        collection = raw[f"links_{name}"]
        await collection.delete_many({})
        ids = IDS.get(name, ())
        await collection.insert_many(
            [{**one, "_id": ids[n]} if n < len(ids) else dict(one) for n, one in enumerate(several)]
        )


# -- domains ---------------------------------------------------------------------------------------


def one_of(model: str) -> st.SearchStrategy[Of]:
    return st.builds(Of, st.just(model), st.integers(0, COUNTS[model] + 1), st.booleans())


def values(model: str) -> st.SearchStrategy[Any]:
    return st.none() | one_of(model)


def own(path: str, model: str) -> st.SearchStrategy[Any]:
    """Conditions on the ids of a relation."""
    lists = st.lists(values(model), max_size=2)
    return st.one_of(
        st.tuples(st.just(path), st.sampled_from(["=", "!="]), values(model) | st.just([])),
        st.tuples(st.just(path), st.sampled_from(["in", "not in"]), lists),
    )


def stored_ids(path: str, model: str) -> st.SearchStrategy[Any]:
    """Conditions on a relation that the document itself stores."""
    lists = st.lists(values(model), max_size=2)
    return st.one_of(
        own(path, model),
        st.tuples(st.just(path), st.just("exists"), st.booleans()),
        st.tuples(st.just(path), st.just("size"), st.integers(0, 2)),
        st.tuples(st.just(path), st.just("all"), lists),
        st.tuples(st.just(path), st.just("=?"), values(model)),
    )


def tree(path: str) -> st.SearchStrategy[Any]:
    starts = one_of("tag") | st.lists(one_of("tag"), max_size=2)
    return st.tuples(st.just(path), st.just("child_of"), starts)


name_leaf = st.one_of(
    st.tuples(st.just("name"), st.sampled_from(["=", "!="]), names),
    st.tuples(st.just("name"), st.sampled_from(["in", "not in"]), st.lists(names, max_size=2)),
    st.tuples(st.just("name"), st.just("exists"), st.booleans()),
)


def combined(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.recursive(
        leaf.map(lambda condition: [condition]),
        lambda below: st.one_of(
            below.map(lambda d: ["!", *d]),
            st.tuples(st.sampled_from("&|"), below, below).map(lambda t: [t[0], *t[1], *t[2]]),
        ),
        max_leaves=3,
    )


def across(path: str, leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    dotted = leaf.map(lambda c: (f"{path}.{c[0]}", *c[1:]))
    nested = combined(leaf) | st.just([])
    return dotted | st.tuples(st.just(path), st.sampled_from(["any", "not any"]), nested)


tags = name_leaf | own("parent_id", "tag") | across("parent_id", name_leaf) | tree("id")
to_tags = ("one_id", "many_ids", "place.tag_id", "places.tag_id", "places.0.tag_id")
in_place = name_leaf | own("tag_id", "tag") | across("tag_id", name_leaf)
leaves = st.one_of(
    *(stored_ids(path, "tag") | across(path, tags) | tree(path) for path in to_tags),
    st.tuples(st.just("places"), st.just("elem"), combined(in_place)),
    st.tuples(st.just("about"), st.sampled_from(["=", "!="]), values("tag") | values("team")),
    st.tuples(
        st.just("about"),
        st.sampled_from(["in", "not in"]),
        st.lists(values("tag") | values("team"), max_size=2),
    ),
    st.tuples(st.just("about"), st.just("exists"), st.booleans()),
    st.tuples(
        st.just("about.model"), st.sampled_from(["=", "!="]), st.sampled_from(["links.tag", None])
    ),
    *(own(path, "team") | across(path, name_leaf) for path in ("team_ids", "linked_ids")),
    across("note_ids", name_leaf),
    st.tuples(st.just("note_ids"), st.sampled_from(["=", "!="]), st.none() | st.just([])),
)
asked = st.lists(combined(leaves), min_size=DOMAINS, max_size=DOMAINS)


def filled(value: Any, models: dict[str, type[BaseModel]], in_about: bool = False) -> Any:
    """Put records and ids in their places; a Reference is compared with records alone."""
    if isinstance(value, Of):
        (record,) = models[value.model].browse([value.pk])
        return value.pk if value.as_id and not in_about else record
    if isinstance(value, tuple):
        return tuple(filled(part, models, value[0] == "about") for part in value)
    if isinstance(value, list):
        return [filled(part, models, in_about) for part in value]
    return value


# -- the law ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def links() -> Iterator[tuple[World, Any]]:
    with world() as started:
        yield started, started.app.dangerous_raw("documents as others write them")


def told(docs: RecordSet[Doc]) -> list[str]:
    """The places of documents among those that were drawn."""
    return [str(IDS["doc"].index(pk)) for pk in docs.pks]


@pytest.mark.fuzz
@law(CASES // DOMAINS)
@given(stored, asked)
def test_the_server_and_memory_find_the_same(
    links: tuple[World, Any], drawn: dict[str, Any], several: list[Any]
) -> None:
    started, raw = links

    async def example() -> None:
        await store(raw, drawn)
        models: dict[str, type[BaseModel]] = {"tag": Tag, "team": Team}
        loaded = await Doc.search(order="id").prefetch(*PREFETCH)
        unread = await Doc.search(order="id")
        for source in several:
            domain = filled(source, models)
            found = told(await Doc.search(domain, order="id"))
            assert told(loaded.filtered_domain(domain)) == found, (domain, drawn["doc"])
            try:
                assert told(unread.filtered_domain(domain)) == found, domain
            except FieldNotLoaded:
                event("not loaded")
            event("none" if not found else "all" if len(found) == 4 else "some")
        assert not any(record.is_changed for record in loaded)

    started.run(example)


ORDERS = ("one_id.name", "one_id", "one_id.parent_id.name", "place.tag_id.name", "place.tag_id")


@pytest.mark.fuzz
@law(60)
@given(stored, st.sampled_from(ORDERS), st.sampled_from(["", "-"]))
def test_memory_sorts_and_groups_as_the_server_does(
    links: tuple[World, Any], drawn: dict[str, Any], path: str, sign: str
) -> None:
    started, raw = links

    async def example() -> None:
        await store(raw, drawn)
        order = f"{sign}{path},id"
        loaded = await Doc.search(order="-id").prefetch(*PREFETCH)
        found = await Doc.search(order=order)
        assert told(loaded.sorted(order)) == told(found), drawn
        if path.endswith("name"):
            by_value = {k: len(g) for k, g in loaded.grouped(path).items()}
            rows = await Doc.search().group(path, number=Count())
            assert by_value == {row[path]: row["number"] for row in rows}
            true = [record for record in found if record in loaded.filtered(path)]
            assert true == list(await Doc.search([(path, "!=", None)], order=order))

    started.run(example)


# -- commands --------------------------------------------------------------------------------------

TO_MANY: dict[str, type[BaseModel]] = {
    "many_ids": Tag,
    "team_ids": Team,
    "linked_ids": Team,
    "note_ids": Note,
    "page_ids": Page,
}
members = st.integers(0, 1)
starts = st.sampled_from([None, [], [0], [1], [0, 1], [0, 1]])
one_command = st.one_of(
    st.tuples(st.sampled_from(["link", "unlink", "delete"]), members),
    st.tuples(st.just("update"), members),
    st.tuples(st.just("set"), st.lists(members, max_size=2, unique=True)),
    st.tuples(st.just("create"), st.none()),
)
there_and_back = st.tuples(
    members, st.sampled_from([("unlink", "link"), ("link", "unlink"), ("delete", "link")])
).map(lambda drawn: [(kind, drawn[0]) for kind in drawn[1]])
commands = st.lists(
    one_command.map(lambda one: [one]) | there_and_back, min_size=1, max_size=3
).map(lambda parts: [one for part in parts for one in part])
WAYS = ("write", "assigned", "assigned and given", "set of records")


def reference(start: list[int], asked: list[Any]) -> tuple[set[int], int] | None:
    """The members that commands leave, and the number of new ones; None where they are refused."""
    kept, new, deleted = set(start), 0, set[int]()
    for kind, which in asked:
        named = {which} if isinstance(which, int) else set(which or ())
        if kind in ("link", "set") and named & deleted:
            return None
        if kind == "set":
            kept, new = set(named), 0
        elif kind == "create":
            new += 1
        elif kind == "link":
            kept |= named
        elif kind in ("unlink", "delete"):
            kept -= named
            deleted |= named if kind == "delete" else set()
    return kept, new


def command(asked: tuple[str, Any], pool: Any) -> Command:
    kind, which = asked
    if kind == "create":
        return Command.create({"name": "new"})
    if kind == "set":
        return Command.set([pool[n] for n in which])
    if kind == "update":
        return Command.update(pool[which], {"name": "updated"})
    made: Command = getattr(Command, kind)(pool[which])
    return made


@pytest.mark.fuzz
@law(CASES // 2)
@given(
    st.sampled_from([*TO_MANY]),
    starts,
    commands,
    st.sampled_from(WAYS),
    st.booleans(),
)
def test_memory_shows_the_links_that_commands_leave(
    links: tuple[World, Any],
    name: str,
    start: list[int] | None,
    several: list[Any],
    way: str,
    loaded: bool,
) -> None:
    started, _ = links

    async def example() -> None:
        for model in (Tag, Team, Doc, Note, Page, Link):
            await model.search().delete()
        owner = {"doc_id": await Doc.create({})} if name == "page_ids" else {}
        pool = await TO_MANY[name].create([{"name": str(n), **owner} for n in range(2)])
        given = {} if start is None else {name: [pool[n] for n in start]}
        doc = await Doc.get((await Doc.create(given)).id)
        if loaded:
            await getattr(doc, name)
        change = [command(one, pool) for one in several]
        wanted = reference(start or [], several)
        try:
            if way == "write":
                await doc.write({name: change})
            elif way == "set of records":
                await RecordSet(Doc, [doc]).write({name: change})
            else:
                setattr(doc, name, change)
                await doc.save({"about": None} if way == "assigned and given" else None)
        except ValidationError:
            assert wanted is None
            event("refused")
            await doc.refresh()
        else:
            assert wanted is not None
            stays = [pool[n].pk for n in wanted[0]]
        assert not doc.is_changed
        shown = await getattr(doc, name)
        fresh = await getattr(await Doc.get(doc.id), name)
        assert shown.ids == fresh.ids and shown.mapped("name") == fresh.mapped("name")
        if wanted is None:
            stays = [pool[n].pk for n in start or []]
        new = [pk for pk in fresh.pks if pk not in pool.pks]
        assert {pk for pk in fresh.pks if pk in pool.pks} == {*stays}
        assert len(new) == (0 if wanted is None else wanted[1])

    started.run(example)
