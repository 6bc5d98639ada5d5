"""Relations: ghosts, one query for all siblings and per prefetched level, shared objects, and what is not loaded."""

from __future__ import annotations

import asyncio
from typing import ForwardRef, Literal, get_args

import pytest
from bson import ObjectId

from earnorm import (
    App,
    DomainError,
    Field,
    FieldNotLoaded,
    Many2one,
    NotFound,
    One2many,
    RecordSet,
    ValidationError,
)
from earnorm.fields.relational import Join
from earnorm.testing import assert_queries, count_queries

from .conftest import Commands
from .shop import Author, Comment, Country, Post


async def blog(posts: int = 6, authors: int = 2) -> None:
    land = await Country.create({"name": "Land"})
    writers = await Author.create([{"name": f"a{n}", "country_id": land} for n in range(authors)])
    made = await Post.create(
        [{"title": f"p{n}", "author_id": writers[n % authors]} for n in range(posts)]
    )
    await Comment.create(
        [
            {"text": f"c{n}", "post_id": post, "author_id": writers[0]}
            for post in made
            for n in range(2)
        ]
    )


def reads(commands: Commands) -> list[str]:
    return [command["find"] for command in commands.named("find")]


def test_a_relation_says_by_which_fields_it_joins() -> None:
    assert Post.author_id.join == Join("author_id", "_id")
    assert Post.comment_ids.join == Join("_id", "post_id")


async def test_a_relation_is_stored_as_the_id(app: App) -> None:
    ann = await Author.create({"name": "Ann"})
    for given in (ann, ann.id, ann.pk, RecordSet(Author, [ann])):
        post = await Post.create({"title": "x", "author_id": given})
        raw = await app.dangerous_raw("look")["core_post"].find_one({"_id": post.pk})
        assert raw["author_id"] == ann.pk
        assert await Post.search([("author_id", "=", given)]).count() >= 1


async def test_a_ghost_knows_its_id_and_says_how_to_load_the_rest(app: App) -> None:
    await blog(1)
    post = (await Post.search())[0]
    author = post.author_id
    assert author is not None and author.id is not None and author.is_stored
    with pytest.raises(FieldNotLoaded, match=r"'await record.author_id'.*prefetch\('author_id'\)"):
        _ = author.name
    assert (await author).name == "a0" and author.name == "a0"


async def test_awaiting_one_ghost_loads_those_of_all_siblings_with_one_query(
    commands: Commands,
) -> None:
    await blog(20, authors=5)
    posts = await Post.search(order="title")
    commands.clear()
    await posts[0].author_id
    assert reads(commands) == ["core_author"]
    assert {post.author_id.name for post in posts} == {f"a{n}" for n in range(5)}  # type: ignore[union-attr] # set
    assert len(commands.named("find")[0]["filter"]["_id"]["$in"]) == 5


async def test_reading_a_relation_asks_nothing(app: App) -> None:
    await blog(3)
    posts = await Post.search()
    with assert_queries(0):
        assert len({post.author_id for post in posts}) == 2
        assert len(posts.mapped("author_id")) == 2


async def test_two_posts_of_one_author_share_the_object(app: App) -> None:
    await blog(4)
    posts = await Post.search(order="title").prefetch("author_id")
    assert posts[0].author_id is posts[2].author_id
    assert posts[0].author_id is not posts[1].author_id


async def test_a_prefetch_is_one_query_per_relation_and_level(app: App) -> None:
    await blog(10, authors=3)
    with count_queries() as queries:
        posts = await Post.search().prefetch("author_id.country_id", "comment_ids.author_id")
    assert [call.collection for call in queries] == [
        "core_post",
        "core_author",
        "core_country",
        "core_comment",
        "core_author",
    ]
    with assert_queries(0):
        for post in posts:
            assert post.author_id is not None and post.author_id.country_id is not None
            assert post.author_id.country_id.name == "Land"
            assert [c.author_id.name for c in post.comment_ids] == ["a0", "a0"]


async def test_a_prefetch_of_nothing_asks_nothing_more(commands: Commands) -> None:
    await Post.search().prefetch("author_id", "comment_ids")
    assert reads(commands) == ["core_post"]


async def test_prefetch_names_the_relation_that_does_not_exist(app: App) -> None:
    for path in ("authr_id", "title", "author_id.nope"):
        await Post.create({"title": "x", "author_id": await Author.create({"name": "a"})})
        with pytest.raises(DomainError, match="no relation"):
            await Post.search().prefetch(path)


async def test_a_one2many_loads_for_all_siblings_with_one_query(commands: Commands) -> None:
    await blog(8)
    posts = await Post.search()
    with pytest.raises(FieldNotLoaded, match=r"await record.comment_ids"):
        len(posts[0].comment_ids)
    commands.clear()
    assert len(await posts[0].comment_ids) == 2
    assert [len(post.comment_ids) for post in posts] == [2] * 8
    assert reads(commands) == ["core_comment"]
    assert posts[0].comment_ids[0].post_id is posts[0]


