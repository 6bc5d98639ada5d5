"""Beanie, on PyMongo's asyncio client."""

from __future__ import annotations

import asyncio
from typing import Any

from beanie import Document, Link, init_beanie
from beanie.odm.operators.update.general import Set
from bson import ObjectId
from pydantic import BaseModel, Field, ValidationError
from pymongo import AsyncMongoClient

from benchmarks.systems.base import EMAIL, Seen, System, flat


class PersonFields(BaseModel):
    name: str = Field(max_length=80)
    email: str = Field(pattern=EMAIL)
    age: int = Field(ge=0, le=150)
    city: str
    street: str
    phone: str | None = None
    score: float
    visits: int
    active: bool
    note: str | None = None


class Person(Document, PersonFields):
    class Settings:
        name = "people"
        use_state_management = True


class Streamed(Document, PersonFields):
    class Settings:
        name = "stream"


class Inserted(Document, PersonFields):
    class Settings:
        name = "inserted"


class Address(BaseModel):
    street: str
    city: str
    code: str


class Customer(Document):
    name: str
    email: str = Field(pattern=EMAIL)
    age: int
    active: bool
    address: Address

    class Settings:
        name = "customers"


class Country(Document):
    name: str

    class Settings:
        name = "countries"


class Author(Document):
    name: str
    country: Link[Country]

    class Settings:
        name = "authors"


class Post(Document):
    title: str
    author: Link[Author]

    class Settings:
        name = "posts"
        use_state_management = True


class Comment(Document):
    text: str
    post: Link[Post]

    class Settings:
        name = "comments"


class Beanie(System):
    """Links with ``fetch_links``; state management for partial updates."""

    packages = ("beanie",)

    async def open(self) -> None:
        self._client: Any = AsyncMongoClient(self.uri)
        models = [Person, Streamed, Inserted, Customer, Country, Author, Post, Comment]
        await init_beanie(self._client[self.database], document_models=models)

    async def close(self) -> None:
        await self._client.close()

    async def insert_one(self) -> Seen:
        for values in self.values:
            await Inserted(**values).insert()
        return await Inserted.count()

    async def insert_many(self) -> Seen:
        done = await Inserted.insert_many([Inserted(**values) for values in self.values])
        return len(done.inserted_ids)

    async def hold(self) -> Seen:
        return await Person.find().to_list()

    async def find_two(self) -> Seen:
        return [(r.name, r.age) for r in await Person.find().to_list()]

    async def find_flat(self) -> Seen:
        return [flat(r) for r in await Person.find().to_list()]

    async def find_embedded(self) -> Seen:
        return [
            (r.name, r.email, r.age, r.active, a.street, a.city, a.code)
            for r in await Customer.find().to_list()
            for a in (r.address,)
        ]

    async def stream(self) -> Seen:
        total = 0
        async for record in Streamed.find():
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
            query = Person.find(Person.city == f"City {number % 50}", Person.age > 20)
            seen.append([r.age for r in await query.sort(-Person.age).limit(20).to_list()])
        return seen

    async def save(self) -> Seen:
        record = await Person.get(self.ids[0])
        for number in range(self.sizes.calls):
            record.visits = self.turn + number
            await record.save_changes()
        return (await Person.get(self.ids[0])).visits - self.turn

    async def save_many(self) -> Seen:
        posts = await Post.find().to_list()
        for number, post in enumerate(posts):
            post.title = f"Post {number} of {self.turn}"
            await post.save_changes()
        return len(posts)

    async def update(self) -> Seen:
        changed = 0
        for number in range(max(5, self.sizes.calls // 25)):
            query = Person.find(Person.city == f"City {number}")
            changed += (await query.update(Set({Person.phone: f"+49 {self.turn}"}))).matched_count
        return changed

    async def posts_eager(self) -> Seen:
        return [post.author.name for post in await Post.find(fetch_links=True).to_list()]

    async def posts_lazy(self) -> Seen:
        return [(await post.author.fetch()).name for post in await Post.find().to_list()]

    async def three_levels(self) -> Seen:
        comments = await Comment.find(fetch_links=True).to_list()
        return [comment.post.author.country.name for comment in comments]

    async def group(self) -> Seen:
        rows: list[dict[str, Any]] = []
        for _ in range(max(5, self.sizes.calls // 25)):
            rows = (
                await Person.find(Person.age >= 10)
                .aggregate(
                    [
                        {"$group": {"_id": "$city", "total": {"$sum": "$visits"}}},
                        {"$sort": {"_id": 1}},
                    ]
                )
                .to_list()
            )
        return [(row["_id"], row["total"]) for row in rows]

    async def construct(self) -> Seen:
        return len([Inserted(**values) for values in self.values])

    async def invalid(self) -> Seen:
        refused = 0
        for _ in range(self.sizes.inserts):
            try:
                Inserted(name="x", email="nobody", age=-1, city="c", street="s", score=1.0)
            except ValidationError:
                refused += 1
        return refused
