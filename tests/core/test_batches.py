"""create_many, write_many: any number of records, bounded memory, and what was refused."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import earnorm
from earnorm import (
    App,
    BatchRefused,
    BatchResult,
    Command,
    ConcurrencyError,
    DuplicateKey,
    Inc,
    NotFound,
    ValidationError,
)

from .conftest import Commands, drop
from .shop import Author, Person, Post, Stock


def people(number: int) -> Iterator[dict[str, Any]]:
    return ({"name": f"n{n}", "email": f"n{n}@example.com"} for n in range(number))


async def test_a_stream_of_dicts_becomes_records(app: App) -> None:
    seen: list[tuple[int, int]] = []

    def progress(result: BatchResult) -> None:
        seen.append((result.written, result.refused))

    result = await Person.create_many(people(25), batch_size=10, progress=progress)
    assert (result.written, result.errors, result.seen) == (25, [], 25)
    assert seen == [(10, 0), (20, 0), (25, 0)]
    assert await Person.count() == 25
    assert (await Person.find_one([("name", "=", "n7")])).active is True  # type: ignore[attr-defined] # of one


async def test_an_async_iterable_and_an_async_progress_do_as_well(app: App) -> None:
    async def source() -> AsyncIterator[dict[str, Any]]:
        for each in people(7):
            await asyncio.sleep(0)
            yield each

    seen: list[int] = []

    async def progress(result: BatchResult) -> None:
        await asyncio.sleep(0)
        seen.append(result.written)

    assert (await Person.create_many(source(), batch_size=3, progress=progress)).written == 7
    assert seen == [3, 6, 7]
    assert (await Person.create_many([])).written == 0


async def test_each_batch_is_one_insert(commands: Commands) -> None:
    await Person.create_many(people(5), batch_size=2)
    sent = [command for command in commands.named("insert") if command["insert"] == "core_person"]
    assert [len(command["documents"]) for command in sent] == [2, 2, 1]


async def test_never_more_than_two_batches_are_held(app: App) -> None:
    class Counted(dict[str, Any]):
        alive = 0

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            Counted.alive += 1

        def __del__(self) -> None:
            Counted.alive -= 1

    most = 0

    def source() -> Iterator[dict[str, Any]]:
        nonlocal most
        for each in people(200):
            gc.collect(0)
            most = max(most, Counted.alive)
            yield Counted(each)

    await Person.create_many(source(), batch_size=10)
    assert 10 <= most <= 31


BAD: list[dict[str, Any]] = [
    {"name": "a", "email": "a@example.com"},
    {"email": "b@example.com"},
    {"name": "c", "email": "a@example.com"},
    {"name": "d"},
    {"name": "e", "age": -1, "score": "x"},
    {"name": "f", "email": "f@example.com"},
]


@pytest.mark.parametrize("size", [1, 2, 3, 10])
async def test_unordered_goes_on_and_reports_what_was_refused_and_why(app: App, size: int) -> None:
    result = await Person.create_many(BAD, batch_size=size, ordered=False)
    assert (result.written, result.refused, result.positions) == (3, 3, [1, 2, 4])
    assert [(detail["loc"], detail["type"]) for detail in result.errors] == [
        ((1, "name"), "missing"),
        ((2, "email"), "duplicate_key"),
        ((4, "age"), "greater_than_equal"),
        ((4, "score"), "float_parsing"),
    ]
    assert sorted((await Person.search()).mapped("name")) == ["a", "d", "f"]
    assert "example" not in repr(result)


@pytest.mark.parametrize("size", [1, 2, 3, 10])
async def test_ordered_stops_at_the_first_that_is_refused(app: App, size: int) -> None:
    for values, position, kind in (
        (BAD, 1, ValidationError),
        ([BAD[0], BAD[3], BAD[2], BAD[5]], 2, DuplicateKey),
    ):
        await Person.search().delete()
        with pytest.raises(BatchRefused) as caught:
            await Person.create_many(values, batch_size=size)
        assert isinstance(caught.value, kind)
        assert caught.value.positions == (position,)
        assert list(caught.value.written or ()) == list(range(position))
        assert await Person.count() == position


async def test_what_is_no_dict_is_refused_by_its_position(app: App) -> None:
    values: list[Any] = [{"name": "a"}, "b", Person(name="c"), None]
    result = await Person.create_many(values, ordered=False)
    assert result.positions == [1, 2, 3] and result.written == 1
    with pytest.raises(BatchRefused, match="a str is no dict"):
        await Person.create_many(values)


async def test_a_source_that_fails_leaves_what_was_written(app: App) -> None:
    def source() -> Iterator[dict[str, Any]]:
        yield from people(4)
        raise RuntimeError("the file ended")

    with pytest.raises(RuntimeError, match="the file ended"):
        await Person.create_many(source(), batch_size=2)
    assert await Person.count() == 4


async def test_a_document_that_mongodb_cannot_store_is_named(server_app: App) -> None:
    values = [{"name": "a"}, {"name": "b" * (17 * 1024 * 1024)}, {"name": "c"}]
    with pytest.raises(ValidationError, match="document"):
        await Person.create_many(values, ordered=False)


async def test_create_many_belongs_to_the_transaction_around_it(server_app: App) -> None:
    with pytest.raises(RuntimeError):
        async with earnorm.transaction():
            await Person.create_many(people(5), batch_size=2)
            assert await Person.count() == 5
            raise RuntimeError
    assert await Person.count() == 0
    with pytest.raises(DuplicateKey):
        async with earnorm.transaction():
            await Person.create_many([BAD[0], BAD[2], BAD[3]], ordered=False)
    assert await Person.count() == 0


async def test_batch_size_is_a_number(app: App) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        await Person.create_many([], batch_size=0)


emails = st.sampled_from([None, "a@x.org", "b@x.org", "c@x.org", "no email"])
rows = st.lists(st.fixed_dictionaries({}, optional={"name": st.just("n"), "email": emails}))


def test_unordered_writes_exactly_what_one_by_one_would(mongo_uri: str, database: str) -> None:
    async def law(values: list[dict[str, Any]], size: int) -> None:
        with started.activate():
            await Person.search().delete()
            wrong: list[int] = []
            for position, each in enumerate(values):
                try:
                    await Person.create(each)
                except ValidationError:
                    wrong.append(position)
            expected = sorted((await Person.search()).mapped("email"), key=str)
            await Person.search().delete()
            result = await Person.create_many(values, batch_size=size, ordered=False)
            assert result.positions == wrong and result.written == len(values) - len(wrong)
            assert sorted((await Person.search()).mapped("email"), key=str) == expected

    with asyncio.Runner() as runner:
        started = runner.run(earnorm.App(mongo_uri, database=database, plugins=[]).start())

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(rows, st.integers(1, 4))
        def check(values: list[dict[str, Any]], size: int) -> None:
            runner.run(law(values, size))

        try:
            check()
        finally:
            runner.run(drop(started))
            runner.run(started.stop())


# -- write_many -----------------------------------------------------------------------------------


async def test_write_many_gives_each_record_its_own_values(app: App) -> None:
    a, b, c = await Person.create([{"name": n, "age": 1} for n in "abc"])
    written = await Person.write_many(
        {a: {"age": 5, "tags": ["x"]}, b.id: {"name": "B"}, c: {"age": Inc(2)}}
    )
    assert written == 3 and (a.age, a.tags, c.age, a.is_changed) == (5, ["x"], 3, False)
    found = await Person.search(order="id")
    assert found.mapped("age") == [5, 1, 3] and found.mapped("name") == ["a", "B", "c"]
    assert await Person.write_many({}) == 0


async def test_write_many_is_one_command(commands: Commands) -> None:
    both = await Person.create([{"name": n} for n in "ab"])
    commands.clear()
    await Person.write_many({both[0]: {"age": 5}, both[1].pk: {"name": "z"}})
    assert [name for name, _ in commands.all] == ["update"]


async def test_write_many_tells_every_problem_with_its_position(app: App) -> None:
    a, b = await Person.create([{"name": "a", "age": 1}, {"name": "b", "age": 1}])
    with pytest.raises(ValidationError) as caught:
        await Person.write_many(
            {a: {"age": -1}, b: {"nmae": 1}, a.id: {"age": 3}, Person(name="u"): {"age": 1}}
        )
    assert [detail["loc"] for detail in caught.value.errors()] == [
        (0, "age"),
        (1, "nmae"),
        (2,),
        (3,),
    ]
    with pytest.raises(ValidationError, match="out of bounds") as caught:
        await Person.write_many({a: {"age": 7}, b: {"age": Inc(-2)}})
    assert caught.value.errors()[0]["loc"] == (1, "age")
    assert (await Person.search()).mapped("age") == [1, 1]
    with pytest.raises(ValidationError, match="takes a dict"):
        await Person.write_many([(a, {})])  # type: ignore[arg-type] # that is the point


async def test_write_many_says_what_is_gone_or_was_changed(app: App) -> None:
    a, b = await Person.create([{"name": "a"}, {"name": "b"}])
    await a.unlink()
    with pytest.raises(NotFound, match="1 of 2"):
        await Person.write_many({a: {"age": 1}, b: {"age": 2}})
    stock = await Stock.create({"number": 1})
    await (await Stock.get(stock.id)).write({"number": 2})
    with pytest.raises(ConcurrencyError):
        await Stock.write_many({stock: {"number": 3}})
    assert await Stock.write_many({stock.id: {"number": 3}}) == 1  # an id knows no revision


async def test_commands_on_relations_belong_into_create_and_write(app: App) -> None:
    values = {"name": "a", "post_ids": [Command.create({"title": "t"})]}
    author = await Author.create({"name": "b"})
    result = await Author.create_many([{"name": "c"}, values], ordered=False)
    assert (result.written, result.errors[0]["loc"]) == (1, (1, "post_ids"))
    for attempt in (
        lambda: Author.create_many([values]),
        lambda: Author.write_many({author: values}),
        lambda: bulk_of(author, values),
    ):
        with pytest.raises(ValidationError, match="commands are for create"):
            await attempt()
    assert await Author.count() == 2 and await Post.count() == 0


async def bulk_of(author: Author, values: dict[str, Any]) -> None:
    async with Author.bulk() as bulk:
        bulk.write(author, values)
