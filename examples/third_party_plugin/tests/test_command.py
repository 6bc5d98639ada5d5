"""The command."""

from __future__ import annotations

import pytest
from earnorm import App, String, models

from earnorm_slugs import AutoSlug
from earnorm_slugs.commands import fill


class Card(models.BaseModel):
    _name = "slugs.test.card"

    title = String()
    slug = AutoSlug(source="title")


async def test_it_fills_what_is_missing(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    await Card.create([{"title": "a"}, {"title": "b"}])
    await Card.search().update({"slug": None})
    await fill(model="slugs.test.card", app=app)
    assert capsys.readouterr().out == "2 slugs\n"
    assert sorted((await Card.search()).mapped("slug")) == ["a", "b"]
