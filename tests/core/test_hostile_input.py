"""The law of hostile input: whatever a client hands in, no exception of a driver or a codec comes out.

Each public entry that takes a text, a number or a path gets ones that BSON, UTF-8 or the server cannot take. The
outcome is a result or an error of ``earnorm.exceptions``; one about a value or a path says which.
"""

from __future__ import annotations

import asyncio
import datetime
import inspect
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from earnorm import (
    UUID,
    AddToSet,
    App,
    BaseModel,
    Command,
    Count,
    Date,
    DateTime,
    Decimal,
    Dict,
    DomainError,
    Duration,
    EarnORMError,
    Embedded,
    EmbeddedModel,
    Field,
    Float,
    Inc,
    Int,
    Json,
    List,
    Many2many,
    Many2one,
    Max,
    Min,
    Mul,
    ObjectIdField,
    Pull,
    Push,
    RecordSet,
    Reference,
    Set,
    String,
    Sum,
    Text,
    Time,
    ValidationError,
)

from .laws import law, world


class HostilePart(EmbeddedModel):
    city = String()
    number = Int()
    data = Json()


class HostileTag(BaseModel):
    _name = "hostile.tag"
    label = String()


class HostileKey(BaseModel):
    _name = "hostile.key"
    _id = String(required=True)


class Hostile(BaseModel):
    _name = "hostile.record"

    text = String()
    long = Text()
    number = Int()
    real = Float()
    exact = Decimal()
    day = Date()
    at = DateTime()
    span = Duration()
    time = Time()
    data = Json()
    anything = Dict()
    texts = Dict(String())
    items = List(String())
    part = Embedded(HostilePart)
    parts = List(Embedded(HostilePart))
    marks = Set(String())
    uuid = UUID()
    oid = ObjectIdField()
    tag = Many2one(HostileTag)
    tags = Many2many(HostileTag)
    key = Many2one(HostileKey)
    target = Reference(HostileTag, HostileKey)
    code = String(unique=True)
    free: Field[Any, Any] = Field()


Try = Callable[[Any, str, Any], Any]
"""Makes a call of a record, a field's name and a hostile value; the result may be awaited."""


async def _streamed(query: Any) -> None:
    async for _ in query:
        pass


async def _bulk(values: dict[Any, Any]) -> None:
    async with Hostile.bulk() as bulk:
        bulk.create(values)


def _loaded(record: Any) -> RecordSet[Any]:
    return RecordSet(Hostile, [record])


OPERATORS = (
    *(
        "=",
        "!=",
        ">",
        "<=",
        "in",
        "not in",
        "like",
        "not ilike",
        "=like",
        "regex",
        "exists",
        "size",
    ),
    *("all", "any", "child_of", "=?", "text", "elem"),
)
CHANGES = (Inc, Mul, Push, Pull, AddToSet, Min, Max)

