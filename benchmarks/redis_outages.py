"""A Redis of a benchmark's own, which stands still or is killed again and again while others use it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from earnorm.testing.data_directories import data_directory
from earnorm.testing.servers import Server, start_redis

UP = 0.6
"""The seconds between two outages."""
AWAY = 0.4
"""The seconds of one."""
VARIABLE = "EARNORM_TEST_REDIS_URL"


class Outages:
    """A server with outages from ``begin`` to ``end``.

    Args:
        server: The server.
        outage: Takes the process and a function that waits; returns the process that answers afterwards.
    """

    def __init__(
        self, server: Server, outage: Callable[[Any, Callable[[float], bool]], Any]
    ) -> None:
        self._process: Any = server.process
        self._outage = outage
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.number = 0

    def begin(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """End; the server answers from now on."""
        self._over.set()
        self._thread.join()

    def stop(self) -> None:
        """Stop the server for good."""
        self._over.set()
        self._process.kill()
        self._process.wait()

    def _run(self) -> None:
        while not self._over.wait(UP):
            self._process = self._outage(self._process, self._over.wait)
            self.number += 1


def stand_still(process: Any, wait: Callable[[float], bool]) -> Any:
    """Let a server stand still for a moment."""
    process.send_signal(signal.SIGSTOP)
    wait(AWAY)
    process.send_signal(signal.SIGCONT)
    return process


def start_empty(process: Any, wait: Callable[[float], bool]) -> Any:
    """Kill a server, and start an empty one in its place."""
    process.kill()
    process.wait()
    wait(AWAY / 2)
    return subprocess.Popen(
        process.args, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def both_in_turn() -> Callable[[Any, Callable[[float], bool]], Any]:
    """Return an outage that is of the one kind and of the other in turn."""
    turns = 0

    def outage(process: Any, wait: Callable[[float], bool]) -> Any:
        nonlocal turns
        turns += 1
        return (stand_still if turns % 2 else start_empty)(process, wait)

    return outage


@contextmanager
def outages(outage: Callable[[Any, Callable[[float], bool]], Any]) -> Iterator[Outages]:
    """Name a server of this block's own to all who ask the environment."""
    named = os.environ.get(VARIABLE)
    with data_directory() as directory:
        server = start_redis(Path(directory))
        os.environ[VARIABLE] = server.uri
        found = Outages(server, outage)
        try:
            yield found
        finally:
            found.stop()
            if named is not None:
                os.environ[VARIABLE] = named
