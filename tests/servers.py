"""The pair of servers that the tests of this repository need; `earnorm.testing.servers` starts each of them.

What a test does with a server lives elsewhere. By hand, any command runs between a start and a stop with

    python -m tests.servers -- python -m pytest tests/domain
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pymongo import MongoClient

from earnorm.exceptions import ServerUnavailable
from earnorm.testing.commands import end_on_sigterm, run_command
from earnorm.testing.data_directories import data_directory
from earnorm.testing.servers import (
    MONGO_URI_VARIABLE,
    REDIS_URL_VARIABLE,
    START_SECONDS,
    Server,
    mongod,
    redis_server,
    start_mongod,
)


@dataclass(frozen=True)
class Servers:
    """The addresses of both servers."""

    mongo_uri: str
    redis_url: str

    def environment(self) -> dict[str, str]:
        """Return the variables that tell a test where the servers are."""
        return {MONGO_URI_VARIABLE: self.mongo_uri, REDIS_URL_VARIABLE: self.redis_url}


@contextlib.contextmanager
def running_servers() -> Iterator[Servers]:
    """Give both servers for the length of a `with` block; start those that the environment doesn't name.

    Raises:
        ServerUnavailable: see `mongod` and `redis_server`.
    """
    with mongod() as mongo_uri, redis_server() as redis_url:
        yield Servers(mongo_uri, redis_url)


@dataclass(frozen=True)
class ReplicaSet:
    """A running replica set of several members, each a process of its own."""

    uri: str
    members: dict[str, Server]
    """By ``host:port``."""

    def primary(self) -> str:
        """Return the member that the others follow; wait for one.

        Raises:
            ServerUnavailable: none within `START_SECONDS`.
        """
        with MongoClient[dict[str, object]](
            self.uri, serverSelectionTimeoutMS=int(START_SECONDS * 1000)
        ) as client:
            client.admin.command("ping")
            address = client.primary
        if address is None:
            raise ServerUnavailable(f"{self.uri} has no primary")
        return f"{address[0]}:{address[1]}"

    def kill(self, member: str) -> None:
        """End a member as a power cut does, and wait until it is gone."""
        process = self.members[member].process
        assert process is not None
        process.kill()
        process.wait()


@contextlib.contextmanager
def replica_set(nodes: int = 3, name: str = "rsN") -> Iterator[ReplicaSet]:
    """Give a replica set of its own for the length of a `with` block.

    Args:
        nodes: how many members. Three is the smallest set that survives the loss of one.
        name: the set's name.

    Raises:
        ServerUnavailable: see `start_mongod`.
    """
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(data_directory())
        started: list[Server] = []
        for _ in range(nodes):
            member = start_mongod(root, name, alone=False)
            assert member.process is not None
            # In order, a member of a set takes fifteen seconds to stop; its data are of no use.
            stack.callback(member.process.wait)
            stack.callback(member.process.kill)
            started.append(member)
        hosts = [member.uri.removeprefix("mongodb://").partition("/")[0] for member in started]
        members = [{"_id": number, "host": host} for number, host in enumerate(hosts)]
        # An election takes two seconds at most instead of ten.
        settings = {"electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500}
        config = {"_id": name, "members": members, "settings": settings}
        with MongoClient[dict[str, object]](
            f"mongodb://{hosts[0]}", directConnection=True
        ) as first:
            first.admin.command("replSetInitiate", config)
        uri = f"mongodb://{','.join(hosts)}/?replicaSet={name}"
        running = ReplicaSet(uri, dict(zip(hosts, started, strict=True)))
        running.primary()
        yield running


def main(arguments: Sequence[str]) -> int:
    """Run `-- command…` between a start and a stop of both servers; return the command's exit code."""
    if len(arguments) < 2 or arguments[0] != "--":
        print("usage: python -m tests.servers -- command [argument …]", file=sys.stderr)
        return 2
    end_on_sigterm()
    try:
        with running_servers() as servers:
            return run_command(arguments[1:], servers.environment())
    except ServerUnavailable as error:
        print(f"tests.servers: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