ENTRIES: dict[str, Try] = {
    # values
    "create": lambda r, f, x: Hostile.create({f: x}),
    "create a list": lambda r, f, x: Hostile.create({f: [x]}),
    "create a dict": lambda r, f, x: Hostile.create({f: {x: x}}),
    "create an object": lambda r, f, x: Hostile.create({f: {"city": x, "number": x, "data": [x]}}),
    "create a batch": lambda r, f, x: Hostile.create([{"text": "a"}, {f: x}]),
    "create_many": lambda r, f, x: Hostile.create_many([{"text": "a"}, {f: x}], ordered=False),
    "bulk": lambda r, f, x: _bulk({f: x}),
    "write": lambda r, f, x: r.write({f: x}),
    "write_many": lambda r, f, x: Hostile.write_many({r: {f: x}}),
    "update": lambda r, f, x: Hostile.search().update({f: x}),
    "upsert": lambda r, f, x: Hostile.upsert({"code": "u", f: x}, on="code"),
    "upsert on": lambda r, f, x: Hostile.upsert_many([{"code": x}], on="code"),
    "copy": lambda r, f, x: r.copy({"code": x, f: x}),
    "change": lambda r, f, x: [r.write({f: change(x)}) for change in CHANGES],
    "command": lambda r, f, x: r.write({"tags": [Command.create({"label": x}), Command.link(x)]}),
    "own id": lambda r, f, x: HostileKey.create({"_id": x}),
    # keys and paths
    "create a key": lambda r, f, x: Hostile.create({x: 1}),
    "write a key": lambda r, f, x: r.write({x: 1}),
    "write a path": lambda r, f, x: r.write({f"{f}.{x}": 1}),
    "update a path": lambda r, f, x: Hostile.search().update({f"{f}.{x}": "v"}),
    "upsert by": lambda r, f, x: Hostile.upsert({"code": "u"}, on=x),
    "write_many ids": lambda r, f, x: Hostile.write_many({x: {"text": "a"}}),
    "toggle": lambda r, f, x: r.toggle(x),
    # conditions
    "domain": lambda r, f, x: [Hostile.search([(f, o, x)]) for o in OPERATORS],
    "domain, a list": lambda r, f, x: [Hostile.search([(f, o, [x])]).count() for o in OPERATORS],
    "domain, a dict": lambda r, f, x: [Hostile.search([(f, o, {x: x})]) for o in OPERATORS],
    "domain, a path": lambda r, f, x: [Hostile.search([(f"{f}.{x}", o, "v")]) for o in OPERATORS],
    "domain, a name": lambda r, f, x: Hostile.search([(x, "=", 1)]),
    "in memory": lambda r, f, x: _loaded(r).filtered_domain([(f"{f}.{x}", "=", x)]),
    "get": lambda r, f, x: [Hostile.get(x), HostileKey.get(x)],
    "browse": lambda r, f, x: [HostileKey.browse([x]).refresh(), Hostile.browse([x]).refresh()],
    # the shape of a query
    "order": lambda r, f, x: [Hostile.search(order=o) for o in (f"{f}.{x}", x, [x], [(f, x)])],
    "only": lambda r, f, x: [Hostile.search(only=o) for o in (x, [x], [f, x])],
    "prefetch": lambda r, f, x: [Hostile.search(prefetch=o) for o in (x, [x], [f"tag.{x}"])],
    "limit": lambda r, f, x: [Hostile.search(limit=x), Hostile.search(limit=x).count()],
    "offset": lambda r, f, x: [Hostile.search(offset=x), Hostile.search(offset=x).count()],
    "window": lambda r, f, x: [
        *(_streamed(Hostile.search(limit=x, offset=x)), Hostile.search(limit=x, offset=x).count()),
        Hostile.search(limit=x, offset=x).group("text"),
    ],
    "timeout": lambda r, f, x: [Hostile.search(timeout=x), Hostile.search().timeout(x).count()],
    "page": lambda r, f, x: [Hostile.search().page(x), Hostile.search().page(x, x)],
    "paginate": lambda r, f, x: [
        *(Hostile.search().paginate(x), Hostile.search(order=f"{f}.{x}").paginate(5)),
        Hostile.search(order=f).paginate(5, after=x),
    ],
    "batch_size": lambda r, f, x: Hostile.create_many([{"text": "a"}], batch_size=x),
    # groups and pipelines
    "group": lambda r, f, x: [
        *(Hostile.search().group(f"{f}.{x}"), Hostile.search().group(n=Sum(f"{f}.{x}"))),
        *(Hostile.search().group(f"at:{x}"), Hostile.search().group({x: "text"})),
        *(Hostile.search().group("text", n=Count(), having=[(x, "=", x)]),),
        *(Hostile.search().group("text", order=x), Hostile.search().group("text", limit=x)),
    ],
    "aggregate": lambda r, f, x: [
        Hostile.search().aggregate([stage])
        for stage in (
            *({"$match": {f: x}}, {"$match": {x: 1}}, {"$group": {"_id": x}}, {"$project": {x: 1}}),
            *({"$sort": {x: 1}}, {"$set": {x: x}}, {"$unwind": x}, {x: 1}, {"$limit": x}),
            *({"$count": x}, {"$lookup": {"from": x, "as": x}}, {"$unset": x}),
        )
    ],
    # records in memory
    "arrange": lambda r, f, x: [
        *(_loaded(r).sorted(f"{f}.{x}"), _loaded(r).mapped(x), _loaded(r).filtered(x)),
        *(_loaded(r).grouped(x), r.to_dict(include=[x]), r.read([x])),
    ],
}

