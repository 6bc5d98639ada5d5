"""Everything that an App asks of a plugin: a test for each line of the contract."""

from __future__ import annotations

from earnorm import String, models
from earnorm.testing import plugin_tests

from earnorm_slugs import AutoSlug, SlugsPlugin


class Thing(models.BaseModel):
    _name = "slugs.test.thing"

    title = String()
    slug = AutoSlug(source="title")


TestContract = plugin_tests(
    SlugsPlugin,
    values={"AutoSlug": ["blue-lamp", "a", "lamp-2"]},
    models={Thing: lambda n: {"title": f"thing {n % 3}"}},
)
