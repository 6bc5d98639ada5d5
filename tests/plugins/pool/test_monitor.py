"""The books that the monitor keeps, on events made by hand."""

from __future__ import annotations

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo import monitoring
from pymongo.monitoring import ConnectionCheckOutFailedReason, ConnectionClosedReason

from earnorm_pool.figures import PoolMetrics
from earnorm_pool.monitor import FIRST_PRUNING, ConnectionMonitor, State

SERVERS = (("a", 1), ("b", None))
HERE = SERVERS[0]

Event = tuple[str, tuple[str, int | None], int]
NAMES = (
    "pool_created",
    "pool_ready",
    "pool_cleared",
    "pool_closed",
    "connection_created",
    "connection_ready",
    "connection_closed",
    "connection_check_out_started",
    "connection_check_out_failed",
    "connection_checked_out",
    "connection_checked_in",
)


def tell(monitor: ConnectionMonitor, name: str, server: object = HERE, number: int = 1) -> None:
    """Send the event that the driver would."""
    made: dict[str, object] = {
        "pool_created": lambda: monitoring.PoolCreatedEvent(server, {"maxPoolSize": 2}),
        "pool_ready": lambda: monitoring.PoolReadyEvent(server),
        "pool_cleared": lambda: monitoring.PoolClearedEvent(server),
        "pool_closed": lambda: monitoring.PoolClosedEvent(server),
        "connection_created": lambda: monitoring.ConnectionCreatedEvent(server, number),
        "connection_ready": lambda: monitoring.ConnectionReadyEvent(server, number, 0.1),
        "connection_closed": lambda: monitoring.ConnectionClosedEvent(
            server, number, ConnectionClosedReason.ERROR
        ),
        "connection_check_out_started": lambda: monitoring.ConnectionCheckOutStartedEvent(server),
        "connection_check_out_failed": lambda: monitoring.ConnectionCheckOutFailedEvent(
            server, ConnectionCheckOutFailedReason.TIMEOUT, 0.1
        ),
        "connection_checked_out": lambda: monitoring.ConnectionCheckedOutEvent(server, number, 0.1),
        "connection_checked_in": lambda: monitoring.ConnectionCheckedInEvent(server, number),
    }
    getattr(monitor, name)(made[name]())


def tell_all(monitor: ConnectionMonitor, *names: str, number: int = 1) -> None:
    for name in names:
        tell(monitor, name, number=number)


OPENING = ("connection_check_out_started", "connection_created", "connection_ready")
events = st.tuples(st.sampled_from(NAMES), st.sampled_from(SERVERS), st.integers(1, 4))


def assert_consistent(found: PoolMetrics, monitor: ConnectionMonitor) -> None:
    parts = (found.active_connections, found.available_connections, found.pending_connections)
    assert all(count >= 0 for count in (*parts, found.acquiring_connections))
    assert found.total_connections == sum(parts) == len(monitor.connections())
    assert 0 <= monitor.usage() <= 1
    assert 0 <= monitor.readiness().ready <= monitor.readiness().known


@given(st.lists(events, max_size=60))
def test_no_sequence_of_events_makes_a_count_negative_or_the_parts_differ_from_the_total(
    sequence: list[Event],
) -> None:
    monitor = ConnectionMonitor()
    for name, server, number in sequence:
        tell(monitor, name, server, number)
        assert_consistent(monitor.metrics(), monitor)


LIFE = {  # what may follow, of a connection that is: nowhere, being opened, available, in use
    None: {"connection_created": State.PENDING},
    State.PENDING: {"connection_ready": State.AVAILABLE, "connection_closed": None},
    State.AVAILABLE: {"connection_checked_out": State.ACTIVE, "connection_closed": None},
    State.ACTIVE: {"connection_checked_in": State.AVAILABLE},
}


@given(st.data())
def test_every_life_of_connections_is_counted_exactly(data: st.DataObject) -> None:
    monitor = ConnectionMonitor()
    states: dict[int, State | None] = dict.fromkeys(range(1, 5))
    for _ in range(data.draw(st.integers(0, 40))):
        number = data.draw(st.integers(1, 4))
        name = data.draw(st.sampled_from(sorted(LIFE[states[number]])))
        states[number] = LIFE[states[number]][name]
        tell(monitor, name, number=number)
    living = list(states.values())
    found = monitor.metrics()
    assert found.pending_connections == living.count(State.PENDING)
    assert found.available_connections == living.count(State.AVAILABLE)
    assert found.active_connections == living.count(State.ACTIVE)
    assert found.created_count - found.closed_count == found.total_connections


