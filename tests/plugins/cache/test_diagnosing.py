"""Doctor names the models of which the cache keeps nothing without Redis, because they have rules or a tenant."""

from __future__ import annotations

from typing import Any

import pytest

from earnorm import App, Int, Principal, String, act_as, models, system
from earnorm.cli import doctor
from earnorm_cache import CachePlugin, CacheSettings
from earnorm_security import Access, Rule, SecurityPlugin
from tests.core.conftest import definitions

EVERYTHING = [Access("user", read=True, write=True, create=True, unlink=True)]


def declare() -> dict[str, Any]:
    class Ruled(models.BaseModel):
        _name = "cachedoctor.ruled"
        _access = EVERYTHING
        _rules = [Rule("own", lambda env: [("owner", "=", "ann")])]
        owner = String()

    class Owned(models.BaseModel):
        _name = "cachedoctor.owned"
        _access = EVERYTHING
        _tenant_field = "shop"
        shop = Int()

    class Open(models.BaseModel):
        _name = "cachedoctor.open"
        _access = EVERYTHING
        text = String()

    class Fresh(models.BaseModel):
        _name = "cachedoctor.fresh"
        _access = EVERYTHING
        _cache = False
        _rules = [Rule("own", lambda env: [("owner", "=", "ann")])]
        owner = String()

    return {"ruled": Ruled, "owned": Owned, "open": Open, "fresh": Fresh}


async def told(app: App) -> list[str]:
    return [f.what for f in await doctor._models(app) if "Redis" in f.what]


@pytest.mark.parametrize("started", [False, True])
async def test_doctor_names_models_that_never_hit_because_of_rules(started: bool) -> None:
    with definitions(alone=True):
        declare()
        cache = CachePlugin(CacheSettings(outside_writes=False))
        app = App("mongomock://", database="cachedoctor", plugins=[cache, SecurityPlugin()])
        if started:
            async with app:
                [what] = await told(app)
        else:
            [what] = await told(app)
    assert "nothing of cachedoctor.owned, cachedoctor.ruled is kept" in what


async def test_doctor_has_nothing_to_tell_with_redis_or_without_rules() -> None:
    with definitions(alone=True):
        declare()
        settings = CacheSettings(redis_url="redis://localhost:1")
        app = App(
            "mongomock://",
            database="cachedoctor",
            plugins=[CachePlugin(settings), SecurityPlugin()],
        )
        assert await told(app) == []
    with definitions(alone=True):

        class Plain(models.BaseModel):
            _name = "cachedoctor.plain"

        assert (
            await told(App("mongomock://", database="cachedoctor", plugins=[CachePlugin()])) == []
        )


async def test_what_doctor_tells_is_so() -> None:
    with definitions(alone=True):
        made = declare()
        cache = CachePlugin(CacheSettings(outside_writes=False))
        async with App("mongomock://", database="cachedoctor", plugins=[cache, SecurityPlugin()]):
            values = {"ruled": {"owner": "ann"}, "owned": {"shop": 1}, "open": {"text": "x"}}
            with system(reason="set up"):
                records = {name: await made[name].create(given) for name, given in values.items()}
            with act_as(Principal("ann", roles=["user"], attributes={"shop": 1})):
                for name, record in records.items():
                    for _ in range(3):
                        await made[name].get(record.id)
    hits = {name: cache.cache.statistics(f"cachedoctor.{name}").hits for name in values}
    assert hits["ruled"] == hits["owned"] == 0 and hits["open"] > 0