async def test_tasks_that_ask_at_once_share_one_query(commands: Commands) -> None:
    await blog(12, authors=6)
    posts = await Post.search()
    commands.clear()

    async def load(post: Post) -> str:
        assert post.author_id is not None
        return (await post.author_id).name

    assert len(await asyncio.gather(*map(load, posts))) == 12
    assert reads(commands) == ["core_author"]
    await asyncio.gather(*(post.comment_ids._loading() for post in posts))
    assert reads(commands) == ["core_author", "core_comment"]


async def test_a_cancelled_task_does_not_spoil_the_load_of_another(app: App) -> None:
    await blog(2)
    posts = await Post.search(order="title")

    async def load(post: Post) -> str:
        assert post.author_id is not None
        return (await post.author_id).name

    first, second = (asyncio.create_task(load(post)) for post in posts)
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "a1"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_ghost_of_what_is_gone_is_not_found_and_spares_its_siblings(app: App) -> None:
    await blog(2)
    posts = await Post.search(order="title")
    await Author.search([("name", "=", "a0")]).delete()
    with pytest.raises(NotFound, match="no record with the id"):
        await posts[0].author_id
    assert posts[1].author_id is not None and posts[1].author_id.name == "a1"
    found = await Post.search(order="title").prefetch("author_id.country_id")
    assert found[1].author_id is not None and found[1].author_id.name == "a1"


async def test_an_unset_relation_is_none(app: App) -> None:
    post = await Post.create({"title": "x"})
    assert post.author_id is None
    assert (await Post.get(post.id)).author_id is None
    assert len(await (await Post.get(post.id)).comment_ids) == 0
    found = await Post.search().prefetch("author_id")
    assert found.mapped("author_id") in ([None], RecordSet(Author, []))


async def test_browse_gives_ghosts_in_order_that_load_together(commands: Commands) -> None:
    await blog(1, authors=4)
    ids = (await Author.search(order="-name")).ids
    commands.clear()
    authors = Author.browse(ids)
    assert authors.ids == ids and commands.all == []
    with pytest.raises(FieldNotLoaded, match="'await record' loads it"):
        _ = authors[0].name
    await authors[0]
    assert authors.mapped("name") == ["a3", "a2", "a1", "a0"]
    assert reads(commands) == ["core_author"]


async def test_a_ghost_can_be_written_without_being_read(commands: Commands) -> None:
    await blog(1, authors=1)
    post = (await Post.search())[0]
    commands.clear()
    assert post.author_id is not None
    await post.author_id.write({"name": "new"})
    assert reads(commands) == []
    assert (await Author.search())[0].name == "new"


async def test_changing_a_relation_writes_the_id(app: App) -> None:
    await blog(1, authors=2)
    post = (await Post.search())[0]
    other = await Author.search([("name", "=", "a1")]).first()
    post.author_id = other
    await post.save()
    again = (await Post.search().prefetch("author_id"))[0]
    assert again.author_id == other and again.author_id is not None and again.author_id.name == "a1"


async def test_a_relation_to_a_record_that_was_never_saved_is_refused(app: App) -> None:
    with pytest.raises(ValidationError, match="save"):
        await Post.create({"title": "x", "author_id": Author(name="new")})
    assert await Post.count() == 0


async def test_a_relation_to_another_model_is_refused(app: App) -> None:
    land = await Country.create({"name": "Land"})
    with pytest.raises(ValidationError, match="author_id"):
        await Post.create({"title": "x", "author_id": land})


async def test_a_relation_takes_no_text_that_is_no_id(app: App) -> None:
    with pytest.raises(ValidationError, match="author_id"):
        await Post.create({"title": "x", "author_id": "not an id"})


async def test_mapped_follows_loaded_relations_without_duplicates(app: App) -> None:
    await blog(6, authors=2)
    posts = await Post.search(order="title").prefetch("author_id", "comment_ids")
    assert posts.mapped("author_id.name") == ["a0", "a1"]
    assert len(posts.mapped("comment_ids")) == 12
    assert len(posts.filtered("comment_ids")) == 6
    assert len(posts.grouped("author_id")) == 2


async def test_a_one2many_is_searched_by_the_records_that_point_here(app: App) -> None:
    assert len(await Post.search([("comment_ids", "=", ObjectId())])) == 0


def test_the_annotation_of_a_relation_by_name_needs_the_class_alone() -> None:
    assert get_args(Many2one[Author]) == (Author, Literal[False])
    assert get_args(Many2one["Author"]) == (ForwardRef("Author"), Literal[False])
    assert get_args(Many2one[Author, Literal[True]]) == (Author, Literal[True])
    assert get_args(One2many["Post"]) == (ForwardRef("Post"),)
    assert get_args(Field[float]) == (float, Literal[False])
    with pytest.raises(TypeError):
        Many2one[Author, Literal[True], int]
