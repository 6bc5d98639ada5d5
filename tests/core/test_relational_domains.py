"""Conditions about other records: what they find, how they are asked, and what they may not tell."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    Domain,
    DomainError,
    FieldNotLoaded,
    Many2many,
    Many2one,
    NotSupported,
    Query,
    RecordSet,
    String,
    current_env,
    transaction,
)
from earnorm.exceptions import UnresolvedDomain
from earnorm.model.reading import resolution

from .conftest import Commands
from .land import Author, Land, Place, Post


async def world() -> dict[str, Land]:
    """Asia > Vietnam > Huế; Europe > France. Ann is of Vietnam, Bob of France, Cy of nowhere."""
    lands: dict[str, Land] = {}
    for name, above in [
        ("Asia", None),
        ("Vietnam", "Asia"),
        ("Huế", "Vietnam"),
        ("Europe", None),
        ("France", "Europe"),
    ]:
        lands[name] = await Land.create(
            {"name": name, "size": len(name), "parent_id": lands[above] if above else None}
        )
    vn, fr = lands["Vietnam"], lands["France"]
    ann, bob, _ = await Author.create(
        [
            {
                "name": "Ann",
                "age": 30,
                "land_id": vn,
                "place": Place(city="Huế", land_id=lands["Huế"]),
                "places": [Place(city="x", land_id=vn), Place(city="y", land_id=fr)],
            },
            {"name": "Bob", "age": 40, "land_id": fr, "places": [Place(city="x", land_id=fr)]},
            {"name": "Cy", "age": 50},
        ]
    )
    await Post.create(
        [
            {"title": "a1", "stars": 1, "author_id": ann, "land_ids": [vn, fr]},
            {"title": "a2", "stars": 5, "author_id": ann, "land_ids": [fr]},
            {"title": "b1", "stars": 5, "author_id": bob, "land_ids": []},
            {"title": "none", "stars": 3},
        ]
    )
    return lands


@pytest.fixture
async def lands(app: App) -> dict[str, Land]:
    return await world()


async def found(query: Query[Any] | RecordSet[Any]) -> str:
    records = await query if isinstance(query, Query) else query
    return " ".join(sorted(getattr(r, "title", None) or r.name for r in records))


POSTS: list[tuple[list[Any], str]] = [
    ([("author_id.name", "=", "Ann")], "a1 a2"),
    ([("author_id.name", "!=", "Ann")], "b1"),
    (["!", ("author_id.name", "=", "Ann")], "b1 none"),
    ([("author_id", "any", [("name", "=", "Ann"), ("age", ">", 20)])], "a1 a2"),
    ([("author_id", "not any", [("name", "=", "Ann")])], "b1 none"),
    (["!", ("author_id", "not any", [("name", "=", "Ann")])], "a1 a2"),
    ([("author_id", "any", [])], "a1 a2 b1"),
    ([("author_id", "not any", [])], "none"),
    ([("author_id", "any", False)], ""),
    ([("author_id.land_id.name", "=", "Vietnam")], "a1 a2"),
    ([("author_id.land_id.parent_id.name", "in", ["Asia", "Europe"])], "a1 a2 b1"),
    ([("author_id.place.land_id.name", "=", "Huế")], "a1 a2"),
    ([("author_id.places.land_id.name", "=", "France")], "a1 a2 b1"),
    ([("author_id.places.0.land_id.name", "=", "France")], "b1"),
    (
        [("author_id.places", "elem", [("city", "=", "x"), ("land_id.name", "=", "France")])],
        "b1",
    ),
    ([("author_id.name", "=", "Ann"), ("author_id.age", "=", 40)], ""),
    (["|", ("author_id.name", "=", "Ann"), ("author_id.age", "=", 40)], "a1 a2 b1"),
    (["|", ("author_id.name", "=", "Bob"), ("stars", "=", 3)], "b1 none"),
    ([("land_ids.name", "=", "Vietnam")], "a1"),
    ([("land_ids.name", "!=", "Vietnam")], "a1 a2"),
    ([("land_ids", "not any", [("name", "=", "Vietnam")])], "a2 b1 none"),
    ([("land_ids.name", "=", "Vietnam"), ("land_ids.name", "=", "France")], "a1"),
    ([("land_ids", "any", [("name", "=", "Vietnam"), ("size", "=", 6)])], ""),
    ([("author_id.post_ids.stars", "=", 1)], "a1 a2"),
    ([("author_id.name", "like", "%n%")], "a1 a2"),
    ([("author_id.name", "=?", None)], "a1 a2 b1"),
    ([("author_id", "=", "not an id")], ""),
]


@pytest.mark.parametrize(("domain", "titles"), POSTS, ids=[str(d) for d, _ in POSTS])
async def test_a_condition_across_relations_finds(
    lands: dict[str, Land], domain: list[Any], titles: str
) -> None:
    assert await found(Post.search(domain)) == titles
    assert await Post.count(domain) == len(titles.split())


AUTHORS: list[tuple[list[Any], str]] = [
    ([("post_ids", "any", [("stars", "=", 5)])], "Ann Bob"),
    ([("post_ids.stars", "=", 1)], "Ann"),
    ([("post_ids", "not any", [("stars", "=", 1)])], "Bob Cy"),
    ([("post_ids", "=", None)], "Cy"),
    ([("post_ids", "=", [])], "Cy"),
    ([("post_ids", "!=", None)], "Ann Bob"),
    ([("post_ids", "in", [])], ""),
    ([("post_ids", "not in", [])], "Ann Bob Cy"),
    ([("post_ids", "=?", None)], "Ann Bob Cy"),
    # Two conditions on several linked records may be met by different ones.
    ([("post_ids.stars", "=", 1), ("post_ids.stars", "=", 5)], "Ann"),
    ([("post_ids", "any", [("stars", "=", 1), ("title", "=", "a2")])], ""),
]


@pytest.mark.parametrize(("domain", "names"), AUTHORS, ids=[str(d) for d, _ in AUTHORS])
async def test_a_condition_on_the_records_that_point_here_finds(
    lands: dict[str, Land], domain: list[Any], names: str
) -> None:
    assert await found(Author.search(domain)) == names
    loaded = await Author.search().prefetch("post_ids")
    assert await found(loaded.filtered_domain(domain)) == names


async def test_linked_records_are_compared_by_id(lands: dict[str, Land]) -> None:
    post = (await Post.search([("title", "=", "a1")])).ensure_one()
    for operator, value, names in [
        ("=", post.id, "Ann"),
        ("in", [post, None], "Ann Cy"),
        ("!=", post.pk, "Bob Cy"),
        ("not in", [post], "Bob Cy"),
        ("not in", [post, None], "Bob"),
    ]:
        assert await found(Author.search([("post_ids", operator, value)])) == names
    with pytest.raises(DomainError, match="compared with =, !=, in"):
        await Author.search([("post_ids", ">", post.pk)])


async def test_trees_are_followed_down_and_up(lands: dict[str, Land]) -> None:
    asia, vn, hue = lands["Asia"], lands["Vietnam"], lands["Huế"]
    for domain, names in [
        ([("id", "child_of", asia)], "Asia Huế Vietnam"),
        ([("id", "child_of", [asia.id, lands["France"].pk])], "Asia France Huế Vietnam"),
        ([("id", "parent_of", hue)], "Asia Huế Vietnam"),
        ([("parent_id", "child_of", asia)], "Huế Vietnam"),
        ([("id", "child_of", [])], ""),
        ([("id", "child_of", None)], ""),
        (["!", ("id", "child_of", RecordSet(Land, [vn]))], "Asia Europe France"),
    ]:
        assert await found(Land.search(domain)) == names, domain
        loaded = await Land.search().prefetch("parent_id.parent_id.parent_id")
        assert await found(loaded.filtered_domain(domain)) == names, domain
    assert await found(Post.search([("author_id.land_id", "child_of", asia)])) == "a1 a2"
    assert await found(Author.search([("place.land_id", "child_of", vn)])) == "Ann"
    assert await found(Author.search([("land_id", "parent_of", hue)])) == "Ann"


async def test_in_memory_a_start_that_is_no_id_is_refused_alike(lands: dict[str, Land]) -> None:
    loaded = await Land.search().prefetch("parent_id.parent_id.parent_id")
    for operator in ("child_of", "parent_of"):
        with pytest.raises(DomainError, match=f"'{operator}'.*not dict"):
            loaded.filtered_domain([("id", operator, [{"$gt": ""}])])


async def test_a_cycle_ends(app: App) -> None:
    one = await Land.create({"name": "one"})
    two = await Land.create({"name": "two", "parent_id": one})
    await one.write({"parent_id": two})
    own = await Land.create({"name": "own"})
    await own.write({"parent_id": own})
    assert await found(Land.search([("id", "child_of", one)])) == "one two"
    assert await found(Land.search([("id", "parent_of", one)])) == "one two"
    assert await found(Land.search([("id", "child_of", own)])) == "own"
    loaded = await Land.search().prefetch("parent_id.parent_id.parent_id")
    assert await found(loaded.filtered_domain([("id", "child_of", two)])) == "one two"


async def test_write_delete_group_stream_and_explain_take_them(server_app: App) -> None:
    await world()
    query = Post.search([("author_id.name", "=", "Ann")])
    assert [post.title async for post in query.order("title")] == ["a1", "a2"]
    assert "queryPlanner" in await query.explain()
    assert await query.update({"stars": 9}) == 2
    assert await found(Post.search([("stars", "=", 9)])) == "a1 a2"
    assert (await query.group("stars"))[0]["stars"] == 9
    assert await query.delete() == 2
    assert await found(Post.search()) == "b1 none"


@pytest.fixture(params=["few ids", "the records here first", "every id", "a lookup"])
async def way(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[str]:
    take(request.param, monkeypatch)
    yield request.param


def take(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Force one of the ways, whatever the sizes."""
    if way == "the records here first":
        monkeypatch.setattr(resolution, "FEW", 0)
    elif way == "every id":
        monkeypatch.setattr(resolution, "FEW", 0)
        monkeypatch.setattr(resolution, "FEW_HERE", 0)
    elif way == "a lookup":

        async def too_many(self: object, link: object) -> None:
            return None

        monkeypatch.setattr(resolution._Resolver, "_keys", too_many)


