"""Runs a web application in a server's process, and looks at what it leaves on the database server."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pymongo import MongoClient

ROOT = Path(__file__).parents[2]


class Process:
    """A server's process, whose connections to MongoDB have the name of its database."""

    def __init__(
        self, process: subprocess.Popen[bytes], port: int, uri: str, database: str
    ) -> None:
        self.process = process
        self.address = f"http://127.0.0.1:{port}"
        self._port = port
        self._database = database
        self.client: MongoClient[dict[str, Any]] = MongoClient(uri)
        self.db = self.client[database]

    def is_listening(self) -> bool:
        with socket.socket() as trying:
            return trying.connect_ex(("127.0.0.1", self._port)) == 0

    async def until(self, happens: Callable[[], bool], seconds: float = 30) -> None:
        for _ in range(int(seconds / 0.02)):
            if await asyncio.to_thread(happens):
                return
            assert self.process.poll() is None, "the server has ended"
            await asyncio.sleep(0.02)
        raise TimeoutError

    async def ended(self, seconds: float = 30) -> int:
        """Wait for the end of the process, and return its code."""
        return await asyncio.to_thread(self.process.wait, seconds)

    def operations(self) -> list[dict[str, Any]]:
        """Return the process's connections, cursors and transactions on the database server."""
        look = {
            "allUsers": True,
            "idleConnections": True,
            "idleCursors": True,
            "idleSessions": True,
        }
        found = self.client.admin.aggregate([{"$currentOp": look}])
        return [
            op
            for op in found
            if op.get("appName") == self._database
            or str(op.get("ns", "")).startswith(f"{self._database}.")
        ]

    def streams(self) -> int:
        """Return the number of open change streams of the process."""
        return sum(
            "$changeStream" in str(op.get("cursor", {}).get("originatingCommand", op))
            for op in self.operations()
        )

    async def assert_nothing_is_left(self) -> None:
        for _ in range(200):
            left = await asyncio.to_thread(self.operations)
            if not left:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"left on the database server: {left}")


@contextmanager
def served(
    application: str,
    uri: str,
    database: str,
    *options: str,
    server: Sequence[str] = ("uvicorn",),
    **environment: str,
) -> Iterator[Process]:
    """Serve an application by a process of its own, and drop its database afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    bind = ("--bind", f"127.0.0.1:{port}") if server[0] != "uvicorn" else ("--port", str(port))
    process = subprocess.Popen(
        [sys.executable, "-m", *server, application, *bind, *options],
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    running = Process(process, port, uri, database)
    try:
        yield running
    finally:
        process.kill()
        process.wait()
        running.client.drop_database(database)
        running.client.close()
