"""No document of a model with secret fields is kept, also where it is of a subclass."""

from __future__ import annotations

import uuid

from earnorm import App, String, models
from earnorm_cache import CachePlugin, CacheSettings
from tests.core.conftest import definitions
from tests.core.secret_kinds import Holder, Pin, full


async def test_models_with_secret_fields_are_not_cached() -> None:
    with definitions():

        class Thing(models.BaseModel):
            _name = "secret.thing"
            _discriminator = "kind"
            kind = String()
            name = String()

        plugin = CachePlugin(CacheSettings())
        name = f"cache_{uuid.uuid4().hex[:12]}"
        async with App("mongomock://", database=name, plugins=[plugin]) as app:
            holder = await Holder.create(full())
            await Holder.get(holder.id)
            await Holder.get(holder.id)
            assert plugin.cache.statistics().entries == 0

            thing = await Thing.create({"name": "a"})
            await Thing.get(thing.id)
            assert plugin.cache.statistics().entries == 1

            class Box(Thing):
                _name = "secret.box"
                pin = Pin()

            box = await Box.create({"name": "b", "pin": "Canary-box"})
            await Thing.get(box.id)
            await Box.get(box.id)
            assert plugin.cache.statistics().entries <= 1
            assert "Canary" not in str(vars(plugin.cache))
            assert app.is_started
