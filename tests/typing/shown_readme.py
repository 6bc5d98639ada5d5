"""The first program of README.md, which tests/docs holds equal to it."""

import asyncio

import earnorm
from earnorm import DomainError, Int, Many2one, String, models


class Author(models.BaseModel):
    name = String(required=True)


class Post(models.BaseModel):
    title = String(required=True)
    votes = Int(default=0, min_value=0)
    author_id = Many2one(Author)


async def main() -> None:
    async with earnorm.App("mongodb://localhost:27017", database="readme"):
        ann = await Author.create({"name": "Ann"})
        await Post.create([{"title": "Rivers", "author_id": ann}, {"title": "Lakes"}])

        # Two queries, whatever the number of posts; then the author is a plain attribute.
        for post in await Post.search(Post.votes >= 0).prefetch("author_id"):
            print(post.title, post.author_id.name if post.author_id else "nobody")

        # One update of the posts whose author's name matches.
        await Post.search([("author_id.name", "ilike", "an")]).update({"votes": 5})

        try:
            await Post.search([("author_id.nmae", "=", "Ann")])
        except DomainError as error:  # before anything is sent
            print(error)  # domain: author has no field 'nmae'; did you mean 'name'?


asyncio.run(main())
