"""The documents that every system reads and writes, and how each database is filled with them.

Filled with the raw driver and the same for everybody; a system's own way of storing a reference is
the only difference that is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bson import DBRef, ObjectId

if TYPE_CHECKING:
    from pymongo.database import Database  # which a worker imports by itself, and is timed

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many of each; one object of these numbers is shared by the parent and the workers."""

    people: int = 10_000
    """Documents of a find, and of a bulk insert and of a construction."""
    stream: int = 100_000
    posts: int = 1_000
    """Posts, each of one of as many authors as there are tenths of posts; as many comments."""
    calls: int = 500
    """Consecutive single calls: get, save, filter."""
    inserts: int = 1_000
    """Inserts one by one."""
    tasks: int = 50
    """Tasks at once, each with ``calls / tasks * 2`` gets."""


FULL = Sizes()
QUICK = Sizes(people=2_000, stream=10_000, posts=200, calls=100, inserts=100)
SIZES = {"full": FULL, "quick": QUICK}


def person(number: int) -> Document:
    """Ten flat values; floats are exact in binary, so that every language prints them alike."""
    return {
        "name": f"Person {number}",
        "email": f"person{number}@example.com",
        "age": number % 90,
        "city": f"City {number % 50}",
        "street": f"Street {number % 300}",
        "phone": f"+49 {number:09d}",
        "score": number / 4 + 0.125,
        "visits": number % 1000,
        "active": number % 3 == 0,
        "note": f"a note of ordinary length about number {number}",
    }


def customer(number: int) -> Document:
    """Four flat values and an embedded document of three."""
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


def oid(kind: int, number: int) -> ObjectId:
    """The id of a filled document: the same in every database, so that answers can be compared."""
    return ObjectId(f"{0x65A00000 + kind:08x}{number:016x}")


PEOPLE, CUSTOMERS, STREAM, COUNTRIES, AUTHORS, POSTS, COMMENTS = range(7)


def fill(database: Database[Document], sizes: Sizes, *, dbref: bool) -> None:
    """Drop what is there, and store everything that the workloads read.

    Args:
        database: The system's own.
        sizes: How much.
        dbref: References are stored as DBRefs.
    """

    def reference(collection: str, pk: ObjectId) -> Any:
        return DBRef(collection, pk) if dbref else pk

    authors = max(1, sizes.posts // 10)
    plans: dict[str, Iterator[Document]] = {
        "people": ({"_id": oid(PEOPLE, n), **person(n)} for n in range(sizes.people)),
        "customers": ({"_id": oid(CUSTOMERS, n), **customer(n)} for n in range(sizes.people)),
        "stream": ({"_id": oid(STREAM, n), **person(n)} for n in range(sizes.stream)),
        "countries": ({"_id": oid(COUNTRIES, n), "name": f"Country {n}"} for n in range(10)),
        "authors": (
            {
                "_id": oid(AUTHORS, n),
                "name": f"Author {n}",
                "country": reference("countries", oid(COUNTRIES, n % 10)),
            }
            for n in range(authors)
        ),
        "posts": (
            {
                "_id": oid(POSTS, n),
                "title": f"Post {n}",
                "author": reference("authors", oid(AUTHORS, n % authors)),
            }
            for n in range(sizes.posts)
        ),
        "comments": (
            {
                "_id": oid(COMMENTS, n),
                "text": f"Comment {n}",
                "post": reference("posts", oid(POSTS, n)),
            }
            for n in range(sizes.posts)
        ),
    }
    database.client.drop_database(database.name)
    for name, documents in plans.items():
        database[name].insert_many(documents)
    # The one secondary index, for filter + sort + limit; every system gets the same.
    database["people"].create_index([("city", 1), ("age", -1)])
    database.create_collection("inserted")
