"""The work that is compared: the models, the documents, and both ways of doing each thing.

The raw way does what a program without an ORM would do with the same driver, and touches the same
fields as the way with EarnORM. Each way returns what it saw, so that the two can be held together.
"""

from __future__ import annotations

from typing import Any

from benchmarks.rounds import Comparison
from earnorm import Boolean, Email, Embedded, EmbeddedModel, Float, Int, String, models

MANY = 10_000
CALLS = 500


class Person(models.BaseModel):
    """Ten flat fields beside the id."""

    _name = "bench.person"
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


class Address(EmbeddedModel):
    """A document inside a document."""

    street = String(required=True)
    city = String(required=True)
    code = String(required=True)


class Customer(models.BaseModel):
    """Some flat fields and an embedded document."""

    _name = "bench.customer"
    name = String(required=True)
    email = Email(required=True)
    age = Int(required=True)
    active = Boolean(required=True)
    address = Embedded(Address, required=True)


class Inserted(models.BaseModel):
    """What the bulk insert stores; it has the fields of a person and no index beside the id's."""

    _name = "bench.inserted"
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


def person(number: int) -> dict[str, Any]:
    """The values of one person."""
    return {
        "name": f"Person {number}",
        "email": f"person{number}@example.com",
        "age": number % 90,
        "city": f"City {number % 50}",
        "street": f"Street {number % 300}",
        "phone": f"+49 {number:09d}",
        "score": number / 7,
        "visits": number % 1000,
        "active": number % 3 == 0,
        "note": f"a note of ordinary length about number {number}",
    }


def customer(number: int) -> dict[str, Any]:
    """The values of one customer."""
    return {
        "name": f"Customer {number}",
        "email": f"customer{number}@example.com",
        "age": number % 90,
        "active": number % 2 == 0,
        "address": {
            "street": f"Street {number % 300}",
            "city": f"City {number % 50}",
            "code": f"{number % 99999:05d}",
        },
    }


async def fill(database: Any) -> None:
    """Store what the reads read."""
    for model, make in ((Person, person), (Customer, customer)):
        await database[model._collection].drop()
        await database[model._collection].insert_many([make(n) for n in range(MANY)])


async def comparisons(database: Any) -> list[Comparison]:
    """Every comparison, on a filled database of the driver that the current App uses."""
    people, customers = database[Person._collection], database[Customer._collection]
    inserted = database[Inserted._collection]
    ids = [d["_id"] for d in await people.find({}, {"_id": 1}).limit(CALLS).to_list(None)]
    batch: list[dict[str, Any]] = []

    async def raw_two() -> object:
        found = await people.find({}).to_list(None)
        return [(d["name"], d["age"]) for d in found]

    async def orm_two() -> object:
        return [(r.name, r.age) for r in await Person.search()]

    async def raw_all() -> object:
        return [
            (
                *(d["name"], d["email"], d["age"], d["city"], d["street"]),
                *(d["phone"], d["score"], d["visits"], d["active"], d["note"]),
            )
            for d in await people.find({}).to_list(None)
        ]

    async def orm_all() -> object:
        return [
            (
                *(r.name, r.email, r.age, r.city, r.street),
                *(r.phone, r.score, r.visits, r.active, r.note),
            )
            for r in await Person.search()
        ]

    async def raw_embedded() -> object:
        found = await customers.find({}).to_list(None)
        return [(d["name"], d["address"]["city"], d["address"]["code"]) for d in found]

    async def orm_embedded() -> object:
        return [(r.name, r.address.city, r.address.code) for r in await Customer.search()]

    async def raw_get() -> object:
        return [(await people.find_one({"_id": pk}))["name"] for pk in ids]

    async def orm_get() -> object:
        return [(await Person.get(pk)).name for pk in ids]

    async def empty() -> None:
        await inserted.delete_many({})
        # The driver writes the new ids into what it is given, so each run gets values of its own.
        batch[:] = [person(number) for number in range(MANY)]

    async def raw_insert() -> object:
        return len((await inserted.insert_many(batch)).inserted_ids)

    async def orm_insert() -> object:
        return len(await Inserted.create(batch))

    turn = [0]
    saved = (await Person.search([("_id", "=", ids[0])])).ensure_one()

    async def next_turn() -> None:
        turn[0] += 1

    async def stored_number() -> int:
        visits: int = (await people.find_one({"_id": ids[0]}))["visits"]
        return visits - turn[0] * CALLS

    async def raw_save() -> object:
        for number in range(CALLS):
            values = {"visits": turn[0] * CALLS + number}
            await people.update_one({"_id": ids[0]}, {"$set": values})
        return await stored_number()

    async def orm_save() -> object:
        for number in range(CALLS):
            saved.visits = turn[0] * CALLS + number
            await saved.save()
        return await stored_number()

    return [
        Comparison("find 10,000, two fields read", 1.08, raw_two, orm_two, MANY),
        Comparison("find 10,000, ten flat fields read", 1.15, raw_all, orm_all, MANY),
        Comparison("find 10,000, embedded document read", 1.25, raw_embedded, orm_embedded, MANY),
        Comparison("one record by id", 1.10, raw_get, orm_get, CALLS),
        Comparison("insert 10,000, validated", 1.15, raw_insert, orm_insert, MANY, empty),
        Comparison("save one changed field", None, raw_save, orm_save, CALLS, next_turn),
    ]


async def check_inserted(database: Any) -> None:
    """Both ways of inserting store the same.

    Raises:
        AssertionError: They do not.
    """
    inserted = database[Inserted._collection]
    stored: list[list[dict[str, Any]]] = []
    values = [person(number) for number in range(100)]
    for way in (inserted.insert_many, Inserted.create):
        await inserted.delete_many({})
        await way([dict(each) for each in values])
        stored.append(await inserted.find({}, {"_id": 0}).sort("_id", 1).to_list(None))
    assert stored[0] == stored[1] == values, "the two ways of inserting did not store the same"