TEXTS = st.sampled_from(
    [
        *("\ud800", "x\ud800", "", "$x", "$", "a.b", "\0", "a\0b", ".", "a.", ".a", "a..b", "-"),
        *("9" * 30, "a.$x", "$where", "__proto__", "0", "id", "é"),
    ]
) | st.text(st.characters(), max_size=5)
NUMBERS = st.sampled_from(
    [
        *(2**63, -(2**63) - 1, 2**64, 10**400, float("inf"), float("nan"), -1, 2**62, 2**31),
        *(2**63 - 1, True, 1e300),
    ]
) | st.integers(-(2**70), 2**70)  # fmt: skip

FOREIGN = "an exception that is not EarnORM's came out"


async def outcome(make: Callable[[], Any]) -> list[Exception]:
    """Make a call, await what can be awaited, and return the errors.

    ``mapped`` and the like take any text as the name of a method of records, and what Python says
    about a call (a keyword, an attribute) is its own business; nothing else is.
    """
    errors: list[Exception] = []
    try:
        made = make()
    except EarnORMError as error:
        return [error]
    for one in made if isinstance(made, list) else [made]:
        try:
            if inspect.isawaitable(one):
                await one
        except EarnORMError as error:
            errors.append(error)
    return errors


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", ["pymongo", "motor", "memory"])
def test_hostile_input_gives_a_result_or_an_error_of_ours(kind: str) -> None:
    with world(kind) as here:

        @law(100)
        @hypothesis.given(
            st.sampled_from([*ENTRIES]),
            st.sampled_from([name for name in Hostile._schema.fields if name != "_id"]),
            TEXTS | NUMBERS,
        )
        def holds(entry: str, field: str, value: Any) -> None:
            async def example() -> None:
                await Hostile.search().delete()
                record = await Hostile.create({"text": "a", "data": {"k": 1}, "part": {}})
                await outcome(lambda: ENTRIES[entry](record, field, value))

            here.run(example)

        holds()


# -- which value, and what to do ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "loc"),
    [
        ({"text": "x\ud800"}, ("text",)),
        ({"long": "\ud800"}, ("long",)),
        ({"items": ["\ud800"]}, ("items", 0)),
        ({"texts": {"k": "\ud800"}}, ("texts", "k")),
        ({"texts": {"\ud800": "v"}}, ("texts", "\ufffd\ufffd\ufffd", "[key]")),
        ({"data": {"k": ["\ud800"]}}, ("data",)),
        ({"data": {"\ud800": 1}}, ("data",)),
        ({"part": {"city": "\ud800"}}, ("part", "city")),
        ({"free": "\ud800"}, ("free",)),
        ({"free": 2**63}, ("free",)),
    ],
)
async def test_a_value_that_cannot_be_stored_names_its_place_on_every_way(
    app: App, values: dict[str, Any], loc: tuple[str | int, ...]
) -> None:
    record = await Hostile.create({"code": "a"})
    ways: dict[str, Callable[[], Any]] = {
        "create": lambda: Hostile.create(values),
        "write": lambda: record.write(values),
        "update": lambda: Hostile.search().update(values),
        "upsert": lambda: Hostile.upsert({"code": "a", **values}, on="code"),
    }
    for way, make in ways.items():
        with pytest.raises(ValidationError) as caught:
            await make()
        [detail] = caught.value.errors()
        assert detail["loc"] == loc, way
    with pytest.raises(ValidationError) as caught:
        await Hostile.create([{"text": "fine"}, values])
    assert caught.value.errors()[0]["loc"] == (1, *loc)
    with pytest.raises(ValidationError) as caught:
        await Hostile.write_many({record: values})
    assert caught.value.errors()[0]["loc"] == (0, *loc)
    assert await Hostile.count() == 1


@pytest.mark.parametrize("part", ["", "$x", "a\0b", "\ud800", "a..b", ".a", "a.", "a.$x"])
async def test_a_part_of_a_path_that_a_server_cannot_read_is_refused(app: App, part: str) -> None:
    path = f"data.{part}"
    for make in (
        lambda: Hostile.search([(path, "=", 1)]),
        lambda: Hostile.search(order=path),
        lambda: Hostile.search().group(path),
        lambda: Hostile.search(order=path).paginate(5),
    ):
        with pytest.raises(DomainError, match="data"):
            await make()
    with pytest.raises(ValidationError, match="data"):
        await Hostile.search().update({path: 1})


