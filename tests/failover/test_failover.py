"""Kill -9 of the primary under load: every acknowledged write is there, nothing is there twice, watch() goes on.

The long form, 1,000 writes and 1,000 transactions with each driver: ``nox -s failover`` (EARNORM_FAILOVER_WRITES=1000).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest
from pymongo import MongoClient

import earnorm
from earnorm import (
    App,
    BaseModel,
    DuplicateKey,
    Inc,
    Int,
    Many2one,
    OperationTimeout,
    ServerUnavailable,
    String,
    TransactionError,
)
from earnorm.features.computed.plugin import worker_of
from tests.servers import ReplicaSet, replica_set

WRITES = int(os.environ.get("EARNORM_FAILOVER_WRITES", "100"))
"""Single writes, and as many transactions, of each driver."""
TASKS = 10
DRIVERS = ("pymongo", "motor")
# What a program that wants its write done tries again after; what was done already is a DuplicateKey.
PASSING = (ServerUnavailable, OperationTimeout)


class Entry(BaseModel):
    """One acknowledged piece of work."""

    _name = "failover.entry"

    number = Int(required=True, unique=True)
    kind = String(required=True)


class Total(BaseModel):
    """What the transactions count, beside their entries."""

    _name = "failover.total"

    entries = Int(default=0)


@pytest.fixture(scope="module")
def nodes() -> Iterator[ReplicaSet]:
    with replica_set(3) as running:
        yield running


@pytest.fixture
async def apps(nodes: ReplicaSet) -> AsyncIterator[list[App]]:
    started = [
        # Longer than an election takes, so that operations wait for the new primary.
        App(nodes.uri, database=f"failover_{kind}", driver=kind, plugins=[], server_timeout=30)
        for kind in DRIVERS
    ]
    for app in started:
        await app.start()
    yield started
    for app in started:
        await app.stop()


class Load:
    """The work of one App, and what was acknowledged."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.acknowledged: set[int] = set()
        self.again = 0
        self.halfway = asyncio.Event()
        self.seen: Counter[int] = Counter()
        self.total_id = ""
        self.slowest = 0.0

    async def run(self) -> None:
        numbers = iter(range(2 * WRITES))

        async def work() -> None:
            for number in numbers:
                began = time.monotonic()
                await (self.write(number) if number % 2 else self.transact(number))
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.acknowledged.add(number)
                if len(self.acknowledged) >= WRITES // 2:
                    self.halfway.set()

        async with asyncio.TaskGroup() as group:
            for _ in range(TASKS):
                group.create_task(work())

    async def write(self, number: int) -> None:
        while True:
            try:
                await Entry.create({"number": number, "kind": "write"})
                return
            except DuplicateKey:
                # Only the first try can have stored it: the index is unique, and the number is ours.
                assert await Entry.count([("number", "=", number)]) == 1
                return
            except PASSING:
                self.again += 1

    async def transact(self, number: int) -> None:
        @earnorm.transactional(retries=1000)
        async def both() -> None:
            await Entry.create({"number": number, "kind": "transaction"})
            await Total.search([("id", "=", self.total_id)]).update({"entries": Inc(1)})

        while True:
            try:
                await both()
                return
            except DuplicateKey:
                assert await Entry.count([("number", "=", number)]) == 1
                return
            except PASSING:
                self.again += 1
            except TransactionError as error:
                if not error.transient:
                    raise
                self.again += 1

    async def watch(self, opened: asyncio.Event) -> None:
        async with Entry.watch() as watch:
            opened.set()
            async for event in watch:
                assert event.record is not None
                self.seen[event.record.number] += 1
                if len(self.seen) == 2 * WRITES:
                    return

    async def check(self) -> None:
        numbers = Counter((await Entry.search()).mapped("number"))
        assert set(numbers) == self.acknowledged == set(range(2 * WRITES))
        assert set(numbers.values()) == {1}
        done = await Entry.count([("kind", "=", "transaction")])
        assert done == WRITES
        assert (await Total.get(self.total_id)).entries == WRITES
        assert set(self.seen) == set(numbers) and set(self.seen.values()) == {1}


class Mark(BaseModel):
    """Acknowledged by the primary alone, so that secondaries lag behind."""

    _name = "failover.mark"
    _write_concern = 1

    number = Int(required=True)


async def test_a_causal_session_reads_on_secondaries_what_it_wrote(apps: list[App]) -> None:
    for app in apps:
        with app.activate():
            async with earnorm.session(causal=True):
                for number in range(50):
                    await Mark.create({"number": number})
                    found = Mark.search([("number", "=", number)]).read_preference("secondary")
                    assert await found.count() == 1


class Team(BaseModel):
    _name = "failover.team"
    name = String(required=True)


class Ticket(BaseModel):
    _name = "failover.ticket"
    team_id = Many2one(Team)
    team_name = String(related="team_id.name", store=True)


async def test_owed_recomputes_outlive_a_step_down(nodes: ReplicaSet, apps: list[App]) -> None:
    for app in apps:
        with app.activate():
            team = await Team.create({"name": "one"})
            await Ticket.create([{"team_id": team} for _ in range(3_000)])
            await team.write({"name": "two"})
            worker = worker_of(app)
            assert worker is not None
            while not worker.figures.chunks:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            assert worker.figures.changed < 3_000
            old = await asyncio.to_thread(_step_down, nodes)
            await app.settled()
            assert await Ticket.count([("team_name", "=", "two")]) == 3_000
            assert nodes.primary() != old


def _step_down(nodes: ReplicaSet) -> str:
    primary = nodes.primary()
    with MongoClient[dict[str, object]](f"mongodb://{primary}", directConnection=True) as client:
        client.admin.command("replSetStepDown", 10, secondaryCatchUpPeriodSecs=5)
    return primary


async def test_an_unplanned_change_of_the_primary_loses_and_doubles_nothing(
    nodes: ReplicaSet, apps: list[App], capsys: pytest.CaptureFixture[str]
) -> None:
    loads = [Load(app) for app in apps]
    began = time.monotonic()

    async def drive(load: Load) -> None:
        with load.app.activate():
            await load.app.prepare_models()
            load.total_id = (await Total.create({})).id or ""
            opened = asyncio.Event()
            watching = asyncio.create_task(load.watch(opened))
            await opened.wait()
            await load.run()
            await asyncio.wait_for(watching, 60)
            await load.check()

    async def cut() -> str:
        for load in loads:
            await load.halfway.wait()
        return await asyncio.to_thread(_kill_primary, nodes)

    async with asyncio.TaskGroup() as group:
        killing = group.create_task(cut())
        for load in loads:
            group.create_task(drive(load))
    assert nodes.primary() != killing.result()
    with capsys.disabled():
        for load in loads:
            print(
                f"\n{load.app.name}: {WRITES} writes and {WRITES} transactions acknowledged, found and "
                f"seen once; longest {load.slowest:.1f} s, {load.again} tried again by the program; "
                f"{time.monotonic() - began:.0f} s in all"
            )


def _kill_primary(nodes: ReplicaSet) -> str:
    primary = nodes.primary()
    nodes.kill(primary)
    return primary
