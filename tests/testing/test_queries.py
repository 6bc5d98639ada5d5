"""`assert_queries` and `count_queries`: the same numbers everywhere, the line that asked, what to add."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import earnorm
from earnorm import Domain, Int, Many2one, One2many, Operation, String, models
from earnorm.exceptions import ConfigurationError
from earnorm.plugin import hookimpl, made_by
from earnorm.testing import app_with, assert_queries, count_queries


class Writer(models.BaseModel):
    _name = "testing.queries.writer"
    name = String(required=True)
    post_ids = One2many("testing.queries.post", "writer_id")


class Post(models.BaseModel):
    _name = "testing.queries.post"
    title = String(required=True)
    words = Int(default=0)
    writer_id = Many2one("testing.queries.writer")


POSTS, WRITERS = "testing_queries_post", "testing_queries_writer"


@pytest.fixture(params=["pymongo", "motor", "memory"])
async def app(request: pytest.FixtureRequest) -> AsyncIterator[earnorm.App]:
    """An App with five posts of two writers, on each backend."""
    where: dict[str, Any] = {}
    if request.param != "memory":
        where = {"uri": os.environ["EARNORM_TEST_MONGO_URI"], "driver": request.param}
    async with app_with(**where) as started:
        writers = await Writer.create([{"name": "Ann"}, {"name": "Bo"}])
        await Post.create([{"title": f"{n}", "writer_id": writers[n % 2]} for n in range(5)])
        yield started


@pytest.fixture
async def memory() -> AsyncIterator[list[Post]]:
    async with app_with():
        writers = await Writer.create([{"name": "Ann"}, {"name": "Bo"}])
        yield list(
            await Post.create([{"title": f"{n}", "writer_id": writers[n % 2]} for n in range(5)])
        )


def line_in(text: str, after: int = 0) -> int:
    """The line of this file in which a text stands for the first time, and some lines on."""
    lines = Path(__file__).read_text().splitlines()
    return next(n for n, line in enumerate(lines, 1) if text in line) + after


async def test_the_numbers_are_those_of_the_calls_with_each_driver(app: earnorm.App) -> None:
    with count_queries() as queries:
        posts = await Post.search().prefetch("writer_id")
        assert (queries.of(POSTS), queries.of(WRITERS)) == (1, 1)
        queries.clear()
        assert await Post.count() == 5
        await posts[0].write({"words": 3})
        await posts.write({"words": 4})
        await Post.create([{"title": "a"}, {"title": "b"}])
        assert len([post async for post in Post.search()]) == 7
        await Post.search([("title", "=", "a")]).delete()
        assert await Post.search().group("writer_id")
        async with Post.bulk() as bulk:
            bulk.create({"title": "c"})
            bulk.create({"title": "d"})
        assert str(queries) and repr(queries) == "<Queries: 8>"
    kinds = [call.kind for call in queries]
    assert kinds == [
        "count",
        "update",
        "update",
        "insert",
        "find",
        "delete",
        "aggregate",
        "bulk_write",
    ]
    assert queries.of(POSTS) == len(queries) == 8
    assert queries.of(POSTS, "update") == 2
    await Post.count()
    assert len(queries) == 8  # the block is over


async def test_a_pipeline_that_is_streamed_is_one_call(app: earnorm.App) -> None:
    collection = app.bind(Post)._collection
    with assert_queries(1):
        cursor = await collection.open_pipeline([{"$sort": {"title": 1}}], batch_size=2)
        assert len(await cursor.next_batch()) == 2
        await cursor.close()


async def test_a_collection_that_is_new_in_the_block_is_counted(memory: list[Post]) -> None:
    class Late(models.BaseModel):
        _name = "testing.queries.late"

    with assert_queries(1):
        await Late.create({})


async def test_a_collection_that_the_backend_no_longer_keeps_is_counted() -> None:
    async with app_with() as app:
        await Post.count()
        for number in range(300):
            app._backend.collection(f"other_{number}")
        with assert_queries(1):
            await Post.count()


async def test_the_right_number_passes_and_another_is_told(memory: list[Post]) -> None:
    with assert_queries(2):
        posts = await Post.search()
        await posts[0].writer_id
    with assert_queries(at_most=2):
        await Post.count()
    with pytest.raises(AssertionError) as failed, assert_queries(0):
        await Post.count()
    here = line_in("assert_queries(0)", 1)
    assert str(failed.value) == (
        f"0 queries expected, 1 made:\n"
        f"  1 × count {POSTS} from tests/testing/test_queries.py:{here}\n"
        f"      await Post.count()"
    )
    with pytest.raises(AssertionError, match=r"^1 query expected, 0 made$"), assert_queries(1):
        pass
    told = pytest.raises(AssertionError, match=r"^at most 1 query expected, 2 made")
    with told, assert_queries(at_most=1):
        await Post.search().prefetch("writer_id")


async def test_a_relation_in_a_loop_is_named_with_its_prefetch(memory: list[Post]) -> None:
    ids = [post.id for post in memory]
    with pytest.raises(AssertionError) as failed, assert_queries(2):
        for id in ids:
            post = await Post.get(id)
            await post.writer_id
    told = str(failed.value)
    assert told.startswith("2 queries expected, 10 made:")
    here = line_in("post = await Post.get(id)")
    assert f"5 × find {POSTS} from tests/testing/test_queries.py:{here}\n" in told
    assert 'read by id, 5 times: search once, [("id", "in", ids)]' in told
    relation = "testing.queries.post.writer_id"
    assert (
        f"5 × find {WRITERS} for {relation} from tests/testing/test_queries.py:{here + 1}" in told
    )
    assert f"{relation} loaded 5 times" in told
    assert '.prefetch("writer_id")' in told


async def test_a_relation_in_a_loop_of_one_line_is_named_too(memory: list[Post]) -> None:
    with count_queries() as queries:
        names = [(await (await Post.get(each.id)).writer_id).name for each in memory]
    assert len(names) == len(memory)
    assert '.prefetch("writer_id")' in str(queries)


async def test_a_prefetch_in_a_loop_is_not_told_to_prefetch(memory: list[Post]) -> None:
    with count_queries() as queries:
        for post in memory[:3]:
            await Post.search([("title", "=", post.title)]).prefetch("writer_id")
    assert len(queries) == 6
    assert "→" not in str(queries)


async def test_searches_by_a_parent_in_a_loop_are_told_the_relation(memory: list[Post]) -> None:
    with count_queries() as queries:
        for writer in await Writer.search():
            await Post.search([("writer_id", "=", writer.pk)])
    assert f'.prefetch("post_ids") where {Writer._name} is searched' in str(queries)


async def test_what_a_feature_or_a_plugin_asks_for_has_the_line_of_the_program() -> None:
    class Counts:
        api = 1
        name = "counts"

        @hookimpl
        async def after_create(self, op: Any) -> None:
            count = op.child("count", op.model, origin="counts")
            await op.app.execute(count)

    async with app_with(Counts):
        with count_queries() as queries:
            await Writer.create({"name": "Ann"})
    here = line_in('await Writer.create({"name": "Ann"})')
    assert {call.caller and call.caller.line for call in queries} == {here}
    assert "(made by counts)" in str(queries)


async def test_joined_reads_and_tasks_have_the_line_that_asked(memory: list[Post]) -> None:
    async def read(post: Post) -> None:
        await Post.get(post.id)

    with count_queries() as queries, earnorm.coalescing():
        await asyncio.gather(*map(read, memory))
    assert len(queries) == 2
    assert {call.caller and call.caller.line for call in queries} == {
        line_in("await Post.get(post.id)")
    }


async def test_other_apps_are_not_counted_and_blocks_nest(memory: list[Post]) -> None:
    app = earnorm.current_app()
    with count_queries() as outer:
        async with app_with():
            await Post.count()
            with count_queries(app=app) as of_first, app.activate():
                await Post.count()
        with assert_queries(1):
            await Post.count()
    assert (len(outer), len(of_first)) == (2, 1)


async def test_an_app_that_nobody_observes_is_as_before(memory: list[Post]) -> None:
    app = earnorm.current_app()
    collection = app.bind(Post)._collection
    before = dict(vars(app)), dict(vars(collection))
    with count_queries():
        await Post.count()
        assert "execute" in vars(app) and "find" in vars(collection)
    assert (dict(vars(app)), dict(vars(collection))) == before


async def test_the_number_is_given_once() -> None:
    for wrong in ({}, {"expected": 1, "at_most": 2}):
        with pytest.raises(TypeError, match="a number, or at_most="), assert_queries(**wrong):
            pass


def test_without_an_app_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="no App is started"), assert_queries(0):
        pass


class Journal(models.BaseModel):
    _name = "testing.queries.journal"
    _bookkeeping = "journals"
    text = String()


async def test_housekeeping_that_no_operation_asked_for_does_not_count() -> None:
    async with app_with() as app:
        with assert_queries(1), earnorm.system(reason="journals: clean up") as env:
            unlink = Operation("unlink", Journal, env, Domain.FALSE, notes=made_by("journals"))
            await app.execute(unlink)
            await Journal.search().count()
