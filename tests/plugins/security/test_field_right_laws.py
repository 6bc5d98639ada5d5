"""Non-interference: two databases that differ in hidden values only give the same answers.

Random calls of a principal run on both: rows, orders, counts, errors with their texts, and numbers of
queries are equal. With the guards switched off, or for who may read the fields, they are not.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from earnorm import (
    App,
    Count,
    EarnORMError,
    Inc,
    Max,
    Min,
    NotFound,
    Principal,
    Sum,
    act_as,
    depends,
    models,
    system,
)
from earnorm.fields import Int, Many2one, String
from earnorm.testing import count_queries
from earnorm_security import FieldRights, last
from earnorm_security.field_rights import FieldPolicy, FieldView
from tests.plugins.security.generated import examples

HR = ["hr"]


class Unit(models.BaseModel):
    _name = "fieldlaw.unit"
    _field_rights = [FieldRights("plan", read=HR)]
    title = String()
    plan = Int()


class Case(models.BaseModel):
    _name = "fieldlaw.case"
    _field_rights = [
        FieldRights("pay", read=HR),
        FieldRights("code", read=HR, mask=last(2)),
        FieldRights("wish", read=HR, write=["*"]),
    ]
    name = String(required=True, unique=True)
    size = Int(default=0)
    pay = Int(default=0, db_name="p", max_value=9)
    code = String()
    wish = Int(max_value=9)
    unit_id = Many2one(Unit)
    double = Int(compute="_double", store=True)
    shown = Int(compute="_double")
    unit_plan = Int(related="unit_id.plan", store=True)

    @depends("pay")
    def _double(self) -> int:
        return 2 * (self.pay or 0)


CLERK = Principal("carl", roles=["clerk"])
IDS = [ObjectId(f"{number:024x}") for number in range(1, 5)]
UNITS = [ObjectId(f"{number:024x}") for number in range(101, 103)]
FIELDS = (
    *("name", "size", "pay", "code", "wish", "unit_id", "double", "shown", "unit_plan"),
    *("unit_id.plan", "unit_id.title", "unknown"),
)
NEW_ID = re.compile(r"ObjectId\('[^0]\w+'\)")
NUMBERS = st.none() | st.integers(0, 9)

hidden = st.fixed_dictionaries(
    {
        "p": NUMBERS,
        "wish": NUMBERS,
        "code": st.none() | st.sampled_from(["1234", "5634", "9934"]),
        "double": NUMBERS,
        "unit_plan": NUMBERS,
    }
)
WORLDS = st.tuples(
    st.lists(st.tuples(st.integers(0, 3), hidden, hidden), min_size=1, max_size=4),
    st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=2),
)
VALUES = NUMBERS | st.sampled_from(["a", "1234", "**"])
CONDITIONS = st.tuples(
    st.sampled_from(FIELDS), st.sampled_from(["=", "!=", "<", ">=", "in", "ilike"]), VALUES
).map(lambda c: (c[0], c[1], [c[2]] if c[1] == "in" else c[2]))
DOMAINS = st.one_of(
    st.just([]),
    st.lists(CONDITIONS, min_size=1, max_size=2),
    st.tuples(CONDITIONS, CONDITIONS).map(lambda p: ["|", *p]),
    st.tuples(CONDITIONS).map(lambda p: ["!", *p]),
)
ORDERS = st.none() | st.sampled_from([f"{sign}{name}" for sign in ("", "-") for name in FIELDS])
NAMES = st.lists(st.sampled_from(FIELDS), min_size=1, max_size=2, unique=True)
AGGREGATES = st.tuples(st.sampled_from([Sum, Min, Max]), st.sampled_from(FIELDS))
SETS = st.integers(0, 12) | st.just(Inc(1))
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["n1", "n9"]),
        "size": SETS,
        "wish": SETS,
        "unit_id": st.sampled_from(UNITS),
    },
).flatmap(
    lambda row: st.one_of(
        st.just(row or {"size": 2}),
        st.just(row or {"wish": 3}),
        st.builds(lambda pay: {**row, "pay": pay}, SETS),
        st.builds(lambda code: {**row, "code": code}, st.sampled_from(["**34", "a long code"])),
    )
)
STAGES = st.one_of(
    st.builds(lambda n, v: {"$match": {n: v}}, st.sampled_from(["p", "code", "size"]), NUMBERS),
    st.builds(lambda n: {"$sort": {n: 1}}, st.sampled_from(["p", "code", "wish", "double"])),
    st.builds(lambda n: {"$set": {"seen": f"${n}"}}, st.sampled_from(["p", "code", "unit_plan"])),
    st.builds(
        lambda n: {"$group": {"_id": f"${n}", "n": {"$sum": 1}}}, st.sampled_from(["p", "wish"])
    ),
    st.just({"$project": {"x": {"$divide": [1, {"$ifNull": ["$p", 1]}]}}}),
    st.just(
        {
            "$lookup": {
                "from": Unit._name,
                "localField": "unit_id",
                "foreignField": "_id",
                "as": "unit",
            }
        }
    ),
)


def row(record: Case) -> dict[str, Any]:
    values = record.to_dict(exclude=["id"])
    for name in Case._fields:
        try:
            values[f"read {name}"] = str(getattr(record, name))
        except EarnORMError as error:
            values[f"read {name}"] = f"{type(error).__name__}: {error}"
    return {name: value for name, value in values.items() if name != "read _id"}


async def rows(found: Any) -> list[dict[str, Any]]:
    return [row(record) for record in await found]


async def held(change: Callable[[Case], Awaitable[object]]) -> list[dict[str, Any]]:
    """Change the first record, and return what it shows then."""
    record = await Case.search(order="name").first()
    if record is None:
        raise NotFound("there is no record")
    await change(record)
    return [row(record), row(await Case.get(record.id))]


async def assigned(record: Case, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(record, name, value)
    await record.save()


def listed(found: Any) -> Any:
    return sorted(map(repr, found))


CALLS: st.SearchStrategy[tuple[str, Callable[[], Awaitable[Any]]]] = st.one_of(
    st.builds(
        lambda d, o: (f"search {d} {o}", lambda: rows(Case.search(d, order=o))), DOMAINS, ORDERS
    ),
    st.builds(lambda d: (f"count {d}", lambda: Case.search(d).count()), DOMAINS),
    st.builds(lambda n: (f"only {n}", lambda: rows(Case.search(order="name").only(*n))), NAMES),
    st.builds(
        lambda o, d: (f"page {o} {d}", lambda: rows_of_page(o, d)), ORDERS, st.sampled_from([1, 2])
    ),
    st.builds(
        lambda n, a: (
            f"group {n} {a}",
            lambda: sorted_rows(Case.search().group(n, x=a[0](a[1]), y=Count())),
        ),
        st.sampled_from(FIELDS),
        AGGREGATES,
    ),
    st.builds(
        lambda s: (f"pipeline {s}", lambda: sorted_rows(Case.search().aggregate(s))),
        st.lists(STAGES, min_size=1, max_size=2),
    ),
    st.builds(lambda v: (f"write {v}", lambda: held(lambda r: r.write(v))), ROWS),
    st.builds(lambda v: (f"save {v}", lambda: held(lambda r: assigned(r, v))), ROWS),
    st.builds(lambda n: (f"refresh {n}", lambda: held(lambda r: r.refresh(*n))), NAMES),
    st.builds(lambda v: (f"create {v}", lambda: made(Case.create({"name": "new", **v}))), ROWS),
    st.builds(lambda v: (f"upsert {v}", lambda: upserted({"name": "n1", **v})), ROWS),
    st.builds(lambda d, v: (f"update {d} {v}", lambda: Case.search(d).update(v)), DOMAINS, ROWS),
    st.builds(lambda d: (f"delete {d}", lambda: Case.search(d).delete()), DOMAINS),
    st.just(("copy", lambda: copied())),
    st.just(("units", lambda: units())),
)


async def made(creation: Awaitable[Case]) -> Any:
    return row(await creation)


async def upserted(values: dict[str, Any]) -> Any:
    record, is_new = await Case.upsert(values, on="name")
    return row(record), is_new


async def copied() -> Any:
    record = await Case.search(order="name").first()
    if record is None:
        raise NotFound("there is no record")
    return row(await record.copy({"name": "copy"}))


async def units() -> Any:
    found = await Case.search(order="name").prefetch("unit_id")
    return [case.unit_id and case.unit_id.to_dict() for case in found]


async def rows_of_page(order: str | None, size: int) -> Any:
    page = await Case.search(order=order).paginate(size)
    shown = [row(record) for record in page.records]
    return shown, page.next if all(record.pk in IDS for record in page.records) else "new"


async def sorted_rows(found: Awaitable[Any]) -> Any:
    return sorted(map(repr, await found))


async def filled(app: App, cases: list[Any], plans: list[Any]) -> None:
    raw = app.dangerous_raw("to store what the law begins with")
    for model in (Case, Unit):
        await raw[model._collection].delete_many({})
    await raw[Unit._collection].insert_many(
        [{"_id": pk, "title": "t", "plan": plan} for pk, plan in zip(UNITS, plans, strict=True)]
    )
    await raw[Case._collection].insert_many(
        [
            {"_id": pk, "name": f"n{n}", "size": size, "unit_id": UNITS[size % 2], **secrets}
            for n, (pk, (size, secrets)) in enumerate(zip(IDS, cases, strict=False))
        ]
    )


async def answers(app: App, calls: list[Any], principal: Principal) -> list[Any]:
    told: list[Any] = []
    with app.activate(), act_as(principal):
        for name, call in calls:
            with count_queries(app=app) as queries:
                try:
                    answer = NEW_ID.sub("new", repr(await call()))
                except EarnORMError as error:
                    answer = f"{type(error).__name__}: {error} {getattr(error, 'errors', list)()}"
                told.append((name, answer, len(queries)))
    return told


async def both(opened: Any, world: Any, calls: list[Any], principal: Principal) -> list[list[Any]]:
    cases, plans = world
    results = []
    for app, number in zip(opened, (0, 1), strict=True):
        await filled(app, [(c[0], _aligned(c)[number]) for c in cases], [p[number] for p in plans])
        results.append(await answers(app, calls, principal))
    return results


def _aligned(case: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return hidden values of a case in both worlds; the part that a mask shows is the same."""
    first, second = case[1], dict(case[2])
    if first["code"] is None or second["code"] is None:
        second["code"] = first["code"]
    return first, second


