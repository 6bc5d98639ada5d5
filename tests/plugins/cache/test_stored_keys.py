"""Fields whose stored keys are called as tokens of the cache are."""

from __future__ import annotations

import pytest

from earnorm import App, Int, models
from earnorm_cache import CachePlugin, CacheSettings


class Measured(models.BaseModel):
    _name = "cache_keys_measured"

    amount = Int(default=1, db_name="a")
    metres = Int(default=1, db_name="m")
    grams = Int(default=1, db_name="g")
    feet = Int(default=1, db_name="f")


@pytest.mark.parametrize("name", ["amount", "metres", "grams", "feet"])
async def test_a_result_is_void_once_its_field_was_written(name: str) -> None:
    settings = CacheSettings.model_validate({"queries": True, "outside_writes": False})
    async with App("mongomock://", database="keys", plugins=[CachePlugin(settings)]):
        record = await Measured.create({})
        await Measured.create({name: 7})
        large = Measured.search([(name, ">", 3)])
        assert (len(await large), await large.count(), len(await large.only(name))) == (1, 1, 1)
        await record.write({name: 9})
        assert (len(await large), await large.count(), len(await large.only(name))) == (2, 2, 2)
