"""Changes, batches and bulks pass security, audit and cache like every other write."""

from __future__ import annotations

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
from earnorm_audit import AuditPlugin
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
        await started.backend.raw_database().client.drop_database(name)


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