@pytest.mark.parametrize(("domain", "titles"), POSTS, ids=[str(d) for d, _ in POSTS])
async def test_every_way_finds_the_same(
    server_app: App, way: str, domain: list[Any], titles: str
) -> None:
    await world()
    refused = {"elem": "inside 'elem'", ".0.": "one item of a list"}
    if way == "a lookup" and (asked := [refused[part] for part in refused if part in str(domain)]):
        with pytest.raises(NotSupported, match=asked[0]):
            await Post.search(domain)
        return
    assert await found(Post.search(domain)) == titles
    assert await Post.count(domain) == len(titles.split())


async def test_every_way_does_every_operation(server_app: App, way: str) -> None:
    await world()
    query = Post.search([("author_id.land_id.parent_id.name", "=", "Asia"), ("stars", ">", 0)])
    assert [post.title for post in await query.order("-title").limit(1)] == ["a2"]
    assert [post.title for post in await query.order("title").offset(1)] == ["a2"]
    assert await query.limit(1).count() == 1
    assert [post.title async for post in query.order("title")] == ["a1", "a2"]
    assert await query.explain()
    assert len(await query.group("stars")) == 2
    async with transaction():
        assert await query.update({"stars": 9}) == 2
    one = (await query.only("title"))[0]
    with pytest.raises(FieldNotLoaded):
        _ = one.stars
    assert await query.delete() == 2
    assert await found(Post.search()) == "b1 none"


