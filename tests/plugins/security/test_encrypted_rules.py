"""Rules that compare an encrypted field of the deterministic kind: reads, creates and every write."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from earnorm import (
    AccessDenied,
    App,
    ConfigurationError,
    EmbeddedModel,
    Principal,
    act_as,
    models,
    system,
    transaction,
)
from earnorm.fields import Embedded, Int, String
from earnorm_security import Encrypted, Rule, SecurityPlugin, SecuritySettings, new_key, user


class Inner(EmbeddedModel):
    code = Encrypted(String(), deterministic=True)


class Claim(models.BaseModel):
    _name = "sealedrule.claim"
    _rules = [Rule("own", [("number", "=", user.number)])]
    number = Encrypted(String(), deterministic=True)
    title = String()


class Nested(models.BaseModel):
    _name = "sealedrule.nested"
    _rules = [Rule("own", lambda env: [("inner.code", "in", [env.principal.attributes["number"]])])]
    inner = Embedded(Inner)
    size = Int(default=0)


ANN = Principal("ann", (), {"number": "n-1"})
KEYS = {"k": new_key()}


@pytest.fixture
async def app(opened: Any) -> AsyncIterator[App]:
    async with opened(keys=KEYS) as app:
        with system(reason="fill"):
            await Claim.create([{"number": "n-1", "title": "a"}, {"number": "n-2", "title": "b"}])
            await Nested.create([{"inner": {"code": "n-1"}}, {"inner": {"code": "n-2"}}])
        yield app


Write = Callable[[Claim], Awaitable[Any]]
REFUSED: dict[str, Write] = {
    "write": lambda c: c.write({"number": "n-2"}),
    "unset": lambda c: c.write({"number": None}),
    "save": lambda c: c.save({"number": "n-2"}),
    "write_many": lambda c: Claim.write_many({c.pk: {"number": "n-2"}}),
    "update": lambda c: Claim.search().update({"number": "n-2"}),
    "create": lambda c: Claim.create({"number": "n-2"}),
    "create without": lambda c: Claim.create({"title": "x"}),
    "create many": lambda c: Claim.create([{"number": "n-1"}, {"number": "n-2"}]),
}


@pytest.mark.parametrize("way", REFUSED)
async def test_a_value_that_leaves_the_rule_is_refused_and_not_stored(app: App, way: str) -> None:
    with act_as(ANN):
        [claim] = await Claim.search()
        with pytest.raises(AccessDenied, match="own"):
            await REFUSED[way](claim)
    with system(reason="look"):
        assert sorted(c.number for c in await Claim.search()) == ["n-1", "n-2"]


async def test_a_value_that_stays_in_the_rule_is_written(app: App) -> None:
    with act_as(ANN):
        [claim] = await Claim.search()
        await claim.write({"title": "new"})
        await claim.write({"number": "n-1", "title": "same"})
        await Claim.create({"number": "n-1", "title": "own"})
        async with transaction():
            await Claim.create({"number": "n-1", "title": "in a transaction"})
        assert await Claim.search().update({"title": "all", "number": "n-1"}) == 3
        assert {c.title for c in await Claim.search()} == {"all"}
        await claim.unlink()


async def test_other_fields_are_written_without_a_transaction(app: App) -> None:
    with act_as(ANN):
        [claim] = await Claim.search()
        before = (await app.health())["transactions"]
        await claim.write({"title": "new"})
        assert (await app.health())["transactions"] == before


async def test_a_rule_that_is_a_function_and_a_value_inside(app: App) -> None:
    with act_as(ANN):
        [nested] = await Nested.search()
        await nested.write({"size": 2})
        for refused in ({"inner.code": "n-2"}, {"inner": {"code": "n-2"}}, {"inner": None}):
            with pytest.raises(AccessDenied):
                await nested.write(refused)
        await nested.write({"inner": {"code": "n-1"}})
        await Nested.create({"inner": {"code": "n-1"}})
        with pytest.raises(AccessDenied):
            await Nested.create({"inner": {"code": "n-3"}})


async def test_without_transactions_it_is_refused_in_words() -> None:
    security = SecurityPlugin(SecuritySettings(keys=KEYS))
    async with App("mongomock://", database="sealed", plugins=[security]):
        with system(reason="fill"):
            await Claim.create({"number": "n-1", "title": "a"})
        with act_as(ANN):
            [claim] = await Claim.search()
            await claim.write({"title": "b"})
            for refused in (claim.write({"number": "n-1"}), Claim.create({"number": "n-1"})):
                with pytest.raises(AccessDenied, match=r"an encrypted value.*in a transaction"):
                    await refused


async def test_a_value_that_no_condition_finds_is_refused_where_the_rule_is_declared(
    opened: Any,
) -> None:
    class Random(models.BaseModel):
        _name = "sealedrule.random"
        _rules = [Rule("own", [("number", "=", user.number)])]
        number = Encrypted(String())

    import earnorm

    try:
        with pytest.raises(ConfigurationError, match=r"rule 'own' of model 'sealedrule\.random'"):
            async with opened(keys=KEYS):
                with act_as(ANN):
                    await Random.search()
    finally:
        earnorm.forget(Random)
