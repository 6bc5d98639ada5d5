"""A storm of stops under load leaves nothing on the server, and it finds each kind of planted fault."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from earnorm.backends.collection import DriverCollection
from earnorm.backends.conversions import settled
from earnorm.backends.driver import DriverBackend
from earnorm.backends.transacting import DriverTransaction
from earnorm.kernel.life.in_flight import GRACE, InFlight
from earnorm.kernel.serving.requests import Stream

from . import stop_storm
from .conftest import DRIVERS
from .stop_storm import Load, Storm

STOPS = int(os.environ.get("EARNORM_STOPS", "10"))


@pytest.mark.parametrize("driver", DRIVERS)
async def test_stops_under_load_leave_nothing_and_lose_nothing(mongo_uri: str, driver: str) -> None:
    found = await Storm(mongo_uri, driver).run(STOPS)
    assert found.faults == {}, str(found)
    assert found.stops == STOPS and found.acknowledged and found.clean
    assert found.cut["transactions"] and found.cut["streams"]


Patch = pytest.MonkeyPatch


async def nothing(*_: Any, **__: Any) -> None:
    pass


def transactions_that_stay(patch: Patch) -> None:
    patch.setattr(DriverTransaction, "abort", nothing)
    patch.setattr(DriverTransaction, "roll_back", nothing)


def cursors_that_stay(patch: Patch) -> None:
    patch.setattr(Stream, "close", nothing)


def connections_that_stay(patch: Patch) -> None:
    close = DriverBackend.close
    kept: list[DriverBackend] = []

    async def keep(self: DriverBackend) -> None:
        kept.append(self)
        if len(kept) > 3:
            await close(kept.pop(0))

    patch.setattr(DriverBackend, "close", keep)


def dropping(in_transactions: bool) -> Callable[[Patch], None]:
    def drop(patch: Patch) -> None:
        insert, chance = DriverCollection.insert, random.Random(1)

        async def sometimes(self: Any, documents: Any, **options: Any) -> None:
            inside = options.get("session") is not None
            if inside is in_transactions and len(documents) == 1 and chance.random() < 0.3:
                return
            await insert(self, documents, **options)

        patch.setattr(DriverCollection, "insert", sometimes)

    return drop


def commits_told_as_rolled_back(patch: Patch) -> None:
    commit = DriverTransaction.commit

    async def commit_and_deny(self: DriverTransaction, until: float | None) -> None:
        await commit(self, until)
        self._ended = "rolled_back"

    patch.setattr(DriverTransaction, "commit", commit_and_deny)


def cancelled_tasks(patch: Patch) -> None:
    patch.setattr(InFlight, "told", lambda self, error: error)


def tasks_that_hang(patch: Patch) -> None:
    forever = Load.forever

    async def hang(self: Load, work: Any) -> None:
        try:
            await forever(self, work)
        finally:
            await stop_storm.asyncio.sleep(60)

    patch.setattr(Load, "forever", hang)
    patch.setattr(stop_storm, "HANG_SECONDS", 0.5)


def stops_that_take_long(patch: Patch) -> None:
    patch.setattr(stop_storm, "LONG_SECONDS", -1.0)


PLANTED: dict[str, Callable[[Patch], None]] = {
    "open transactions": transactions_that_stay,
    "locked records": transactions_that_stay,
    "open cursors": cursors_that_stay,
    "open connections": connections_that_stay,
    "a lost write": dropping(in_transactions=False),
    "a lost transaction": dropping(in_transactions=True),
    "half a transaction": dropping(in_transactions=True),
    "a transaction told as rolled back": commits_told_as_rolled_back,
    "a wrong end": cancelled_tasks,
    "a task that hangs": tasks_that_hang,
    "a stop that takes too long": stops_that_take_long,
}

OF_COMMITTED = {"a lost transaction", "half a transaction", "a transaction told as rolled back"}
"""These need transactions that have the time to end."""


@pytest.fixture
async def kept(monkeypatch: Patch) -> AsyncIterator[list[Any]]:
    """The clients of the storm, to be closed whatever was planted."""
    clients: list[Any] = []
    init = DriverBackend.__init__

    def note(self: Any, settings: Any) -> None:
        init(self, settings)
        clients.append(self._client)

    monkeypatch.setattr(DriverBackend, "__init__", note)
    yield clients
    for client in clients:
        await settled(client.close())


@pytest.mark.parametrize("kind", PLANTED)
async def test_a_planted_fault_is_found(
    mongo_uri: str, kind: str, kept: list[Any], monkeypatch: Patch
) -> None:
    monkeypatch.setattr(stop_storm, "SETTLE_SECONDS", 0.2)
    PLANTED[kind](monkeypatch)
    grace = GRACE if kind in OF_COMMITTED else 0.0
    storm = Storm(mongo_uri, "pymongo", graces=(grace,), until=kind)
    found = await storm.run(12)
    assert found.faults[kind]