@pytest.mark.fuzz
def test_hidden_values_interfere_with_nothing(opened) -> None:
    seen: set[str] = set()
    runner = asyncio.Runner()
    loop_run = runner.run

    @settings(deadline=None, max_examples=examples(100), phases=(Phase.explicit, Phase.generate))
    @given(WORLDS, st.lists(CALLS, min_size=1, max_size=6))
    def law(world: Any, calls: list[Any]) -> None:
        one, two = loop_run(both(pair, world, calls, CLERK))
        assert one == two
        for name, answer, _ in one:
            kind = (
                answer.partition(":")[0]
                if "Error" in answer[:30] or "Denied" in answer[:30]
                else "ok"
            )
            seen.add(f"{name.partition(' ')[0]} {kind}")

    async def begin() -> Any:
        contexts = [opened(), opened()]
        entered = [await context.__aenter__() for context in contexts]
        for app in entered:
            with app.activate(), system(reason="set-up"):
                await Case.create({"name": "indexes"})
        for _ in range(2):  # what an App asks its server once is asked here
            await both(entered, WORLD, FIXED, CLERK)
        return contexts, entered

    async def end(contexts: list[Any]) -> None:
        for context in reversed(contexts):
            await context.__aexit__(None, None, None)

    contexts, pair = loop_run(begin())
    try:
        law()
    finally:
        loop_run(end(contexts))
        runner.close()
    assert {"search ok", "search AccessDenied", "write AccessDenied"} <= seen
    assert {"write ok", "save ok", "update ok", "create ok"} & seen


