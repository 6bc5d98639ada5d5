"""The directories of test servers: in memory if that has room, else where temporary files go.

Tests make many small databases and drop them. On a disk they mostly wait for the disk.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

if sys.platform != "win32":
    import fcntl

DIRECTORY_VARIABLE: Final = "EARNORM_TEST_DIRECTORY"
MEMORY: Final = Path("/dev/shm")
# Twice of what several servers may fill. The /dev/shm of a container often has 64 MB.
ROOM: Final = 4 * 2**30
PREFIX: Final = "earnorm-tests-"
OWNER: Final = "owner"


@contextlib.contextmanager
def data_directory() -> Iterator[Path]:
    """Give a new directory for the length of a ``with`` block.

    It lies in the directory that ``EARNORM_TEST_DIRECTORY`` names, if that is set.
    """
    parent = _parent()
    if parent == MEMORY:
        _remove_abandoned(MEMORY)
    with (
        tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent) as name,
        (Path(name) / OWNER).open("w") as owner,
    ):
        _lock(owner)
        yield Path(name)


def _lock(owner: IO[str], *, wait: bool = True) -> None:
    """Hold a file until the process ends; memory is used, and so cleaned up, on Linux only.

    Raises:
        OSError: Another process holds it, and ``wait`` is False.
    """
    if sys.platform != "win32":
        fcntl.flock(owner, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def _parent() -> Path | None:
    named = os.environ.get(DIRECTORY_VARIABLE)
    if named:
        return Path(named)
    in_memory = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM
    return MEMORY if in_memory else None


def _remove_abandoned(parent: Path) -> None:
    """Remove the directories of runs that were killed: nobody holds the lock of their owner."""
    for file in parent.glob(f"{PREFIX}*/{OWNER}"):
        with contextlib.suppress(OSError), file.open() as owner:
            _lock(owner, wait=False)
            shutil.rmtree(file.parent, ignore_errors=True)
