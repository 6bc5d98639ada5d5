"""Searches by a unique field: what a hint gives is what the database would give."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymongo import MongoClient

import earnorm
from earnorm import App, Index, Int, String, mixins, models
from earnorm_cache import CachePlugin, CacheSettings
from earnorm_security import Access, Rule, SecurityPlugin
from tests.plugins.cache.conftest import Open
from tests.plugins.cache.probes import Probe, cache_of


class Person(mixins.SoftDelete, models.BaseModel):
    _name = "cache_person"

    _id = Int()
    email = String(unique=True)
    team = String()


class Member(models.BaseModel):
    _name = "cache_member"
    _discriminator = "kind"

    _id = Int()
    email = String(unique=True)


class Officer(Member):
    _name = "cache_officer"

    rank = Int(default=0)


class Account(models.BaseModel):
    _name = "cache_unique_account"
    _access = [Access("user", read=True, write=True, create=True, unlink=True)]
    _rules = [
        Rule("own", lambda env: [("owner", "=", str(env.principal.id if env.principal else ""))])
    ]

    _id = Int()
    email = String(unique=True)
    owner = String()


class Ambiguous(models.BaseModel):
    _name = "cache_ambiguous"
    _indexes = [
        Index("a", unique=True, partial=[("a", ">=", "m")]),
        Index("b", unique=True, collation="en"),
        Index("c", "d", unique=True),
    ]

    a = String()
    b = String()
    c = String()
    d = String()
    e = String(index=True)


def with_redis() -> dict[str, Any]:
    return {"redis_url": os.environ["EARNORM_TEST_REDIS_URL"], "redis_timeout": 2.0}


async def test_the_third_search_asks_no_database(open_app: Open, probe: Probe) -> None:
    app = await open_app(probe)
    await Member.create({"_id": 1, "email": "a@x"})
    probe.seen.clear()
    for _ in range(5):
        found = await Member.find_one([("email", "=", "a@x")])
        assert found is not None and found.pk == 1
    assert probe.searches == 2  # which id it is, and the record
    assert cache_of(app).statistics("cache_member").hits == 3


@pytest.mark.parametrize("field", ["a", "b", "c", "e"])
async def test_an_index_that_does_not_have_every_value_once_gives_no_hints(
    open_app: Open, probe: Probe, field: str
) -> None:
    await open_app(probe)
    await Ambiguous.create({"a": "x", "b": "x", "c": "x", "d": "x", "e": "x"})
    probe.seen.clear()
    for _ in range(4):
        assert len(await Ambiguous.search([(field, "=", "x")])) == 1
    assert probe.searches == 4


async def test_a_value_that_moves_to_another_record_is_found_there(
    open_on_server: Open, probe: Probe
) -> None:
    one, two = [await open_on_server(**with_redis()) for _ in range(2)]
    with one.activate():
        await Person.create([{"_id": 1, "email": "a"}, {"_id": 2, "email": "b"}])
        for _ in range(3):
            assert (await Person.find_one([("email", "=", "a")])).pk == 1  # type: ignore[union-attr]
    with two.activate():
        await Person.search([("id", "=", 1)]).update({"email": "c"})
        await Person.search([("id", "=", 2)]).update({"email": "a"})
    with one.activate():
        cache_of(one).clear()
        for _ in range(3):
            assert (await Person.find_one([("email", "=", "a")])).pk == 2  # type: ignore[union-attr]
            assert (await Person.find_one([("email", "=", "c")])).pk == 1  # type: ignore[union-attr]
            assert not await Person.find_one([("email", "=", "b")])


def user(name: str) -> Any:
    return earnorm.act_as(earnorm.Principal(name, roles=["user"]))


async def test_a_hint_leads_nobody_past_the_rules(open_on_server: Open, probe: Probe) -> None:
    app = await open_on_server(SecurityPlugin(), probe, **with_redis())
    with app.activate(), earnorm.system(reason="set-up"):
        await Account.create({"_id": 1, "email": "a", "owner": "ann"})
    for _ in range(4):
        with app.activate(), user("ann"):
            found = await Account.find_one([("email", "=", "a")])
            assert found and found.pk == 1
        with app.activate(), user("bob"):
            assert not await Account.find_one([("email", "=", "a")])
    with app.activate(), user("ann"):
        probe.seen.clear()
        assert await Account.find_one([("email", "=", "a")])
        assert probe.searches == 0
    with app.activate(), earnorm.system(reason="a new owner"):
        await Account.search([("id", "=", 1)]).update({"owner": "bob"})
    with app.activate(), user("ann"):
        assert not await Account.find_one([("email", "=", "a")])


# -- the law ----------------------------------------------------------------------------------------

EMAILS = ("a", "b")
IDS = (1, 2)
FIRST = [("make", 0, 1, "a"), ("make", 1, 2, "b"), ("look", 0, "a"), ("look", 1, "b")]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("look"), st.integers(0, 1), st.sampled_from(EMAILS)),
        st.tuples(st.just("look"), st.integers(0, 1), st.sampled_from(EMAILS)),
        st.tuples(st.just("look in team"), st.integers(0, 1), st.sampled_from(EMAILS)),
        st.tuples(
            st.just("make"), st.integers(0, 1), st.sampled_from(IDS), st.sampled_from(EMAILS)
        ),
        st.tuples(
            st.just("name"), st.integers(0, 1), st.sampled_from(IDS), st.sampled_from(EMAILS)
        ),
        st.tuples(st.just("swap"), st.integers(0, 1), st.permutations(IDS)),
        st.tuples(st.just("delete"), st.integers(0, 1), st.sampled_from(IDS)),
        st.tuples(st.just("archive"), st.integers(0, 1), st.sampled_from(IDS)),
        st.tuples(st.just("move"), st.integers(0, 1), st.sampled_from(IDS)),
    ),
    min_size=2,
    max_size=15,
)


async def follow(apps: list[App], model: Any, steps: list[tuple[Any, ...]]) -> None:
    """Do each step in one of two Apps; what is found must be what the database has."""
    raw = apps[0].dangerous_raw("the truth")[model._collection]
    await raw.delete_many({})
    for app in apps:
        cache_of(app).clear()
        with app.activate():
            await cache_of(app).clear_everywhere()
    for kind, which, *arguments in [*FIRST, *steps]:
        app = apps[which]
        with app.activate(), contextlib.suppress(earnorm.DuplicateKey):
            await step(raw, app, model, kind, arguments)


async def step(raw: Any, app: App, model: Any, kind: str, arguments: list[Any]) -> None:
    if kind.startswith("look"):
        # The hints stay; documents come from Redis.
        for key in list(cache_of(app)._shelves._shelves[model._collection].keys):
            cache_of(app)._memory.drop(key)
        domain: list[Any] = [("email", "=", arguments[0])]
        true: dict[str, Any] = {"email": arguments[0]}
        if model is Person:
            true["active"] = {"$ne": False}
            if kind == "look in team":
                domain.append(("team", "=", "blue"))
                true["team"] = "blue"
        found = [record.pk for record in await model.search(domain)]
        assert found == [each["_id"] async for each in raw.find(true)]
    elif kind == "make":
        kinds = Officer if model is Member and arguments[0] == 2 else model
        await kinds.create({"_id": arguments[0], "email": arguments[1]})
    elif kind == "name":
        await model.search([("id", "=", arguments[0])]).update({"email": arguments[1]})
    elif kind == "swap":
        one, other = arguments[0]
        emails = {each["_id"]: each.get("email") async for each in raw.find({})}
        if one in emails and other in emails:
            async with earnorm.transaction():
                await model.search([("id", "=", one)]).update({"email": None})
                await model.search([("id", "=", other)]).update({"email": emails[one]})
                await model.search([("id", "=", one)]).update({"email": emails[other]})
    elif kind == "delete":
        await model.search([("id", "=", arguments[0])]).delete()
    elif model is Person:
        values = {"active": False} if kind == "archive" else {"team": "blue"}
        await model.search([("id", "=", arguments[0])]).update(values)


async def first_look(app: App, model: Any) -> None:
    with app.activate():
        await model.search([("id", "=", 0)])


@pytest.mark.parametrize("model", [Person, Member])
def test_every_search_by_a_unique_field_finds_what_the_database_has(
    mongo_uri: str, model: Any
) -> None:
    database = f"cache_{uuid.uuid4().hex[:12]}"

    def new() -> App:
        plugin = CachePlugin(CacheSettings(**with_redis()))
        return App(mongo_uri, database=database, plugins=[plugin])

    with asyncio.Runner() as runner:
        apps = [new(), new()]
        for app in apps:
            runner.run(app.start())
            runner.run(first_look(app, model))

        @given(steps=STEPS)
        @settings(max_examples=25, deadline=None)
        def law(steps: list[tuple[Any, ...]]) -> None:
            runner.run(follow(apps, model, steps))

        try:
            law()
        finally:
            for app in apps:
                runner.run(app.stop())
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        client.drop_database(database)
