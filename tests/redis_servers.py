"""A Redis Cluster and a Sentinel with its servers, for tests; both of the one binary that the other tests use.

Without redis-cli: the nodes are told of each other by commands.
"""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from earnorm.exceptions import ServerUnavailable
from earnorm.testing.data_directories import data_directory
from earnorm.testing.servers import REDIS_SERVER, START_SECONDS

SLOTS = 16384


@dataclass(eq=False)
class Node:
    """One redis-server."""

    port: int
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """The address of this server alone."""
        return f"redis://127.0.0.1:{self.port}/0"

    @classmethod
    def start(cls, port: int, command: list[str], log: Path) -> Node:
        """Start a server, and wait until it answers."""
        node = cls(port, command, log, _process(command, log))
        wait(lambda: bool(node.ask("PING")))
        return node

    def restart(self) -> None:
        """Start it again after it was killed, without any data."""
        self.process = _process(self.command, self.log)
        wait(lambda: bool(self.ask("PING")))

    def ask(self, *command: object) -> Any:
        """Send a command, and return the answer."""
        with Redis(port=self.port, socket_timeout=5, decode_responses=True) as client:
            return client.execute_command(*command)

    def stop(self) -> None:
        """Make it stand still."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a power cut does."""
        self.process.kill()
        self.process.wait()


class Nodes(list[Node]):
    """The servers of one cluster, or those that a Sentinel watches."""

    url: str

    def owner(self, slot: int) -> Node:
        """Return the node that has a slot now."""
        for node in self:
            if node.process.poll() is not None:
                continue
            for line in node.ask("CLUSTER", "SLOTS"):
                if line[0] <= slot <= line[1]:
                    return next(other for other in self if other.port == line[2][1])
        raise LookupError(slot)


def wait(is_so: Callable[[], bool]) -> None:
    """Wait until something is so.

    Raises:
        ServerUnavailable: It isn't within ``START_SECONDS``.
    """
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(RedisError, OSError):
            if is_so():
                return
        time.sleep(0.05)
    raise ServerUnavailable("the Redis servers of the test did not get ready")


def _free_port() -> int:
    # A node of a cluster takes the port 10,000 above its own as well.
    for _ in range(1_000):
        port = random.randrange(20_000, 32_000)
        with socket.socket() as one, socket.socket() as two:
            try:
                one.bind(("127.0.0.1", port))
                two.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port
    raise ServerUnavailable("there is no free port")


def _start(
    stack: contextlib.ExitStack, root: Path, arguments: Sequence[str], kind: str = ""
) -> Node:
    port = _free_port()
    data = root / f"redis-{port}"
    data.mkdir()
    file = data / "redis.conf"
    file.write_text(
        "\n".join([f"port {port}", "bind 127.0.0.1", f"dir {data}", *arguments]), encoding="utf-8"
    )
    command = [str(REDIS_SERVER.find()), str(file), *([kind] if kind else [])]
    node = Node.start(port, command, data / "log")
    stack.callback(node.kill)
    return node


def _process(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )


@contextlib.contextmanager
def lone_redis() -> Iterator[Node]:
    """Give one server, which may be stopped and started again, for the length of a ``with`` block."""
    with data_directory() as root, contextlib.ExitStack() as stack:
        yield _start(stack, root, ['save ""'])


@contextlib.contextmanager
def redis_cluster(replicas: int = 0) -> Iterator[Nodes]:
    """Give a cluster of three primaries for the length of a ``with`` block.

    Args:
        replicas: The number of primaries that have a replica.
    """
    options = ['save ""', "cluster-enabled yes", "cluster-node-timeout 1000"]
    options += [
        "cluster-replica-validity-factor 0",
        "repl-diskless-sync yes",
        "repl-diskless-sync-delay 0",
    ]
    with data_directory() as root, contextlib.ExitStack() as stack:
        nodes = Nodes(_start(stack, root, options) for _ in range(3 + replicas))
        for number, node in enumerate(nodes[:3]):
            slots = range(SLOTS * number // 3, SLOTS * (number + 1) // 3)
            node.ask("CLUSTER", "ADDSLOTS", *slots)
        for node in nodes[1:]:
            node.ask("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        wait(lambda: all(f"cluster_known_nodes:{len(nodes)}" in _info(node) for node in nodes))
        for number, node in enumerate(nodes[3:]):
            name = nodes[number].ask("CLUSTER", "MYID")
            wait(lambda: bool(node.ask("CLUSTER", "REPLICATE", name)))  # noqa: B023 # it is over before the next
        wait(lambda: all("cluster_state:ok" in _info(node) for node in nodes))
        wait(lambda: all(_has_replica(node) for node in nodes[:replicas]))
        nodes.url = f"redis+cluster://127.0.0.1:{nodes[0].port},127.0.0.1:{nodes[1].port}"
        yield nodes


def _info(node: Node) -> str:
    information: object = node.ask("CLUSTER", "INFO")
    if isinstance(information, dict):
        return "\n".join(f"{name}:{value}" for name, value in information.items())
    return str(information)


def _has_replica(node: Node) -> bool:
    return any(replica["state"] == "online" for replica in _replicas(node))


def _replicas(node: Node) -> list[dict[str, Any]]:
    with Redis(port=node.port, socket_timeout=5) as client:
        information: dict[str, Any] = client.info("replication")  # type: ignore[assignment] # not awaited
    return [
        value
        for name, value in information.items()
        if name.startswith("slave") and isinstance(value, dict)
    ]


@contextlib.contextmanager
def sentinel() -> Iterator[Nodes]:
    """Give a primary and its replica, with a Sentinel that makes the replica a primary, for a ``with`` block.

    The first node is the primary, the second the replica, the third the Sentinel.
    """
    options = ['save ""', "repl-diskless-sync yes", "repl-diskless-sync-delay 0"]
    with data_directory() as root, contextlib.ExitStack() as stack:
        primary = _start(stack, root, options)
        replica = _start(stack, root, [*options, f"replicaof 127.0.0.1 {primary.port}"])
        wait(lambda: _has_replica(primary))
        watching = [
            f"sentinel monitor depot 127.0.0.1 {primary.port} 1",
            "sentinel down-after-milliseconds depot 500",
            "sentinel failover-timeout depot 2000",
        ]
        guard = _start(stack, root, watching, "--sentinel")
        wait(lambda: _knows(guard))
        nodes = Nodes([primary, replica, guard])
        nodes.url = f"redis+sentinel://127.0.0.1:{guard.port}/depot/0"
        yield nodes


def _knows(guard: Node) -> bool:
    with Redis(port=guard.port, socket_timeout=5) as client:
        state: dict[str, Any] = client.sentinel_master("depot")  # type: ignore[assignment] # not awaited
    return int(state["num-slaves"]) == 1
