"""The laws of tenants, on a real server.

Two databases that differ only in what other tenants have give the same answers, errors and numbers to
whatever one does in his own. And no sequence of calls by somebody of several tenants, or by the
system, leaves a link from one tenant to another: each call is allowed or refused as an oracle of a few
lines says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st

import earnorm
from earnorm import (
    App,
    EarnORMError,
    Int,
    Many2many,
    Many2one,
    Principal,
    Reference,
    Sequence,
    String,
    Sum,
    ValidationError,
    act_as,
    models,
    system,
)
from tests.plugins.security.generated import examples

from .conftest import Opener

A, B, C = (ObjectId(f"{'0' * 23}{letter}") for letter in "abc")
ANN = Principal("ann", attributes={"company_id": A})
EVE = Principal("eve", attributes={"company_id": A, "company_ids": [A, B]})


class Client(models.BaseModel):
    _name = "tlaws.client"
    _tenant_field = "company_id"
    company_id = Many2one("tlaws.company")
    name = String(default="")
    code = String(unique=True)
    parent_id = Many2one("tlaws.client")


class Deal(models.BaseModel):
    _name = "tlaws.deal"
    _tenant_field = "company_id"
    company_id = Many2one("tlaws.company", db_name="c")
    number = Sequence("{number}", unique=True)
    client_id = Many2one(Client, db_name="cl")
    others = Many2many(Client)
    about = Reference(Client, "tlaws.label")
    amount = Int(default=0)
    client_name = String(related="client_id.name", store=True)


class Label(models.BaseModel):
    _name = "tlaws.label"
    _tenant_field = "company_id"
    _tenant_shared = True
    company_id = Many2one("tlaws.company")
    name = String(unique=True)


class Company(models.BaseModel):
    _name = "tlaws.company"
    name = String()


class World:
    """One App on one loop, refilled for every example."""

    def __init__(self, runner: asyncio.Runner, app: App) -> None:
        self._runner, self.app = runner, app
        self._raw = app.dangerous_raw("to fill the database itself")

    def run(self, work: Callable[[], Any]) -> Any:
        async def inside() -> Any:
            with self.app.activate():
                return await work()

        return self._runner.run(inside())

    async def fill(self, documents: dict[str, list[dict[str, Any]]]) -> None:
        for name in ("tlaws_client", "tlaws_deal", "tlaws_label", "earnorm_sequence"):
            await self._raw[name].delete_many({})
            if documents.get(name):
                await self._raw[name].insert_many([dict(row) for row in documents[name]])

    async def stored(self, name: str, key: str, tenant: Any) -> list[dict[str, Any]]:
        return await self._raw[name].find({key: tenant}).to_list()


@pytest.fixture(scope="module")
def world(opened: Opener) -> Iterator[World]:
    with asyncio.Runner() as runner:
        context = opened()
        app = runner.run(context.__aenter__())
        world = World(runner, app)

        async def prepare() -> None:
            with system(reason="the indexes"):
                for model in (Client, Deal, Label):
                    await model.count()

        world.run(prepare)
        try:
            yield world
        finally:
            # Its token belongs to the context of another run.
            app._token = None
            runner.run(context.__aexit__(None, None, None))


def oid(number: int) -> ObjectId:
    return ObjectId(f"{number:024d}")


OWN, HIDDEN = range(1, 4), range(11, 15)
CODES = st.none() | st.sampled_from(["1", "2", "3"])
NAMES = st.sampled_from(["x", "y", "z"])


def clients(numbers: range, tenant: ObjectId) -> st.SearchStrategy[list[dict[str, Any]]]:
    def built(values: list[tuple[str, str | None]]) -> list[dict[str, Any]]:
        rows: dict[Any, dict[str, Any]] = {}
        for number, (name, code) in zip(numbers, values, strict=False):
            row = {"_id": oid(number), "company_id": tenant, "name": name, "code": code}
            rows[code or number] = row  # each code once
        return list(rows.values())

    return st.lists(st.tuples(NAMES, CODES), max_size=len(numbers)).map(built)


def deals(first: int, tenant: ObjectId) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(st.integers(0, 9), max_size=3).map(
        lambda amounts: [
            {
                "_id": oid(first + n),
                "c": tenant,
                "number": str(n + 1),
                "amount": amount,
                "others": [],
            }
            for n, amount in enumerate(amounts)
        ]
    )


def labels(first: int, tenant: ObjectId | None) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.sets(NAMES, max_size=2).map(
        lambda names: [
            {"_id": oid(first + n), "company_id": tenant, "name": name}
            for n, name in enumerate(sorted(names))
        ]
    )


HIDDEN_DATA = st.fixed_dictionaries(
    {
        "tlaws_client": clients(HIDDEN, B),
        "tlaws_deal": deals(41, B),
        "tlaws_label": labels(61, B),
        "earnorm_sequence": st.integers(0, 30).map(
            lambda n: [
                {"_id": f"tlaws.deal.number{scope}", "value": n} for scope in ("", f"[{B}]") if n
            ]
        ),
    }
)
OWN_DATA = st.fixed_dictionaries(
    {
        "tlaws_client": clients(OWN, A),
        "tlaws_deal": deals(31, A),
        "tlaws_label": st.tuples(labels(71, None), labels(81, A)).map(
            lambda both: [*both[0], *both[1]]
        ),
        "earnorm_sequence": st.just([{"_id": f"tlaws.deal.number[{A}]", "value": 3}]),
    }
)

ANY_ID = st.sampled_from([*OWN, *HIDDEN, *range(41, 44), *range(61, 63), 71, 81, 99]).map(oid)
CONDITIONS = st.one_of(
    st.just([]),
    NAMES.map(lambda name: [("name", "=", name)]),
    CODES.map(lambda code: [("code", "!=", code)]),
    ANY_ID.map(lambda pk: ["|", ("id", "=", pk), ("parent_id.name", "=", "x")]),
    st.just([("company_id", "!=", None)]),
    st.just([("company_id", "in", [A, B, C])]),
)
CALLS = st.one_of(
    st.tuples(
        st.just("create"), NAMES, CODES, st.none() | ANY_ID, st.sampled_from([None, A, B, C])
    ),
    st.tuples(st.just("upsert"), NAMES, CODES.filter(bool)),
    st.tuples(st.just("upserts"), st.sets(CODES.filter(bool), min_size=1)),
    st.tuples(st.just("deal"), st.none() | ANY_ID, st.lists(ANY_ID, max_size=2)),
    st.tuples(st.just("relink"), ANY_ID),
    st.tuples(st.just("label"), NAMES),
    st.tuples(st.just("search"), CONDITIONS),
    st.tuples(st.just("group"), CONDITIONS),
    st.tuples(st.just("join"), CONDITIONS),
    st.tuples(st.just("update"), CONDITIONS, NAMES, CODES),
    st.tuples(st.just("move"), CONDITIONS, st.sampled_from([A, B, C])),
    st.tuples(st.just("delete"), CONDITIONS),
    st.tuples(st.just("get"), ANY_ID),
)


# What comes last in each example, so that each of these succeeds and is refused for certain.
LAST = [
    *(("create", "x", None, None, None), ("create", "x", None, None, B)),
    *(("deal", None, []), ("deal", oid(99), []), ("relink", None), ("relink", oid(99))),
    *(("label", "new"), ("label", "new"), ("create", "y", None, None, A)),
    *(("update", [("name", "=", "none")], "x", "9"), ("update", [], "x", "9")),
    *(("move", [], A), ("move", [], B), ("get", oid(99))),
]


def shown(records: Any) -> list[Any]:
    return sorted(
        (r.name, r.code or "", str(r.company_id.pk if r.company_id else "")) for r in records
    )


ERRORS = frozenset(
    {"AccessDenied", "DuplicateKey", "NotFound", "ValidationError", "BatchDuplicateKey"}
)


async def answer(call: tuple[Any, ...]) -> Any:
    """What one call tells who made it."""
    kind, *given = call
    try:
        match kind:
            case "create":
                name, code, parent, company = given
                values = {"name": name, "code": code, "parent_id": parent, "company_id": company}
                record = await Client.create({k: v for k, v in values.items() if v is not None})
                return shown([record])
            case "upsert":
                record, is_new = await Client.upsert({"name": given[0], "code": given[1]}, "code")
                return shown([record]), is_new
            case "upserts":
                found, created = await Client.upsert_many(
                    [{"code": c} for c in sorted(given[0])], "code"
                )
                return shown(found), created
            case "deal":
                deal = await Deal.create({"client_id": given[0], "others": given[1]})
                return deal.number, deal.client_name
            case "relink":
                return await Deal.search().update({"client_id": given[0]})
            case "label":
                await Label.create({"name": given[0]})
                return sorted((await Label.search()).mapped("name"))
            case "search":
                domain = given[0]
                found = await Client.search(domain)
                return (
                    shown(found),
                    await Client.count(domain),
                    await Client.search(domain).exists(),
                )
            case "group":
                rows = await Client.search(given[0]).group("name", number=earnorm.Count())
                deals = await Deal.search().group("client_name", total=Sum("amount"))
                return sorted(map(str, rows)), sorted(map(str, deals))
            case "join":
                lookup = {"from": "tlaws.client", "pipeline": [], "as": "all"}
                rows = await Deal.search().aggregate([{"$lookup": lookup}])
                return sorted(sorted(each["name"] for each in row["all"]) for row in rows)
            case "update":
                return await Client.search(given[0]).update({"name": given[1], "code": given[2]})
            case "move":
                return await Client.search(given[0]).update({"company_id": given[1]})
            case "delete":
                return await Client.search(given[0]).delete()
            case _:
                return shown([await Client.get(given[0])])
    except EarnORMError as error:
        details = error.errors() if isinstance(error, ValidationError) else ()
        return type(error).__name__, str(error), repr(details)


def both(own: dict[str, Any], hidden: dict[str, Any]) -> dict[str, Any]:
    return {name: [*own[name], *hidden[name]] for name in own}


@pytest.mark.fuzz
def test_what_other_tenants_have_cannot_be_told(world: World) -> None:
    kinds: set[tuple[str, bool]] = set()
    differing = 0

    @settings(deadline=None, max_examples=examples(50))
    @given(OWN_DATA, HIDDEN_DATA, HIDDEN_DATA, st.lists(CALLS, min_size=2, max_size=12))
    def law(own: Any, one: Any, other: Any, calls: list[Any]) -> None:
        async def check() -> None:
            nonlocal differing
            answers: list[list[Any]] = []
            stored: list[Any] = []
            for hidden in (one, other):
                await world.fill(both(own, hidden))
                with act_as(ANN):
                    answers.append([await answer(call) for call in (*calls, *LAST)])
                stored.append(
                    (
                        [len(await world.stored("tlaws_client", "company_id", A))],
                        sorted(row["number"] for row in await world.stored("tlaws_deal", "c", A)),
                    )
                )
                untouched = await world.stored("tlaws_client", "company_id", B)
                assert sorted(untouched, key=str) == sorted(hidden["tlaws_client"], key=str)
            assert answers[0] == answers[1]
            assert stored[0] == stored[1]
            for call, told in zip((*calls, *LAST), answers[0], strict=True):
                kinds.add((call[0], isinstance(told, tuple) and str(told[0]) in ERRORS))
            differing += one != other

        world.run(check)

    law()
    # The law is not empty: the hidden data differ, and calls succeed and are refused.
    assert differing > 10
    both_ways = ("create", "deal", "relink", "label", "update", "move")
    missing = {(kind, is_error) for kind in both_ways for is_error in (True, False)} - kinds
    assert not missing


# -- links ----------------------------------------------------------------------------------------

TENANT_OF = {1: A, 2: A, 3: B, 4: B, 5: C}
LABEL_OF = {21: A, 22: B, 23: None}
LINKS = st.fixed_dictionaries(
    {},
    optional={
        "client_id": st.none() | st.sampled_from(sorted(TENANT_OF)),
        "others": st.lists(st.sampled_from(sorted(TENANT_OF)), max_size=2),
        "about": st.none() | st.sampled_from([*sorted(TENANT_OF), *sorted(LABEL_OF)]),
    },
)
SYSTEM = "system"
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from([EVE, EVE, SYSTEM]),
        st.sampled_from(["create", "write", "update", "save"]),
        st.sampled_from([A, B]),
        LINKS,
    ),
    min_size=1,
    max_size=8,
)
MODEL_OF = {**dict.fromkeys(TENANT_OF, "tlaws.client"), **dict.fromkeys(LABEL_OF, "tlaws.label")}


def values_of(links: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, led in links.items():
        if name == "others":
            values[name] = [oid(number) for number in led]
        elif name == "about" and led is not None:
            values[name] = {"model": MODEL_OF[led], "id": oid(led)}
        else:
            values[name] = None if led is None else oid(led)
    return values


def tenants_of(links: dict[str, Any]) -> set[Any]:
    """The tenants that the links lead to."""
    numbers = [links.get("client_id"), links.get("about"), *links.get("others", ())]
    every = {**TENANT_OF, **LABEL_OF}
    return {every[number] for number in numbers if number is not None} - {None}


@contextmanager
def acting(who: Any) -> Iterator[None]:
    with system(reason="an import") if who is SYSTEM else act_as(who):
        yield


@pytest.mark.fuzz
def test_no_call_leaves_a_link_from_one_tenant_to_another(world: World) -> None:
    seen: set[tuple[str, bool]] = set()

    @settings(deadline=None, max_examples=examples(60))
    @given(ACTIONS)
    def law(actions: list[Any]) -> None:
        async def check() -> None:
            await world.fill(
                {
                    "tlaws_client": [
                        {"_id": oid(n), "company_id": t, "name": str(n)}
                        for n, t in TENANT_OF.items()
                    ],
                    "tlaws_label": [
                        {"_id": oid(n), "company_id": t, "name": str(n)}
                        for n, t in LABEL_OF.items()
                    ],
                }
            )
            with system(reason="one of each"):
                both = list(await Deal.create([{"company_id": A}, {"company_id": B}]))
            ids = {A: [both[0].id], B: [both[1].id]}
            for who, action, tenant, links in actions:
                values, led_to = values_of(links), tenants_of(links)
                concerned = {tenant} if action != "update" else {A, B}
                allowed = all(led_to <= {each} for each in concerned)
                with acting(who):
                    try:
                        if action == "create":
                            made = await Deal.create({"company_id": tenant, **values})
                            ids[tenant].append(made.id)
                        elif action == "write":
                            await (await Deal.get(ids[tenant][-1])).write(values)
                        elif action == "save":
                            deal = await Deal.get(ids[tenant][-1])
                            for name, value in values.items():
                                setattr(deal, name, value)
                            await deal.save()
                        else:
                            await Deal.search().update(values or {"amount": 1})
                        done = True
                    except ValidationError as error:
                        types = {detail["type"] for detail in error.errors()}
                        assert types <= {"other_tenant", "no_such_record"}, error
                        done = False
                # A link that a record has already may stay.
                assert done == allowed or (done and action == "save"), (who, action, tenant, links)
                seen.add((action, done))
                for each in (A, B):
                    for row in await world.stored("tlaws_deal", "c", each):
                        leads = [row.get("cl"), *row.get("others", ())]
                        about = row.get("about") or {}
                        leads.append(about.get("id"))
                        led = {
                            {**TENANT_OF, **LABEL_OF}[int(str(pk))]
                            for pk in leads
                            if pk is not None
                        }
                        assert led <= {each, None}

        world.run(check)

    law()
    assert seen == {(a, d) for a in ("create", "write", "update", "save") for d in (True, False)}
