"""The first program of docs/relations.md, which tests/docs holds equal to it."""

import asyncio

import earnorm
from earnorm import Command, FieldNotLoaded, Many2many, Many2one, One2many, String, models


class Author(models.BaseModel):
    name = String(required=True)
    post_ids = One2many("post", "author_id", order="title")


class Tag(models.BaseModel):
    name = String(required=True)
    post_ids = Many2many("post", inverse="tag_ids")


class Post(models.BaseModel):
    title = String(required=True)
    author_id = Many2one(Author)
    tag_ids = Many2many(Tag, index=True)


async def main() -> None:
    async with earnorm.App("mongomock://", database="relations"):
        ann = await Author.create({"name": "Ann"})
        await Post.create(
            [{"title": t, "author_id": ann} for t in ("One", "Two")] + [{"title": "Zero"}]
        )

        posts = await Post.search(order="title")
        one, two, zero = posts
        assert zero.author_id is None  # unset
        first, second = one.author_id, two.author_id
        assert first is not None and second is not None  # a type checker asks for it
        assert first.id == ann.id  # the id is known without asking
        try:
            print(first.name)  # no hidden query
        except FieldNotLoaded as error:
            assert "await record.author_id" in str(error)
        await first  # loads the authors of all three posts: one query
        assert second.name == "Ann"
        assert one.author_id is two.author_id  # shared inside one fetch

        await one.write({"tag_ids": [Command.create({"name": "new"})]})
        [author] = await Author.search().prefetch("post_ids.tag_ids.post_ids")
        assert author.post_ids.mapped("title") == ["One", "Two"]
        assert author.post_ids.mapped("tag_ids.name") == ["new"]


asyncio.run(main())
