"""Non-interference: two databases that differ only in what somebody does not see answer alike.

The worlds and calls are those of the reference machine. A twin differs in hidden records and hidden values; where the reference answers a call
alike for both, so does EarnORM: values, order, counts, the texts of errors, the number of queries, what the cache keeps and
counts in memory, and which keys of reads are in Redis. What is kept then is what a later reader of the same rights gets.

The number of queries of a change is compared unless what is linked to the changed records differs: the system keeps linked records in
step, also those that somebody does not see, and that takes queries.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import pytest
from bson import ObjectId
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from redis.asyncio import Redis

from earnorm import Many2one, NotFound, One2many, String, act_as, models, system
from earnorm.testing import count_queries
from earnorm_cache import CachePlugin, CacheSettings
from earnorm_security import Rule
from tests.plugins.security.generated import examples
from tests.plugins.security.guards import GUARDS
from tests.plugins.security.reference import World
from tests.plugins.security.reference_data import listed
from tests.plugins.security.reference_declarations import Call, Refused, Row, Who
from tests.plugins.security.reference_worlds import CHANGES, READS, Stage, calls, values, worlds
from tests.plugins.security.test_reference_machine import Server, server

__all__ = ["server"]

DATABASES: Final = [f"refmachine_twin_{os.getpid()}_{side}" for side in "ab"]
EXAMPLES: Final = examples(12)
STEPS: Final = 10


class Interference(AssertionError):
    """Both databases answered differently."""


def seen(world: World, who: Who) -> dict[str, list[Row]]:
    """Return what somebody sees of a world."""
    return {
        name: [world.view(who, name, row) for row in rows.values() if world.sees(who, name, row)]
        for name, rows in world.rows.items()
    }


def twin(draw: Any, world: World, who: Who) -> World:
    """Draw a world that differs in what somebody does not see; the same one where it cannot."""
    other = copy.deepcopy(world)
    for name, model in world.models.items():
        drawn = values(world.models, name)
        for pk, row in world.rows[name].items():
            if not world.sees(who, name, row):
                if draw(st.booleans()):
                    del other.rows[name][pk]
                    continue
                hidden = [n for n in drawn if n != "key"]
            else:
                hidden = [n for n in drawn if n != "key" and not world.may(who, name, n, "read")]
                hidden = [n for n in hidden if not any(r.mask for r in model.rights if r.name == n)]
            other.rows[name][pk].update({n: draw(drawn[n]) for n in hidden})
    other.recompute()
    return other if seen(other, who) == seen(world, who) else world


def expected(world: World, who: Who, call: Call) -> tuple[Any, World]:
    try:
        return world.call(who, call)
    except Refused as refused:
        after = refused.args[1] if refused.args[1:] else world
        return sorted(refused.args[0]), after


async def heard(app: Any, stage: Stage, who: Who, call: Call) -> list[Any]:
    """Return the answer of a call with the text of its error, its queries, and the cache's figures."""
    with app.activate(), count_queries(app=app) as queries:
        try:
            answer: Any = await stage.answer(who, call)
        except Refused as refused:
            answer = refused.args[:2]
    cache = app.services["cache"]
    kept = [cache.statistics(model._name) for model in stage.models.values()]
    return [answer, len(queries), [(k.entries, k.hits, k.misses) for k in kept]]


async def keys_in_redis(redis: Redis, namespace: str) -> list[bytes]:
    """Return the keys of one database in Redis, without what tells it from others."""
    begin = b"earnorm:{" + namespace.encode()
    found = [key async for key in redis.scan_iter(begin + b"*", count=1000)]
    return sorted(key[len(begin) :] for key in found)


def reached(world: World, who: Who, call: Call) -> dict[tuple[str, str], Row]:
    """Return the records that a change names and somebody sees, with all that is linked to them."""
    if call.kind in ("update", "delete", "upsert"):
        waiting = [(call.model, pk) for pk in world.rows[call.model]]
    else:
        named = [(step.model, step.id) for step in call.steps]
        waiting = [*named, *([(call.model, call.id)] if call.id else [])]
        if call.commands:
            to = world.models[call.model].fields[call.names[0]].to
            waiting += [(to, pk) for _, pk, _ in call.commands]
    waiting = [(m, pk) for m, pk in waiting if pk in world.rows[m]]
    waiting = [(m, pk) for m, pk in waiting if world.sees(who, m, world.rows[m][pk])]
    waiting += [link for step in call.steps for link in links_of(world, step.model, step.values)]
    found: dict[tuple[str, str], Row] = {}
    while waiting:
        model, pk = waiting.pop()
        row = world.rows[model].get(pk)
        if row is None or (model, pk) in found:
            continue
        found[model, pk] = row
        waiting += links_of(world, model, row)
        for name, rows in world.rows.items():
            pointing = [p for p, r in rows.items() if (model, pk) in links_of(world, name, r)]
            waiting += [(name, one) for one in pointing]
    return found


