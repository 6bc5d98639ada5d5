"""upsert: by a unique index, whatever happens at the same time."""

from __future__ import annotations

import asyncio
import datetime
import decimal
from typing import Any

import pytest

from earnorm import (
    AddToSet,
    App,
    BaseModel,
    Boolean,
    ConfigurationError,
    CurrentDate,
    DateTime,
    Decimal,
    Dict,
    DuplicateKey,
    Embedded,
    EmbeddedModel,
    Inc,
    Int,
    List,
    Max,
    Min,
    Mul,
    Pop,
    Pull,
    Push,
    String,
    Toggle,
    Unset,
    ValidationError,
)
from earnorm.fields.base import MISSING
from earnorm.kernel.operations import TOGGLE
from earnorm.model.writing.planning import planned

from .conftest import Commands


class Page(BaseModel):
    _name = "upserts.page"

    url = String(required=True, unique=True, strip=True, db_name="u")
    title = String(required=True)
    hits = Int(default=0, max_value=1000)
    born = String(readonly=True)
    alias = String(unique=True)


class Route(BaseModel):
    _name = "upserts.route"
    _indexes = [{"keys": [("site", 1), ("path", 1)], "unique": True}]

    site = String(required=True, db_name="s")
    path = String(required=True)
    title = String()


async def test_a_record_is_created_and_then_written(app: App) -> None:
    page, is_new = await Page.upsert({"url": "/a", "title": "A", "born": "today"}, on="url")
    assert is_new and page.is_stored and (page.title, page.hits) == ("A", 0)
    again, is_new = await Page.upsert({"url": " /a ", "title": "B", "born": "never"}, on=("url",))
    assert not is_new and again == page
    assert (again.title, again.born, again.url) == ("B", "today", "/a")
    assert await Page.count() == 1


async def test_a_change_takes_another_value_for_a_new_record(app: App) -> None:
    for expected in (1, 2, 3):
        page, _ = await Page.upsert(
            {"url": "/a", "hits": Inc(1)}, on="url", new={"hits": 1, "title": "new"}
        )
        assert page.hits == expected
    with pytest.raises(ValidationError, match="out of bounds"):
        await Page.upsert({"url": "/a", "hits": Inc(1000)}, on="url")


async def test_several_fields_and_the_id_tell_records_apart_too(app: App) -> None:
    values: dict[str, Any] = {"title": "x", "site": "s", "path": "p"}
    first, _ = await Route.upsert(values, on=("path", "site"))
    assert (await Route.upsert({**values, "title": "y"}, on=("site", "path"))) == (first, False)
    by_id, is_new = await Route.upsert({"id": first.id, "title": "z", **values}, on="id")
    assert (by_id, is_new, by_id.title) == (first, False, "x")
    many, created = await Route.upsert_many([values, {**values, "path": "q"}], on=("site", "path"))
    assert created == 1 and many[0] == first and many[1].path == "q"


async def test_without_a_unique_index_on_exactly_these_fields_it_is_refused(app: App) -> None:
    for model, on in ((Page, "title"), (Page, ("url", "title")), (Route, "site"), (Page, ())):
        with pytest.raises(ConfigurationError, match="unique index on exactly these fields"):
            await model.upsert({"url": "/a", "title": "x"}, on=on)
    with pytest.raises(ValidationError, match="did you mean 'url'"):
        await Page.upsert({"url": "/a"}, on="urll")


async def test_bad_values_are_refused_on_both_ways(app: App) -> None:
    for values in ({"title": "x"}, {"url": None, "title": "x"}, {"url": Inc(1)}, {"url": 3}):
        with pytest.raises(ValidationError, match="url"):
            await Page.upsert(values, on="url")
    with pytest.raises(ValidationError, match="title"):
        await Page.upsert({"url": "/a"}, on="url")
    await Page.create({"url": "/a", "title": "x"})
    with pytest.raises(ValidationError, match="hits"):
        await Page.upsert({"url": "/a", "hits": "many"}, on="url")
    assert await Page.count() == 1


