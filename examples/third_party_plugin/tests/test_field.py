"""The field type: what is filled in, what is kept, and what type checkers know."""

from __future__ import annotations

import asyncio
from typing import assert_type

import pytest
from earnorm import App, ConfigurationError, String, ValidationError, models

from earnorm_slugs import AutoSlug


class Article(models.BaseModel):
    _name = "slugs.test.article"

    title = String()
    slug = AutoSlug(source="title", required=True)
    short = AutoSlug(source="title", max_length=8)


async def test_a_new_record_gets_a_slug(app: App) -> None:
    article = await Article.create({"title": "Hàng Đào, 36"})
    assert article.slug == "hang-dao-36"
    await article.refresh()
    assert article.slug == "hang-dao-36"


async def test_each_is_there_once(app: App) -> None:
    first = await Article.create({"title": "Lamp"})
    more = await Article.create([{"title": "Lamp"}, {"title": "lamp!"}, {"title": "Lamp 2"}])
    assert [first.slug, *more.mapped("slug")] == ["lamp", "lamp-2", "lamp-3", "lamp-2-2"]


async def test_one_that_is_given_is_kept_and_normalised(app: App) -> None:
    article = await Article.create({"title": "Lamp", "slug": "My Lamp"})
    assert article.slug == "my-lamp"


async def test_long_texts_are_cut_and_numbered_within_the_length(app: App) -> None:
    articles = await Article.create([{"title": "a very long title"} for _ in range(11)])
    shorts = articles.mapped("short")
    assert len(set(shorts)) == 11
    assert all(len(short) <= 8 and not short.endswith("-") for short in shorts)
    later = await Article.create({"title": "a very long title"})
    assert later.short not in shorts


async def test_words_of_the_application_are_left_free(app: App) -> None:
    assert (await Article.create({"title": "New"})).slug == "new-2"


async def test_a_text_without_letters_has_a_slug_too(app: App) -> None:
    assert (await Article.create({"title": "???"})).slug == "record"


async def test_without_a_text_a_required_one_is_refused(app: App) -> None:
    with pytest.raises(ValidationError, match="a slug, or a text in 'title', is needed"):
        await Article.create({})


async def test_a_change_of_the_text_changes_no_address(app: App) -> None:
    article = await Article.create({"title": "Lamp"})
    await article.write({"title": "Lantern"})
    assert article.slug == "lamp"


async def test_several_at_the_same_time_all_get_one(app: App) -> None:
    articles = await asyncio.gather(*(Article.create({"title": "Rush"}) for _ in range(4)))
    assert len({article.slug for article in articles}) == 4


async def test_a_bulk_gets_slugs(app: App) -> None:
    async with Article.bulk() as bulk:
        for _ in range(3):
            bulk.create({"title": "Bulk"})
    assert sorted((await Article.search()).mapped("slug")) == ["bulk", "bulk-2", "bulk-3"]


async def test_a_source_that_is_no_field_is_told(app: App) -> None:
    class Wrong(models.BaseModel):
        _name = "slugs.test.wrong"
        slug = AutoSlug(source="nowhere")

    with pytest.raises(ConfigurationError, match="AutoSlug\\(source='nowhere'\\)"):
        await Wrong.create({})


async def test_type_checkers_know_its_value(app: App) -> None:
    article = await Article.create({"title": "Lamp"})
    assert_type(article.slug, str)
    assert_type(article.short, str | None)
