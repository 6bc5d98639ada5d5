"""Many tasks at one record: nobody is refused, they wait for each other, and what they did is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

import earnorm
from earnorm import (
    App,
    BaseModel,
    Command,
    ConfigurationError,
    Inc,
    Int,
    Many2one,
    One2many,
    PluginError,
    String,
    TransactionError,
    depends,
)
from earnorm.kernel.transactions import queue as queue_module
from earnorm.plugin import (
    DocumentBatch,
    Layer,
    Operation,
    Stage,
    Step,
    atomic,
    hookimpl,
    in_transaction_if,
)

from .conftest import default_app
from .failpoints import TRANSIENT, failing


class Thread(BaseModel):
    _name = "hot.thread"
    title = String()
    post_ids = One2many("hot.post", "thread_id")
    posts = Int(compute="_count", store=True, required=True)
    words = Int(compute="_sum", store=True, required=True)

    @depends("post_ids")
    def _count(self) -> int:
        return len(self.post_ids)

    @depends("post_ids.words")
    def _sum(self) -> int:
        return sum(post.words for post in self.post_ids)


class Post(BaseModel):
    _name = "hot.post"
    thread_id = Many2one(Thread, required=True)
    words = Int(default=1, required=True)
    reply_ids = One2many("hot.reply", "post_id")


class Reply(BaseModel):
    _name = "hot.reply"
    post_id = Many2one(Post, required=True)


class Tally(BaseModel):
    _name = "hot.tally"
    n = Int(default=0, required=True)


def figures(app: App) -> dict[str, int]:
    of = app.contention
    return {"retries": of.retries, "waits": of.queue_waits, "passed": of.queue_passed}


async def create(thread: Thread, post: Post) -> object:
    return await Post.create({"thread_id": thread})


async def create_with_replies(thread: Thread, post: Post) -> object:
    return await Post.create({"thread_id": thread, "reply_ids": [Command.create({})]})


async def save(thread: Thread, post: Post) -> object:
    post.words += 1
    return await post.save()


async def write(thread: Thread, post: Post) -> object:
    return await post.write({"words": 5})


async def write_commands(thread: Thread, post: Post) -> object:
    return await thread.write({"post_ids": [Command.create({})]})


async def bulk(thread: Thread, post: Post) -> None:
    async with Post.bulk() as collected:
        collected.create({"thread_id": thread})
        collected.write(post, {"words": 3})


async def unlink(thread: Thread, post: Post) -> object:
    return await post.unlink()


WAYS = (create, create_with_replies, save, write, write_commands, bulk, unlink)


@pytest.mark.parametrize("way", WAYS)
async def test_tasks_at_one_parent_wait_for_each_other_on_every_way(
    server_app: App, way: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a slow machine eight of them may take longer than one waits for its turn.
    monkeypatch.setattr("earnorm.kernel.transactions.blocks.LONGEST_WAIT", 60)
    thread = await Thread.create({"title": "busy"})
    posts = list(await Post.create([{"thread_id": thread} for _ in range(8)]))
    # One for each task, read before: who reads while others write may come when they are done.
    threads = [await Thread.get(thread.id) for _ in posts]
    await asyncio.gather(*map(way, threads, posts))
    assert figures(server_app) == {"retries": 0, "waits": 7, "passed": 0}
    assert len(server_app.queue) == 0
    await thread.refresh()
    left = await Post.search([("thread_id", "=", thread)])
    assert (thread.posts, thread.words) == (len(left), sum(post.words for post in left))


async def test_what_a_try_found_to_write_the_next_one_queues_for(server_app: App) -> None:
    thread = await Thread.create({"title": "busy"})
    await Post.create([{"thread_id": thread} for _ in range(8)])
    posts = list(await Post.search().only("words"))  # nobody knows their thread
    await asyncio.gather(*(post.write({"words": 2}) for post in posts))
    told = figures(server_app)
    # Without that, each try meets several others.
    assert 0 < told["retries"] <= 8 and told["waits"] > 0
    assert (await Thread.get(thread.id)).words == 16


async def test_functions_that_are_tried_again_queue_for_what_they_wrote(server_app: App) -> None:
    tally = await Tally.create({})

    @earnorm.transactional()
    async def count() -> None:
        mine = await Tally.get(tally.id)
        await mine.write({"n": mine.n + 1})

    await asyncio.gather(*(count() for _ in range(10)))
    assert (await Tally.get(tally.id)).n == 10
    assert server_app.contention.retries <= 10


async def test_other_processes_are_not_in_the_queue_and_nobody_is_refused(
    server_app: App, mongo_uri: str, database: str
) -> None:
    thread = await Thread.create({})

    async def process() -> None:  # each App has a queue of its own, as each process has
        async with App(mongo_uri, database=database, plugins=[]):
            mine = await Thread.get(thread.id)
            await asyncio.gather(*(Post.create({"thread_id": mine}) for _ in range(6)))

    await asyncio.gather(process(), process(), process())
    assert (await thread.refresh()).posts == await Post.count() == 18


async def test_an_operation_alone_waits_for_nobody(server_app: App) -> None:
    thread = await Thread.create({"title": "calm"})
    for _ in range(3):
        await Post.create({"thread_id": thread})
    assert figures(server_app) == {"retries": 0, "waits": 0, "passed": 0}


async def test_other_parents_do_not_wait(server_app: App) -> None:
    threads = list(await Thread.create([{}, {}, {}]))
    await asyncio.gather(*(Post.create({"thread_id": thread}) for thread in threads))
    assert figures(server_app)["waits"] == 0


async def test_a_block_of_the_program_does_not_wait_and_gets_a_transient_error(
    server_app: App,
) -> None:
    thread = await Thread.create({})
    async with earnorm.transaction():
        await Post.create({"thread_id": thread})

        async def other() -> None:
            async with earnorm.transaction():
                await Post.create({"thread_id": thread})

        with earnorm.current_app().activate(), pytest.raises(TransactionError) as caught:
            await other()
        assert caught.value.transient
    assert figures(server_app) == {"retries": 0, "waits": 0, "passed": 0}


async def test_after_the_longest_wait_an_operation_goes_on_without_its_turn(
    server_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("earnorm.kernel.transactions.blocks.LONGEST_WAIT", 0.05)
    thread = await Thread.create({})
    place = await server_app.queue.take([("hot_thread", thread.pk)], 1)
    assert place is not None
    await Post.create({"thread_id": thread})
    assert figures(server_app) == {"retries": 0, "waits": 1, "passed": 1}
    assert server_app.contention.queue_wait_seconds >= 0.05
    place.leave()
    assert len(server_app.queue) == 0


async def test_who_went_on_without_its_turn_queues_for_its_next_try(
    server_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else those that still queue would starve it."""
    monkeypatch.setattr("earnorm.kernel.transactions.blocks.LONGEST_WAIT", 0.05)
    thread = await Thread.create({})
    other = await server_app.queue.take([("hot_thread", thread.pk)], 1)
    assert other is not None
    places: list[int] = []

    async def work() -> None:
        if not places:
            other.leave()
            places.append(len(server_app.queue))
            raise TransactionError("two met", transient=True)
        places.append(len(server_app.queue))

    await atomic(work, queues_for=[("hot.thread", thread.pk)])
    assert places == [0, 1]
    assert figures(server_app) == {"retries": 1, "waits": 1, "passed": 1}


