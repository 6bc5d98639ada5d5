"""A link to a record that is not saved yet: it draws the id, and never leads nowhere in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import earnorm
from earnorm import (
    App,
    BaseModel,
    Command,
    Dict,
    Embedded,
    EmbeddedModel,
    Inc,
    Int,
    List,
    Many2many,
    Many2one,
    One2many,
    Reference,
    String,
    ValidationError,
)
from earnorm.model.identity import find_id


class Author(BaseModel):
    _name = "unsaved.author"

    name = String()
    post_ids = One2many("unsaved.post", "author_id")


class Named(BaseModel):
    _name = "unsaved.named"

    _id = String()


class Inside(EmbeddedModel):
    author_id = Many2one(Author)


class Post(BaseModel):
    _name = "unsaved.post"

    code = String(unique=True)
    number = Int()
    author_id = Many2one(Author)
    author_ids = Many2many(Author)
    named_id = Many2one(Named)
    named_ids = Many2many(Named)
    listed = List(Many2one(Author))
    keyed = Dict(Many2one(Author))
    inside = Embedded(Inside)
    any = Reference(Author, Named)


LINKS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "author_id": lambda author: {"author_id": author},
    "listed": lambda author: {"listed": [author]},
    "keyed": lambda author: {"keyed": {"a": author}},
    "inside": lambda author: {"inside": {"author_id": author}},
    "any": lambda author: {"any": author},
    "linked": lambda author: {"author_ids": [Command.link(author)]},
    "set": lambda author: {"author_ids": [Command.set([author])]},
}
GIVEN: dict[str, Callable[[Any], dict[str, Any]]] = {
    "author_id": lambda named: {"named_id": named},
    "any": lambda named: {"any": named},
    "linked": lambda named: {"named_ids": [Command.link(named)]},
    "set": lambda named: {"named_ids": [Command.set([named])]},
}


async def refused(values: dict[str, Any]) -> None:
    """No way stores the values."""
    post = await Post.create({"code": "p", "number": 1})
    ways: list[Callable[[], Any]] = [
        lambda: Post.create(values),
        lambda: Post(**values).save(),
        lambda: post.write(values),
        lambda: post.save(values),
        lambda: Post.search([("number", "=", 1)]).update(values),
        lambda: Post.write_many({post.id: values}),
        lambda: Post.upsert({"code": "p", **values}, on="code"),
        lambda: Post.upsert({"code": "q", **values}, on="code"),
        lambda: in_bulk(post, values),
    ]
    for way in ways:
        with pytest.raises(ValidationError) as caught:
            await way()
        (detail,) = caught.value.errors()
        assert detail["type"] in ("unsaved", "command")  # a way may take no commands at all
    for name, value in values.items():
        setattr(post, name, value)
    with pytest.raises(ValidationError, match=r"not saved yet; save\(\) it first"):
        await post.save()
    assert (await Post.search()).mapped("code") == ["p"]
    (fresh,) = await Post.search()
    assert not any(fresh.__dict__.get(name) for name in values)


async def in_bulk(post: Post, values: dict[str, Any]) -> None:
    async with Post.bulk() as bulk:
        bulk.write(post, values)


@pytest.mark.parametrize("link", LINKS)
async def test_no_way_stores_a_link_to_a_record_that_is_not_saved(app: App, link: str) -> None:
    await refused(LINKS[link](Author(name="a")))
    assert await Author.count() == 0


@pytest.mark.parametrize("link", GIVEN)
async def test_an_id_that_was_given_to_the_record_changes_nothing(app: App, link: str) -> None:
    await refused(GIVEN[link](Named(_id="n")))
    assert await Named.count() == 0


async def test_a_link_draws_the_id_with_which_the_record_is_saved_later(app: App) -> None:
    author = Author(name="a")
    post = Post(code="p")
    assert find_id(author) is None
    post.author_id = author
    drawn = find_id(author)
    assert drawn is not None and author.pk is None
    with pytest.raises(ValidationError, match="fixed"):
        author._id = type(drawn)()
    await author.save()
    await post.save()
    assert author.pk == drawn
    assert (await Post.get(post.pk)).author_id == author
    stored = await Post.get(post.pk)
    other = Author(name="b")
    stored.author_id = other
    assert stored.is_changed and stored.author_id is other
    await other.save()
    await stored.save()
    assert (await Post.get(post.pk)).author_id == other


async def test_a_to_many_field_saves_the_record_along(app: App) -> None:
    author = Author(name="a")
    post = await Post.create({"code": "p", "author_ids": [author]})
    assert author.is_stored
    assert (await Post.get(post.pk)).author_ids.ids == [author.id]
    one, two = Post(code="q"), Post(code="r")
    owner = await Author.create({"name": "o", "post_ids": [one, two]})
    assert one.is_stored and two.author_id == owner


async def test_a_record_of_a_rolled_back_transaction_is_not_linked(server_app: App) -> None:
    author = Named(_id="n")
    with pytest.raises(InterruptedError):
        async with earnorm.transaction():
            await author.save()
            post = await Post.create({"code": "p", "named_id": author})
            raise InterruptedError
    with pytest.raises(ValidationError, match="not saved yet"):
        await post.save()
    assert await Post.count() == 0
    await author.save()
    await post.save()
    assert (await Post.get(post.pk)).named_id == author


async def test_a_change_beside_a_refused_link_is_not_written(app: App) -> None:
    post = await Post.create({"code": "p", "number": 1})
    with pytest.raises(ValidationError, match="not saved yet"):
        await post.write({"number": Inc(1), "author_id": Author()})
    assert (await Post.get(post.pk)).number == 1
