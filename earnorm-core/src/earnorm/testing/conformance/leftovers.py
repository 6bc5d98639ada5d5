"""Snapshots of what a program holds open: tasks, threads, sockets and files."""

from __future__ import annotations

import asyncio
import gc
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_DESCRIPTORS = ("/proc/self/fd", "/dev/fd")
"""The directories in which Linux and macOS list a process's own descriptors."""


_LOOKS = 150
"""The most times to look at a thread that was told to end."""
_EXECUTORS = ("asyncio_", "ThreadPoolExecutor-")


@dataclass(slots=True)
class Leftovers:
    """The things that were opened in a block and are still open after it; filled in at its end."""

    found: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return ", ".join(self.found)

    def __bool__(self) -> bool:
        return bool(self.found)


@contextmanager
def watch_descriptors(leftovers: Leftovers) -> Iterator[None]:
    """Note the sockets and files that are opened in the block and still open after it.

    Also what Python warns of meanwhile: a socket that nobody closed, a coroutine that nobody awaited.
    """
    before = _descriptors()
    with warnings.catch_warnings(record=True) as caught, _fresh_garbage():
        warnings.simplefilter("always", ResourceWarning)
        warnings.filterwarnings("always", message=".*was never awaited", category=RuntimeWarning)
        yield
        gc.collect()
    after = _descriptors()
    opened = [kind for number, kind in after.items() if before.get(number) != kind]
    leftovers.found += sorted(f"an open {kind.partition(' ')[0]}" for kind in opened)
    leftovers.found += [
        f"{warning.category.__name__}: {str(warning.message).splitlines()[0]}"
        for warning in caught
        if issubclass(warning.category, ResourceWarning)
        or (warning.category is RuntimeWarning and "was never awaited" in str(warning.message))
    ]


@contextmanager
def _fresh_garbage() -> Iterator[None]:
    """Limit the garbage collector to what is made in the block, because a full collection is slow."""
    if gc.get_freeze_count():  # the program has frozen objects itself
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class Watch:
    """Compares the tasks and threads that exist with those at its beginning."""

    def __init__(self) -> None:
        self._tasks = asyncio.all_tasks()
        self._threads = set(threading.enumerate())

    async def end(self) -> list[str]:
        """Return what has come and is still there, when what was cancelled has had time to end."""
        for _ in range(20):
            await asyncio.sleep(0)
        for _ in range(_LOOKS):
            if not self._new_threads():
                break
            await asyncio.sleep(0.02)  # Motor's client does not wait for its threads
        tasks = asyncio.all_tasks() - self._tasks
        found = [f"the task {_name_of(task)}" for task in tasks]
        found += [f"the thread {thread.name!r}" for thread in self._new_threads()]
        for task in tasks:  # so that a leak of one check does not disturb the next one
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return sorted(found)

    def _new_threads(self) -> list[threading.Thread]:
        # The event loop and Motor keep the threads of their executors for later calls.
        return [
            thread
            for thread in threading.enumerate()
            if thread not in self._threads and not thread.name.startswith(_EXECUTORS)
        ]


def _name_of(task: asyncio.Task[object]) -> str:
    coroutine = task.get_coro()
    return str(getattr(coroutine, "__qualname__", None) or coroutine)


def _descriptors() -> dict[int, str]:
    """Return the open sockets and files by number; empty where the system does not list them."""
    directory = next((path for path in _DESCRIPTORS if os.path.isdir(path)), None)
    found: dict[int, str] = {}
    for name in os.listdir(directory) if directory else ():
        try:
            status = os.fstat(int(name))
        except OSError:  # the one that listed the directory
            continue
        if stat.S_ISSOCK(status.st_mode):
            found[int(name)] = f"socket {status.st_ino}"
        elif stat.S_ISREG(status.st_mode):
            found[int(name)] = f"file {status.st_ino}"
    return found