def links_of(world: World, model: str, row: Row) -> list[tuple[str, str]]:
    fields = world.models[model].fields
    return [(fields[n].to, pk) for n in ("link", "links") for pk in listed(row.get(n))]


class Twins:
    """Two Apps with the same models, each on a database of its own."""

    def __init__(self, server: Server, with_redis: bool = False) -> None:
        self.server, self.seen, self.with_redis = server, Counter[str](), with_redis

    async def check(self, draw: Any) -> None:
        declared, implied, rows, principals = draw(worlds(simple=False))
        who = draw(st.sampled_from([*principals, Who()]))
        one = World(declared, implied, rows)
        two = twin(draw, one, who)
        if one.rows == two.rows:
            return
        stage, numbers = Stage(declared, implied), itertools.count(100)
        databases = [self.server.client[name] for name in DATABASES]
        # What is compared depends on no word that arrives some time.
        cache = CacheSettings(outside_writes=False)
        kinds = [*READS, *READS, *CHANGES]
        if (
            self.with_redis
        ):  # a change leaves its own words there, also of what follows in hidden records
            redis, kinds = SecretStr(os.environ["EARNORM_TEST_REDIS_URL"]), [*READS]
            cache = CacheSettings(outside_writes=False, redis_url=redis, redis_timeout=30)
        apps = [stage.app(self.server.client, name, (CachePlugin(cache),)) for name in DATABASES]
        try:
            async with apps[0], apps[1]:
                for database, world in zip(databases, (one, two), strict=True):
                    await stage.fill(database, world.rows)
                for _ in range(STEPS):
                    kind = draw(st.sampled_from(kinds))
                    call = draw(calls(one, kind, numbers, who))
                    (answer, after_one), (other, after_two) = (
                        expected(world, who, call) for world in (one, two)
                    )
                    is_alike = answer == other and seen(after_one, who) == seen(after_two, who)
                    if not is_alike:  # a rule of the program's tells hidden values by itself
                        self.seen["left out"] += 1
                        continue
                    answers = [await heard(app, stage, who, call) for app in apps]
                    self.seen["compared"] += 1
                    if self.with_redis:
                        answers = [
                            [answer, keys]
                            for answer, keys in zip(
                                [answer[0] for answer in answers],
                                await self.kept_in_redis(),
                                strict=True,
                            )
                        ]
                    if call.kind not in READS:
                        if reached(one, who, call) == reached(two, who, call):
                            self.seen["queries of changes"] += 1
                        else:
                            answers[0][1] = answers[1][1] = None
                    if answers[0] != answers[1]:
                        raise Interference(f"{who} {call}\n {answers[0]}\n {answers[1]}")
                    one, two = after_one, after_two
                    if call.kind not in READS:
                        stored = [await stage.stored(database) for database in databases]
                        for world, found in zip((one, two), stored, strict=True):
                            for name in found:
                                if found[name].keys() != world.rows[name].keys():
                                    return  # a batch in one transaction
                ids = {name: sorted({*one.rows[name], *two.rows[name]}) for name in one.rows}
                if not self.with_redis:
                    await self.compare_later(stage, apps, who, ids)
        finally:
            if self.with_redis:
                await self.forget_redis()
            stage.forget()
            for database in databases:
                for name in stage.models:
                    await stage.collection(database, name).drop()

    async def kept_in_redis(self) -> list[list[bytes]]:
        """Return the keys of both databases, once what is written in the background has arrived."""
        async with Redis.from_url(os.environ["EARNORM_TEST_REDIS_URL"]) as redis:
            for _ in range(100):
                found = [await keys_in_redis(redis, name) for name in DATABASES]
                if found[0] == found[1]:
                    break
                await asyncio.sleep(0.01)
        self.seen["keys"] += len(found[0])
        return found

    async def forget_redis(self) -> None:
        async with Redis.from_url(os.environ["EARNORM_TEST_REDIS_URL"]) as redis:
            for name in DATABASES:
                async for key in redis.scan_iter(b"earnorm:{" + name.encode() + b"*", count=1000):
                    await redis.delete(key)

    async def compare_later(
        self, stage: Stage, apps: Sequence[Any], who: Who, ids: dict[str, list[str]]
    ) -> None:
        """Compare what somebody of the same rights gets later, the second time from what is kept."""
        for name in stage.models:
            gets = [Call("read", "get", name, ("id", "=", pk)) for pk in ids[name]]
            for call in [*gets, *gets, Call("read", "search", name, True)]:
                later = [await heard(app, stage, who, call) for app in apps]
                self.seen["kept"] += sum(n for n, _, _ in later[0][-1])
                if later[0] != later[1]:
                    raise Interference(f"{who} later {call}\n {later[0]}\n {later[1]}")


