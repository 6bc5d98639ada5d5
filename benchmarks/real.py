"""Documents as people have them: with dates, lists, embedded documents, relations and computed fields.

Nobody's store of ten flat values is a program's whole database. These are filled beside those of
``benchmarks.data``, with the raw driver and the same for everybody.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from benchmarks.data import Document, Sizes, oid

if TYPE_CHECKING:
    from pymongo.database import Database  # which a worker imports by itself, and is timed

MEMBERS, USERS, PROJECTS, TAGS, TASKS, SHEETS, PARTNERS, ORDERS = range(20, 28)
DAY: Final = datetime(2024, 1, 1, tzinfo=UTC)
NUMBERS: Final = tuple(f"number{n}" for n in range(10))
TEXTS: Final = tuple(f"text{n}" for n in range(10))
CELLS: Final = tuple(f"cell{n}" for n in range(45))
LINES: Final = tuple(f"lines{n}" for n in range(5))
LIVING: Final = 2  # partners


def member(number: int) -> Document:
    """Ten fields, of which one is a date, one a list and one embedded."""
    return {
        "name": f"Member {number}",
        "email": f"member{number}@example.com",
        "age": number % 90,
        "phone": f"+49 {number:09d}",
        "score": number / 4 + 0.125,
        "visits": number % 1000,
        "active": number % 3 == 0,
        "joined": DAY + timedelta(minutes=number),
        "tags": [f"tag {(number + n) % 20}" for n in range(3)],
        "address": {
            "street": f"Street {number % 300}",
            "city": f"City {number % 50}",
            "code": f"{number % 99999:05d}",
        },
    }


def seen_of(document: Document) -> tuple[Any, ...]:
    """Every value of a member, read from a document."""
    address = document["address"]
    return (
        *(document["name"], document["email"], document["age"], document["phone"]),
        *(document["score"], document["visits"], document["active"]),
        *(document["joined"].minute, *document["tags"]),
        *(address["street"], address["city"], address["code"]),
    )


def seen(record: Any) -> tuple[Any, ...]:
    """Every value of a member, read from an object with attributes."""
    address = record.address
    return (
        *(record.name, record.email, record.age, record.phone),
        *(record.score, record.visits, record.active),
        *(record.joined.minute, *record.tags),
        *(address.street, address.city, address.code),
    )


def task(number: int, users: int) -> Document:
    """Thirty fields: three links to one, one list of links, six values of a kind, twenty others."""
    return {
        "name": f"Task {number}",
        "done": number % 4 == 0,
        "due": DAY + timedelta(hours=number),
        "hours": number % 40,
        "rate": number % 7 + 0.5,
        "note": f"what is to be done about number {number}",
        "project_id": oid(PROJECTS, number % 20),
        "user_id": oid(USERS, number % users),
        "reviewer_id": oid(USERS, (number * 7 + 1) % users),
        "tag_ids": [oid(TAGS, (number + n * 3) % 40) for n in range(3)],
        **{name: number % (n + 2) for n, name in enumerate(NUMBERS)},
        **{name: f"{name} of {number % 100}" for name in TEXTS},
    }


def sheet(number: int) -> Document:
    """Fifty fields, of which five are lists of five embedded documents."""
    return {
        **{name: number + n for n, name in enumerate(CELLS)},
        **{
            name: [{"label": f"{name} {n}", "amount": number + n} for n in range(5)]
            for name in LINES
        },
    }


def priced(number: int) -> Document:
    """What a line of an order is made from; its total is computed."""
    return {"name": f"Line {number}", "price": number % 50 + 0.25, "amount": number % 9 + 1}


def refused(number: int) -> Document:
    """A member, every fifth of them with an age that is refused."""
    return {**member(number), "age": -1} if number % 5 == 0 else member(number)


def order(number: int) -> Document:
    """An order of the first partner, whose name it repeats."""
    return {
        "_id": oid(ORDERS, number),
        "name": f"Order {number}",
        "partner_id": oid(PARTNERS, 0),
        "partner_name": "Partner 0",
    }


def fill_orders(database: Database[Document], sizes: Sizes) -> None:
    """Store the partners and the first one's orders, in the place of what was there."""
    database["partners"].delete_many({})
    database["orders"].delete_many({})
    database["partners"].insert_many(
        [{"_id": oid(PARTNERS, n), "name": f"Partner {n}"} for n in range(LIVING)]
    )
    database["orders"].insert_many([order(n) for n in range(sizes.posts)])


def fill_real(database: Database[Document], sizes: Sizes) -> None:
    """Store what the workloads of real documents read and write."""
    users = max(2, sizes.posts // 10)
    plans: dict[str, list[Document]] = {
        "members": [{"_id": oid(MEMBERS, n), **member(n)} for n in range(sizes.people)],
        "users": [{"_id": oid(USERS, n), "name": f"User {n}"} for n in range(users)],
        "projects": [{"_id": oid(PROJECTS, n), "name": f"Project {n}"} for n in range(20)],
        "tags": [{"_id": oid(TAGS, n), "name": f"Tag {n}"} for n in range(40)],
        "tasks": [{"_id": oid(TASKS, n), **task(n, users)} for n in range(sizes.posts * 2)],
        "sheets": [{"_id": oid(SHEETS, n), **sheet(n)} for n in range(sizes.posts)],
    }
    for name, documents in plans.items():
        database[name].insert_many(documents)
    fill_orders(database, sizes)
    database["orders"].create_index("partner_id")
