"""The laws of links and computed values under rules, against a small reference, on a real server.

Whatever a limited principal does: no stored record violates the rules that it was stored under, no
link to a hidden record is stored, and nothing that is allowed is refused.
"""

from __future__ import annotations

import asyncio
import copy
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from bson import ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st

from earnorm import (
    AccessDenied,
    App,
    Command,
    Domain,
    Inc,
    Int,
    Many2many,
    Many2one,
    NotFound,
    Principal,
    String,
    ValidationError,
    act_as,
    depends,
    models,
    system,
)
from earnorm_security import Rule
from tests.plugins.security.generated import examples

EVE = Principal("eve")
TARGETS = [ObjectId(f"65b0000000000000000000{n:02x}") for n in range(4)]
MISSING = ObjectId("65b0000000000000000000ff")
ITEMS = [ObjectId(f"65c0000000000000000000{n:02x}") for n in range(3)]


def given_by(name: str) -> Callable[[Any], Any]:
    return lambda env: env.context[name]


class Target(models.BaseModel):
    _name = "link_laws.target"
    _rules = [Rule("read", given_by("targets"))]
    owner = String()
    color = String()


class Item(models.BaseModel):
    _name = "link_laws.item"
    _rules = [
        Rule("read", given_by("read"), operations=["read"]),
        Rule("change", given_by("change"), operations=["write", "create", "unlink"]),
    ]
    owner = String()
    label = String()
    n = Int(default=0)
    target_id = Many2one(Target)
    target_ids = Many2many(Target)
    color = String(related="target_id.color", store=True, recompute="now")
    grade = String(compute="_grade", store=True, recompute="now")

    @depends("label", "n", "target_id.owner")
    def _grade(self) -> str:
        return grade(self.label, self.n, self.target_id.owner if self.target_id else None)


def grade(label: str | None, n: int | None, owner: str | None) -> str:
    return "top" if label == "T" or (n or 0) > 5 or (owner == "ann" and n == 3) else "low"


# -- the reference: plain Python over dicts ---------------------------------------------------------

Row = dict[str, Any]


class World:
    """The documents of both models, by id."""

    def __init__(self, targets: dict[Any, Row], items: dict[Any, Row]) -> None:
        self.targets, self.items = targets, items
        for item in items.values():
            self.compute(item)

    def compute(self, item: Row) -> Row:
        target = self.targets.get(item["target_id"], {})
        item["color"] = target.get("color")
        item["grade"] = grade(item["label"], item["n"], target.get("owner"))
        return item


class Check(NamedTuple):
    """A condition, as a domain and as a function."""

    domain: Domain
    holds: Callable[[Row, World], bool]

    def __and__(self, other: Check) -> Check:
        return Check(
            self.domain & other.domain, lambda r, w: self.holds(r, w) and other.holds(r, w)
        )

    def __or__(self, other: Check) -> Check:
        return Check(self.domain | other.domain, lambda r, w: self.holds(r, w) or other.holds(r, w))

    def __invert__(self) -> Check:
        return Check(~self.domain, lambda r, w: not self.holds(r, w))


def owner_of(pk: Any, world: World) -> str | None:
    return world.targets.get(pk, {}).get("owner")


SIMPLE = [
    Check(Domain([("owner", "=", "eve")]), lambda r, w: r["owner"] == "eve"),
    Check(Domain([("label", "!=", "x")]), lambda r, w: r["label"] != "x"),
    Check(Domain([("grade", "!=", "top")]), lambda r, w: r["grade"] != "top"),
    Check(Domain([("color", "=", "red")]), lambda r, w: r["color"] == "red"),
    Check(
        Domain([("target_id.owner", "=", "eve")]),
        lambda r, w: owner_of(r["target_id"], w) == "eve",
    ),
    Check(
        Domain([("target_ids", "not any", [("owner", "=", "ann")])]),
        lambda r, w: all(owner_of(pk, w) != "ann" for pk in r["target_ids"]),
    ),
]
ALL = Check(Domain.TRUE, lambda r, w: True)
TESTS = st.sampled_from(SIMPLE) | st.sampled_from(SIMPLE).map(lambda test: ~test)
RULES = (
    TESTS
    | st.tuples(TESTS, TESTS).map(lambda two: two[0] & two[1])
    | st.tuples(TESTS, TESTS).map(lambda two: two[0] | two[1])
)
TARGET_RULES = st.sampled_from(
    [
        Check(Domain.FALSE, lambda r, w: False),
        ALL,
        Check(Domain([("owner", "=", "eve")]), lambda r, w: r["owner"] == "eve"),
        Check(Domain([("color", "=", "red")]), lambda r, w: r["color"] == "red"),
    ]
)
LINKS = st.none() | st.sampled_from([*TARGETS, *TARGETS, MISSING])
OWNERS, LABELS = st.sampled_from(["eve", "ann"]), st.sampled_from(["T", "x", "y", None])
NUMBERS = st.integers(0, 7)
LISTS = st.lists(st.sampled_from([*TARGETS, *TARGETS, MISSING]), max_size=2, unique=True)
PLAIN = {"owner": OWNERS, "label": LABELS, "n": NUMBERS, "target_id": LINKS, "target_ids": LISTS}
TARGET_ROWS = st.lists(
    st.fixed_dictionaries({"owner": OWNERS, "color": st.sampled_from(["red", "blue"])}),
    min_size=4,
    max_size=4,
)
ITEM_ROWS = st.lists(st.fixed_dictionaries(PLAIN), min_size=3, max_size=3)
GIVEN = {**PLAIN, "n": NUMBERS | st.integers(-2, 4).map(Inc)}
LINKING = ("target_id", "target_ids")
VALUES = st.lists(
    st.sampled_from([*GIVEN, *LINKING, *LINKING]), min_size=1, max_size=3, unique=True
).flatmap(lambda names: st.fixed_dictionaries({name: GIVEN[name] for name in names}))
NUMBER = st.integers(0, 2)
KINDS = [*("write", "save", "update", "many", "bulk") * 3, "create", "create", "link", "link"]