def test_an_operation_waits_until_it_has_its_connection() -> None:
    monitor = ConnectionMonitor()
    tell_all(monitor, *OPENING)
    assert monitor.metrics().acquiring_connections == 1
    tell(monitor, "connection_checked_out")
    assert monitor.metrics().acquiring_connections == 0
    assert monitor.metrics().active_connections == 1


def test_a_failed_check_out_is_counted_and_ends_the_wait() -> None:
    monitor = ConnectionMonitor()
    assert monitor.seconds_since_failure() is None
    tell_all(monitor, "connection_check_out_started", "connection_check_out_failed")
    found = monitor.metrics()
    assert (found.acquiring_connections, found.failed_checkout_count, found.timeout_count) == (
        0,
        1,
        1,
    )
    assert monitor.seconds_since_failure() is not None


async def test_a_task_that_was_cancelled_while_it_waited_waits_no_more() -> None:
    monitor = ConnectionMonitor()

    async def waiting() -> None:
        tell(monitor, "connection_check_out_started")
        await asyncio.Event().wait()

    task = asyncio.create_task(waiting())
    await asyncio.sleep(0)
    assert monitor.metrics().acquiring_connections == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert monitor.metrics().acquiring_connections == 0


async def test_a_task_that_lives_on_after_a_timeout_waits_no_more() -> None:
    monitor = ConnectionMonitor()
    tell(monitor, "connection_check_out_started")
    monitor.operation_failed()
    assert monitor.metrics().acquiring_connections == 0


async def test_a_connection_whose_task_is_gone_is_available_and_forgotten_if_the_driver_has_it_not() -> (
    None
):
    monitor = ConnectionMonitor()

    async def interrupted_check_in() -> None:
        tell_all(monitor, *OPENING, "connection_checked_out")

    await asyncio.create_task(interrupted_check_in())
    assert monitor.metrics().available_connections == 1
    monitor.not_in_pool([(HERE, 1)])
    assert monitor.metrics().total_connections == 0


async def test_a_connection_that_came_back_is_not_forgotten_on_hearsay() -> None:
    monitor = ConnectionMonitor()
    tell_all(monitor, *OPENING, "connection_checked_out", "connection_checked_in")
    monitor.not_in_pool([(HERE, 1)])
    assert monitor.metrics().total_connections == 1


async def test_waiters_that_gave_up_do_not_pile_up_when_nobody_reads_the_figures() -> None:
    monitor = ConnectionMonitor()

    async def give_up() -> None:
        tell(monitor, "connection_check_out_started")

    for _ in range(FIRST_PRUNING * 5):
        await asyncio.create_task(give_up())
    assert 0 < len(monitor._waiting) <= FIRST_PRUNING


def test_a_server_that_left_takes_its_connections_along_as_they_close() -> None:
    monitor = ConnectionMonitor()
    tell_all(monitor, "pool_created", "pool_ready", *OPENING, "connection_checked_out")
    assert monitor.usage() == 0.5
    tell(monitor, "pool_closed")
    assert monitor.readiness().known == 0
    assert monitor.metrics().total_connections == 1
    tell_all(monitor, "connection_checked_in", "connection_closed")
    assert monitor.metrics().total_connections == 0
    assert monitor._pools == {}


def test_events_from_many_threads_lose_nothing() -> None:
    monitor = ConnectionMonitor()

    def work(first: int) -> None:
        for number in range(first, first + 200):
            tell_all(monitor, *OPENING, "connection_checked_out", number=number)
            assert_consistent_counts(monitor.metrics())
            tell(monitor, "connection_checked_in", number=number)

    threads = [threading.Thread(target=work, args=(n * 1000,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = monitor.metrics()
    assert (found.total_connections, found.available_connections) == (1600, 1600)
    assert (found.active_connections, found.acquiring_connections) == (0, 0)
    assert found.checkout_count == 1600


def assert_consistent_counts(found: PoolMetrics) -> None:
    assert found.total_connections == (
        found.active_connections + found.available_connections + found.pending_connections
    )
