"""The drivers alone: what a program without an ORM would write. Everybody else is measured against them."""

from __future__ import annotations

import asyncio
from typing import Any

from bson import ObjectId
from pymongo import UpdateOne

from benchmarks.systems.base import Seen, flat_of
from benchmarks.systems.raw_real import RealRaw


class RawDriver(RealRaw):
    """Both drivers have the same methods, but for the way to a cursor of an aggregation."""

    def client(self) -> Any:
        """The driver's client."""
        raise NotImplementedError

    async def open(self) -> None:
        self._client = self.client()
        self.db = self._client[self.database]
        await self.db.command("ping")

    async def insert_one(self) -> Seen:
        inserted = self.db["inserted"]
        for values in self.values:
            await inserted.insert_one(values)
        return await inserted.count_documents({})

    async def insert_many(self) -> Seen:
        return len((await self.db["inserted"].insert_many(self.values)).inserted_ids)

    async def hold(self) -> Seen:
        return await self.db["people"].find({}).to_list(None)

    async def find_two(self) -> Seen:
        return [(d["name"], d["age"]) for d in await self.db["people"].find({}).to_list(None)]

    async def find_flat(self) -> Seen:
        return [flat_of(d) for d in await self.db["people"].find({}).to_list(None)]

    async def find_embedded(self) -> Seen:
        found = await self.db["customers"].find({}).to_list(None)
        return [
            (d["name"], d["email"], d["age"], d["active"], a["street"], a["city"], a["code"])
            for d in found
            for a in (d["address"],)
        ]

    async def stream(self) -> Seen:
        total = 0
        async for document in self.db["stream"].find({}):
            total += document["age"] + len(document["name"])
        return total

    async def get(self) -> Seen:
        people = self.db["people"]
        return [(await people.find_one({"_id": pk}))["name"] for pk in self.ids]

    async def get_tasks(self) -> Seen:
        people = self.db["people"]

        async def task(ids: list[ObjectId]) -> list[str]:
            return [(await people.find_one({"_id": pk}))["name"] for pk in ids]

        return await asyncio.gather(*map(task, self.seen_by_tasks()))

    async def filtered(self) -> Seen:
        people, seen = self.db["people"], []
        for number in range(self.sizes.calls):
            condition = {"city": f"City {number % 50}", "age": {"$gt": 20}}
            cursor = people.find(condition).sort("age", -1).limit(20)
            seen.append([d["age"] for d in await cursor.to_list(None)])
        return seen

    async def save(self) -> Seen:
        people, pk = self.db["people"], self.ids[0]
        for number in range(self.sizes.calls):
            await people.update_one({"_id": pk}, {"$set": {"visits": self.turn + number}})
        return (await people.find_one({"_id": pk}))["visits"] - self.turn

    async def save_many(self) -> Seen:
        posts = self.db["posts"]
        documents = await posts.find({}).to_list(None)
        changes = [
            UpdateOne({"_id": d["_id"]}, {"$set": {"title": f"Post {n} of {self.turn}"}})
            for n, d in enumerate(documents)
        ]
        await posts.bulk_write(changes, ordered=False)
        return len(documents)

    async def update(self) -> Seen:
        people, changed = self.db["people"], 0
        for number in range(max(5, self.sizes.calls // 25)):
            result = await people.update_many(
                {"city": f"City {number}"}, {"$set": {"phone": f"+49 {self.turn}"}}
            )
            changed += result.matched_count
        return changed

    async def posts_eager(self) -> Seen:
        posts = await self.db["posts"].find({}).to_list(None)
        wanted = list({post["author"] for post in posts})
        found = await self.db["authors"].find({"_id": {"$in": wanted}}).to_list(None)
        authors = {author["_id"]: author for author in found}
        return [authors[post["author"]]["name"] for post in posts]

    async def posts_lazy(self) -> Seen:
        authors = self.db["authors"]
        posts = await self.db["posts"].find({}).to_list(None)
        return [(await authors.find_one({"_id": post["author"]}))["name"] for post in posts]

    async def three_levels(self) -> Seen:
        comments = await self.db["comments"].find({}).to_list(None)
        posts = await self._by_id("posts", {c["post"] for c in comments})
        authors = await self._by_id("authors", {p["author"] for p in posts.values()})
        countries = await self._by_id("countries", {a["country"] for a in authors.values()})
        return [countries[authors[posts[c["post"]]["author"]]["country"]]["name"] for c in comments]

    async def group(self) -> Seen:
        rows: list[Any] = []
        for _ in range(max(5, self.sizes.calls // 25)):
            rows = await self._aggregate(
                [
                    {"$match": {"age": {"$gte": 10}}},
                    {"$group": {"_id": "$city", "total": {"$sum": "$visits"}}},
                    {"$sort": {"_id": 1}},
                ]
            )
        return [(row["_id"], row["total"]) for row in rows]

    async def _aggregate(self, pipeline: list[dict[str, Any]]) -> list[Any]:
        raise NotImplementedError

    async def construct(self) -> Seen:
        # A program without an ORM checks nothing: a copy of the dict is all that it makes.
        return len([dict(values) for values in self.values])


class PyMongo(RawDriver):
    """PyMongo's own asyncio client."""

    packages = ("pymongo",)

    def client(self) -> Any:
        from pymongo import AsyncMongoClient

        return AsyncMongoClient(self.uri)

    async def close(self) -> None:
        await self._client.close()

    async def _aggregate(self, pipeline: list[dict[str, Any]]) -> list[Any]:
        return await (await self.db["people"].aggregate(pipeline)).to_list(None)

    async def _in_transaction(self, work: Any) -> Any:
        async with self._client.start_session() as session:
            return await session.with_transaction(work)


class Motor(RawDriver):
    """Motor."""

    packages = ("motor",)

    def client(self) -> Any:
        from motor.motor_asyncio import AsyncIOMotorClient

        return AsyncIOMotorClient(self.uri)

    async def close(self) -> None:
        self._client.close()

    async def _aggregate(self, pipeline: list[dict[str, Any]]) -> list[Any]:
        return await self.db["people"].aggregate(pipeline).to_list(None)

    async def _in_transaction(self, work: Any) -> Any:
        async with await self._client.start_session() as session:
            return await session.with_transaction(work)