def drawn(server: Server, examples: int, with_redis: bool = False) -> Twins:
    """Compare twins in generated worlds."""
    twins = Twins(server, with_redis)

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[*HealthCheck],
        phases=(Phase.explicit, Phase.generate),
    )
    @given(st.data())
    def law(data: Any) -> None:
        server.run(twins.check(data.draw))

    law()
    return twins


@pytest.fixture(autouse=True)
def databases(server: Server) -> Any:
    yield

    async def drop() -> None:
        for name in DATABASES:
            await server.client.drop_database(name)

    server.run(drop())


@pytest.mark.fuzz
def test_what_somebody_does_not_see_changes_no_answer(server: Server) -> None:
    twins = drawn(server, EXAMPLES)
    assert twins.seen["compared"] > 2 * twins.seen["left out"]
    assert twins.seen["kept"] > 10, twins.seen
    assert twins.seen["queries of changes"] > 10, twins.seen


@pytest.mark.fuzz
def test_what_somebody_does_not_see_changes_no_key_in_redis(server: Server) -> None:
    twins = drawn(server, EXAMPLES, with_redis=True)
    assert twins.seen["compared"] > 2 * twins.seen["left out"]
    assert twins.seen["keys"] > 10, twins.seen


def test_the_law_sees_what_a_missing_guard_tells(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of hidden values is switched off in test_field_right_laws.py."""
    guard = GUARDS["rules on reading"]
    owner, attribute = guard._owner()
    monkeypatch.setattr(owner, attribute, guard.without(guard.found()))
    with pytest.raises(Interference):
        drawn(server, 60)


# -- what the law found -----------------------------------------------------------------------------


class Shelf(models.BaseModel):
    """Books of a shelf keep its name, so a change of one looks for its books."""

    _name = "interference.shelf"
    _rules = [Rule("open", [("name", "!=", "hidden")])]
    name = String()
    book_ids = One2many("interference.book", "shelf_id")


class Book(models.BaseModel):
    _name = "interference.book"
    shelf_id = Many2one(Shelf)
    shelf_name = String(related="shelf_id.name", store=True)


class Notice(models.BaseModel):
    """Is read by whom a hidden record names."""

    _name = "interference.notice"
    _rules = [Rule("lent", [("loan_ids.text", "=", "yes")])]
    loan_ids = One2many("interference.loan", "notice_id")


class Loan(models.BaseModel):
    _name = "interference.loan"
    _access = []
    text = String()
    notice_id = Many2one(Notice)


async def test_what_follows_from_a_hidden_record_is_not_looked_for(opened: Any) -> None:
    """A record that a rule hides takes as many queries as one that is not there."""
    async with opened() as app:
        with system(reason="test data"):
            shelves = await Shelf.create([{"name": n} for n in ("a", "hidden", "hidden")])
            await Book.create([{"shelf_id": shelf} for shelf in shelves])
        one, *hidden = [shelf.pk for shelf in shelves]
        missing = [ObjectId(), ObjectId()]

        async def queries(pks: list[Any], way: str) -> int:
            acting = act_as("eve")
            with acting, count_queries(app=app) as counted, contextlib.suppress(NotFound):
                if way == "write_many":
                    await Shelf.write_many({pk: {"name": "b"} for pk in pks})
                elif way == "update":
                    await Shelf.search([("id", "in", pks)]).update({"name": "c"})
                elif way == "bulk":
                    async with Shelf.bulk() as bulk:
                        for pk in pks:
                            bulk.write(Shelf.browse([pk])[0], {"name": "d"})
                else:
                    await Shelf.browse(pks).unlink()
            return len(counted)

        for way in ("write_many", "update", "bulk", "unlink"):
            assert await queries(hidden[:1], way) == await queries(missing[:1], way), way
            assert await queries(hidden, way) == await queries(missing, way), way
            if way != "unlink":
                assert await queries([one, hidden[0]], way) == await queries(
                    [one, missing[0]], way
                ), way
        with system(reason="look"):
            assert (await Book.search(order="id")).mapped("shelf_name") == ["c", "hidden", "hidden"]


async def test_what_a_rule_finds_in_hidden_records_changes_neither_queries_nor_cache(
    opened: Any,
) -> None:
    async with opened(plugins=(CachePlugin(CacheSettings(outside_writes=False)),)) as app:
        with system(reason="test data"):
            notice = await Notice.create({})
            loan = await Loan.create({"text": "no", "notice_id": notice})
        figures = []
        for text, notice_id in (("no", notice.pk), ("yes", ObjectId())):
            with system(reason="test data"):
                await loan.write({"text": text, "notice_id": notice_id})
            with act_as("eve"), count_queries(app=app) as counted:
                assert not await Notice.search()
            kept = app.services["cache"].statistics("interference.notice")
            figures.append((len(counted), kept.entries, kept.hits, kept.misses))
        assert figures[0] == figures[1]
