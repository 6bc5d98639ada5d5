"""Changes, batches and bulks pass security, audit and cache like every other write."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from earnorm import (
    AccessDenied,
    AddToSet,
    App,
    BaseModel,
    DuplicateKey,
    Embedded,
    EmbeddedModel,
    Inc,
    Int,
    List,
    NotFound,
    Principal,
    Push,
    String,
    Unset,
    act_as,
    system,
)
from earnorm_audit import AuditEntry, AuditPlugin
from earnorm_cache import CachePlugin
from earnorm_security import Access, Rule, SecurityPlugin


class Address(EmbeddedModel):
    city = String()


class Card(BaseModel):
    """Everybody reads cards that aren't hidden; an owner changes its own."""

    _name = "layers.card"
    _access = [Access("everybody", read=True, create=True, write=True, unlink=True)]
    _rules = [
        Rule("shown", [("state", "!=", "hidden")]),
        Rule(
            "own",
            lambda env: [("owner", "=", env.principal.id)],
            operations=["write", "create", "unlink"],
        ),
    ]
    name = String(unique=True)
    owner = String()
    state = String(default="open")
    number = Int(default=0, min_value=0)
    tags = List(String())
    address = Embedded(Address)


ANN = Principal("ann", roles=["everybody"])


@pytest.fixture
async def app() -> AsyncIterator[App]:
    name = f"layers_{uuid.uuid4().hex[:12]}"
    plugins: list[Any] = [SecurityPlugin, AuditPlugin, CachePlugin]
    async with App(os.environ["EARNORM_TEST_MONGO_URI"], database=name, plugins=plugins) as started:
        yield started
        await started.dangerous_raw("to look at the database itself").client.drop_database(name)


async def card(owner: str = "ann", **values: Any) -> Card:
    with system(reason="set-up"):
        return await Card.create({"owner": owner, **values})


async def told(app: App, record: Card) -> list[tuple[str, Any]]:
    with system(reason="look"):
        history = await app.services["audit"].history(record)
        return [(entry.operation, entry.changes) for entry in history]


async def test_changes_are_recorded_with_the_values_that_the_server_made(app: App) -> None:
    mine = await card(number=1, tags=["a"], address={"city": "x"})
    with act_as(ANN):
        cached = await Card.get(mine.id)
        await mine.write({"number": Inc(2), "tags": Push("b"), "address.city": "Huế"})
        assert (mine.number, mine.tags) == (3, ["a", "b"])
        again = await Card.get(mine.id)
        assert (again.number, cached.number) == (3, 1)
    (_, created), (kind, changes) = await told(app, mine)
    assert created and kind == "write"
    assert changes == {
        "number": {"old": 1, "new": 3},
        "tags": {"old": ["a"], "new": ["a", "b"]},
        "address": {"old": {"city": "x"}, "new": {"city": "Huế"}},
    }


async def test_a_change_of_a_hidden_record_is_like_one_of_a_missing_one(app: App) -> None:
    hidden = await card(state="hidden")
    with act_as(ANN):
        for values in ({"number": Inc(1)}, {"number": Inc(-1)}, {"address.city": "x"}):
            with pytest.raises(NotFound):
                await Card.browse([hidden.id])[0].write(values)
        assert await Card.search().update({"number": Inc(1)}) == 0
    assert len(await told(app, hidden)) == 1


async def test_a_change_of_what_a_rule_looks_at_is_refused(app: App) -> None:
    mine, theirs = await card(), await card("bob")
    with act_as(ANN):
        for values in ({"owner": Unset()}, {"owner": "bob"}):
            with pytest.raises(AccessDenied):
                await mine.write(values)
        with pytest.raises(AccessDenied):
            await theirs.write({"tags": AddToSet("a")})
    with system(reason="look"):
        assert [c.owner for c in await Card.search(order="id")] == ["ann", "bob"]


async def test_a_bulk_is_one_transaction_and_every_change_is_recorded(app: App) -> None:
    a, b, c = await card(number=1), await card(number=1), await card()
    with act_as(ANN):
        for number in (5, 6):
            async with Card.bulk() as bulk:
                new = bulk.create({"name": f"new{number}", "owner": "ann"})
                bulk.write(a, {"number": number})
                bulk.write(b, {"number": Inc(1)})
        async with Card.bulk() as bulk:
            bulk.unlink(c)
        assert (a.number, b.number) == (6, 3)
        assert (await Card.get(a.id)).number == 6
    assert [changes["number"] for _, changes in (await told(app, a))[1:]] == [
        {"old": 1, "new": 5},
        {"old": 5, "new": 6},
    ]
    assert [kind for kind, _ in await told(app, new)] == ["create"]
    assert [kind for kind, _ in await told(app, c)] == ["create", "unlink"]


