"""ODMantic, on Motor (the only driver that it has)."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from bson import ObjectId
from motor.motor_asyncio import AsyncIOMotorClient
from odmantic import AIOEngine, EmbeddedModel, Field, Model, Reference
from pydantic import StringConstraints, ValidationError

from benchmarks.systems.base import EMAIL, Seen, System, flat

Email = Annotated[str, StringConstraints(pattern=EMAIL)]


class Person(Model):
    name: str = Field(max_length=80)
    email: Email
    age: int = Field(ge=0, le=150)
    city: str
    street: str
    phone: str | None = None
    score: float
    visits: int
    active: bool
    note: str | None = None

    model_config = {"collection": "people"}


class Streamed(Model):
    name: str = Field(max_length=80)
    email: Email
    age: int = Field(ge=0, le=150)
    city: str
    street: str
    phone: str | None = None
    score: float
    visits: int
    active: bool
    note: str | None = None

    model_config = {"collection": "stream"}


class Inserted(Model):
    name: str = Field(max_length=80)
    email: Email
    age: int = Field(ge=0, le=150)
    city: str
    street: str
    phone: str | None = None
    score: float
    visits: int
    active: bool
    note: str | None = None

    model_config = {"collection": "inserted"}


class Address(EmbeddedModel):
    street: str
    city: str
    code: str


class Customer(Model):
    name: str
    email: Email
    age: int
    active: bool
    address: Address

    model_config = {"collection": "customers"}


class Country(Model):
    name: str

    model_config = {"collection": "countries"}


class Author(Model):
    name: str
    country: Country = Reference()

    model_config = {"collection": "authors"}


class Post(Model):
    title: str
    author: Author = Reference()

    model_config = {"collection": "posts"}


class Comment(Model):
    text: str
    post: Post = Reference()

    model_config = {"collection": "comments"}


class ODMantic(System):
    """References always load with ``$lookup``; there is no lazy form."""

    packages = ("odmantic",)

    async def open(self) -> None:
        self._client: Any = AsyncIOMotorClient(self.uri)
        self.engine = AIOEngine(client=self._client, database=self.database)
        await self._client.admin.command("ping")

    async def close(self) -> None:
        self._client.close()

    async def insert_one(self) -> Seen:
        for values in self.values:
            await self.engine.save(Inserted(**values))
        return await self.engine.count(Inserted)

    async def insert_many(self) -> Seen:
        return len(await self.engine.save_all([Inserted(**values) for values in self.values]))

    async def hold(self) -> Seen:
        return await self.engine.find(Person)

    async def find_two(self) -> Seen:
        return [(r.name, r.age) for r in await self.engine.find(Person)]

    async def find_flat(self) -> Seen:
        return [flat(r) for r in await self.engine.find(Person)]

    async def find_embedded(self) -> Seen:
        return [
            (r.name, r.email, r.age, r.active, a.street, a.city, a.code)
            for r in await self.engine.find(Customer)
            for a in (r.address,)
        ]

    async def stream(self) -> Seen:
        total = 0
        async for record in self.engine.find(Streamed):
            total += record.age + len(record.name)
        return total

    async def get(self) -> Seen:
        find = self.engine.find_one
        return [(await find(Person, Person.id == pk)).name for pk in self.ids]

    async def get_tasks(self) -> Seen:
        find = self.engine.find_one

        async def task(ids: list[ObjectId]) -> list[str]:
            return [(await find(Person, Person.id == pk)).name for pk in ids]

        return await asyncio.gather(*map(task, self.seen_by_tasks()))

    async def filtered(self) -> Seen:
        seen = []
        for number in range(self.sizes.calls):
            found = await self.engine.find(
                Person,
                Person.city == f"City {number % 50}",
                Person.age > 20,
                sort=Person.age.desc(),
                limit=20,
            )
            seen.append([r.age for r in found])
        return seen

    async def save(self) -> Seen:
        record = await self.engine.find_one(Person, Person.id == self.ids[0])
        for number in range(self.sizes.calls):
            record.visits = self.turn + number
            await self.engine.save(record)
        return (await self.engine.find_one(Person, Person.id == self.ids[0])).visits - self.turn

    async def save_many(self) -> Seen:
        posts = await self.engine.find(Post)
        for number, post in enumerate(posts):
            post.title = f"Post {number} of {self.turn}"
        return len(await self.engine.save_all(posts))

    async def update(self) -> Seen:
        # It has no update by filter: its collection is the driver's.
        people, changed = self.engine.get_collection(Person), 0
        for number in range(max(5, self.sizes.calls // 25)):
            result = await people.update_many(
                {"city": f"City {number}"}, {"$set": {"phone": f"+49 {self.turn}"}}
            )
            changed += result.matched_count
        return changed

    async def posts_eager(self) -> Seen:
        return [post.author.name for post in await self.engine.find(Post)]

    async def three_levels(self) -> Seen:
        comments = await self.engine.find(Comment)
        return [comment.post.author.country.name for comment in comments]

    async def group(self) -> Seen:
        people = self.engine.get_collection(Person)
        rows: list[Any] = []
        for _ in range(max(5, self.sizes.calls // 25)):
            rows = await people.aggregate(
                [
                    {"$match": {"age": {"$gte": 10}}},
                    {"$group": {"_id": "$city", "total": {"$sum": "$visits"}}},
                    {"$sort": {"_id": 1}},
                ]
            ).to_list(None)
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
