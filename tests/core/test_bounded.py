"""What clients ask for is not kept for ever: paths, orders, bodies, keys and concerns of any number and length.

Each way of asking is used with as many different texts as any cache may hold, and then as often again: by then nothing more
may stay. Blocks of memory are counted, whoever holds them.
"""

from __future__ import annotations

import copy
import gc
import logging
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import islice, permutations
from typing import Any

import pydantic
import pytest

import earnorm
from earnorm import (
    App,
    Boolean,
    Count,
    Date,
    Dict,
    EarnORMError,
    Embedded,
    EmbeddedModel,
    Float,
    Inc,
    Int,
    Json,
    LimitExceeded,
    List,
    Many2one,
    String,
    ValidationError,
    models,
)
from earnorm.bounded import MOST, Bounded
from earnorm.fields.adapters import adapter
from earnorm.model.writing.places import find_place

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Part(EmbeddedModel):
    note = Json()


class Wide(models.BaseModel):
    _name, _collection = "bounded.wide", "bounded_wide"
    data = Json()
    ratings = Dict(Int())
    tags = List(String())
    part = Embedded(Part)
    up_id = Many2one("bounded.wide")
    a, b, c, d, e, f = String(), Int(), Float(), Boolean(), Date(), Int()
    total = Int(compute="_total", store=True)

    @earnorm.depends("b")
    def _total(self) -> int:
        return self.b or 0


ORDERS = list(islice(permutations("abcdef"), 700))
Ask = Callable[[App, str], Awaitable[object]]


async def condition(app: App, key: str) -> None:
    app.check(Wide, [(f"data.{key}", "=", 1), (f"part.note.{key}", "=", 1)])


async def search(app: App, key: str) -> None:
    await Wide.search([(f"ratings.{key}", "=", 1)], order=f"-data.{key}").limit(1)


async def position(app: App, key: str) -> None:
    await Wide.search([(f"tags.{int(key)}", "=", "x")]).count()


async def in_other_records(app: App, key: str) -> None:
    await Wide.search([(f"up_id.data.{key}", "=", 1)]).limit(1)


async def unknown(app: App, key: str) -> None:
    for domain in ([(f"f{key}", "=", 1)], [(f"up_id.f{key}", "=", 1)], [("a", f"op{key}", 1)]):
        with pytest.raises(EarnORMError):
            await Wide.search(domain)


async def unknown_values(app: App, key: str) -> None:
    with pytest.raises(EarnORMError):
        await Wide.create({f"f{key}": 1})
    with pytest.raises(EarnORMError):
        await Wide.search().only(f"f{key}")


async def json_write(app: App, key: str) -> None:
    await Wide.search([("a", "=", "none")]).update({f"data.{key}": key})


async def dict_write(app: App, key: str) -> None:
    await Wide.search([("a", "=", "none")]).update({f"ratings.{key}": Inc(1)})


async def body(app: App, key: str) -> None:
    Wide.pydantic_model(include=ORDERS[int(key) % len(ORDERS)], name=f"Wide{key}")


async def concern(app: App, key: str) -> None:
    query = Wide.search([("a", "=", "none")]).write_concern({"w": 1, "wtimeout": int(key) + 1})
    await query.update({"b": 1})


async def group(app: App, key: str) -> None:
    await Wide.search().group(f"data.{key}", many=Count())


async def text_value(app: App, key: str) -> None:
    await Wide.search([("a", "ilike", f"text {key}")]).limit(1)
    await Wide.search([("id", "=", f"text {key}")]).limit(1)


async def acting(app: App, key: str) -> None:
    with earnorm.system(reason=f"for {key}"):
        await Wide.search().limit(1)


WAYS: dict[str, Ask] = {
    way.__name__: way
    for way in (
        condition,
        search,
        position,
        in_other_records,
        unknown,
        unknown_values,
        json_write,
        dict_write,
        body,
        concern,
        group,
        text_value,
        acting,
    )
}


@pytest.fixture
async def app(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    monkeypatch.setattr(
        logging.getLogger("earnorm"), "disabled", True
    )  # pytest keeps what is logged
    monkeypatch.setattr(logging.getLogger("earnorm.slow_queries"), "disabled", True)
    async with earnorm.App("mongomock://", database="bounded", plugins=[], slow_query=1e-9) as app:
        yield app


@pytest.mark.parametrize("name", WAYS)
async def test_what_clients_ask_for_stays_within_bounds(app: App, name: str) -> None:
    first, more = (140, 50) if name == "body" else (MOST + 100, 300)  # fewer bodies are kept
    await stays_within_bounds(app, WAYS[name], first, more)


async def stays_within_bounds(app: App, ask: Ask, first: int = MOST + 100, more: int = 300) -> None:
    for n in range(first):
        await ask(app, f"{n}")
    before = blocks()
    for n in range(first, first + more):
        await ask(app, f"{n}")
    assert blocks() - before < more, "less than one block of memory may stay for each call"


LONG = {n: way for n, way in WAYS.items() if n not in ("position", "body", "concern", "text_value")}


@pytest.mark.parametrize("name", LONG)
async def test_long_texts_are_not_kept_at_all(app: App, name: str) -> None:
    ask, tail = LONG[name], "0" * 50_000

    async def asked(n: int) -> None:
        try:
            await ask(app, f"{n}{tail}")
        except (LimitExceeded, ValidationError) as error:  # of a path, which is not kept either
            assert "at most 1,000 characters" in str(error)

    await asked(1)
    gc.collect()
    tracemalloc.start()
    try:
        for n in range(2, 7):
            await asked(n)
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 100_000, "five texts of 50,000 characters have been handed in"


def blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()


def test_bounded_drops_the_oldest_and_keeps_no_long_key() -> None:
    kept = Bounded[object, int](most=3, longest=10)
    for n in range(5):
        kept[f"k{n}"] = n
    kept["k4"] = 5  # a key that is there pushes none out
    assert kept == {"k2": 2, "k3": 3, "k4": 5}
    kept["k" * 11] = kept["k", "of parts"] = 6
    assert kept == {"k2": 2, "k3": 3, "k4": 5}
    other = kept.empty()
    other["k" * 11] = 1
    assert other == {}
    for n in range(5):
        other[n] = n
    assert other == {2: 2, 3: 3, 4: 4}


def test_a_free_form_value_makes_no_validator_of_its_own(app: App) -> None:
    schema = Wide._schema
    first, second = (find_place(schema, f"data.key{n}").field for n in (1, 2))
    assert adapter(first, nullable=True) is adapter(second, nullable=True)


def test_a_copied_field_makes_its_own_validator() -> None:
    field: Any = Int(min_value=0)
    made = adapter(field)
    other = copy.copy(field)
    other.min_value = 5
    assert adapter(field) is made
    assert adapter(field, nullable=True).validate_python(None) is None
    with pytest.raises(pydantic.ValidationError):
        adapter(other).validate_python(1)