async def test_a_bulk_that_fails_in_a_transaction_leaves_nothing(app: App) -> None:
    a, b = await card(name="taken", number=1), await card(number=1)
    with act_as(ANN):
        for _ in range(2):
            with pytest.raises(DuplicateKey) as caught:
                async with Card.bulk() as bulk:
                    bulk.write(a, {"number": 5})
                    new = bulk.create({"name": "taken", "owner": "ann"})
                    bulk.unlink(b)
            assert caught.value.positions == (1,) and caught.value.written == ()  # type: ignore[attr-defined] # of a batch
            assert (a.number, new.is_stored, bulk.created, bulk.written) == (1, False, 0, 0)
        assert await Card.count() == 2
    assert len(await told(app, a)) == 1 and len(await told(app, b)) == 1


async def test_a_bulk_is_refused_as_a_whole_where_a_rule_refuses_a_part(app: App) -> None:
    mine, theirs, hidden = await card(), await card("bob"), await card(state="hidden")
    with act_as(ANN):
        with pytest.raises(AccessDenied):
            async with Card.bulk() as bulk:
                bulk.write(mine, {"number": 5})
                bulk.unlink(theirs)
        with pytest.raises(AccessDenied):
            async with Card.bulk() as bulk:
                bulk.write(mine, {"number": 5})
                bulk.create({"owner": "bob"})
        with pytest.raises(NotFound, match=r"1 of 2 .* \(calls 1\)"):
            async with Card.bulk() as bulk:
                bulk.write(mine, {"number": 5})
                bulk.write(Card.browse([hidden.id]), {"number": 5})
    with system(reason="look"):
        assert [c.number for c in await Card.search()] == [0, 0, 0]


@pytest.mark.parametrize("size", [1, 3, 20])
async def test_create_many_goes_on_though_audit_takes_each_batch_back(app: App, size: int) -> None:
    values = [{"name": f"n{number % 8}", "owner": "ann"} for number in range(12)]
    values[3] = {"number": -1, "owner": "ann"}
    with act_as(ANN):
        result = await Card.create_many(values, batch_size=size, ordered=False)
        assert result.positions == [3, 8, 9, 10] and result.written == 8
        assert await Card.count() == 8
        with pytest.raises(AccessDenied):
            await Card.create_many([{"owner": "ann"}, {"owner": "bob"}], ordered=False)
        assert await Card.count() == 8
    with system(reason="look"):
        assert await AuditEntry.search().count() == 8


async def test_upserts_need_both_rights_and_never_touch_what_is_hidden(app: App) -> None:
    await card(name="theirs", owner="bob")
    await card(name="hidden", state="hidden", number=1)
    with act_as(ANN):
        one, is_new = await Card.upsert({"name": "mine", "owner": "ann", "number": 1}, on="name")
        assert is_new
        two, is_new = await Card.upsert({"name": "mine", "number": Inc(1)}, on="name")
        assert (two, is_new, two.number) == (one, False, 2)
        with pytest.raises(AccessDenied):
            await Card.upsert({"name": "theirs", "number": 5}, on="name")
        with pytest.raises(AccessDenied):
            await Card.upsert({"name": "other", "owner": "bob"}, on="name")
        for upsert in (Card.upsert, lambda v, on: Card.upsert_many([v], on=on)):
            with pytest.raises(DuplicateKey):
                await upsert({"name": "hidden", "owner": "ann", "number": 5}, on="name")
    assert [kind for kind, _ in await told(app, one)] == ["create", "write"]
    with system(reason="look"):
        assert [c.number for c in await Card.search(order="id")] == [0, 1, 2]


async def test_fifty_upserts_at_once_make_one_record_also_with_an_audit(app: App) -> None:
    with act_as(ANN):
        done = await asyncio.gather(
            *(Card.upsert({"name": "one", "owner": "ann"}, on="name") for _ in range(50))
        )
        assert sum(is_new for _, is_new in done) == 1 and await Card.count() == 1


async def test_write_many_is_held_to_the_rules_one_by_one(app: App) -> None:
    mine, theirs = await card(), await card("bob")
    with act_as(ANN):
        with pytest.raises(AccessDenied):
            await Card.write_many({mine: {"number": 1}, theirs: {"number": 1}})
        assert await Card.write_many({mine: {"number": Inc(4)}}) == 1
    assert mine.number == 4
    assert (await told(app, mine))[1:] == [("write", {"number": {"old": 0, "new": 4}})]
