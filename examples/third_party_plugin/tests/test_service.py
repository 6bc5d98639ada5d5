"""The service: present and former slugs."""

from __future__ import annotations

import pytest
from earnorm import App, ConfigurationError, DuplicateKey, String, models

from earnorm_slugs import AutoSlug, Slugs


class Lamp(models.BaseModel):
    _name = "slugs.test.lamp"

    title = String()
    slug = AutoSlug(source="title")


class Plain(models.BaseModel):
    _name = "slugs.test.plain"

    title = String()


@pytest.fixture
def slugs(app: App) -> Slugs:
    """The service of the App."""
    service = app.services["slugs"]
    assert isinstance(service, Slugs)
    return service


async def test_an_old_address_leads_to_the_record(slugs: Slugs) -> None:
    lamp = await Lamp.create({"title": "Blue lamp"})
    await slugs.rename(lamp, "Azure lamp")
    assert lamp.slug == "azure-lamp"
    for slug in ("azure-lamp", "blue-lamp"):
        assert (await slugs.find(Lamp, slug)).ids == [lamp.id]
    assert not await slugs.find(Lamp, "red-lamp")


async def test_nobody_gets_a_slug_that_another_one_had(slugs: Slugs) -> None:
    lamp = await Lamp.create({"title": "Blue lamp"})
    await slugs.rename(lamp, "azure-lamp")
    other = await Lamp.create({"title": "Blue lamp"})
    assert other.slug == "blue-lamp-2"
    for taken in ("blue-lamp", "azure-lamp", "new"):
        with pytest.raises(DuplicateKey):
            await slugs.rename(other, taken)
    assert other.slug == "blue-lamp-2"
    await slugs.rename(lamp, "blue-lamp")  # its own
    assert (await slugs.find(Lamp, "azure-lamp")).ids == [lamp.id]


async def test_records_that_were_there_before_are_filled(slugs: Slugs) -> None:
    await Lamp.create([{"title": "Old", "slug": f"x{n}"} for n in range(3)])
    await Lamp.search().update({"slug": None})
    await Lamp.create({"title": None})
    assert await slugs.fill(Lamp) == 3
    found = (await Lamp.search(order="slug")).mapped("slug")
    assert found == [None, "old", "old-2", "old-3"]


async def test_a_model_without_slugs_is_told(slugs: Slugs) -> None:
    with pytest.raises(ConfigurationError, match="slugs.test.plain has no one AutoSlug"):
        await slugs.find(Plain, "x")
