"""The rows of docs/domains.md that are about real models: other records, and days."""

from __future__ import annotations

from typing import Any

import pytest

from earnorm import (
    App,
    BaseModel,
    Date,
    DateTime,
    Domain,
    DomainError,
    FieldNotLoaded,
    Int,
    Many2many,
    Many2one,
    One2many,
    RecordSet,
    String,
    act_as,
)
from earnorm.exceptions import UnresolvedDomain
from tests.domain.page import NAMES, Row, python, rows, world

RELATIONAL = [row for row in rows() if row.section == "Other records"]
DAYS = [row for row in rows() if row.section == "Days and points in time"]


class Country(BaseModel):
    _name = "page.country"

    name = String()
    parent_id = Many2one("page.country")


class Author(BaseModel):
    _name = "page.author"

    name = String()
    age = Int()
    country_id = Many2one(Country)


class Tag(BaseModel):
    _name = "page.tag"

    name = String()


class Post(BaseModel):
    _name = "page.post"

    name = String()
    author_id = Many2one(Author)
    tag_ids = Many2many(Tag)
    comment_ids = One2many("page.comment", "post_id")


class Comment(BaseModel):
    _name = "page.comment"

    name = String()
    stars = Int()
    post_id = Many2one(Post)


class Event(BaseModel):
    _name = "page.event"

    number = Int()
    at = DateTime()
    day = Date()


MODELS: dict[str, type[BaseModel]] = {
    model.__name__: model for model in (Country, Author, Tag, Post, Comment)
}
PREFETCH = {
    Country: ["parent_id.parent_id"],
    Author: ["country_id.parent_id.parent_id"],
    Post: ["author_id.country_id.parent_id.parent_id", "tag_ids", "comment_ids"],
}


async def made() -> dict[str, Any]:
    """The records that the page names."""
    records: dict[str, Any] = {}
    for model, items in world():
        for name, values in items:
            given = eval(f"dict({values}" if values else "dict()", dict(records))
            records[name] = await MODELS[model].create({"name": name, **given})
    return records


def about(row: Row, records: dict[str, Any]) -> type[BaseModel]:
    """The model whose records a row names; a row tells what becomes of each of them."""
    named = {type(records[each]) for each in names(row.finds) | names(row.leaves_out)}
    (model,) = named
    found = next(m for m in MODELS.values() if m._name == model._name)
    everyone = {name for kind, items in world() if MODELS[kind] is found for name, _ in items}
    assert names(row.finds) | names(row.leaves_out) == everyone, row
    assert not names(row.finds) & names(row.leaves_out), row
    return found


def names(cell: str) -> set[str]:
    return {part.strip(" `") for part in cell.split(",") if part.strip()}


def test_the_page_has_such_rows() -> None:
    assert len(RELATIONAL) > 20 and len(DAYS) > 10


async def test_conditions_about_other_records_find_what_the_page_says(app: App) -> None:
    records = await made()
    for row in RELATIONAL:
        domain = Domain(python(row.condition, records))
        if row.refused:
            with pytest.raises(DomainError, match="compared with"):
                await Post.search(domain)
            continue
        model, wanted = about(row, records), names(row.finds)
        everyone = await model.search()
        assert found(await model.search(domain)) == wanted, row
        assert found(await model.search(await app.resolve(model, domain))) == wanted, row
        assert found(await model.search(~domain)) == found(everyone) - wanted, row
        loaded = await model.search().prefetch(*PREFETCH[model])
        assert found(loaded.filtered_domain(domain)) == wanted, row
        # Where something isn't there, memory says so instead of guessing.
        try:
            assert found(everyone.filtered_domain(domain)) == wanted, row
        except FieldNotLoaded as error:
            assert "prefetch" in str(error) or "parents" in str(error)
        if await app.resolve(model, domain) != domain:
            with pytest.raises(UnresolvedDomain, match="resolve"):
                app.matcher(model, domain)


def found(records: RecordSet[Any]) -> set[str]:
    return {record.name for record in records}


async def test_days_and_points_in_time_find_what_the_page_says(app: App) -> None:
    for row in DAYS:
        domain = Domain(python(row.condition, NAMES))
        with act_as("somebody", tz=row.zone):
            if row.refused:
                with pytest.raises(DomainError, match="no point in time"):
                    await Event.search(domain)
                continue
            await Event.search().delete()
            inside, outside = python(row.finds), python(row.leaves_out)
            events = await Event.create(
                [{"number": n, **e} for n, e in enumerate(inside + outside)]
            )
            assert inside and outside, row
            wanted = list(range(len(inside)))
            assert sorted((await Event.search(domain)).mapped("number")) == wanted, row
            assert events.filtered_domain(domain).mapped("number") == wanted, row
            stored = await Event.search(order="number")
            assert stored.filtered_domain(domain).mapped("number") == wanted, row
