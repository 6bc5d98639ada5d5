"""The way to Redis: one server, a cluster, or the primary that a Sentinel names.

All commands to one server go by one connection, a pipeline; what waits for messages, and a cluster, use redis-py's clients.

Nothing here knows what is kept. A script's keys must have one hash tag, so that in a cluster they lie on one node.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from earnorm_cache.pipeline import Pipeline

if TYPE_CHECKING:
    from earnorm_cache.pipeline import RedisConnection

Kind = Literal["alone", "cluster", "sentinel"]

CONNECTIONS: Final = 32
"""The most connections of this App to a cluster; more tasks at once wait for one."""

READERS: Final = 10_000
"""The most connections to one server that wait for messages."""

_SUFFIXES: Final[Mapping[str, Kind]] = {
    "": "alone",
    "+cluster": "cluster",
    "+sentinel": "sentinel",
}
_NAMES: Final = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
_SCHEMES: Final[dict[str, tuple[str, Kind]]] = {"unix": ("unix", "alone")}
for _name, _known in _NAMES.items():
    for _suffix, _kind in _SUFFIXES.items():
        _SCHEMES[_name + _suffix] = _known, _kind

SCHEMES: Final = "redis://, rediss://, unix://, redis+cluster:// or redis+sentinel://"
"""The beginnings of an address, for messages."""


@dataclass(frozen=True)
class Address:
    """The parts of an address; its text and password are in no message of an error.

    Attributes:
        kind: ``alone`` for one server, ``cluster``, or ``sentinel``.
        url: The address as the client of one server takes it, with the first host.
        hosts: Host and port of each node or Sentinel.
        service: The name by which the Sentinels know the primary.
        sentinel: Name and password for the Sentinels themselves, which are often others or none.
    """

    kind: Kind
    url: str
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel: tuple[str | None, str | None] = (None, None)

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address.

        Raises:
            ValueError: It is none; the message doesn't repeat it.
        """
        scheme, colon, rest = text.partition("://")
        if not colon or scheme not in _SCHEMES:
            raise ValueError(f"it begins with {SCHEMES}")
        known, kind = _SCHEMES[scheme]
        if kind == "alone":
            said = urlsplit(f"{known}://{rest}")
            numbers = parse_qs(said.query).get("db", [])
            if known != "unix":
                _hosts(said.netloc, 6379)
                numbers += filter(None, [unquote(said.path).strip("/")])
            # redis-py would use the database 0 instead.
            if not all(number.isdecimal() for number in numbers):
                raise ValueError("of a database it has the number: redis://host:6379/0")
            return cls(kind, f"{known}://{rest}")
        parts = urlsplit(f"redis://{rest}")
        user, at, _ = parts.netloc.rpartition("@")
        names = [unquote(name) for name in parts.path.split("/") if name]
        hosts = _hosts(parts.netloc, 6379 if kind == "cluster" else 26379)
        if kind == "cluster":
            if names not in ([], ["0"]):
                raise ValueError("a cluster has no database but 0")
            return cls(kind, f"{known}://{user}{at}{_first(hosts)}/0?{parts.query}", hosts)
        if not 1 <= len(names) <= 2 or not all(number.isdecimal() for number in names[1:]):
            raise ValueError(
                "of a Sentinel it has the name of the service, and then the number of the database: "
                "redis+sentinel://host1:26379,host2:26379/service/0"
            )
        query = parse_qs(parts.query)
        name, password = (query.pop(key, [None])[0] for key in _SENTINEL)
        left = "&".join(
            part for part in parts.query.split("&") if part.partition("=")[0] not in _SENTINEL
        )
        database = names[1] if len(names) > 1 else "0"
        url = f"{known}://{user}{at}{_first(hosts)}/{database}?{left}"
        return cls(kind, url, hosts, names[0], (name, password))


_SENTINEL: Final = ("sentinel_username", "sentinel_password")


def _hosts(netloc: str, port: int) -> tuple[tuple[str, int], ...]:
    hosts: list[tuple[str, int]] = []
    for text in netloc.rpartition("@")[2].split(","):
        host, colon, number = text.rpartition(":")
        if not colon or text.endswith("]"):
            host, number = text, str(port)
        if not host or not number.isdecimal() or int(number) > 65535:
            raise ValueError("after the password it has hosts as host:port")
        hosts.append((host.strip("[]"), int(number)))
    return tuple(hosts)


