"""One instance of a plugin for several Apps: it lets the stopped ones go, and stops its own part of each."""

from __future__ import annotations

import gc
import weakref

import pytest

from earnorm import App, Int, models
from earnorm_audit import AuditPlugin
from earnorm_cache import CachePlugin
from earnorm_pool import PoolPlugin
from earnorm_security import Access, SecurityPlugin


class Shared(models.BaseModel):
    _name = "contract.shared"
    _access = [Access("*", read=True)]
    n = Int()


@pytest.mark.parametrize("make", [AuditPlugin, CachePlugin, PoolPlugin, SecurityPlugin])
async def test_a_shared_instance_lets_stopped_apps_go(make: type, uri: str) -> None:
    plugin = make()
    gone: list[weakref.ref[App]] = []
    for _ in range(3):
        async with App(uri, database="contract_shared", plugins=[plugin], max_lifetime=60) as app:
            await Shared.search().limit(1)
        gone.append(weakref.ref(app))
        del app
    gc.collect()
    assert [reference() for reference in gone] == [None, None, None]