async def test_a_domain_without_them_asks_nothing_more(commands: Commands) -> None:
    await world()
    author = (await Author.search()).ids[0]
    commands.clear()
    await Post.search([("author_id", "=", author), ("author_id.id", "in", [author])])
    await Post.search([("author_id", "!=", None)])
    assert commands.of("rel_post") == ["find", "find"] and len(commands.all) == 2


async def test_conditions_on_one_record_are_one_sub_query(commands: Commands) -> None:
    await world()
    commands.clear()
    domain = Domain([("author_id.name", "=", "Ann"), ("author_id.age", ">", 3), ("stars", ">", 0)])
    assert len(await Post.search(domain)) == 2
    assert commands.of("rel_author") == ["find"]
    (asked,) = [c for c in commands.named("find") if c["find"] == "rel_author"]
    assert asked["filter"] == {"name": "Ann", "age": {"$gt": 3}}
    assert asked["projection"] == {"_id": 1}


async def test_sub_queries_see_their_own_transaction(server_app: App) -> None:
    await world()
    async with transaction():
        await Author.search([("name", "=", "Bob")]).update({"name": "New"})
        assert await found(Post.search([("author_id.name", "=", "New")])) == "b1"


async def test_a_resolved_domain_is_plain(app: App) -> None:
    lands = await world()
    ann = (await Author.search([("name", "=", "Ann")])).ensure_one()
    plain = await app.resolve(Post, [("author_id.name", "=", "Ann"), ("stars", ">", 2)])
    assert plain == Domain([("author_id", "in", [ann.pk]), ("stars", ">", 2)])
    same = Domain([("stars", ">", 2)])
    assert await app.resolve(Post, same, env=current_env()) is same
    tree = await app.resolve(Author, [("land_id", "child_of", lands["Vietnam"])])
    assert tree.paths() == {"land_id"}
    assert app.matcher(Post, plain)({"by": ann.pk, "stars": 3})