def _first(hosts: Sequence[tuple[str, int]]) -> str:
    host, port = hosts[0]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Script:
    """A script with the name by which a server that has seen it knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Connection:
    """One App's connections to Redis, of whichever kind.

    Args:
        address: Where it is.
        timeout: Seconds that it has for an answer.
    """

    errors: tuple[type[Exception], ...]
    """The errors of a call if Redis does not answer, or cannot now."""

    def __init__(self, address: Address, timeout: float) -> None:
        # It is loaded here, since a cache in memory alone needs nothing of it.
        from redis.exceptions import (
            MovedError,
            NoScriptError,
            RedisClusterException,
            RedisError,
            ResponseError,
        )

        self.errors = (RedisError, RedisClusterException, OSError, TimeoutError)
        if address.kind == "cluster":
            # redis-py 5 uses a connection that it has closed, while it looks for the nodes anew.
            self.errors += (AttributeError,)
        self._moved, self._no_script, self._error_reply = MovedError, NoScriptError, ResponseError
        self._pipeline: Pipeline | None = None
        self._kind, self._timeout = address.kind, timeout
        self._to_close: list[Any] = []
        self._client = self._made(address, CONNECTIONS, timeout)
        # Its answer may take as long as there is no message.
        self._waiting = self._made(address, READERS, max(1.0, timeout))
        # A pool of a cluster does not let a task wait for a connection, but raises.
        self._turn = asyncio.Semaphore(CONNECTIONS)

    def _made(self, address: Address, connections: int, timeout: float) -> Any:
        from redis import asyncio as asyncio_redis
        from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
        from redis.asyncio.cluster import ClusterNode
        from redis.asyncio.connection import SSLConnection, parse_url
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        options: dict[str, Any] = {
            "max_connections": connections,
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": Retry(NoBackoff(), 0),
            "decode_responses": False,
        }
        if address.kind == "alone":
            # It lets a task wait for a connection.
            pool: Any = BlockingConnectionPool.from_url(address.url, timeout=5.0, **options)
            client: Any = Redis.from_pool(pool)
        else:
            said: dict[str, Any] = dict(parse_url(address.url))
            del said["host"], said["port"]
            if said.pop("connection_class", None) is SSLConnection:
                said["ssl"] = True
            if address.kind == "cluster":
                nodes = [ClusterNode(host, port) for host, port in address.hosts]
                client = RedisCluster(startup_nodes=nodes, **{**said, "db": 0}, **options)
            else:
                secure = {name: value for name, value in said.items() if name.startswith("ssl")}
                user, password = address.sentinel
                own = {**secure, "username": user, "password": password, "socket_timeout": timeout}
                own["socket_connect_timeout"] = timeout
                make: Any = asyncio_redis.Sentinel  # it has no annotations
                sentinel = make(list(address.hosts), sentinel_kwargs=own)
                self._to_close.extend(sentinel.sentinels)
                client = sentinel.master_for(address.service, **said, **options)
        self._to_close.append(client)
        return client

    def group(self, key: bytes) -> int:
        """Return the group of a key: one command may read the streams of one group, and one node has them."""
        if self._kind != "cluster":
            return 0
        slot: int = self._client.keyslot(key)
        return slot

    async def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        arguments: Sequence[object],
        *,
        wait: bool = False,
    ) -> Any:
        """Run a script, and return its answer.

        Args:
            script: The script.
            keys: Its keys, all with one hash tag.
            arguments: Its arguments.
            wait: By the connections that wait for messages, which have more time.

        Raises:
            Exception: One of ``errors``.
        """
        if wait:
            return await self._run(self._waiting.execute_command, script, keys, arguments)
        if self._kind != "cluster":
            return await self._run(self._ask, script, keys, arguments)
        # A node that is gone, and those that are asked where its slots are now, take their time together.
        async with self._turn, asyncio.timeout(4 * self._timeout):
            return await self._run(self._client.execute_command, script, keys, arguments)

    async def _run(
        self,
        ask: Callable[..., Awaitable[Any]],
        script: Script,
        keys: Sequence[bytes],
        arguments: Sequence[object],
    ) -> Any:
        try:
            return await ask("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except self._no_script:
            return await ask("EVAL", script.text, len(keys), *keys, *arguments)

    def _ask(self, *command: object) -> Awaitable[Any]:
        """Ask one server by its pipeline; a new one takes the place of one that is over."""
        pipeline = self._pipeline
        if pipeline is None or pipeline.is_over:
            pool = self._client.connection_pool
            # The pipeline has the time limits, one for all that it asks.
            connection: RedisConnection = pool.connection_class(
                **{**pool.connection_kwargs, "socket_timeout": None}
            )
            # Before it, a Sentinel is asked for the primary.
            limit = self._timeout if self._kind == "alone" else 4 * self._timeout
            self._pipeline = pipeline = Pipeline(
                connection, self._timeout, limit, self._error_reply
            )
        return pipeline.ask(command)

    async def read(self, last: Mapping[bytes, bytes], count: int, seconds: float) -> Any:
        """Return the messages of the streams of one group that follow those which were seen last.

        Args:
            last: The number of the last message by stream.
            count: The most messages of one stream.
            seconds: The time to wait for a message.

        Raises:
            Exception: One of ``errors``.
        """
        command: list[object] = ["XREAD", "COUNT", count, "BLOCK", int(seconds * 1000)]
        command += ["STREAMS", *last, *last.values()]
        if self._kind != "cluster":
            return await self._waiting.execute_command(*command)
        # A cluster's client would ask the server where the keys are in the command.
        await self._waiting.initialize()
        node = self._waiting.get_node_from_key(next(iter(last)))
        return await self._waiting.execute_command(*command, target_nodes=node)

    async def ping(self) -> None:
        """Ask the servers whether they are there.

        Raises:
            Exception: One of ``errors``.
        """
        if self._kind == "cluster":
            await self._client.initialize()
        else:
            await self._ask("PING")

    def hint(self, error: Exception) -> str:
        """Return what to do about an error, for the log; nothing where that isn't known."""
        # redis-py 5 has no class for it where it does not look for a cluster.
        is_moved = isinstance(error, self._moved) or str(error).startswith("MOVED ")
        if self._kind == "alone" and is_moved:
            return "; it is a node of a cluster, whose address begins with redis+cluster://"
        if "DB index" in str(error):
            return "; it has no database of the number in redis_url"
        return ""

    async def close(self) -> None:
        """Close the connections."""
        if self._pipeline is not None:
            await self._pipeline.close()
        for client in reversed(self._to_close):
            with contextlib.suppress(*self.errors):
                await client.aclose()
            if self._kind == "cluster":  # one that looks for its nodes closes none of them
                await client.nodes_manager.aclose()
                await client.nodes_manager.aclose("startup_nodes")
