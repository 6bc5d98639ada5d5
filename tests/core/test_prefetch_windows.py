"""Prefetch with a limit and an order per parent: one query, and a part is never taken for the whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from earnorm import (
    App,
    BaseModel,
    Command,
    Domain,
    DomainError,
    FieldNotLoaded,
    Int,
    Many2many,
    Many2one,
    One2many,
    String,
    depends,
    hookimpl,
)
from earnorm.mixins import SoftDelete

from .conftest import Commands
from .laws import World, law, world


class Label(SoftDelete):
    _name = "window.label"

    name = String(required=True)
    weight = Int(default=0)
    secret = Int(default=0)
    owner_ids = Many2many("window.post", inverse="label_ids", order="-title")


class Post(BaseModel):
    _name = "window.post"

    title = String(required=True)
    note_ids = One2many("window.note", "post_id", order="number")
    label_ids = Many2many(Label)
    team_ids = Many2many(Label, through="window.link", order="role")
    total = Int(compute="_total")
    owner_id = Many2one("window.owner")

    @depends("note_ids.number")
    def _total(self) -> int:
        return sum(note.number or 0 for note in self.note_ids)


class Owner(BaseModel):
    _name = "window.owner"

    name = String()
    post_ids = One2many(Post, "owner_id", order="title")
    line_ids = One2many("window.line", "owner_id")


class Note(BaseModel):
    _name = "window.note"

    number = Int(required=True)
    secret = Int(default=0)
    post_id = Many2one(Post)
    label_id = Many2one(Label)


class Line(BaseModel):
    _name = "window.line"
    _order = "-number"

    number = Int()
    owner_id = Many2one("window.owner")


class Link(BaseModel):
    _name = "window.link"

    post_id = Many2one(Post)
    label_id = Many2one(Label)
    role = String()


async def fill(posts: int = 3, notes: int = 5) -> None:
    labels = await Label.create(
        [{"name": f"l{n}", "weight": n * 7 % 5, "secret": n % 2} for n in range(6)]
    )
    owner = await Owner.create({"name": "o"})
    made = await Post.create(
        [
            {"title": f"p{n}", "label_ids": list(reversed(labels)), "owner_id": owner}
            for n in range(posts)
        ]
    )
    await Note.create(
        [
            {"number": n * 3 % 5, "post_id": post, "secret": n % 2, "label_id": labels[n % 6]}
            for post in made
            for n in range(notes)
        ]
    )
    await Link.create(
        [
            {"post_id": post, "label_id": label, "role": f"r{(n * 5) % 6}"}
            for post in made
            for n, label in enumerate(labels)
        ]
    )


async def test_each_parent_has_its_first_records_in_the_order(app: App) -> None:
    await fill()
    posts = await Post.search(order="title").prefetch("note_ids", limit=2, order="-number")
    assert [post.note_ids.mapped("number") for post in posts] == [[4, 3]] * 3
    assert all(note.post_id is post for post in posts for note in post.note_ids)
    posts = await Post.search().prefetch("note_ids", limit=2)  # the relation's own order
    assert [post.note_ids.mapped("number") for post in posts] == [[0, 1]] * 3
    posts = await Post.search().prefetch("note_ids", order="-number")
    assert [post.note_ids.mapped("number") for post in posts] == [[4, 3, 2, 1, 0]] * 3
    assert not posts[0].note_ids.is_partial


async def test_every_kind_of_many2many(app: App) -> None:
    await fill()
    (post, *_) = await Post.search().prefetch("label_ids", limit=2)
    assert post.label_ids.mapped("name") == ["l5", "l4"]  # as the list has them
    (post, *_) = await Post.search().prefetch("label_ids", limit=2, order="weight,-name")
    assert post.label_ids.mapped("name") == ["l5", "l0"]
    (post, *_) = await Post.search().prefetch("label_ids", order="name")
    assert post.label_ids.mapped("name") == [f"l{n}" for n in range(6)]
    assert not post.label_ids.is_partial
    (post, *_) = await Post.search().prefetch("team_ids", limit=2)
    assert post.team_ids.mapped("name") == ["l0", "l5"]  # by the link's role
    labels = await Label.search().prefetch("owner_ids", limit=2, order="title")
    assert [label.owner_ids.mapped("title") for label in labels] == [["p0", "p1"]] * 6


async def test_a_part_has_the_default_order_of_the_other_model(app: App) -> None:
    owner = await Owner.create({"name": "o"})
    await Line.create([{"number": n, "owner_id": owner} for n in (2, 5, 3)])
    (owner,) = await Owner.search().prefetch("line_ids", limit=2)
    assert owner.line_ids.mapped("number") == [5, 3]


async def test_an_order_by_values_in_other_records(server_app: App) -> None:
    await fill()
    (post, *_) = await Post.search().prefetch("team_ids", limit=3, order="-weight,name")
    assert post.team_ids.mapped("name") == ["l2", "l4", "l1"]
    query = Post.search(order="title").prefetch("note_ids", limit=2, order="-label_id.name")
    posts = await query.prefetch("note_ids.label_id")
    assert [post.note_ids.mapped("label_id.name") for post in posts] == [["l4", "l3"]] * 3


@pytest.mark.parametrize(("path", "queries"), [("note_ids", 1), ("label_ids", 1), ("team_ids", 3)])
async def test_the_number_of_queries_does_not_grow(
    commands: Commands, path: str, queries: int
) -> None:
    await fill(20)
    commands.clear()
    posts = await Post.search().prefetch(path, limit=2, order="-id")
    assert len(commands.named("find")) + len(commands.named("aggregate")) == 1 + queries
    assert all(len(getattr(post, path)) == 2 for post in posts)


async def test_a_window_below_another_relation_and_in_a_stream(app: App) -> None:
    await fill()
    (owner,) = await Owner.search().prefetch("post_ids.note_ids", limit=1, order="-number")
    assert owner.post_ids.mapped("title") == ["p0", "p1", "p2"]
    assert not owner.post_ids.is_partial
    assert owner.post_ids.mapped("note_ids.number") == [4, 4, 4]
    async for post in Post.search().prefetch("note_ids", limit=1):
        assert post.note_ids.mapped("number") == [0]


class Rule:
    """A rule of access in one layer: secret records are not there."""

    api = 1
    name = "rule"

    @hookimpl
    def wrap_operation(self, app: App, model: type, operation: str) -> list[Any]:
        async def narrow(op: Any, call_next: Any) -> Any:
            return await call_next(op.replace(domain=op.domain & Domain([("secret", "=", 0)])))

        named = getattr(model, "_name", "") in ("window.note", "window.label")
        return [(100, narrow)] if operation == "search" and named else []


@pytest.mark.parametrize("kind", ["pymongo", "motor", "memory"])
async def test_what_may_not_be_read_takes_no_place(kind: str, database: str) -> None:
    from .conftest import default_app

    async with default_app(kind, database, [Rule()]):
        await fill()
        for path, wanted in (
            ("note_ids", ["secret", [0, 0, 0]]),
            ("label_ids", ["name", ["l4", "l2", "l0"]]),
            ("team_ids", ["name", ["l0", "l4", "l2"]]),
        ):
            query = Post.search().prefetch(path, limit=3)
            for post in await query:
                assert getattr(post, path).mapped(wanted[0]) == wanted[1], path


async def test_archived_records_are_part_of_a_relation_as_they_are_of_the_whole(app: App) -> None:
    await fill(1)
    await (await Label.search([("name", "=", "l5")])).archive()
    (whole,) = await Post.search().prefetch("label_ids")
    (part,) = await Post.search().prefetch("label_ids", limit=1)
    assert whole.label_ids[0].name == part.label_ids[0].name == "l5"


# -- a part is not the whole ----------------------------------------------------------------------


async def part_of_notes() -> Post:
    await fill(2)
    (post, _) = await Post.search(order="title").prefetch("note_ids", limit=2)
    return post


def made_of(part: Any) -> Iterator[Any]:
    yield part
    yield part.filtered(lambda note: True)
    yield part.sorted("-number")
    yield part[:1]
    yield part - part[0]
    yield part | part[0]
    yield part + part
    yield part & part
    yield next(iter(part.grouped("number").values()))


async def test_what_is_made_of_a_part_is_not_stored_as_the_whole(app: App) -> None:
    post = await part_of_notes()
    for value in made_of(post.note_ids):
        assert value.is_partial
        with pytest.raises(
            FieldNotLoaded, match=r"Post\.note_ids is loaded in part.*await"
        ) as caught:
            await post.write({"note_ids": value})
        assert caught.value.code == "part_of_relation"
        with pytest.raises(FieldNotLoaded, match="loaded in part"):
            Command.set(value)
        with pytest.raises(FieldNotLoaded, match="loaded in part"):
            Post(title="x", note_ids=value)
    assert await Note.search([("post_id", "=", post)]).count() == 5
    posts = await Post.search().prefetch("note_ids", limit=1)
    assert posts.mapped("note_ids").is_partial
    await post.write({"note_ids": list(post.note_ids)})  # says it: only these
    assert await Note.search([("post_id", "=", post)]).count() == 2


async def test_assigning_a_part_writes_nothing(app: App) -> None:
    post = await part_of_notes()
    with pytest.raises(FieldNotLoaded, match="loaded in part"):
        post.note_ids = post.note_ids - post.note_ids[0]
        await post.save()
    assert await Note.search([("post_id", "=", post)]).count() == 5


async def test_a_part_of_stored_ids_keeps_the_whole_list(app: App) -> None:
    await fill(1)
    (post,) = await Post.search().prefetch("label_ids", limit=2)
    assert post.label_ids.is_partial and len(post.label_ids) == 2
    post.title = "changed"
    await post.save()
    copied = await post.copy()
    for record in (post, copied):
        await record.refresh()
        assert len(await record.label_ids) == 6
    (post,) = await Post.search([("id", "=", post.id)]).prefetch("label_ids", limit=2)
    with pytest.raises(FieldNotLoaded, match="loaded in part"):
        await post.write({"label_ids": post.label_ids - post.label_ids[0]})
    await post.write({"label_ids": [Command.unlink(post.label_ids[0])]})
    assert len(await post.label_ids) == 5


async def test_commands_on_a_part_reach_the_whole(app: App) -> None:
    post = await part_of_notes()
    first = post.note_ids[0]
    await post.write({"note_ids": [Command.unlink(first), Command.create({"number": 9})]})
    assert sorted((await post.note_ids).mapped("number")) == [1, 2, 3, 4, 9]


async def test_memory_domains_and_computed_values_refuse_a_part(app: App) -> None:
    await fill(2)
    posts = await Post.search().prefetch("note_ids", limit=2)
    for domain in (
        [("note_ids.number", "=", 4)],
        [("note_ids.number", "=", 0)],
        [("note_ids", "any", [("number", "=", 0)])],
        [("note_ids", "not any", [("number", "=", 4)])],
    ):
        with pytest.raises(FieldNotLoaded, match="loaded in part"):
            posts.filtered_domain(domain)
    with pytest.raises(FieldNotLoaded, match=r"to compute 'total' takes all"):
        _ = posts[0].total
    await posts[0].note_ids
    assert posts[1].total == 10 and len(posts.filtered_domain([("note_ids.number", "=", 4)])) == 2


async def test_awaiting_a_part_loads_the_whole_and_keeps_the_objects(app: App) -> None:
    post = await part_of_notes()
    first = post.note_ids[0]
    first.secret = 8
    whole = await post.note_ids
    assert whole is post.note_ids and not whole.is_partial and len(whole) == 5
    assert whole[0] is first and first.is_changed


# -- bad input ------------------------------------------------------------------------------------


async def test_a_window_that_does_not_fit_is_one_clear_error(app: App) -> None:
    await fill(1)
    with pytest.raises(ValueError, match="limit: is a whole number from 0, not -1"):
        Post.search().prefetch("note_ids", limit=-1)
    with pytest.raises(DomainError, match=r"'owner_id' leads to one record.*to-many"):
        await Post.search().prefetch("owner_id", limit=1)
    with pytest.raises(
        DomainError, match=r"window\.note has no field 'numbr'; did you mean 'number'"
    ):
        await Post.search().prefetch("note_ids", limit=1, order="numbr")
    with pytest.raises(DomainError, match="wanted twice"):
        await Post.search().prefetch("note_ids").prefetch("note_ids", limit=1)
    with pytest.raises(DomainError, match="has no relation"):
        await Post.search().prefetch("nothing", limit=1)


# -- the law --------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["pymongo", "memory"])
def lawful(request: pytest.FixtureRequest) -> Iterator[World]:
    with world(request.param) as started:
        yield started


@law(40)
@hypothesis.given(
    st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=4),
    st.lists(st.lists(st.integers(0, 5), max_size=5, unique=True), min_size=4, max_size=4),
    st.integers(1, 4),
    st.sampled_from(["number", "-number", "id", "-id", "number,-id"]),
)
def test_a_part_is_the_beginning_of_the_whole(
    lawful: World, notes: list[list[int]], labels: list[list[int]], limit: int, order: str
) -> None:
    async def example() -> None:
        for model in (Note, Post, Label, Link):
            await model.search().delete()
        made = await Label.create([{"name": f"l{n}", "weight": n % 3} for n in range(6)])
        posts = await Post.create(
            [
                {"title": f"p{n}", "label_ids": [made[each] for each in own]}
                for n, (own, _) in enumerate(zip(labels, notes, strict=False))
            ]
        )
        await Note.create(
            [
                {"number": number, "post_id": post}
                for post, own in zip(posts, notes, strict=True)
                for number in own
            ]
        )
        await Link.create(
            [
                {"post_id": post, "label_id": made[each], "role": str(each % 2)}
                for post, own in zip(posts, labels, strict=False)
                for each in (*own, *own[:1])
            ]
        )
        of_labels = order.replace("number", "weight")
        for path, own_order in (
            ("note_ids", order),
            ("label_ids", None),
            ("label_ids", of_labels),
            ("team_ids", None),
            ("team_ids", of_labels),
        ):
            if path == "team_ids" and own_order and lawful.app._backend.name == "memory":
                continue  # mongomock has no lookup with a pipeline
            parts = await Post.search().prefetch(path, limit=limit, order=own_order)
            wholes = await Post.search().prefetch(path, order=own_order)
            for part, whole in zip(parts, wholes, strict=True):
                assert getattr(part, path).pks == getattr(whole, path).pks[:limit], path
                if own_order is not None:
                    arranged = getattr(whole, path).sorted(f"{own_order},id")
                    assert getattr(whole, path).pks == arranged.pks

    lawful.run(example)