def call_of(kind: str, number: int, values: Row, new: Row, link: Any, other: Row) -> Any:
    """Return a call: its kind, the number of its record, and what it hands in."""
    what = {"create": new, "link": link, "others": other, "unlink": None, "delete": None}
    return kind, number, what.get(kind, values)


CALLS = st.builds(
    call_of,
    st.sampled_from([*KINDS, "others", "unlink", "delete"]),
    NUMBER,
    VALUES,
    st.fixed_dictionaries(PLAIN),
    st.sampled_from([*TARGETS, MISSING]),
    TARGET_ROWS.map(lambda rows: rows[0]),
)


class Rules(NamedTuple):
    targets: Check
    read: Check
    change: Check


def after(row: Row, values: Row, world: World) -> Row:
    new = copy.deepcopy(row)
    for name, value in values.items():
        new[name] = new[name] + value.amount if isinstance(value, Inc) else copy.copy(value)
    return world.compute(new)


def links(row: Row | None, name: str) -> list[Any]:
    """Return the ids that a row has in a field."""
    value = None if row is None else row.get(name)
    return value if isinstance(value, list) else [] if value is None else [value]


def lacks_a_target(before: Row | None, values: Row, rules: Rules, world: World) -> bool:
    """Return whether a link is handed in that the record does not have, to what Eve cannot see."""
    if rules.targets is ALL:
        return False
    for name in ("target_id", "target_ids"):
        for pk in links(values, name):
            target = world.targets.get(pk)
            is_seen = target is not None and rules.targets.holds(target, world)
            if not is_seen and pk not in links(before, name):
                return True
    return False


def chosen(number: int, rules: Rules, world: World) -> Any:
    """Return the id of the record that a call is about: mostly of one that Eve sees."""
    seen = [pk for pk, row in world.items.items() if rules.read.holds(row, world)]
    return [*seen, *ITEMS][number % 3]


def expected(call: Any, rules: Rules, world: World, new_id: Any) -> tuple[str, World]:
    """Return what a call answers, and the world after it."""
    kind, number, values = call
    one = chosen(number, rules, world)
    world = copy.deepcopy(world)
    if kind == "others":
        world.targets[TARGETS[number]] = {"_id": TARGETS[number], **values}
        for item in world.items.values():
            world.compute(item)
        return "done", world
    if kind == "create":
        row = world.compute({"_id": new_id, **copy.deepcopy(values)})
        if lacks_a_target(None, values, rules, world):
            return "link", world
        if not rules.change.holds(row, world):
            return "rule", world
        world.items[new_id] = row
        return "done", world
    seen = {pk: row for pk, row in world.items.items() if rules.read.holds(row, world)}
    if kind not in ("update", "delete"):
        seen = {pk: row for pk, row in seen.items() if pk == one}
        if not seen:
            return "hidden", world
    if any(not rules.change.holds(row, world) for row in seen.values()):
        return "rule", world
    for pk, row in seen.items():
        if kind in ("unlink", "delete"):
            del world.items[pk]
            continue
        given = values
        if kind == "link":
            given = {"target_ids": [*row["target_ids"], values]}
            given["target_ids"] = list(dict.fromkeys(given["target_ids"]))
        world.items[pk] = after(row, given, world)
        if lacks_a_target(row, given, rules, world):
            return "link", world
    for pk in seen:
        if pk in world.items and not rules.change.holds(world.items[pk], world):
            return "rule", world
    return "done", world