FIXED: list[tuple[str, Callable[[], Awaitable[Any]]]] = [
    ("search", lambda: rows(Case.search(order="name"))),
    ("filter", lambda: Case.search([("pay", "=", 3)]).count()),
    ("order", lambda: rows(Case.search(order="pay").only("name"))),
    ("group", lambda: sorted_rows(Case.search().group("name", x=Sum("pay")))),
    ("pipeline", lambda: sorted_rows(Case.search().aggregate([{"$match": {"p": 3}}]))),
    ("across", lambda: Case.search([("unit_id.plan", "=", 3)]).count()),
    ("update", lambda: Case.search([("double", "=", 6)]).update({"size": 1})),
    ("command", lambda: Case.search().update({"wish": Inc(1)})),
    ("refresh", lambda: held(lambda r: r.refresh("pay"))),
    ("copy", lambda: copied()),
]
WORLD = (
    [
        (1, {"p": 3, "wish": 9, "code": "1234", "double": 6}, {"p": 4, "wish": 1, "code": "9934"}),
        (2, {"p": 1, "wish": 1, "code": "1234"}, {"p": 0, "wish": 2, "code": "1234", "double": 5}),
        (1, {"p": 8, "wish": 2, "code": "5634"}, {"p": 0, "wish": 2, "code": "1234"}),
    ],
    [(3, 4), (5, 3)],
)


async def test_the_law_is_not_vacuous(opened, monkeypatch) -> None:
    """For who may read the fields, and without each guard, the same calls tell the worlds apart."""

    def unlike(results: list[list[Any]]) -> set[str]:
        return {one[0] for one, two in zip(*results, strict=True) if one != two}

    async with opened() as one, opened() as two:
        pair = (one, two)
        for app in pair:
            with app.activate(), system(reason="set-up"):
                await Case.create({"name": "indexes"})
        assert unlike(await both(pair, WORLD, FIXED, CLERK)) == set()
        as_hr = unlike(await both(pair, WORLD, FIXED, Principal("h", HR)))
        assert as_hr == {name for name, _ in FIXED} - {"copy"} | ({"copy"} & as_hr)
        real = FieldPolicy._view
        for right, told in (
            ("read", {"search", "refresh", "copy", "command"}),
            ("filter", {"filter", "across", "update"}),
            ("order", {"order"}),
            ("aggregate", {"group"}),
        ):

            def without(self: FieldPolicy, roles: frozenset[str], right: Any = right) -> FieldView:
                view = real(self, roles)
                lacking = {**view.lacking, right: frozenset[str]()}
                return FieldView(self.fields, lacking, {} if right == "read" else view.masks)

            monkeypatch.setattr(FieldPolicy, "_view", without)
            for app in pair:
                app.services["security"].fields.forget()
                for model in (Case, Unit):
                    bound = app.bind(app.model(model._name))
                    policy = app.services["security"].policy(bound.model).fields
                    policy._views.clear()
            assert unlike(await both(pair, WORLD, FIXED, CLERK)) & told, right