async def test_more_records_than_the_queue_takes_wait_for_nobody(server_app: App) -> None:
    threads = list(await Thread.create([{} for _ in range(queue_module.MOST_KEYS + 1)]))
    keys = [("hot_thread", thread.pk) for thread in threads]
    places = [await server_app.queue.take([key], 1) for key in keys]
    await Post.create([{"thread_id": thread} for thread in threads])
    assert figures(server_app)["waits"] == 0
    assert None not in places and len(server_app.queue) == len(keys)


async def test_the_turn_ends_before_the_hooks_and_callbacks(server_app: App) -> None:
    thread = await Thread.create({})
    lines: list[int] = []

    async def again() -> None:
        lines.append(len(server_app.queue))
        await Post.create({"thread_id": thread})

    async def work() -> None:
        await Post.create({"thread_id": thread})
        await earnorm.after_commit(again)

    await atomic(work, queues_for=[("hot.thread", thread.pk)])
    assert lines == [0] and figures(server_app)["waits"] == 0


async def test_a_new_start_begins_with_an_empty_queue(database: str) -> None:
    app = App("mongomock://", database=database, plugins=[])
    async with app:
        assert await app.queue.take([("a", 1)], 1) is not None
        app.contention.retries = 5
    async with app:
        assert len(app.queue) == 0 and app.contention.retries == 0


