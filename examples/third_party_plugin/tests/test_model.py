"""Former slugs: Apps with the plugin keep them."""

from __future__ import annotations

import pytest
from earnorm import App, ConfigurationError, String, models
from earnorm.testing import app_with

from earnorm_slugs import AutoSlug, FormerSlug, SlugsPlugin


class Shop(models.BaseModel):
    _name = "slugs.test.shop"

    title = String()
    slug = AutoSlug(source="title")


async def test_an_app_without_the_plugin_has_no_model_of_it(app: App) -> None:
    assert FormerSlug in app.known_models()
    async with app_with() as other:
        assert FormerSlug not in other.known_models()


async def test_an_app_that_leaves_it_out_refuses_models_that_need_it(mongo_uri: str) -> None:
    async with app_with(SlugsPlugin, uri=mongo_uri, disabled=["slugs"]):
        with pytest.raises(ConfigurationError, match="the field 'slug'"):
            await Shop.create({"title": "Lamps"})
