"""The types of an App's settings and services; tests/mistakes has settings that are wrong."""

from __future__ import annotations

from typing import Any, TypedDict, assert_type

import earnorm
from earnorm_audit import AuditLog, AuditSettings
from earnorm_cache import CacheService, CacheSettings
from earnorm_pool import PoolSettings
from earnorm_security import SecuritySettings


class CacheValues(TypedDict, total=False):
    """Settings of a plugin that a program writes down itself."""

    max_entries: int


async def apps(cached: CacheValues) -> None:
    assert_type(
        await earnorm.init(
            "mongodb://",
            database="x",
            max_pool_size=3,
            plugins=["cache", "audit"],
            slow_query=0.5,
            read_concern="majority",
            cache=CacheSettings(max_entries=3),
            audit={"denials_days": 3},
        ),
        earnorm.App,
    )
    earnorm.App(
        "mongodb://",
        database="x",
        cache=cached,
        audit=AuditSettings(denials_days=3),
        pool=PoolSettings(),
        security=SecuritySettings(),
        third_party={"anything": 1},
    )


def services(app: earnorm.App) -> None:
    assert_type(app.services.get(AuditLog), AuditLog | None)
    assert_type(app.services.of_type(AuditLog), AuditLog)
    assert_type(app.services.get(CacheService, 3), CacheService | int)
    assert_type(app.services["cache"], Any)
    assert_type(app.services.get("cache"), Any)