async def test_in_memory_a_ghost_is_no_answer(lands: dict[str, Land]) -> None:
    posts = await Post.search()
    with pytest.raises(FieldNotLoaded, match=r"prefetch\('author_id'\)"):
        posts.filtered_domain([("author_id.name", "=", "Ann")])
    authors = await Author.search()
    with pytest.raises(FieldNotLoaded, match=r"prefetch\('post_ids'\)"):
        authors.filtered_domain([("post_ids", "=", None)])
    with pytest.raises(FieldNotLoaded, match=r"prefetch\('place.land_id'\)"):
        authors.filtered_domain([("place.land_id.name", "=", "Huế")])
    with pytest.raises(FieldNotLoaded, match="parents of a start"):
        (await Land.search([("name", "=", "Asia")])).filtered_domain(
            [("id", "parent_of", lands["Huế"].pk)]
        )
    posts = await Post.search().prefetch("author_id.land_id")
    for domain, titles in POSTS:
        paths = {str(c.path) for c in Domain(domain).conditions()}
        if any(name in path for path in paths for name in ("place", "land_ids", "up", "post_ids")):
            continue
        if "parent" not in str(domain):
            assert await found(posts.filtered_domain(domain)) == titles, domain


async def test_a_single_document_says_that_it_cannot_know(lands: dict[str, Land], app: App) -> None:
    for domain in (
        [("author_id.name", "=", "x")],
        [("author_id", "any", [])],
        [("author_id.land_id", "child_of", "x")],
    ):
        with pytest.raises(UnresolvedDomain, match=r"app\.resolve"):
            app.matcher(Post, domain)


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ([("title", "any", [])], "no relation"),
        ([("author_id", "any", 5)], "a domain about the related records"),
        ([("author_id", "any", [("nme", "=", 1)])], "did you mean 'name'"),
        ([("author_id.nme", "=", 1)], "did you mean 'name'"),
        ([("author_id.land_id.nme", "=", 1)], "did you mean 'name'"),
        ([("title", "child_of", "x")], "no relation"),
        ([("author_id", "child_of", "x")], "no tree"),
        ([("author_id.land_id", "child_of", True)], r"'child_of'\): .*not bool"),
        ([("land_ids", "parent_of", [{"$gt": ""}])], r"'parent_of'\): .*not dict"),
        ([("author_id", "any", [("name", "=", {"$gt": ""})])], "compared with str"),
        ([("title.x", "=", 1)], "no fields of its own"),
    ],
)
async def test_a_mistake_is_named(app: App, domain: list[Any], message: str) -> None:
    with pytest.raises(DomainError, match=message):
        await Post.search(domain)
    if "no tree" not in message:
        with pytest.raises(DomainError, match=message):
            app.check(Post, domain)