async def test_health_tells_what_the_transactions_did(
    server_app: App, mongo_uri: str, database: str
) -> None:
    thread = await Thread.create({})
    with failing(
        mongo_uri, database, "insert", mode={"times": 2}, errorCode=112, errorLabels=[TRANSIENT]
    ):
        await Post.create({"thread_id": thread})
    assert (await server_app.health())["transactions"] == {
        "status": "ok",
        "retries": 2,
        "given_up": 0,
        "unknown": 0,
        "queue_waiting": 0,
        "queue_waits": 0,
        "queue_wait_seconds": 0.0,
        "queue_passed": 0,
    }


# -- plugins of third parties ---------------------------------------------------------------------


class Counting:
    """Counts the new threads in one record, in the transaction of the creation."""

    api = 1
    tally: Any = None
    given: Any = None

    def queues_for(self, op: Operation) -> Iterable[tuple[str, Any]]:
        return [("hot.tally", self.tally.pk)] if self.given is None else self.given

    @hookimpl
    def register_steps(self, model: Any) -> Iterable[Step]:
        if model.name != "hot.thread":
            return []
        return [
            Step(
                Stage.PROPAGATE,
                "count",
                self.count,
                on="create",
                atomic=lambda op: True,
                queues_for=self.queues_for,
            )
        ]

    async def count(self, batch: DocumentBatch) -> None:
        await self.tally.write({"n": Inc(1)})


class CountingLayer(Counting):
    """The same by a layer."""

    @hookimpl
    def register_steps(self, model: Any) -> Iterable[Step]:
        return []

    @hookimpl
    def wrap_operation(self, model: Any, operation: str) -> Iterable[tuple[int, Any]]:
        if operation != "create" or model._name != "hot.thread":
            return []
        opening = in_transaction_if(lambda op: True, queues_for=self.queues_for)
        return [(Layer.TRANSACTION, opening), (Layer.DEFAULT, self.counted)]

    async def counted(self, op: Operation, call_next: Any) -> Any:
        result = await call_next(op)
        await self.tally.write({"n": Inc(1)})
        return result


@pytest.mark.parametrize("kind", [Counting, CountingLayer])
async def test_a_plugin_says_what_its_step_or_layer_will_write(
    database: str, kind: type[Counting]
) -> None:
    plugin = kind()
    async with default_app("pymongo", database, [plugin]) as app:
        plugin.tally = await Tally.create({})
        await Thread.create({})
        await asyncio.gather(*(Thread.create({}) for _ in range(6)))
        assert figures(app) == {"retries": 0, "waits": 5, "passed": 0}
        assert (await Tally.get(plugin.tally.id)).n == 7


@pytest.mark.parametrize("given", [["hot.tally"], [1], [("hot.tally", [])], [("hot.tally", 1, 2)]])
async def test_what_a_plugin_names_wrongly_is_said(database: str, given: list[Any]) -> None:
    plugin = Counting()
    async with default_app("pymongo", database, [plugin]):
        plugin.tally, plugin.given = await Tally.create({}), given
        with pytest.raises(PluginError, match="queues_for gives pairs") as caught:
            await Thread.create({})
        assert caught.value.code == "not_a_key"
        plugin.given = [("hot.taly", 1)]
        with pytest.raises(ConfigurationError, match=r"hot\.tally"):
            await Thread.create({})


async def test_work_of_a_plugin_queues_for_what_it_names(server_app: App) -> None:
    tally = await Tally.create({})

    async def count() -> None:
        mine = await Tally.get(tally.id)
        await mine.write({"n": mine.n + 1})

    named = [("hot.tally", tally.pk)]
    await asyncio.gather(*(atomic(count, queues_for=named) for _ in range(6)))
    assert figures(server_app) == {"retries": 0, "waits": 5, "passed": 0}
    assert (await Tally.get(tally.id)).n == 6


@pytest.mark.parametrize(
    ("stage", "queues_for"), [(Stage.DEFAULT, list), (Stage.STAMP, "hot.tally")]
)
async def test_a_step_with_a_wrong_queues_for_is_refused(
    database: str, stage: Stage, queues_for: Any
) -> None:
    class Wrong:
        api = 1

        @hookimpl
        def register_steps(self, model: Any) -> Iterable[Step]:
            return [Step(stage, "wrong", print, queues_for=queues_for)]

    async with default_app("memory", database, [Wrong]):
        with pytest.raises(PluginError, match="queues_for="):
            await Tally.create({})
