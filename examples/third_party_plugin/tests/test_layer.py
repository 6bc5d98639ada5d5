"""The layer: another process takes the slug between the choice and the store."""

from __future__ import annotations

from typing import Any

import pytest
from earnorm import App, DuplicateKey, String, models
from earnorm.plugin import Call, Operation, hookimpl
from earnorm.testing import app_with

from earnorm_slugs import AutoSlug, SlugsPlugin


class Page(models.BaseModel):
    _name = "slugs.test.page"

    title = String()
    slug = AutoSlug(source="title")
    code = String(unique=True)


class Thief:
    """Takes each slug that was chosen, a few times."""

    api = 1

    def __init__(self, times: int) -> None:
        self.times = times

    @hookimpl
    def wrap_operation(self, operation: str) -> list[tuple[int, Any]]:
        return [(999, self.take)] if operation == "create" else []

    async def take(self, op: Operation, call_next: Call) -> Any:
        if op.model is Page and self.times > 0 and op.documents[0]["title"] == "Lamp":
            self.times -= 1
            await Page.create({"title": "stolen", "slug": op.documents[0]["slug"]})
        return await call_next(op)


@pytest.mark.parametrize("mongo_uri", ["server"], indirect=True)
async def test_a_slug_that_was_taken_meanwhile_is_chosen_again(mongo_uri: str) -> None:
    async with app_with(SlugsPlugin, Thief(2), uri=mongo_uri):
        page = await Page.create({"title": "Lamp"})
        assert page.slug == "lamp-3"
        assert await Page.count() == 3


@pytest.mark.parametrize("mongo_uri", ["server"], indirect=True)
async def test_it_gives_up_after_some_tries(mongo_uri: str) -> None:
    async with app_with(SlugsPlugin, Thief(9), uri=mongo_uri, slugs={"tries": 3}):
        with pytest.raises(DuplicateKey):
            await Page.create({"title": "Lamp"})
        assert await Page.count() == 3


async def test_another_unique_field_is_not_tried_again(app: App) -> None:
    await Page.create({"title": "Lamp", "code": "a"})
    with pytest.raises(DuplicateKey) as caught:
        await Page.create({"title": "Lamp", "code": "a"})
    assert caught.value.fields == ("code",)
