"""Other answers than a list of documents: layers narrow such a search as any other, and its request serves it."""

from __future__ import annotations

from typing import Any

import pytest

from earnorm import App, NotSupported, Query, act_as, current_env, hookimpl
from earnorm.domain import condition
from earnorm.exceptions import UnresolvedDomain
from earnorm.features.explaining.explanation import Explanation
from earnorm.kernel.serving import searches
from earnorm.kernel.serving.requests import PipelineCapture
from earnorm.model.reading import resolution
from earnorm.plugin import REQUEST, DryRun, Layer, Lock, Operation, Request, Stream

from .conftest import Commands, default_app
from .land import Author, Land, Post


class Stars:
    """A layer that shows good posts only, and notes the requests that it sees."""

    api = 1
    name = "stars"

    def __init__(self) -> None:
        self.seen: list[Request | None] = []

    @hookimpl
    def wrap_operation(self, app: App, model: type, operation: str) -> list[Any]:
        async def narrow(op: Operation, call_next: Any) -> Any:
            self.seen.append(op.request)
            return await call_next(op.replace(domain=op.domain & condition("stars", ">", 3)))

        return [(Layer.SECURITY, narrow)] if model._name == "rel.post" else []


class Titles(Request):
    """A request of one's own: asks for the titles in one text."""

    def __init__(self) -> None:
        self.text = ""

    async def serve(self, bound: Any, op: Operation) -> list[dict[str, Any]]:
        documents = await searches.documents(bound, op)
        self.text = " ".join(document["title"] for document in documents)
        return []


async def fill() -> None:
    land = await Land.create({"name": "Vietnam"})
    ann, bob = await Author.create([{"name": "Ann", "land_id": land}, {"name": "Bob"}])
    await Post.create(
        [
            {"title": f"{name}{stars}", "stars": stars, "author_id": author}
            for name, author in (("a", ann), ("b", bob))
            for stars in (1, 4, 5)
        ]
    )


def posts(request: Request, *terms: object, **options: Any) -> Operation:
    """A search of posts with a request."""
    _, op = (
        Query(Post, condition("stars", ">", 0), **options)
        .where(list(terms))
        ._operation("search", current_env(), request)
    )
    return op


@pytest.mark.parametrize("kind", ["pymongo", "memory"])
async def test_a_request_of_ones_own_is_served_as_the_layers_narrow_it(
    kind: str, database: str
) -> None:
    stars = Stars()
    async with default_app(kind, database, [stars]) as app:
        await fill()
        titles = Titles()
        assert await app.execute(posts(titles, order="title")) == []
        assert titles.text == "a4 a5 b4 b5"
        assert stars.seen[-1] is titles
        assert await app.execute(posts(titles, ("author_id.name", "=", "Bob"), order="title")) == []
        assert titles.text == "b4 b5"


async def test_a_dry_run_tells_what_would_be_sent(database: str) -> None:
    async with default_app("memory", database, [Stars()]) as app:
        await fill()
        dry_run, capture = DryRun(), PipelineCapture()
        assert await app.execute(posts(dry_run, ("author_id.name", "=", "Bob"))) == []
        [bob] = await Author.search([("name", "=", "Bob")])
        assert dry_run.filter["by"] == {"$in": [bob.pk]} and "stars" in str(dry_run.filter)
        assert dry_run.op is not None and dry_run.op.request is dry_run
        assert await app.execute(posts(capture, limit=1)) == []
        assert [*map(list, capture.stages)] == [["$match"]]  # neither order nor window


async def test_every_kind_is_served_where_the_server_looks_records_up(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolution, "FEW", 0)
    monkeypatch.setattr(resolution, "FEW_HERE", 0)
    monkeypatch.setattr(resolution, "LARGEST", 1)
    await fill()
    app, by_ann = current_env().app, ("author_id.name", "=", "Ann")
    titles, stream, explanation = Titles(), Stream(2), Explanation("queryPlanner", None)
    capture = PipelineCapture()
    await app.execute(posts(titles, by_ann, order="title"))
    assert titles.text == "a1 a4 a5"
    streamed = posts(stream, by_ann, order="title")
    assert [d["title"] for d in await app.execute(streamed)] == ["a1", "a4"]
    asked = len(commands.of("rel_author"))
    assert [d["title"] for d in await app.execute(streamed)] == ["a5"]
    assert await app.execute(streamed) == []
    assert len(commands.of("rel_author")) == asked
    await app.execute(posts(explanation, by_ann))
    assert explanation.plan
    await app.execute(posts(capture, by_ann))
    assert any("$lookup" in stage for stage in capture.stages)
    with pytest.raises(NotSupported, match="one filter can name"):
        await app.execute(posts(DryRun(), by_ann))


async def test_a_stream_resolves_its_domain_once(commands: Commands) -> None:
    await fill()
    app, stream = current_env().app, Stream(1)
    op = posts(stream, ("author_id.name", "=", "Ann"), order="title")
    commands.clear()
    found: list[str] = []
    while documents := await app.execute(op):
        found += [document["title"] for document in documents]
    assert found == ["a1", "a4", "a5"]
    assert commands.of("rel_author") == ["find"]
    await stream.close()
    await Stream(1).close()  # nothing was opened


async def test_no_operation_fails_on_its_way_to_find_out_that_it_asks_others(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("an error as a question")

    await fill()
    monkeypatch.setattr(UnresolvedDomain, "__init__", never)
    vietnam = (await Land.search()).pks
    for term in (
        ("author_id.name", "=", "Ann"),
        ("author_id.land_id", "child_of", vietnam),
        ("author_id", "any", [("age", "=", None)]),
        ("id", "not in", []),
    ):
        for _ in range(2):  # what was learned the first time holds
            query = Post.search([term, ("stars", ">", 0)])
            assert await query.count() == len(await query) > 0
            assert await query.update({"stars": 3}) == await query.count()
    assert await Land.search([("id", "child_of", vietnam)]).count() == 1
    assert [r.title async for r in Post.search([("author_id.name", "=", "Bob")])]


async def test_a_lock_goes_with_a_search_alone(app: App) -> None:
    await fill()
    query = Post.search().lock()
    with pytest.raises(NotSupported, match="goes with a search that is awaited"):
        await query.explain()
    with pytest.raises(NotSupported, match="goes with a search that is awaited"):
        await query.count()
    op = Operation("search", Post, current_env()).with_note(REQUEST, Lock())
    with act_as("ann"), pytest.raises(Exception, match="none is running"):
        await app.execute(op)
