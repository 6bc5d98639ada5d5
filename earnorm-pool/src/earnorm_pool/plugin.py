"""The plugin: it adds the listener, the service and the health, and retires stale connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from earnorm.plugin import Operation, hookimpl
from earnorm_pool.figures import Status
from earnorm_pool.monitor import ConnectionMonitor
from earnorm_pool.pool import Pool
from earnorm_pool.settings import PoolSettings

if TYPE_CHECKING:
    from earnorm import App

logger = logging.getLogger("earnorm.pool")

HEALTH: Final[Mapping[Status, str]] = {
    "healthy": "ok",
    "degraded": "degraded",
    "unhealthy": "failed",
    "unknown": "ok",
}
"""The pool's statuses in the words of ``app.health()``. It is no failure if no event arrives."""


class PoolPlugin:
    """Shows, counts, checks and retires the driver's connections: ``earnorm.pool``.

    Args:
        settings: The settings from ``init(..., pool={...})``.
    """

    api = 1

    def __init__(self, settings: PoolSettings | None = None) -> None:
        self._settings = settings or PoolSettings()
        # Several Apps may share one plugin instance.
        self._monitors: MutableMapping[App, ConnectionMonitor] = weakref.WeakKeyDictionary()
        self._clients: MutableMapping[App, Any] = weakref.WeakKeyDictionary()
        self._cleaning: dict[App, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<PoolPlugin of {len(self._monitors)} Apps>"

    @staticmethod
    @hookimpl
    def settings() -> type[PoolSettings]:
        """Return the type of the settings in ``init(..., pool={...})``."""
        return PoolSettings

    @hookimpl
    def register_listeners(self, app: App) -> Iterable[object]:
        """Return the listener of the driver's connection events, a new one for each client."""
        self._monitors[app] = ConnectionMonitor()
        return (self._monitors[app],)

    @hookimpl
    def register_services(self, app: App) -> Mapping[str, object]:
        """Provide ``app.services["pool"]``."""
        return {"pool": self._pool_of(app)}

    @hookimpl
    def operation_failed(self, op: Operation) -> None:
        """Tell the monitor, because no event may come: a task can be cancelled while it waits.

        Motor's threads always end with an event, and are not this task.
        """
        self._monitors[op.env.app].operation_failed()

    @hookimpl
    async def startup(self, app: App) -> None:
        """Have stale connections closed, if the App's settings let any become stale."""
        pool, interval = self._pool_of(app), self._settings.cleanup_interval
        limits = (app.settings.max_lifetime, app.settings.idle_timeout)
        if limits == (None, None) or not pool.is_heard:
            return
        if not pool.keep_lifetime():
            logger.warning(
                "stale connections cannot be closed before the driver does it: "
                "this release of the driver is not known to earnorm-pool"
            )
            return
        # For servers that the driver finds later.
        self._monitors[app].on_ready = pool.keep_lifetime
        if interval is None:
            return
        self._cleaning[app] = asyncio.create_task(
            _clean(pool, interval), name="earnorm-pool cleanup"
        )

    @hookimpl
    async def shutdown(self, app: App) -> None:
        """Stop looking for stale connections."""
        self._monitors[app].on_ready = None
        self._clients.pop(app, None)
        cleaning = self._cleaning.pop(app, None)
        if cleaning is not None:
            cleaning.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await cleaning

    @hookimpl
    async def health(self, app: App) -> Mapping[str, object]:
        """Return the pool's health check as a part of ``app.health()``."""
        pool = self._pool_of(app)
        check = await pool.get_health_check()
        return {
            **check,
            "status": HEALTH[check["status"]],
            "pool": check["status"],
            "metrics": asdict(pool.get_metrics()),
        }

    def _pool_of(self, app: App) -> Pool:
        # A Pool has no state of its own, so any number of them may be made.
        return Pool(app, self._monitors[app], self._settings, self._clients)


async def _clean(pool: Pool, interval: float) -> None:
    while True:
        await asyncio.sleep(interval)
        try:
            pool.keep_lifetime()
            closed = await pool.cleanup_stale()
        except Exception:
            logger.exception(
                "stale connections could not be closed; the next try is in %g s", interval
            )
        else:
            if closed:
                logger.debug("closed %d stale connections", closed)
