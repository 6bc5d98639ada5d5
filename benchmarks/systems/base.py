"""What a system does: one method per workload, in the system's own best idiom.

A method returns what it saw, in plain values, so that nobody can skip work. Methods of a synchronous
library are coroutines too; they just never wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bson import ObjectId
from pymongo import MongoClient

from benchmarks.data import PEOPLE, Sizes, oid, person
from benchmarks.real import fill_orders, member, priced, refused

Seen = Any
"""Plain values: numbers, texts, booleans, lists of them."""

EMAIL = r"^[^@\s]+@[^@\s]+\.[^@\s]+$"
"""How the peers check an address: a pattern, which costs them less than their own email types."""


class System:
    """A system under measurement. Subclasses say how."""

    packages: Sequence[str] = ()
    """Distributions whose versions stand in the header."""

    def __init__(self, uri: str, database: str, sizes: Sizes) -> None:
        self.uri = uri
        self.database = database
        self.sizes = sizes
        self.turn = 0
        self.ids = [oid(PEOPLE, n) for n in range(min(sizes.calls, sizes.people))]
        self.values: list[dict[str, Any]] = []

    async def open(self) -> None:
        """Connect and get ready to work; what an application does once at its start."""
        raise NotImplementedError

    async def close(self) -> None:
        """Let go of the connection."""

    def between(self, workload: str, turn: int) -> None:
        """Before each run, untimed: values of its own for what writes them.

        Args:
            workload: What runs next.
            turn: The number of the run; the same for every system.
        """
        self.turn = turn
        if workload in ("insert_many", "construct"):
            self.values = [person(n) for n in range(self.sizes.people)]
        elif workload == "insert_one":
            self.values = [person(n) for n in range(self.sizes.inserts)]
        elif workload in ("real_insert", "real_construct"):
            self.values = [member(n) for n in range(self.sizes.people)]
        elif workload == "create_computed":
            self.values = [priced(n) for n in range(self.sizes.posts)]
        elif workload == "some_refused":
            self.values = [refused(n) for n in range(self.sizes.posts * 2)]
        elif workload in ("follow", "move", "set_null"):
            with MongoClient[dict[str, Any]](self.uri) as client:
                fill_orders(client[self.database], self.sizes)

    def seen_by_tasks(self) -> list[list[ObjectId]]:
        """The ids that each of the 50 tasks asks for."""
        each = max(1, self.sizes.calls * 2 // self.sizes.tasks)
        return [
            [self.ids[(task * each + n) % len(self.ids)] for n in range(each)]
            for task in range(self.sizes.tasks)
        ]


def flat(record: Any) -> tuple[Any, ...]:
    """The ten flat fields of an object with attributes."""
    return (
        *(record.name, record.email, record.age, record.city, record.street),
        *(record.phone, record.score, record.visits, record.active, record.note),
    )


def flat_of(document: dict[str, Any]) -> tuple[Any, ...]:
    """The ten flat fields of a document."""
    return (
        *(document["name"], document["email"], document["age"], document["city"]),
        *(document["street"], document["phone"], document["score"], document["visits"]),
        *(document["active"], document["note"]),
    )