async def test_an_order_of_pairs_says_how_to_write_it(app: App) -> None:
    for order in ([("number", -1)], ("number", -1), 3, [None], {"number": -1}, {"number", "text"}):
        with pytest.raises(
            ValidationError, match=r'order: takes "-age,name" or \["-age", "name"\]'
        ):
            Hostile.search(order=order)  # type: ignore[arg-type] # a mistake


async def test_one_name_is_enough_for_only_and_prefetch(app: App) -> None:
    await Hostile.create({"text": "a", "number": 1})
    [record] = await Hostile.search(only="text")
    assert record.to_dict() == {"id": record.id, "text": "a"}
    [record] = await Hostile.search(prefetch="tag")
    assert record.tag is None
    for only in ([3], {"number": 0}):
        with pytest.raises(ValidationError, match="only: takes"):
            Hostile.search(only=only)  # type: ignore[arg-type] # a mistake


async def test_a_list_of_names_in_the_place_of_names_says_how_to_write_them(app: App) -> None:
    names: Any = ["text", "number"]
    record = await Hostile.create({"text": "a", "number": 1})
    with pytest.raises(ValidationError, match=r'takes names: only\("name", "age"\)'):
        Hostile.search().only(names)
    with pytest.raises(ValidationError, match=r'takes names: refresh\("name", "age"\)'):
        await record.refresh(names)
    with pytest.raises(ValidationError, match=r'takes names: backfill\("state"'):
        await Hostile.backfill(names)
    await record.refresh(*names)


async def test_sizes_and_times_beyond_the_server_name_the_argument(app: App) -> None:
    refused: dict[str, Callable[[], Any]] = {
        "limit": lambda: Hostile.search(limit=2**63),
        "offset": lambda: Hostile.search(offset=2**63),
        "number": lambda: Hostile.search().page(2**63),
        "size": lambda: Hostile.search().paginate(2**63),
        "timeout": lambda: Hostile.search(timeout=1e12),
        "batch_size": lambda: Hostile.create_many([], batch_size=2**63),
    }
    for name, make in refused.items():
        with pytest.raises(ValidationError) as caught:
            made = make()
            await made
        assert caught.value.errors()[0]["loc"] == (name,)
    assert await Hostile.search(limit=2**62, offset=2**62) == RecordSet(Hostile, [])


async def test_a_sum_beyond_64_bits_says_so(app: App) -> None:
    record = await Hostile.create({"number": 2**63 - 1})
    with pytest.raises(ValidationError, match="more than 64 bits"):
        await record.write({"number": Inc(1)})


async def test_decimals_are_counted_up_by_every_backend(app: App) -> None:
    record = await Hostile.create({"exact": "1.5"})
    await record.write({"exact": Inc(1)})
    assert str(record.exact) == str((await Hostile.get(record.id)).exact) == "2.5"


@pytest.mark.parametrize(
    "text",
    [
        *("0001-01-01T00:00:00+05:00", "9999-12-31T23:00:00-05:00", "0001-01-01T00:00:00+00:01"),
        "9999-12-31T23:59:59.999999-00:01",
    ],
)
async def test_a_time_beyond_the_ends_of_time_is_refused(app: App, text: str) -> None:
    record = await Hostile.create({"text": "a"})
    for value in (text, datetime.datetime.fromisoformat(text)):
        for make in (
            lambda value=value: Hostile.create({"at": value}),
            lambda value=value: record.write({"at": value}),
            lambda value=value: Hostile.search([("at", "<", value)]),
            lambda value=value: Hostile.search([("at", "in", [value])]),
            lambda value=value: Hostile.search([("day", "=", value)]),
        ):
            with pytest.raises(ValidationError, match="years 1 to 9999"):
                await make()


def test_one_loop_serves_all_examples() -> None:
    assert asyncio.run(outcome(lambda: Hostile.search(limit=-1)))
