"""Orders and group keys that lie in other records."""

from __future__ import annotations

from typing import Any

import pytest

from earnorm import App, Avg, Count, DomainError, Sum, ValidationError
from earnorm.model.reading import resolution

from .land import Author, Land, Post


async def fill() -> None:
    vn, fr = await Land.create([{"name": "Vietnam", "size": 2}, {"name": "France", "size": 1}])
    ann, bob, cy = await Author.create(
        [
            {"name": "Ann", "age": 30, "land_id": vn},
            {"name": "Bob", "age": 40, "land_id": fr},
            {"name": "Cy", "age": 50},
        ]
    )
    await Post.create(
        [
            {"title": "p1", "stars": 1, "author_id": bob},
            {"title": "p2", "stars": 2, "author_id": ann},
            {"title": "p3", "stars": 3, "author_id": cy},
            {"title": "p4", "stars": 4},
            {"title": "p5", "stars": 5, "author_id": ann},
        ]
    )


async def titles(order: str, domain: Any = None, **window: int) -> str:
    return " ".join((await Post.search(domain, order=order, **window)).mapped("title"))


async def test_records_are_sorted_by_what_lies_in_others(server_app: App) -> None:
    await fill()
    # Unset values come first, as in every order of the database.
    assert await titles("author_id.name,title") == "p4 p2 p5 p1 p3"
    assert await titles("-author_id.name,-title") == "p3 p1 p5 p2 p4"
    assert await titles("author_id.land_id.size,title") == "p3 p4 p1 p2 p5"
    assert await titles("author_id.name,title", offset=1, limit=2) == "p2 p5"
    assert await titles("-author_id.age,title", [("author_id.age", "<", 45)]) == "p1 p2 p5"
    query = Post.search(order="author_id.name,title").only("title")
    assert [post.title async for post in query] == ["p4", "p2", "p5", "p1", "p3"]
    assert await query.limit(2).count() == 2
    assert await query.explain()
    found = await Post.search(order="author_id.name,title").prefetch("author_id")
    assert found == found.sorted("author_id.name,title")
    assert await Post.search(order="author_id.name").update({"stars": 0}) == 5


async def test_groups_have_keys_and_values_in_other_records(app: App) -> None:
    await fill()
    rows = await Post.search().group("author_id.name", number=Count(), stars=Sum("stars"))
    assert [(r["author_id.name"], r["number"], r["stars"]) for r in rows] == [
        (None, 1, 4),
        ("Ann", 2, 7),
        ("Bob", 1, 1),
        ("Cy", 1, 3),
    ]
    rows = await Post.search([("author_id", "!=", None)]).group(
        "author_id.land_id.name", age=Avg("author_id.age"), having=[("age", "<", 45)]
    )
    assert [(r["author_id.land_id.name"], r["age"]) for r in rows] == [
        ("France", 40.0),
        ("Vietnam", 30.0),
    ]


async def test_both_work_where_a_filter_cannot_hold_the_ids(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def too_many(self: object, link: object) -> None:
        return None

    await fill()
    monkeypatch.setattr(resolution._Resolver, "_keys", too_many)
    domain = [("author_id.land_id.name", "like", "a")]
    assert await titles("-author_id.name,title", domain) == "p1 p2 p5"
    rows = await Post.search(domain).group("author_id.name", number=Count())
    assert [(r["author_id.name"], r["number"]) for r in rows] == [("Ann", 2), ("Bob", 1)]


@pytest.mark.parametrize("path", ["land_ids.name", "author_id.post_ids.stars"])
async def test_several_records_have_no_order(app: App, path: str) -> None:
    with pytest.raises(DomainError, match="several records"):
        await Post.search(order=path)
    with pytest.raises(DomainError, match="did you mean 'name'"):
        await Post.search(order="author_id.nme")


async def test_records_that_point_here_make_no_groups(app: App) -> None:
    with pytest.raises(DomainError, match="several records"):
        await Post.search().group("author_id.post_ids.stars")


async def test_a_cursor_is_no_position_in_other_records(app: App) -> None:
    await fill()
    query = Post.search(order="author_id.name,title")
    for cursor in ({}, {"after": "x"}, {"before": "x"}):
        with pytest.raises(ValidationError, match=r"author_id.name' lies in other.*page\(\)"):
            await query.paginate(2, **cursor)
    # What the message names instead.
    assert (await query.page(2, 2)).records.mapped("title") == ["p5", "p1"]
    assert len((await Post.search(order="author_id,title").paginate(2)).records) == 2
