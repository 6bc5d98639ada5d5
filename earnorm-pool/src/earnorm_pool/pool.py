"""The service behind ``earnorm.pool``: it judges the monitor's notes by the App's settings."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from earnorm_pool import driver_internals
from earnorm_pool.figures import ConnectionInfo, Health, PoolMetrics, Statistics, Status
from earnorm_pool.monitor import Address, Connection, ConnectionMonitor, State

if TYPE_CHECKING:
    from earnorm import App
    from earnorm_pool.settings import PoolSettings

UNHEARD = (
    "the driver's events are not heard: a client that the application made takes listeners only when "
    "it is made, and the memory backend has no connections"
)


def _host(address: Address) -> str:
    host, port = address
    return host if port is None else f"{host}:{port}"


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _average(values: Iterable[float]) -> float:
    all_values = list(values)
    return sum(all_values) / len(all_values) if all_values else 0.0


class Pool:
    """The connections of one App: ``earnorm.pool``, or ``app.services["pool"]``.

    Args:
        app: The App that has the connections.
        monitor: The listener of that App's driver.
        settings: The thresholds of the health check.
        clients: The driver's client of each App that was asked for it; asking is logged.
    """

    def __init__(
        self,
        app: App,
        monitor: ConnectionMonitor,
        settings: PoolSettings,
        clients: MutableMapping[App, Any],
    ) -> None:
        self._app = app
        self._monitor = monitor
        self._settings = settings
        self._clients = clients

    def __repr__(self) -> str:
        metrics = self.get_metrics()
        return (
            f"<Pool of {self._app.name!r}: {metrics.active_connections} active, "
            f"{metrics.available_connections} available>"
        )

    @property
    def is_heard(self) -> bool:
        """True if the driver's events reach the pool; if not, every figure is zero."""
        return self._monitor not in self._app.unheard_listeners

    def get_connection_info(self) -> list[ConnectionInfo]:
        """Return every connection that is not closed, oldest first."""
        now, wall = time.monotonic(), datetime.now(UTC)
        return [self._info(connection, now, wall) for connection in self._monitor.connections()]

    def get_metrics(self) -> PoolMetrics:
        """Return the counts over all servers, at this moment."""
        metrics = self._monitor.metrics()
        if not self._app.is_started:
            return metrics
        traffic = self._app.traffic
        return replace(
            metrics,
            acquiring_connections=metrics.acquiring_connections + traffic.waiting,
            failed_checkout_count=metrics.failed_checkout_count + traffic.timeouts,
            timeout_count=metrics.timeout_count + traffic.timeouts,
            threads=traffic.threads,
        )

    async def get_health_check(self) -> Health:
        """Judge the connections, without sending anything.

        Returns:
            ``status`` is ``unhealthy`` when no server is reachable, ``degraded`` for what ``reasons``
            names, ``unknown`` when the driver's events are not heard, else ``healthy``.
        """
        status, reasons = self._judge()
        return {
            "status": status,
            "reasons": reasons,
            "statistics": self._statistics(),
            "cleanup": "available" if self._driver_pools() is not None else "not available",
        }

    async def cleanup_stale(self) -> int:
        """Close the connections that are stale and not in use; the driver opens new ones as it needs.

        Returns:
            The number of closed connections; 0 if the health check says ``cleanup: not available``.
        """
        pools = self._driver_pools()
        if pools is None:
            return 0
        available = [c for c in self._monitor.connections() if c.state is State.AVAILABLE]
        now = time.monotonic()
        stale = {(c.address, c.number) for c in available if self._is_stale(c, now)}
        idle = driver_internals.idle_numbers(pools)
        self._monitor.not_in_pool({(c.address, c.number) for c in available} - idle)
        return await driver_internals.close_idle(pools, stale & idle)

    def keep_lifetime(self) -> bool:
        """Have connections closed that are older than the App's ``max_lifetime``, also in a busy pool.

        It holds for the servers that the driver knows now.

        Returns:
            False if the installed release of the driver is not known.
        """
        pools, lifetime = self._driver_pools(), self._app.settings.max_lifetime
        if pools is not None and lifetime is not None:
            driver_internals.keep_lifetime(pools, lifetime)
        return pools is not None

    def _driver_pools(self) -> driver_internals.DriverPools | None:
        if not self.is_heard:
            return None
        client = self._clients.get(self._app)
        if client is None:
            raw = self._app.dangerous_raw("earnorm-pool looks at the driver's connections")
            client = self._clients[self._app] = raw.client
        return driver_internals.find_pools(client)

    def _info(self, connection: Connection, now: float, wall: datetime) -> ConnectionInfo:
        available = connection.state is State.AVAILABLE
        host = _host(connection.address)
        return ConnectionInfo(
            id=f"{host}#{connection.number}",
            address=host,
            created_at=connection.created_at,
            last_used_at=wall if connection.state is State.ACTIVE else _moment(connection.used_at),
            idle_time=_idle_time(connection, now),
            lifetime=max(0.0, now - connection.created),
            is_stale=self._is_stale(connection, now),
            is_available=available,
        )

    def _is_stale(self, connection: Connection, now: float) -> bool:
        lifetime, idle = self._app.settings.max_lifetime, self._app.settings.idle_timeout
        too_old = lifetime is not None and now - connection.created > lifetime
        return too_old or (idle is not None and _idle_time(connection, now) > idle)

    def _statistics(self) -> Statistics:
        metrics, connections = self.get_metrics(), self.get_connection_info()
        return {
            "total_connections": metrics.total_connections,
            "active_connections": metrics.active_connections,
            "available_connections": metrics.available_connections,
            "acquiring_connections": metrics.acquiring_connections,
            "stale_connections": sum(connection.is_stale for connection in connections),
            "average_idle_time": _average(o.idle_time for o in connections if o.is_available),
            "average_lifetime": _average(connection.lifetime for connection in connections),
            "connection_usage": self._monitor.usage(),
        }

    def _judge(self) -> tuple[Status, list[str]]:
        if not self.is_heard:
            return "unknown", [UNHEARD]
        servers = self._monitor.readiness()
        if not servers.ready:
            return "unhealthy", [f"none of {servers.known} known servers is reachable"]
        reasons = list(self._degradations(servers.known - servers.ready))
        return ("degraded" if reasons else "healthy"), reasons

    def _degradations(self, unreachable: int) -> Iterator[str]:
        usage, waiting = self._monitor.usage(), self.get_metrics().acquiring_connections
        failures = (self._monitor.seconds_since_failure(), self._app.traffic.seconds_since_timeout)
        failed = min((seconds for seconds in failures if seconds is not None), default=None)
        if unreachable:
            yield f"{unreachable} known servers are not reachable"
        if waiting or usage >= self._settings.usage_threshold:
            yield f"{usage:.0%} of max_pool_size is in use, {waiting} operations wait"
        if failed is not None and failed < self._settings.failure_window:
            yield f"an operation got no connection {failed:.0f} s ago"


def _idle_time(connection: Connection, now: float) -> float:
    return max(0.0, now - connection.used) if connection.state is State.AVAILABLE else 0.0