async def test_another_unique_index_is_told_of(app: App) -> None:
    await Page.create({"url": "/a", "title": "x", "alias": "z"})
    with pytest.raises(DuplicateKey) as caught:
        await Page.upsert({"url": "/b", "title": "x", "alias": "z"}, on="url")
    assert caught.value.fields == ("alias",)


async def test_fifty_tasks_make_one_record(server_app: App) -> None:
    done = await asyncio.gather(
        *(
            Page.upsert({"url": "/a", "hits": Inc(1)}, on="url", new={"title": "t", "hits": 1})
            for _ in range(50)
        )
    )
    assert sum(is_new for _, is_new in done) == 1
    assert await Page.count() == 1
    assert (await Page.search())[0].hits == 50


async def test_an_upsert_that_finds_its_record_is_a_write_and_a_read(commands: Commands) -> None:
    await Page.create({"url": "/a", "title": "x"})
    commands.clear()
    await Page.upsert({"url": "/a", "title": "y"}, on="url")
    assert [name for name, _ in commands.all] == ["findAndModify", "find"]


async def test_upsert_many_writes_and_creates_in_order(app: App) -> None:
    await Page.create([{"url": f"/{n}", "title": "old", "hits": 5} for n in (1, 3)])
    pages, created = await Page.upsert_many(
        [{"url": f"/{n}", "title": f"t{n}", "hits": Inc(1)} for n in range(5)],
        on="url",
        new={"hits": 1},
    )
    assert created == 3
    assert pages.mapped("url") == [f"/{n}" for n in range(5)]
    assert pages.mapped("hits") == [1, 6, 1, 6, 1]
    assert pages.mapped("title") == [f"t{n}" for n in range(5)]
    assert (await Page.upsert_many([], on="url"))[1] == 0


async def test_upsert_many_takes_four_round_trips(commands: Commands) -> None:
    await Page.create([{"url": f"/{n}", "title": "old"} for n in range(3)])
    commands.clear()
    await Page.upsert_many([{"url": f"/{n}", "title": "t"} for n in range(9)], on="url")
    assert [name for name, _ in commands.all] == ["find", "update", "insert", "find"]


async def test_upsert_many_tells_every_problem_and_writes_nothing(app: App) -> None:
    with pytest.raises(ValidationError) as caught:
        await Page.upsert_many(
            [
                {"url": "/1", "title": "t"},
                {"title": "x"},
                {"url": "/1"},
                {"url": "/4", "hits": "x"},
            ],
            on="url",
        )
    assert [detail["loc"] for detail in caught.value.errors()] == [
        (1, "url"),
        (2, "url"),
        (3, "hits"),
    ]
    assert await Page.count() == 0


async def test_upserts_of_many_at_the_same_time_make_each_record_once(server_app: App) -> None:
    batches = [
        [{"url": f"/{(n + start) % 40}", "hits": Inc(1)} for n in range(30)] for start in range(8)
    ]
    done = await asyncio.gather(
        *(Page.upsert_many(each, on="url", new={"title": "t", "hits": 1}) for each in batches)
    )
    pages = await Page.search()
    assert len(pages) == 37 == sum(created for _, created in done)
    assert sum(pages.mapped("hits")) == 8 * 30


