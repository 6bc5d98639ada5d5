"""The raw driver on real documents: the shortest correct program for each, as its author would write it."""

from __future__ import annotations

import asyncio
from typing import Any

from bson import ObjectId

from benchmarks.real import LINES, PARTNERS, oid, seen_of
from benchmarks.systems.base import Seen, System


class RealRaw(System):
    """A part of :class:`benchmarks.systems.raw.RawDriver`."""

    _client: Any
    db: Any

    async def _by_id(self, name: str, ids: set[ObjectId]) -> dict[ObjectId, Any]:
        found = await self.db[name].find({"_id": {"$in": list(ids)}}).to_list(None)
        return {document["_id"]: document for document in found}

    async def real_insert(self) -> Seen:
        return len((await self.db["inserted"].insert_many(self.values)).inserted_ids)

    async def real_find(self) -> Seen:
        return [seen_of(d) for d in await self.db["members"].find({}).to_list(None)]

    async def real_hold(self) -> Seen:
        return await self.db["members"].find({}).to_list(None)

    async def real_construct(self) -> Seen:
        return len([dict(values) for values in self.values])

    async def tasks(self) -> Seen:
        tasks = await self.db["tasks"].find({}).to_list(None)
        people = {t["user_id"] for t in tasks} | {t["reviewer_id"] for t in tasks}
        projects, users, tags = await asyncio.gather(
            self._by_id("projects", {t["project_id"] for t in tasks}),
            self._by_id("users", people),
            self._by_id("tags", {pk for t in tasks for pk in t["tag_ids"]}),
        )
        return [
            (
                *(t["name"], t["done"], t["hours"], t["number3"], t["text7"]),
                *(projects[t["project_id"]]["name"], users[t["user_id"]]["name"]),
                users[t["reviewer_id"]]["name"],
                *[tags[pk]["name"] for pk in t["tag_ids"]],
                *(t["hours"] * t["rate"], f"{t['name']}!", t["number1"] + t["number2"]),
            )
            for t in tasks
        ]

    async def sheets(self) -> Seen:
        return [
            [line["amount"] + len(line["label"]) for name in LINES for line in d[name]]
            for d in await self.db["sheets"].find({}).to_list(None)
        ]

    async def sheets_only(self) -> Seen:
        wanted = dict.fromkeys(LINES, 1)
        return [
            [line["amount"] + len(line["label"]) for name in LINES for line in d[name]]
            for d in await self.db["sheets"].find({}, wanted).to_list(None)
        ]

    async def create_computed(self) -> Seen:
        documents = []
        for values in self.values:
            if values["amount"] < 1:
                raise ValueError("an amount is positive")
            documents.append({**values, "total": values["price"] * values["amount"]})
        await self.db["inserted"].insert_many(documents)
        return sum(d["total"] for d in documents)

    async def follow(self) -> Seen:
        pk, name = oid(PARTNERS, 0), f"Partner of {self.turn}"

        async def work(session: Any) -> Any:
            await self.db["partners"].update_one(
                {"_id": pk}, {"$set": {"name": name}}, session=session
            )
            return await self.db["orders"].update_many(
                {"partner_id": pk}, {"$set": {"partner_name": name}}, session=session
            )

        return (await self._in_transaction(work)).matched_count

    async def move(self) -> Seen:
        pk = oid(PARTNERS, 1)

        async def work(session: Any) -> Any:
            partner = await self.db["partners"].find_one({"_id": pk}, session=session)
            return await self.db["orders"].update_many(
                {"partner_id": oid(PARTNERS, 0)},
                {"$set": {"partner_id": pk, "partner_name": partner["name"]}},
                session=session,
            )

        return (await self._in_transaction(work)).matched_count

    async def set_null(self) -> Seen:
        pk = oid(PARTNERS, 0)

        async def work(session: Any) -> Any:
            await self.db["partners"].delete_one({"_id": pk}, session=session)
            return await self.db["orders"].update_many(
                {"partner_id": pk},
                {"$set": {"partner_id": None, "partner_name": None}},
                session=session,
            )

        return (await self._in_transaction(work)).matched_count

    async def _in_transaction(self, work: Any) -> Any:
        raise NotImplementedError

    async def some_refused(self) -> Seen:
        good = [values for values in self.values if 0 <= values["age"] <= 150]
        return len((await self.db["inserted"].insert_many(good)).inserted_ids)