# -- the same on the server -----------------------------------------------------------------------


async def act(call: Any, pk: Any, new_id: Any) -> None:
    kind, number, values = call
    record = Item.browse([pk])[0]
    if kind == "others":
        with system(reason="somebody else"):
            await Target.browse([TARGETS[number]])[0].write(values)
    elif kind == "create":
        await Item.create({"_id": new_id, **values})
    elif kind == "update":
        await Item.search().update(values)
    elif kind == "delete":
        await Item.search().delete()
    elif kind == "unlink":
        if not await Item.search([("id", "=", record.id)]).delete():
            raise NotFound("hidden")
    elif kind == "link":
        await record.write({"target_ids": [Command.link(values)]})
    elif kind == "many":
        await Item.write_many({record.pk: values})
    elif kind == "bulk":
        async with Item.bulk() as bulk:
            bulk.write(record, values)
    elif kind == "save":
        await record.save(values)
    else:
        await record.write(values)


class Lab:
    """A started App, and what was seen."""

    def __init__(self, runner: asyncio.Runner, app: App) -> None:
        self.runner, self.app = runner, app
        self.raw = app.dangerous_raw("to fill it and look at it")
        self.seen: Counter[str] = Counter()

    async def fill(self, world: World) -> None:
        for model, rows in ((Target, world.targets), (Item, world.items)):
            await self.raw[model._collection].delete_many({})
            await self.raw[model._collection].insert_many(copy.deepcopy(list(rows.values())))

    async def stored(self) -> dict[Any, Row]:
        rows = await self.raw[Item._collection].find({}).to_list(None)
        names = ("_id", *PLAIN, "color", "grade")
        return {row["_id"]: {name: row.get(name) for name in names} for row in rows}

    async def check(self, rules: Rules, rows: Any, calls: Any) -> None:
        targets = {pk: {"_id": pk, **row} for pk, row in zip(TARGETS, rows[0], strict=True)}
        items = {pk: {"_id": pk, **row} for pk, row in zip(ITEMS, rows[1], strict=True)}
        world = World(targets, items)
        await self.fill(world)
        context = {name: test.domain for name, test in rules._asdict().items()}
        for call in calls:
            if call[2] == {} or not await self._is_known(call, rules, world):
                continue
            new_id, one = ObjectId(), chosen(call[1], rules, world)
            answer, after = expected(call, rules, copy.deepcopy(world), new_id)
            with act_as(EVE, **context):
                try:
                    await act(call, one, new_id)
                    heard = "done"
                except AccessDenied:
                    heard = "rule"
                except NotFound:
                    heard = "hidden"
                except ValidationError as error:
                    assert {p["type"] for p in error.errors()} == {"no_such_record"}
                    heard = "link"
            # A command looks for its records before anything else, so either may come first.
            told = {answer, heard} if call[0] == "link" else {answer}
            assert (heard == "done") == (answer == "done"), (call, heard, answer)
            assert heard in told or {heard, answer} <= {"rule", "link"}, (call, heard, answer)
            if answer == "done":
                world = after
            assert await self.stored() == world.items, (call, heard)
            self.seen[f"{call[0]} {heard}"] += 1

    async def _is_known(self, call: Any, rules: Rules, world: World) -> bool:
        """Return whether rules can judge the call: not an added link where they read that list."""
        return call[0] != "link" or "target_ids" not in str(rules.change.domain)


@pytest.fixture(scope="module")
def lab(opened) -> Iterator[Lab]:
    with asyncio.Runner() as runner:
        opening = opened()
        app = runner.run(opening.__aenter__())
        with app.activate():
            yield Lab(runner, app)
        runner.run(opening.__aexit__(None, None, None))


@pytest.mark.fuzz
def test_nothing_is_stored_against_a_rule_or_linked_unseen_and_nothing_rightful_refused(lab):
    @settings(deadline=None, max_examples=examples(80))
    @given(
        st.builds(Rules, TARGET_RULES, st.just(ALL) | RULES, st.just(ALL) | RULES),
        st.tuples(TARGET_ROWS, ITEM_ROWS),
        st.lists(CALLS, min_size=8, max_size=8),
    )
    def law(rules, rows, calls):
        lab.runner.run(lab.check(rules, rows, calls))

    law()
    answers: Counter[str] = Counter()
    for kind_and_answer, number in lab.seen.items():
        answers[kind_and_answer.split()[1]] += number
    least = {"done": 50, "rule": 25, "link": 10, "hidden": 10}
    assert all(answers[answer] >= number for answer, number in least.items()), answers
    assert {
        f"{kind} done" for kind in ("write", "save", "update", "many", "bulk")
    } <= lab.seen.keys()