class Club(BaseModel):
    _name = "rel.club"

    name = String(required=True)
    member_ids = Many2many("rel.fan", through="rel.membership")


class Fan(BaseModel):
    _name = "rel.fan"

    name = String(required=True)
    club_ids = Many2many("rel.club", through="rel.membership")
    friend_ids = Many2many("rel.fan")
    friend_of_ids = Many2many("rel.fan", inverse="friend_ids")


class Membership(BaseModel):
    _name = "rel.membership"

    fan_id = Many2one("rel.fan")
    club_id = Many2one("rel.club")


async def test_every_form_of_many2many_is_crossed(server_app: App, way: str) -> None:
    ann, bob, cy = await Fan.create([{"name": "Ann"}, {"name": "Bob"}, {"name": "Cy"}])
    await ann.write({"friend_ids": [bob, cy]})
    await bob.write({"friend_ids": [cy]})
    red, blue = await Club.create([{"name": "red"}, {"name": "blue"}])
    await Membership.create([{"fan_id": f, "club_id": c} for f, c in [(ann, red), (bob, blue)]])
    for domain, names in [
        ([("friend_ids.name", "=", "Bob")], "Ann"),
        ([("friend_ids", "not any", [("name", "=", "Bob")])], "Bob Cy"),
        ([("friend_ids.id", "=", cy.id)], "Ann Bob"),
        ([("friend_ids", "in", [bob])], "Ann"),
        ([("friend_of_ids.name", "=", "Ann")], "Bob Cy"),
        ([("friend_of_ids", "=", None)], "Ann"),
        ([("friend_of_ids", "any", [("name", "=", "Ann")]), ("name", "!=", "Bob")], "Cy"),
        ([("friend_ids.friend_ids.name", "=", "Cy")], "Ann"),
        ([("club_ids.name", "=", "red")], "Ann"),
        ([("club_ids", "=", None)], "Cy"),
        ([("club_ids", "not in", [red])], "Bob Cy"),
        ([("friend_ids.club_ids.name", "=", "blue")], "Ann"),
        ([("club_ids.member_ids.friend_ids", "any", [("name", "=", "Bob")])], "Ann"),
    ]:
        assert await found(Fan.search(domain)) == names, domain
    loaded = await Fan.search().prefetch("club_ids", "friend_ids.friend_ids", "friend_of_ids")
    assert await found(loaded.filtered_domain([("club_ids.name", "=", "red")])) == "Ann"
    assert await found(loaded.filtered_domain([("friend_of_ids", "=", None)])) == "Ann"


async def test_what_no_filter_can_hold_is_looked_up(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world()
    for name, value in [("FEW", 0), ("FEW_HERE", 0), ("LARGEST", 30)]:
        monkeypatch.setattr(resolution, name, value)
    commands.clear()
    assert await found(Post.search([("author_id.age", ">", 0), ("stars", ">", 1)])) == "a2 b1"
    (pipeline,) = [c["pipeline"] for c in commands.named("aggregate")]
    assert pipeline[0] == {"$match": {"stars": {"$gt": 1}}}
    inside = pipeline[1]["$lookup"]["pipeline"]
    assert inside[0] == {"$match": {"age": {"$gt": 0}}} and {"$limit": 1} in inside
    with pytest.raises(NotSupported, match="than a filter can name"):
        await current_env().app.resolve(Post, [("author_id.age", ">", 0)])
