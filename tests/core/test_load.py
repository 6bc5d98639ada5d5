"""``load``: a relation of records that may be unset, with one query for all that were fetched together."""

from __future__ import annotations

import pytest

from earnorm import (
    App,
    BaseModel,
    DomainError,
    FieldNotLoaded,
    Many2one,
    NotFound,
    One2many,
    Reference,
    String,
)
from earnorm.testing import assert_queries


class LoadAuthor(BaseModel):
    _name = "load.author"

    name = String(required=True)
    posts = One2many(lambda: LoadPost, "author_id")


class LoadPost(BaseModel):
    _name = "load.post"

    title = String(required=True)
    author_id = Many2one(LoadAuthor)
    about = Reference(LoadAuthor)


class LoadCrate(BaseModel):
    _name = "load.crate"

    load = String()
    author_id = Many2one(LoadAuthor)


async def written() -> None:
    ann, ben = await LoadAuthor.create([{"name": "Ann"}, {"name": "Ben"}])
    await LoadPost.create(
        [
            {"title": "a", "author_id": ann, "about": ben},
            {"title": "b", "author_id": ben},
            {"title": "c"},
        ]
    )


async def test_one_query_loads_for_all_that_were_fetched_together(app: App) -> None:
    await written()
    posts = await LoadPost.search(order="title")
    with assert_queries(1):
        first = await posts[0].load(LoadPost.author_id)
        second = await posts[1].load("author_id")
        third = await posts[2].load(LoadPost.author_id)
    assert first is not None
    assert (first.name, second.name, third) == ("Ann", "Ben", None)
    about = await posts[0].load(LoadPost.about)
    assert about == second
    assert await posts[1].load(LoadPost.about) is None
    assert (await first.load(LoadAuthor.posts)).mapped("title") == ["a"]


async def test_a_set_loads_for_all_of_its_records(app: App) -> None:
    await written()
    posts = await LoadPost.search(order="title")
    with assert_queries(1):
        authors = await posts.load(LoadPost.author_id)
    assert authors.mapped("name") == ["Ann", "Ben"]
    with assert_queries(1):
        assert (await authors.load(LoadAuthor.posts)).mapped("title") == ["a", "b"]
    assert len(await posts[:0].load("author_id")) == 0


async def test_what_is_gone_or_not_fetched_is_said(app: App) -> None:
    await written()
    posts = await LoadPost.search(order="title")
    await LoadAuthor.search([("name", "=", "Ann")]).delete()
    with pytest.raises(NotFound):
        await posts[0].load(LoadPost.author_id)
    assert (await posts.load(LoadPost.author_id)).mapped("name") == ["Ben"]
    [narrow] = await LoadPost.search([("title", "=", "b")]).only("title")
    with pytest.raises(FieldNotLoaded):
        await narrow.load(LoadPost.author_id)


@pytest.mark.parametrize("wrong", ["titel", "title", "author_id.name", 3, None])
async def test_what_is_no_relation_is_refused(app: App, wrong: object) -> None:
    await written()
    posts = await LoadPost.search()
    for subject in (posts, posts[0]):
        with pytest.raises(DomainError, match=r"load\.post has no relation"):
            await subject.load(wrong)  # type: ignore[call-overload]  # that is the fault


async def test_a_field_of_the_name_goes_before_the_method(app: App) -> None:
    crate = await LoadCrate.create({"load": "bricks"})
    assert crate.load == "bricks"
    assert (await LoadCrate.search()).load == "bricks"
