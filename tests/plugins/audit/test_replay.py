"""The law: what a record's entries say, from its creation on, is its stored state."""

from __future__ import annotations

import asyncio
import datetime
import random
import uuid
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import earnorm
from earnorm_audit import AuditPlugin
from earnorm_audit.changes import is_same, replay
from tests.plugins.audit.conftest import Opening
from tests.plugins.audit.shop import Article, told

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4)
json_keys = st.sampled_from(["a", "~date", "~~", "b"])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "title": texts.filter(bool),
    "stock": st.none() | st.integers(-(2**63), 2**63 - 1),
    "price": st.none() | st.integers(0, 10**9).map(lambda cents: Decimal(cents) / 100),
    "active": st.none() | st.booleans(),
    "weight": st.none() | st.floats(allow_nan=False),
    "at": st.none() | st.datetimes(datetime.datetime(1970, 1, 1), timezones=st.just(datetime.UTC)),
    "tags": st.none() | st.lists(texts, max_size=3),
    "data": st.recursive(
        st.none() | st.booleans() | texts | st.integers(-9, 9),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(json_keys, inner, max_size=2),
        max_leaves=4,
    ),
    "labels": st.none() | st.dictionaries(json_keys, texts, max_size=2),
}
changes = st.fixed_dictionaries({}, optional=VALUES)
creation = st.fixed_dictionaries(
    {"title": VALUES["title"]}, optional={k: v for k, v in VALUES.items() if k != "title"}
)
steps = st.lists(
    st.tuples(st.sampled_from(["write", "by domain", "save", "inc", "unset"]), changes), max_size=5
)


async def take(step: str, article: Article, values: dict[str, Any]) -> None:
    env, domain = earnorm.current_env(), earnorm.Domain([("id", "=", article.pk)])
    raw = {"inc": {"$inc": {"weight": 0.5}}, "unset": {"$unset": {"data": ""}}}
    if step in raw:
        if step == "inc":
            await article.write({"weight": 1.0})
        update = earnorm.Update(raw[step])
        await env.app.execute(earnorm.Operation("write", Article, env, domain, update))
    elif not values:
        return
    elif step == "write":
        await article.write(values)
    elif step == "by domain":
        await Article.search(domain).update(values)
    else:
        fresh = await Article.get(article.pk)
        for name, value in values.items():
            setattr(fresh, name, value)
        await fresh.save()


async def holds(app: earnorm.App, article: Article) -> None:
    raw = app.dangerous_raw("the truth")["articles"]
    document = await raw.find_one({"_id": article.pk})
    names = {field.db_name: name for name, field in Article._fields.items()}
    state = {names[key]: value for key, value in document.items() if key != "_id"}
    replayed = replay(await told(article))
    assert replayed is not None
    assert replayed.keys() == state.keys()
    for name, value in state.items():
        assert is_same(as_read(replayed[name]), as_read(value)), name


def as_read(value: Any) -> Any:
    # a number beyond 32 bits reads as Int64, the one of the entry passed through JSON's one integer
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(creation, steps)
def test_in_memory_the_entries_replay_to_the_record(
    values: dict[str, Any], taken: list[tuple[str, dict[str, Any]]]
) -> None:
    async def run() -> None:
        name = f"x{uuid.uuid4().hex[:8]}"
        async with earnorm.App("mongomock://", database=name, plugins=[AuditPlugin]) as app:
            article = (await Article.create(values)).ensure_one()
            for step, change in taken:
                await take(step, article, change)
                await holds(app, article)

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(5))
async def test_on_a_server_the_entries_replay_to_the_records(server: Opening, seed: int) -> None:
    chance = random.Random(seed)
    choices: dict[str, list[Any]] = {
        "title": ["a", "b", "ä~"],
        "stock": [None, 0, 1, -5, 2**31, 2**62],
        "price": [None, Decimal("1.50"), Decimal("0")],
        "active": [None, True, False],
        "weight": [None, 0.0, 1.5, float("inf")],
        "at": [None, datetime.datetime(2026, 1, 1, 12, 0, 0, 5000, datetime.UTC)],
        "tags": [None, [], ["x"], ["x", "y"]],
        "data": [None, {"~date": 1}, [1, {"a": None}], {"~~oid": {"b": []}}, 7],
        "labels": [None, {}, {"~binary": "x"}],
    }

    def some() -> dict[str, Any]:
        return {k: chance.choice(v) for k, v in choices.items() if chance.random() < 0.4}

    async with server() as app:
        created = [{**some(), "title": f"t{n}"} for n in range(4)]
        articles = list(await Article.create(created))
        for _ in range(25):
            step = chance.choice(["write", "by domain", "save", "inc", "unset"])
            await take(step, chance.choice(articles), some())
        for article in articles:
            await holds(app, article)
