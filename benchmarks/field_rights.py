"""``python -m benchmarks.field_rights``: searches with field rights against the same by hand, in the same run.

By hand is a search of the same collection that names the visible fields by ``only()``, in the same App by a model without
rights. The third figure is a model whose text is masked. Rounds take turns; the lowest of each is printed, by the clock
and by the processor's time, which other programs on the machine disturb less.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import earnorm
from benchmarks.in_turns import lowest, run
from earnorm import BaseModel, Int, Principal, String, act_as, system
from earnorm_security import FieldRights, last

ROUNDS, SMALL, LARGE = 15, 60, 10_000


class ByHand(BaseModel):
    """Ten fields, and no rights."""

    _name = "benchmarks.by_hand"
    _collection = "benchmark_people"
    name = String()
    street = String()
    city = String()
    phone = String()
    iban = String()
    age = Int()
    size = Int()
    level = Int()
    salary = Int()


class Hiding(ByHand):
    """The same documents, of which a principal does not read two fields."""

    _name = "benchmarks.hiding"
    _collection = "benchmark_people"
    _field_rights = [FieldRights("salary", "level", read=["hr"])]


class Masking(ByHand):
    """The same documents, with one field masked besides."""

    _name = "benchmarks.masking"
    _collection = "benchmark_people"
    _field_rights = [
        FieldRights("salary", "level", read=["hr"]),
        FieldRights("iban", read=["hr"], mask=last(4)),
    ]


SEEN = ("name", "street", "city", "phone", "iban", "age", "size")


def searches(pk: Any) -> dict[str, tuple[int, dict[str, Callable[[], Awaitable[Any]]]]]:
    """Return for each workload how often it runs in a round, and its ways."""

    def ways(hand: Any, other: Callable[[Any], Any]) -> dict[str, Callable[[], Awaitable[Any]]]:
        return {"by hand": hand, "hidden": lambda: other(Hiding), "masked": lambda: other(Masking)}

    return {
        "filter + sort + limit 20": (
            SMALL,
            ways(
                lambda: ByHand.search([("age", ">", 20)], order="size", limit=20).only(*SEEN),
                lambda m: m.search([("age", ">", 20)], order="size", limit=20),
            ),
        ),
        f"{LARGE:,} records": (
            1,
            ways(lambda: ByHand.search().only(*SEEN), lambda m: m.search()),
        ),
        "one by id": (
            SMALL,
            ways(lambda: ByHand.search([("id", "=", pk)]).only(*SEEN), lambda m: m.get(pk)),
        ),
    }


async def main(uri: str) -> None:
    """Measure, and print the lowest figures."""
    database = f"bench_{uuid.uuid4().hex[:8]}"
    async with earnorm.App(uri, database=database, plugins=["security"]) as app:
        text = {"name": "n" * 12, "street": "s" * 20, "city": "c" * 10, "phone": "p" * 12}
        with system(reason="fill"):
            pks = await ByHand.create_many(
                [
                    {
                        **text,
                        "iban": f"DE{n:020}",
                        "age": n % 90,
                        "size": n,
                        "level": 1,
                        "salary": n,
                    }
                    for n in range(LARGE)
                ]
            )
        del pks
        first = await ByHand.search(order="size").first()
        assert first is not None
        with act_as(Principal("carl", ["clerk"])):
            for name, (times, ways) in searches(first.pk).items():
                taken = await lowest(ways, times, ROUNDS)
                hand = taken["by hand"]
                print(
                    f"{name}, by hand: {hand.clock * 1e6:.0f} µs, of the processor {hand.busy * 1e6:.0f}"
                )
                for way in ("hidden", "masked"):
                    print(
                        f"  {way}: {taken[way].clock / hand.clock:.2f} ×, "
                        f"of the processor {taken[way].busy / hand.busy:.2f} ×"
                    )
        await app.dangerous_raw("the benchmark is over").client.drop_database(database)


if __name__ == "__main__":
    run(main, "field_rights")
