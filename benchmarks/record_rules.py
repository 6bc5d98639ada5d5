"""``python -m benchmarks.record_rules``: searches under two rules against the same conditions by hand, in the same run.

By hand is a search of the same collection by a model without rules, whose domain has the conditions of both rules, in the
same App and of the same principal. The other figures are rules with variables, rules that are functions, and both with the
rights of roles. Rounds take turns; the lowest of each is printed, by the clock and by the processor's time, which other
programs on the machine disturb less; and the calls of Python functions, which nothing disturbs.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import earnorm
from benchmarks.in_turns import Work, lowest, run
from earnorm import BaseModel, Env, Int, Principal, String, act_as, system
from earnorm_security import Access, Rule, context, user

ROUNDS, SMALL, LARGE = 25, 80, 10_000


class ByHand(BaseModel):
    """Ten fields, and no rules."""

    _name = "benchmarks.ruled_by_hand"
    _collection = "benchmark_orders"
    _indexes = [{"tenant": 1, "seller": 1}, {"size": 1}]
    name = String()
    street = String()
    city = String()
    phone = String()
    tenant = String()
    seller = String()
    state = String()
    age = Int()
    size = Int()


class Variables(ByHand):
    """The same documents under two rules with variables."""

    _name = "benchmarks.ruled_by_variables"
    _collection = "benchmark_orders"
    _access = [Access("*", read=True)]
    _rules = [
        Rule("tenant", [("tenant", "=", context.tenant)]),
        Rule("own or open", ["|", ("seller", "=", user.id), ("state", "=", "open")]),
    ]


def _own(env: Env) -> list[Any]:
    assert env.principal is not None
    return ["|", ("seller", "=", env.principal.id), ("state", "=", "open")]


class Functions(ByHand):
    """The same documents under two rules that are functions."""

    _name = "benchmarks.ruled_by_functions"
    _collection = "benchmark_orders"
    _access = [Access("*", read=True)]
    _rules = [
        Rule("tenant", lambda env: [("tenant", "=", env.context["tenant"])]),
        Rule("own or open", _own),
    ]


class Roles(ByHand):
    """The same documents under two rules, rights and permissions of roles."""

    _name = "benchmarks.ruled_by_roles"
    _collection = "benchmark_orders"
    _access = [Access("clerk", read=True)]
    _rules = [
        Rule("tenant", [("tenant", "=", context.tenant)]),
        Rule(
            "own or open", ["|", ("seller", "=", user.id), ("state", "=", "open")], roles=["clerk"]
        ),
        Rule("all", [], roles=["chief"]),
    ]


MODELS: dict[str, Any] = {"variables": Variables, "functions": Functions, "roles": Roles}
HAND = ["&", ("tenant", "=", "a"), "|", ("seller", "=", "carl"), ("state", "=", "open")]


def searches(pk: Any) -> dict[str, tuple[int, Callable[[Any, list[Any]], Awaitable[Any]]]]:
    """Return for each workload how often it runs in a round, and how it is asked."""
    return {
        "filter + sort + limit 20": (
            SMALL,
            lambda m, d: m.search([("age", ">", 20), *d], order="size", limit=20),
        ),
        f"{LARGE:,} records": (1, lambda m, d: m.search(d)),
        "one by id": (SMALL, lambda m, d: m.search([("id", "=", pk), *d])),
        "count": (SMALL, lambda m, d: m.count([("age", ">", 20), *d])),
    }


async def _calls(search: Work) -> int:
    """Return the number of calls of Python functions that a search makes."""
    number = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal number
        number += event == "call"

    sys.setprofile(note)
    try:
        await search()
    finally:
        sys.setprofile(None)
    return number


async def main(uri: str) -> None:
    """Measure, and print the lowest figures."""
    database = f"bench_{uuid.uuid4().hex[:8]}"
    async with earnorm.App(uri, database=database, plugins=["security"]) as app:
        text = {"name": "n" * 12, "street": "s" * 20, "city": "c" * 10, "phone": "p" * 12}
        with system(reason="fill"):
            await ByHand.create_many(
                [
                    {
                        **text,
                        "tenant": "a",
                        "seller": "carl" if n % 2 else "ann",
                        "state": "open",
                        "age": n % 90,
                        "size": n,
                    }
                    for n in range(LARGE)
                ]
            )
            first = await ByHand.search(order="size").first()
        assert first is not None
        with act_as(Principal("carl", ["clerk"]), tenant="a"):
            for name, (times, ask) in searches(first.pk).items():
                ways: dict[str, Work] = {"by hand": lambda ask=ask: ask(ByHand, HAND)}
                for way, model in MODELS.items():
                    ways[way] = lambda ask=ask, model=model: ask(model, [])
                await _measure(name, times, ways)
        await app.dangerous_raw("the benchmark is over").client.drop_database(database)


async def _measure(name: str, times: int, ways: dict[str, Work]) -> None:
    taken = await lowest(ways, times, ROUNDS)
    calls = {way: await _calls(search) for way, search in ways.items()}
    hand = taken["by hand"]
    print(
        f"{name}, by hand: {hand.clock * 1e6:.0f} µs, of the processor {hand.busy * 1e6:.0f}, "
        f"{calls['by hand']} calls"
    )
    for way in MODELS:
        print(
            f"  {way}: {taken[way].clock / hand.clock:.2f} ×, of the processor "
            f"{taken[way].busy / hand.busy:.2f} ×, {calls[way] - calls['by hand']:+} calls"
        )


if __name__ == "__main__":
    run(main, "record_rules")
