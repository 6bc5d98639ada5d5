"""Runs an example application in its server, and many clients against it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from pymongo import MongoClient

ROOT = Path(__file__).parents[3]
CLIENTS = 50
MOMENT = 20.0
SECONDS = float(os.environ.get("EARNORM_WEB_SECONDS", "3"))
ENOUGH = 60.0  # seconds for a start or an end on a busy machine


@dataclass
class Serving:
    """A server that runs an application.

    Attributes:
        url: Its address.
        database: The name of its database, which its connections have, too.
        process: The server's process.
    """

    url: str
    database: str
    process: subprocess.Popen[bytes]
    uri: str = field(default_factory=lambda: os.environ["EARNORM_TEST_MONGO_URI"])

    def stop(self) -> int:
        """Send SIGTERM, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(ENOUGH)

    def left_open(self) -> list[str]:
        """Return what the process, which has ended, has left open on the database server.

        The server sees a moment later than the process that a connection is closed.
        """
        everything = {"allUsers": True, "idleConnections": True, "idleCursors": True}
        pipeline = [{"$currentOp": {**everything, "idleSessions": True}}]
        until = time.monotonic() + MOMENT
        with MongoClient[dict[str, Any]](self.uri) as client:
            while True:
                found = [
                    f"{each['type']} {each.get('ns', '')}"
                    for each in client.admin.aggregate(pipeline)
                    if each.get("appName") == self.database
                    or str(each.get("ns", "")).startswith(self.database)
                    or each["type"] == "idleSession"  # one with an open transaction
                ]
                if not found or time.monotonic() > until:
                    return found
                time.sleep(0.05)

    def stored(self, collection: str) -> set[str]:
        """Return the titles of the documents of a collection."""
        with MongoClient[dict[str, Any]](self.uri) as client:
            return {each["title"] for each in client[self.database][collection].find()}


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@contextmanager
def serving(
    module: str, *arguments: str, environment: dict[str, str] | None = None, ready: str = "/health"
) -> Iterator[Serving]:
    """Run a server of a Python module; ``{port}`` in an argument is a free port."""
    database, port = f"example_{uuid.uuid4().hex[:12]}", free_port()
    uri = os.environ["EARNORM_TEST_MONGO_URI"]
    named = {"MONGO_URI": uri, "DATABASE": database, **(environment or {})}
    process = subprocess.Popen(
        [sys.executable, "-m", module, *(each.format(port=port) for each in arguments)],
        cwd=ROOT,
        env={**os.environ, **named},
    )
    server = Serving(f"http://127.0.0.1:{port}", database, process)
    try:
        _wait_for(server, ready)
        yield server
        server.stop()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        with MongoClient[dict[str, Any]](uri) as client:
            client.drop_database(database)


def _wait_for(server: Serving, path: str) -> None:
    until = time.monotonic() + ENOUGH
    while True:
        assert server.process.poll() is None, "the server has ended"
        assert time.monotonic() < until, "the server does not answer"
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(server.url + path, timeout=10).status_code == 200:
                return
        time.sleep(0.1)


@dataclass
class Load:
    """What many clients have sent, and what they were answered.

    Attributes:
        stored: The titles that were answered as stored.
        statuses: The number of answers by status.
        broken: The errors of connections.
    """

    stored: set[str] = field(default_factory=set)
    statuses: dict[int, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def wait_for(self, number: int) -> None:
        """Wait until so many titles were answered as stored."""
        until = time.monotonic() + ENOUGH
        while len(self.stored) < number:
            assert time.monotonic() < until, f"{len(self.stored)} are stored, {self.broken[:3]}"
            time.sleep(0.05)


@contextmanager
def clients(server: Serving, begin: Callable[[httpx.Client, str], list[int]]) -> Iterator[Load]:
    """Run clients until the end of the block; each does its work again and again.

    Args:
        server: The server.
        begin: The work of a client with a new title: it stores it first, and returns the statuses.
    """
    load, ending, lock = Load(), threading.Event(), threading.Lock()

    def work(name: str) -> None:
        number = 0
        with httpx.Client(base_url=server.url, timeout=ENOUGH) as client:
            while not ending.is_set():
                number += 1
                title = f"{name}-{number}"
                statuses: list[int] = []
                try:
                    statuses = begin(client, title)
                except httpx.TransportError as error:
                    with lock:
                        load.broken.append(f"{type(error).__name__}: {error}")
                    return
                finally:
                    with lock:
                        for status in statuses:
                            load.statuses[status] = load.statuses.get(status, 0) + 1
                        if 201 in statuses:
                            load.stored.add(title)

    threads = [threading.Thread(target=work, args=(f"client-{n}",)) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        ending.set()
        for thread in threads:
            thread.join()
