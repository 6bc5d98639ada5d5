"""A record under an access rule comes from Redis, and is judged by what is there."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo import MongoClient

import earnorm
from earnorm import App, Boolean, DateTime, Int, Many2one, String, models
from earnorm.domain import Domain
from earnorm_cache import CachePlugin, CacheSettings
from earnorm_security import Access, FieldRights, Rule, SecurityPlugin
from tests.plugins.cache.probes import Probe

EVERYTHING = [Access("user", read=True, write=True, create=True, unlink=True)]


class Depot(models.BaseModel):
    _name = "cache_rule_depot"
    _access = EVERYTHING

    name = String()


class Parcel(models.BaseModel):
    _name = "cache_rule_parcel"
    _access = EVERYTHING
    _rules = [
        Rule("own", lambda env: [("owner", "=", str(env.principal.id if env.principal else ""))]),
        Rule("light", [("weight", "<=", 30), ("is_lost", "!=", True)]),
    ]

    owner = String()
    weight = Int(default=1)
    is_lost = Boolean()
    seen = DateTime()
    depot_id = Many2one(Depot)


class Letter(models.BaseModel):
    _name = "cache_rule_letter"
    _access = EVERYTHING
    _rules = [Rule("local", [("town", "ilike", "york")])]

    town = String()


class Folded(models.BaseModel):
    _name = "cache_rule_folded"
    _access = EVERYTHING
    _options = {"collation": {"locale": "en", "strength": 2}}
    _rules = [Rule("not red", [("colour", "!=", "red")])]

    colour = String()


@pytest.fixture
async def start(mongo_uri: str) -> AsyncIterator[Callable[[], Awaitable[tuple[App, Probe]]]]:
    database = f"cache_{uuid.uuid4().hex[:12]}"
    async with AsyncExitStack() as stack:

        async def start() -> tuple[App, Probe]:
            url = os.environ["EARNORM_TEST_REDIS_URL"]
            cache = CachePlugin(
                CacheSettings(redis_url=url, redis_timeout=2.0, outside_writes=False)
            )  # type: ignore[arg-type] # pydantic makes a secret of it
            probe = Probe()
            app = App(mongo_uri, database=database, plugins=[cache, SecurityPlugin(), probe])
            await app.start()
            stack.push_async_callback(app.stop)
            return app, probe

        yield start
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        client.drop_database(database)


def user(name: str) -> Any:
    return earnorm.act_as(earnorm.Principal(name, roles=["user"]))


async def test_a_record_under_a_rule_comes_from_redis(start: Any) -> None:
    app, probe = await start()
    with app.activate(), earnorm.system(reason="set-up"):
        pk = (await Parcel.create({"owner": "ann"})).pk
    probe.seen.clear()
    with app.activate():
        for _ in range(3):
            with user("ann"):
                assert (await Parcel.get(pk)).owner == "ann"
            with user("bob"), pytest.raises(earnorm.NotFound):
                await Parcel.get(pk)
    assert probe.searches == 1


async def test_a_rule_is_judged_by_what_was_written_last_in_any_process(start: Any) -> None:
    (one, _), (two, _) = await start(), await start()
    with one.activate(), earnorm.system(reason="set-up"):
        pk = (await Parcel.create({"owner": "ann"})).pk
    for owner, other in (("bob", "ann"), ("ann", "bob")) * 3:
        with one.activate(), earnorm.system(reason="a new owner"):
            await Parcel.search([("_id", "=", pk)]).update({"owner": owner})
        with two.activate():
            with user(other), pytest.raises(earnorm.NotFound):
                await Parcel.get(pk)
            with user(owner):
                assert (await Parcel.get(pk)).owner == owner


class Purse(models.BaseModel):
    _name = "cache_rule_purse"
    _access = EVERYTHING
    _field_rights = [FieldRights("code", read=["owner"])]

    cents = Int(default=1)
    code = String()


async def test_a_record_with_field_rights_is_what_was_written_last_in_any_process(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one, _), (two, probe) = await start(), await start()
    with one.activate(), earnorm.system(reason="set-up"):
        pk = (await Purse.create({"code": "c"})).pk
    with two.activate(), user("ann"):
        for _ in range(3):
            await Purse.get(pk)
    probe.seen.clear()
    listener = two.services["cache"].levels.listener
    monkeypatch.setattr(listener, "_hear", lambda *_: None)  # its memory hears of nothing
    for reader in listener._readers.values():
        monkeypatch.setattr(reader, "_hear", lambda *_: None)
    for cents in range(2, 6):
        with one.activate(), earnorm.system(reason="more"):
            await Purse.search([("_id", "=", pk)]).update({"cents": cents})
        with two.activate(), user("ann"):
            assert (await Purse.get(pk)).cents == cents
            assert (await Purse.get(pk)).cents == cents
    assert probe.searches == 4  # the others came from Redis


@pytest.mark.parametrize("model", [Letter, Folded])
async def test_a_rule_that_memory_may_judge_otherwise_is_left_to_the_server(
    start: Any, model: Any
) -> None:
    app, probe = await start()
    with app.activate(), earnorm.system(reason="set-up"):
        values = {"town": "New York"} if model is Letter else {"colour": "RED"}
        pk = (await model.create(values)).pk
    probe.seen.clear()
    with app.activate(), user("ann"):
        for _ in range(2):
            if model is Letter:
                assert (await model.get(pk)).town == "New York"
            else:
                with pytest.raises(earnorm.NotFound):
                    await model.get(pk)
    assert probe.searches == 2


@pytest.fixture
async def started(start: Any) -> tuple[App, Probe]:
    opened: tuple[App, Probe] = await start()
    return opened


VALUES = {
    "weight": st.sampled_from([None, 0, 1, 30, 31]),
    "is_lost": st.sampled_from([None, True, False]),
    "owner": st.sampled_from([None, "", "ann", "Ann", "bob"]),
}
conditions = st.one_of(
    *(
        st.tuples(st.just(name), st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), values)
        for name, values in VALUES.items()
    ),
    *(
        st.tuples(st.just(name), st.sampled_from(["in", "not in"]), st.lists(values, max_size=3))
        for name, values in VALUES.items()
    ),
)


@given(
    values=st.fixed_dictionaries({}, optional=VALUES),
    wanted=st.lists(conditions, min_size=1, max_size=3),
    joined=st.sampled_from(["&", "|", "!"]),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_what_memory_decides_is_what_the_server_decides(
    started: tuple[App, Probe], values: dict[str, Any], wanted: list[Any], joined: str
) -> None:
    signs = {"&": [], "|": ["|"] * (len(wanted) - 1), "!": ["!"]}[joined]
    app, probe = started
    with app.activate(), earnorm.system(reason="all of it"):
        pk = (await Parcel.create(values)).pk
        asked = Domain([("_id", "=", pk)]) & Domain([*signs, *wanted])
        try:
            stored = await Parcel.search(asked, only=["owner"])  # a part of a record is not kept
        except earnorm.DomainError:  # an order without a value
            return
        await Parcel.get(pk)
        probe.seen.clear()
        cached = await Parcel.search(asked)
        assert [each.pk for each in cached] == [each.pk for each in stored]
        assert probe.searches == 0
