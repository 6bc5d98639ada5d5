"""EarnORM on either driver, with or without plugins."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from bson import ObjectId

import earnorm
from benchmarks.data import Sizes
from benchmarks.systems.base import Seen, flat
from benchmarks.systems.earnorm_real import REAL_MODELS, RealEarnORM
from earnorm import (
    BaseModel,
    Boolean,
    Domain,
    Email,
    Embedded,
    EmbeddedModel,
    Float,
    Int,
    Many2one,
    String,
    Sum,
)


class PersonFields(BaseModel):
    """What people have, in whichever collection they lie."""

    _abstract = True
    name = String(required=True, max_length=80)
    email = Email(required=True)
    age = Int(required=True, min_value=0, max_value=150)
    city = String(required=True)
    street = String(required=True)
    phone = String()
    score = Float(required=True)
    visits = Int(required=True)
    active = Boolean(required=True)
    note = String()


class Person(PersonFields):
    """Found by id and by city."""

    _name, _collection = "person", "people"
    _indexes = [{"city": 1, "age": -1}]


class Streamed(PersonFields):
    """Read as a stream."""

    _name, _collection = "streamed", "stream"


class Inserted(PersonFields):
    """What the inserts store."""

    _name, _collection = "inserted", "inserted"


class Address(EmbeddedModel):
    """A document inside a document."""

    street = String(required=True)
    city = String(required=True)
    code = String(required=True)


class Customer(BaseModel):
    """With an embedded document."""

    _name, _collection = "customer", "customers"
    name = String(required=True)
    email = Email(required=True)
    age = Int(required=True)
    active = Boolean(required=True)
    address = Embedded(Address, required=True)


class Country(BaseModel):
    """The end of three levels."""

    _name, _collection = "country", "countries"
    name = String(required=True)


class Author(BaseModel):
    """Of posts."""

    _name, _collection = "author", "authors"
    name = String(required=True)
    country = Many2one(Country, required=True)


class Post(BaseModel):
    """With an author."""

    _name, _collection = "post", "posts"
    title = String(required=True)
    author = Many2one(Author, required=True)


class Comment(BaseModel):
    """Of a post."""

    _name, _collection = "comment", "comments"
    text = String(required=True)
    post = Many2one(Post, required=True)


MODELS = (Person, Streamed, Inserted, Customer, Country, Author, Post, Comment, *REAL_MODELS)


class EarnORM(RealEarnORM):
    """The system that this repository is about.

    Args:
        driver: ``pymongo`` or ``motor``.
        plugins: Names of the plugins to load.
        active: The plugins have work on every model: a rule, an audit trail, a cache.
        coalesce: Gets of one tick of the loop become one query.
    """

    packages = ("earnorm-core", "pydantic")

    def __init__(
        self,
        uri: str,
        database: str,
        sizes: Sizes,
        driver: str = "pymongo",
        plugins: Sequence[str] = (),
        active: bool = False,
        coalesce: bool = False,
    ) -> None:
        super().__init__(uri, database, sizes)
        self._driver, self._plugins, self._active = driver, plugins, active
        self._coalesce = coalesce

    async def open(self) -> None:
        logging.getLogger("earnorm").setLevel(logging.ERROR)
        keywords: dict[str, Any] = {}
        if self._active:
            self._declare()
            if "cache" in self._plugins:
                keywords["cache"] = {"default_ttl": 3600.0}
        else:
            for model in MODELS:
                type.__setattr__(model, "_audit", False)
                type.__setattr__(model, "_cache", False)
        if self._coalesce:
            keywords["coalesce"] = True
        self.app = await earnorm.init(
            self.uri,
            database=self.database,
            driver=self._driver,
            plugins=list(self._plugins),
            **keywords,
        )
        self._acting = earnorm.act_as(earnorm.Principal("bench", roles=["user"]))
        self._acting.__enter__()

    def _declare(self) -> None:
        if "security" not in self._plugins:
            return
        from earnorm_security import Access, Rule

        for model in MODELS:
            type.__setattr__(
                model, "_access", [Access("user", read=True, write=True, create=True, unlink=True)]
            )
            name = "age" if "age" in model._fields else "_id"
            rule = Domain([(name, "!=", None)])
            type.__setattr__(model, "_rules", [Rule("user", domain=rule)])

    async def close(self) -> None:
        await earnorm.close()

    async def insert_one(self) -> Seen:
        for values in self.values:
            await Inserted.create(values)
        return await Inserted.count()

    async def insert_many(self) -> Seen:
        return len(await Inserted.create(self.values))

    async def hold(self) -> Seen:
        return await Person.search()

    async def find_two(self) -> Seen:
        return [(r.name, r.age) for r in await Person.search()]

    async def find_flat(self) -> Seen:
        return [flat(r) for r in await Person.search()]

    async def find_embedded(self) -> Seen:
        return [
            (r.name, r.email, r.age, r.active, a.street, a.city, a.code)
            for r in await Customer.search()
            for a in (r.address,)
        ]

    async def stream(self) -> Seen:
        total = 0
        async for record in Streamed.search():
            total += record.age + len(record.name)
        return total

    async def get(self) -> Seen:
        return [(await Person.get(pk)).name for pk in self.ids]

    async def get_tasks(self) -> Seen:
        async def task(ids: list[ObjectId]) -> list[str]:
            return [(await Person.get(pk)).name for pk in ids]

        return await asyncio.gather(*map(task, self.seen_by_tasks()))

    async def filtered(self) -> Seen:
        seen = []
        for number in range(self.sizes.calls):
            domain = [("city", "=", f"City {number % 50}"), ("age", ">", 20)]
            found = await Person.search(domain, order="-age", limit=20)
            seen.append([r.age for r in found])
        return seen

    async def save(self) -> Seen:
        record = await Person.get(self.ids[0])
        for number in range(self.sizes.calls):
            record.visits = self.turn + number
            await record.save()
        return (await Person.get(self.ids[0])).visits - self.turn

    async def save_many(self) -> Seen:
        posts = await Post.search()
        for number, post in enumerate(posts):
            post.title = f"Post {number} of {self.turn}"
        return await posts.save()

    async def update(self) -> Seen:
        changed = 0
        for number in range(max(5, self.sizes.calls // 25)):
            people = Person.search([("city", "=", f"City {number}")])
            changed += await people.update({"phone": f"+49 {self.turn}"})
        return changed

    async def posts_eager(self) -> Seen:
        return [post.author.name for post in await Post.search(prefetch=["author"])]

    async def posts_lazy(self) -> Seen:
        return [(await post.author).name for post in await Post.search()]

    async def three_levels(self) -> Seen:
        comments = await Comment.search(prefetch=["post.author.country"])
        return [comment.post.author.country.name for comment in comments]

    async def group(self) -> Seen:
        rows: list[dict[str, Any]] = []
        for _ in range(max(5, self.sizes.calls // 25)):
            rows = await Person.search([("age", ">=", 10)]).group("city", total=Sum("visits"))
        return [(row["city"], row["total"]) for row in rows]

    async def construct(self) -> Seen:
        return len([Inserted(**values) for values in self.values])

    async def invalid(self) -> Seen:
        refused = 0
        for _ in range(self.sizes.inserts):
            try:
                Inserted(name="x", email="nobody", age=-1, city="c", street="s", score=1.0)
            except earnorm.ValidationError:
                refused += 1
        return refused

    async def compile(self) -> Seen:
        bound = self.app.bind(Person)
        for number in range(self.sizes.inserts):
            domain = Domain(
                [
                    ("age", ">", number),
                    ("city", "=", "x"),
                    "|",
                    ("name", "like", "a"),
                    ("active", "=", True),
                    ("score", "<", 9.5),
                ]
            )
            bound.filter(domain)
        return self.sizes.inserts
