"""umongo, on Motor (its asyncio framework)."""

from __future__ import annotations

import asyncio
from typing import Any

from bson import ObjectId
from motor.motor_asyncio import AsyncIOMotorClient
from umongo import Document, EmbeddedDocument, ValidationError, fields, validate
from umongo.frameworks import MotorAsyncIOInstance

from benchmarks.systems.base import Seen, System, flat

instance = MotorAsyncIOInstance()


def _person() -> dict[str, Any]:
    return {
        "name": fields.StringField(required=True, validate=validate.Length(max=80)),
        "email": fields.EmailField(required=True),
        "age": fields.IntegerField(required=True, validate=validate.Range(min=0, max=150)),
        "city": fields.StringField(required=True),
        "street": fields.StringField(required=True),
        "phone": fields.StringField(),
        "score": fields.FloatField(required=True),
        "visits": fields.IntegerField(required=True),
        "active": fields.BooleanField(required=True),
        "note": fields.StringField(),
    }


def _model(name: str, collection: str) -> Any:
    meta = type("Meta", (), {"collection_name": collection})
    return instance.register(type(name, (Document,), {**_person(), "Meta": meta}))


Person, Streamed = _model("Person", "people"), _model("Streamed", "stream")
Inserted = _model("Inserted", "inserted")


@instance.register
class Address(EmbeddedDocument):
    street = fields.StringField(required=True)
    city = fields.StringField(required=True)
    code = fields.StringField(required=True)


@instance.register
class Customer(Document):
    name = fields.StringField(required=True)
    email = fields.EmailField(required=True)
    age = fields.IntegerField(required=True)
    active = fields.BooleanField(required=True)
    address = fields.EmbeddedField(Address, required=True)

    class Meta:
        collection_name = "customers"


@instance.register
class Country(Document):
    name = fields.StringField(required=True)

    class Meta:
        collection_name = "countries"


@instance.register
class Author(Document):
    name = fields.StringField(required=True)
    country = fields.ReferenceField(Country, required=True)

    class Meta:
        collection_name = "authors"


@instance.register
class Post(Document):
    title = fields.StringField(required=True)
    author = fields.ReferenceField(Author, required=True)

    class Meta:
        collection_name = "posts"


@instance.register
class Comment(Document):
    text = fields.StringField(required=True)
    post = fields.ReferenceField(Post, required=True)

    class Meta:
        collection_name = "comments"


class UMongo(System):
    """It has no eager loading: what its users write is a query for the ids."""

    packages = ("umongo",)

    async def open(self) -> None:
        self._client: Any = AsyncIOMotorClient(self.uri)
        instance.set_db(self._client[self.database])
        await self._client.admin.command("ping")

    async def close(self) -> None:
        self._client.close()

    async def insert_one(self) -> Seen:
        for values in self.values:
            await Inserted(**values).commit()
        return await Inserted.count_documents()

    async def insert_many(self) -> Seen:
        # No bulk insert of documents: validate each, then the driver's.
        documents = [Inserted(**values) for values in self.values]
        for document in documents:
            document.required_validate()
        done = await Inserted.collection.insert_many([d.to_mongo() for d in documents])
        return len(done.inserted_ids)

    async def hold(self) -> Seen:
        return await Person.find().to_list(None)

    async def find_two(self) -> Seen:
        return [(r.name, r.age) for r in await Person.find().to_list(None)]

    async def find_flat(self) -> Seen:
        return [flat(r) for r in await Person.find().to_list(None)]

    async def find_embedded(self) -> Seen:
        return [
            (r.name, r.email, r.age, r.active, a.street, a.city, a.code)
            for r in await Customer.find().to_list(None)
            for a in (r.address,)
        ]

    async def stream(self) -> Seen:
        total = 0
        async for record in Streamed.find():
            total += record.age + len(record.name)
        return total

    async def get(self) -> Seen:
        return [(await Person.find_one({"_id": pk})).name for pk in self.ids]

    async def get_tasks(self) -> Seen:
        async def task(ids: list[ObjectId]) -> list[str]:
            return [(await Person.find_one({"_id": pk})).name for pk in ids]

        return await asyncio.gather(*map(task, self.seen_by_tasks()))

    async def filtered(self) -> Seen:
        seen = []
        for number in range(self.sizes.calls):
            condition = {"city": f"City {number % 50}", "age": {"$gt": 20}}
            found = await Person.find(condition).sort("age", -1).limit(20).to_list(None)
            seen.append([r.age for r in found])
        return seen

    async def save(self) -> Seen:
        record = await Person.find_one({"_id": self.ids[0]})
        for number in range(self.sizes.calls):
            record.visits = self.turn + number
            await record.commit()
        return (await Person.find_one({"_id": self.ids[0]})).visits - self.turn

    async def save_many(self) -> Seen:
        posts = await Post.find().to_list(None)
        for number, post in enumerate(posts):
            post.title = f"Post {number} of {self.turn}"
            await post.commit()
        return len(posts)

    async def update(self) -> Seen:
        changed = 0
        for number in range(max(5, self.sizes.calls // 25)):
            result = await Person.collection.update_many(
                {"city": f"City {number}"}, {"$set": {"phone": f"+49 {self.turn}"}}
            )
            changed += result.matched_count
        return changed

    async def posts_eager(self) -> Seen:
        posts = await Post.find().to_list(None)
        found = await self._by_id(Author, {post.author.pk for post in posts})
        return [found[post.author.pk].name for post in posts]

    async def posts_lazy(self) -> Seen:
        return [(await post.author.fetch()).name for post in await Post.find().to_list(None)]

    async def three_levels(self) -> Seen:
        comments = await Comment.find().to_list(None)
        posts = await self._by_id(Post, {c.post.pk for c in comments})
        authors = await self._by_id(Author, {p.author.pk for p in posts.values()})
        countries = await self._by_id(Country, {a.country.pk for a in authors.values()})
        return [countries[authors[posts[c.post.pk].author.pk].country.pk].name for c in comments]

    @staticmethod
    async def _by_id(model: Any, ids: set[ObjectId]) -> dict[ObjectId, Any]:
        return {r.pk: r for r in await model.find({"_id": {"$in": list(ids)}}).to_list(None)}

    async def group(self) -> Seen:
        rows: list[Any] = []
        for _ in range(max(5, self.sizes.calls // 25)):
            rows = await Person.collection.aggregate(
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