async def test_many_are_upserted_however_often_somebody_is_faster(
    server_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    from earnorm.features.upserts import upserts

    create = upserts.create

    async def outrun(bound: Any, documents: Any, notes: Any) -> Any:
        await create(bound, [{"url": documents[0]["url"], "title": "faster"}])
        return await create(bound, documents, notes)

    monkeypatch.setattr(upserts, "create", outrun)
    records, created = await Page.upsert_many(
        [{"url": f"/{n}", "hits": Inc(1)} for n in range(12)], on="url", new={"title": "t"}
    )
    assert (len(records), created, await Page.count()) == (12, 0, 12)


class Part(EmbeddedModel):
    size = Int(default=7)
    weight = Int()


class Tally(BaseModel):
    _name = "upserts.tally"

    code = String(required=True, unique=True)
    number = Int(default=10, max_value=50)
    fixed = Int(readonly=True)
    price = Decimal()
    ready = Boolean(default=True)
    at = DateTime()
    tags = List(String(strip=True, max_length=4))
    parts = List(Embedded(Part))
    main = Embedded(Part, db_name="m")
    counts = Dict(Int())


CHANGES: list[tuple[str, Any]] = [
    *(("number", change) for change in (Inc(3), Inc(-3), Mul(5), Min(4), Max(4), Unset())),
    *(("fixed", change) for change in (Inc(2), Max(3))),
    *(("price", change) for change in (Inc(decimal.Decimal("1.50")), Mul(2))),
    *(("ready", change) for change in (Toggle(), Unset())),
    *(("tags", change) for change in (Push("b", "a"), Push(" b ", "a", sort=1), Pop(), Pull("a"))),
    *(("tags", Push("b", "a", "c", sort=-1, slice=size)) for size in (2, -2, 0)),
    *(("tags", change) for change in (AddToSet("b", " b", "a"), Push("a", position=3))),
    ("parts", Push({"size": 3, "weight": 1}, {"size": 2, "weight": 2}, sort={"size": 1})),
    ("parts", AddToSet({"size": 3}, {"size": 3})),
    ("counts.a", Inc(2)),
    ("counts.a", 5),
    ("main.weight", 5),
    ("main.size", Inc(2)),
]


async def test_a_change_gives_a_new_record_what_the_servers_upsert_gives_it(
    server_app: App,
) -> None:
    raw = server_app.dangerous_raw("the law of upserts")["upserts_tally"]
    for number, (name, change) in enumerate(CHANGES):
        if name == "fixed":  # it is never written, so no plan of a write has it
            operators: Any = {change.operator: {name: change.first(Tally._schema.fields[name])}}
        else:
            operators = planned(Tally._schema, {name: change}).operators
            if TOGGLE in operators:
                operators = {"$set": {"ready": False}}  # the server has no such operator
        theirs, ours, many = f"their {number}", f"our {number}", f"many {number}"
        await raw.update_one({"code": theirs}, operators, upsert=True)
        values = {"code": ours, name: change}
        record, is_new = await Tally.upsert(values, on="code")
        assert is_new and not record.is_changed
        records, created = await Tally.upsert_many([{**values, "code": many}], on="code")
        assert created == 1
        documents = [await raw.find_one({"code": code}) for code in (theirs, ours, many)]
        root = name.partition(".")[0]
        key = Tally._schema.fields[root].db_name
        expected, *stored = [document.get(key, MISSING) for document in documents]
        if name == "main.weight":
            expected = {"size": 7, **expected}  # an object that is made gets its defaults
        for value in stored:
            if expected is MISSING:  # it is as if nothing was given
                assert value in (MISSING, None, [], Tally._schema.fields[root].default), change
            else:
                assert value == expected and type(value) is type(expected), (name, change)
        for known in (record, records[0]):
            assert getattr(await Tally.get(known.pk), root) == getattr(known, root)


async def test_the_values_that_changes_make_are_validated_and_new_goes_before_them(
    app: App,
) -> None:
    for values, loc in (
        ({"number": Inc(51)}, ("number",)),
        ({"tags": Push("abcde")}, ("tags",)),
        ({"parts.0.size": 3}, ("parts", 0, "size")),
    ):
        with pytest.raises(ValidationError) as caught:
            await Tally.upsert({"code": "x", **values}, on="code")
        assert caught.value.errors()[0]["loc"] == loc
    assert await Tally.count() == 0
    values = {"code": "x", "number": Inc(51), "main.size": 3, "tags": Push("b")}
    new = {"number": 1, "main": {"size": 9}}
    tally, is_new = await Tally.upsert(values, on="code", new=new)
    assert (is_new, tally.number, tally.tags) == (True, 1, ["b"])
    assert tally.main is not None and tally.main.size == 9
    again, is_new = await Tally.upsert({"code": "x", "number": Inc(2)}, on="code", new=new)
    assert (is_new, again.number) == (False, 3)


async def test_the_servers_time_is_that_of_a_new_record(app: App) -> None:
    tally, _ = await Tally.upsert({"code": "x", "at": CurrentDate()}, on="code")
    assert tally.at is not None
    assert abs((tally.at - datetime.datetime.now(datetime.UTC)).total_seconds()) < 60
