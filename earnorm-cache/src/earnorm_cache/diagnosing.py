"""Tells ``earnorm doctor`` of models that the settings cache and that are read from the database nevertheless."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from earnorm.plugin import Finding, ModelView
from earnorm_cache.options import expires, kept_as

if TYPE_CHECKING:
    from earnorm import App
    from earnorm_cache.settings import CacheSettings

_NAMED: Final = 5
"""The most models that a finding names."""

_CONDITIONS: Final = ("_rules", "_tenant_field")
"""The attributes of models by which the security plugin adds conditions to what is read."""


def without_redis(app: App, settings: CacheSettings) -> Iterator[Finding]:
    """Yield the finding about cached models whose rules nothing but Redis can serve.

    Args:
        app: The App.
        settings: The settings of the cache.
    """
    if settings.redis_url is not None:
        return
    names = sorted(
        view.name for view in map(ModelView, app.usable_models()) if _is_missed(app, view, settings)
    )
    if names:
        more = f" and {len(names) - _NAMED} others" if len(names) > _NAMED else ""
        yield Finding(
            "warning",
            f"the cache has no Redis, so nothing of {', '.join(names[:_NAMED])}{more} is kept for who acts under "
            f"their rules: each read asks the database",
            "give the cache a redis_url, or these models _cache = False",
        )


def _is_missed(app: App, view: ModelView, settings: CacheSettings) -> bool:
    return (
        any(view.attribute(name) for name in _CONDITIONS)
        and kept_as(view, settings) is not None
        and not expires(view)
        and app.reads_from(view.cls) == "primary"
        and app.bind(view.cls).is_restricted
    )
