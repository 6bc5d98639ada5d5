"""Addresses, and the cache over a Redis Cluster and over what a Sentinel names, with servers that fail."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

from earnorm import Int, models
from earnorm_cache import CacheSettings
from earnorm_cache.connecting import Address
from tests.plugins.cache.probes import starting
from tests.plugins.cache.test_shared import Process, Stock, eventually, reads, stock
from tests.redis_servers import Node, Nodes, redis_cluster, sentinel

Open = Callable[..., Awaitable[Process]]


class Crate(models.BaseModel):
    """Another collection, which lies in another slot."""

    _name = "cache_crate"

    pieces = Int(default=0)


# -- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "hosts", "url"),
    [
        ("redis://localhost:6379/0", "alone", (), "redis://localhost:6379/0"),
        ("rediss://:p%40@h/2", "alone", (), "rediss://:p%40@h/2"),
        ("valkey://h", "alone", (), "redis://h"),
        ("unix:///run/redis.sock", "alone", (), "unix:///run/redis.sock"),
        (
            "redis+cluster://u:p@one:7000,two/?ssl_ca_certs=x",
            "cluster",
            (("one", 7000), ("two", 6379)),
            "redis://u:p@one:7000/0?ssl_ca_certs=x",
        ),
        ("valkeys+cluster://[::1]:7000", "cluster", (("::1", 7000),), "rediss://[::1]:7000/0?"),
        (
            "redis+sentinel://:p@one:26380,two/depot/3",
            "sentinel",
            (("one", 26380), ("two", 26379)),
            "redis://:p@one:26380/3?",
        ),
    ],
)
def test_an_address_says_the_servers(
    text: str, kind: str, hosts: tuple[tuple[str, int], ...], url: str
) -> None:
    address = Address.parse(text)
    assert (address.kind, address.hosts, address.url) == (kind, hosts, url)


def test_a_sentinel_may_have_a_password_of_its_own() -> None:
    address = Address.parse(
        "redis+sentinel://:p@one/depot?sentinel_password=s&health_check_interval=3"
    )
    assert address.service == "depot"
    assert address.sentinel == (None, "s")
    assert address.url == "redis://:p@one:26379/0?health_check_interval=3"


@pytest.mark.parametrize(
    "text",
    [
        "redis+cluster://:secret@one/1",
        "redis+cluster://:secret@",
        "redis+sentinel://:secret@one",
        "redis+sentinel://:secret@one/depot/x",
        "redis+sentinel://:secret@one/depot/1/2",
        "redis://:secret@one:many",
        "redis+cluster://:secret@one:99999",
        "http://:secret@one",
        "redis://:secret@one/x",
        "redis://:secret@one/0?db=x",
        "unix://:secret@/run/redis.sock?db=x",
    ],
)
def test_a_wrong_address_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match="redis_url") as refused:
        CacheSettings(redis_url=text)  # type: ignore[arg-type] # pydantic makes a secret of it
    assert "secret" not in str(refused.value) + repr(refused.value)


async def test_a_database_that_the_server_does_not_have_is_said_at_the_start(
    open_at: Open, caplog: pytest.LogCaptureFixture
) -> None:
    url = os.environ["EARNORM_TEST_REDIS_URL"].rpartition("/")[0] + "/99"
    one = await open_at(url)
    assert "it has no database of the number in redis_url" in caplog.text
    health: Any = (await one.app.health())["cache"]
    assert health["status"] == "degraded"
    pk = await stock(one, pieces=3)
    assert await one.pieces(pk) == 3
    await one.app.stop()


# -- a cluster ------------------------------------------------------------------------------------


@pytest.fixture
async def open_at(mongo_uri: str) -> AsyncIterator[Open]:
    async with starting(mongo_uri, redis_timeout=0.3) as start:

        async def open_at(url: str, **settings: Any) -> Process:
            return Process(*await start(redis_url=url, **settings))

        yield open_at


@pytest.fixture
def cluster() -> Iterator[Nodes]:
    with redis_cluster() as nodes:
        yield nodes


async def crate(process: Process, pieces: int) -> Any:
    made: Crate = await process.run(lambda: Crate.create({"pieces": pieces}))
    return made.pk


async def crates(process: Process, pk: object) -> int:
    found: Crate = await process.run(lambda: Crate.get(pk))
    return found.pieces


def node_of(process: Process, nodes: Nodes, collection: str) -> Node:
    return nodes.owner(process.shared.connection.group(process.shared.stream(collection)))


async def test_the_processes_share_a_cluster(open_at: Open, cluster: Nodes) -> None:
    one, two = await open_at(cluster.url), await open_at(cluster.url)
    pk, other = await stock(one, pieces=3), await crate(one, 7)
    assert (await one.pieces(pk), await crates(one, other)) == (3, 7)
    assert (await two.pieces(pk), await crates(two, other)) == (3, 7)
    assert two.shared.figures.hits == 2
    for pieces in (4, 5, 6):
        await two.write(pk, pieces)
        one.forget()
        assert await one.pieces(pk) == pieces
    slots = {
        one.shared.connection.group(one.shared.stream(n)) for n in ("cache_stock", "cache_crate")
    }
    assert len(slots) == 2
    # The memory hears of both, though no command reads two slots.
    await one.trusted()
    await eventually(lambda: one.plugin._levels.listener.is_trusted("cache_crate"))  # type: ignore[union-attr] # it has one
    await one.pieces(pk), await crates(one, other)
    await two.write(pk, 8)
    await two.run(lambda: Crate.search([("_id", "=", other)]).update({"pieces": 9}))
    await reads(one, pk, 8)
    for _ in range(500):
        if await crates(one, other) == 9:
            break
        await asyncio.sleep(0.002)
    assert await crates(one, other) == 9
    assert (await one.app.health())["cache"]["status"] == "ok"


async def test_many_ids_and_many_tasks_share_a_cluster(open_at: Open, cluster: Nodes) -> None:
    one, two = await open_at(cluster.url), await open_at(cluster.url)
    pks = [await stock(one, pieces=n) for n in range(250)]
    await one.run(lambda: Stock.search([("_id", "in", pks)]))
    await asyncio.gather(*(two.pieces(pk) for pk in pks))
    assert two.probe.searches == 0


class Racing:
    """One writer and readers of one record; counts what is old."""

    def __init__(self, writer: Process, readers: list[Process], pk: object) -> None:
        self.writer, self.readers, self.pk = writer, readers, pk
        self.acknowledged = self.reads = 0
        self.stale: list[tuple[int, int]] = []
        self.is_over = False

    async def run(self, during: Callable[[], Awaitable[None]]) -> None:
        """Race while something happens."""
        tasks = [asyncio.ensure_future(self._read(each)) for each in self.readers for _ in range(3)]
        tasks.append(asyncio.ensure_future(self._write()))
        try:
            await during()
        finally:
            self.is_over = True
            await asyncio.gather(*tasks)

    async def _read(self, process: Process) -> None:
        while not self.is_over:
            process.forget()  # what a memory may have is another promise
            least = self.acknowledged
            pieces = await process.pieces(self.pk)
            self.reads += 1
            if pieces < least:
                self.stale.append((pieces, least))
            await asyncio.sleep(0.001)

    async def _write(self) -> None:
        while not self.is_over:
            await self.writer.write(self.pk, self.acknowledged + 1)
            self.acknowledged += 1
            await asyncio.sleep(0.003)


async def test_a_slot_that_moves_to_another_node_makes_no_read_old(
    open_at: Open, cluster: Nodes
) -> None:
    settings = {"redis_timeout": 2.0}
    one, two = await open_at(cluster.url, **settings), await open_at(cluster.url, **settings)
    pk = await stock(one, pieces=0)
    others = [await stock(one) for _ in range(50)]
    slot = one.shared.connection.group(one.shared.stream("cache_stock"))
    await one.run(lambda: Stock.search([("_id", "in", others)]))

    async def move() -> None:
        for _ in range(4):
            await asyncio.sleep(0.1)
            source = await asyncio.to_thread(cluster.owner, slot)
            target = cluster[(cluster.index(source) + 1) % 3]
            await asyncio.to_thread(move_slot, cluster, slot, source, target)
        await asyncio.sleep(0.2)

    race = Racing(one, [one], pk)  # another may read old values while a removal is owed
    await race.run(move)
    assert race.reads > 100
    assert not race.stale
    await eventually(lambda: not one.shared.is_owing and not one.shared.is_down)
    two.forget()
    assert await two.pieces(pk) == race.acknowledged


def move_slot(nodes: Nodes, slot: int, source: Node, target: Node) -> None:
    """Move a slot as redis-cli does, a few keys at a time."""
    names = {node: node.ask("CLUSTER", "MYID") for node in nodes}
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
    with Redis(port=source.port) as client:
        while keys := client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 5):
            time.sleep(0.005)
            client.execute_command(
                "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "REPLACE", "KEYS", *keys
            )
    for node in (target, source, *nodes):
        try:
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", names[target])
        except RedisError:
            if node in (source, target):
                raise


@pytest.mark.parametrize("way", ["killed", "stopped"])
async def test_a_node_that_is_gone_makes_no_read_old_and_none_fail(open_at: Open, way: str) -> None:
    with redis_cluster(replicas=3) as nodes:
        one, two = await open_at(nodes.url), await open_at(nodes.url)
        pk = await stock(one, pieces=0)
        await one.pieces(pk)
        node = node_of(one, nodes, "cache_stock")

        async def fail() -> None:
            await asyncio.sleep(0.2)
            node.kill() if way == "killed" else node.stop()
            await eventually(lambda: one.shared.is_owing)
            await eventually(lambda: not one.shared.is_owing)  # another has its slots
            await asyncio.sleep(0.5)

        race = Racing(one, [one], pk)
        await race.run(fail)
        assert race.reads > 100
        assert not race.stale
        await eventually(lambda: not one.shared.is_owing)
        two.forget()
        assert await two.pieces(pk) == race.acknowledged
        await two.trusted()
        await two.pieces(pk)
        await one.write(pk, -1)
        await reads(two, pk, -1)
        node.go_on()


# -- a Sentinel -----------------------------------------------------------------------------------


async def test_a_sentinel_names_the_primary_and_the_next_one(open_at: Open) -> None:
    with sentinel() as (primary, replica, guard):
        url = f"redis+sentinel://127.0.0.1:{guard.port}/depot/0"
        one, two = await open_at(url), await open_at(url)
        pk = await stock(one, pieces=1)
        assert await one.pieces(pk) == await two.pieces(pk) == 1
        assert two.shared.figures.hits == 1
        await two.trusted()
        await two.pieces(pk)  # in its memory
        # What was removed last never reaches the replica, which becomes the primary.
        await eventually(lambda: replica.ask("DBSIZE") == primary.ask("DBSIZE"))
        replica.stop()
        primary.ask("CLIENT", "KILL", "TYPE", "replica")
        await one.write(pk, 2)
        primary.kill()
        replica.go_on()
        await reads(two, pk, 2)
        await eventually(lambda: not one.shared.is_down and not one.shared.is_owing)
        for _ in range(200):
            for process in (one, two):
                process.forget()
                assert await process.pieces(pk) == 2
            if one.shared.figures.hits + two.shared.figures.hits > 3:
                break
            await asyncio.sleep(0.05)
        assert one.shared.figures.hits + two.shared.figures.hits > 3
        await two.trusted()
        await two.pieces(pk)
        await one.write(pk, 3)
        await reads(two, pk, 3)


async def test_a_replica_that_missed_a_removal_has_nothing_when_it_is_the_primary(
    open_at: Open,
) -> None:
    with sentinel() as (primary, replica, _):
        first, second = (f"redis://127.0.0.1:{node.port}" for node in (primary, replica))
        one = await open_at(first)
        pk = await stock(one, pieces=1)
        assert await one.pieces(pk) == 1
        await eventually(lambda: bool(replica.ask("DBSIZE")))
        replica.ask("REPLICAOF", "NO", "ONE")
        await one.write(pk, 2)
        two = await open_at(second)
        assert await two.pieces(pk) == 2


async def test_a_node_of_a_cluster_that_is_named_as_one_server_is_explained(
    open_at: Open, cluster: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    for node in cluster:
        one = await open_at(f"redis://127.0.0.1:{node.port}")
        pk = await stock(one, pieces=1)
        assert await one.pieces(pk) == 1
    assert "redis+cluster://" in caplog.text
