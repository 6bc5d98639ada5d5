"""Where the test servers keep their data: in memory where that has room, else where temporary files go.

A test's databases are many, small and dropped at once; on a disk nearly all of their time is waiting for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

DIRECTORY_VARIABLE: Final = "EARNORM_TEST_DIRECTORY"
MEMORY: Final = Path("/dev/shm")
# What several servers may fill, and as much again; a container's /dev/shm is often 64 MB.
ROOM: Final = 4 * 2**30
PREFIX: Final = "earnorm-tests-"
OWNER: Final = "owner"


@contextlib.contextmanager
def data_directory() -> Iterator[Path]:
    """Give a new directory for the length of a `with` block, in `EARNORM_TEST_DIRECTORY` if that is set."""
    parent = _parent()
    if parent == MEMORY:
        _remove_what_killed_runs_left(parent)
    with (
        tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent) as name,
        (Path(name) / OWNER).open("w") as owner,
    ):
        fcntl.flock(owner, fcntl.LOCK_EX)
        yield Path(name)


def _parent() -> Path | None:
    named = os.environ.get(DIRECTORY_VARIABLE)
    if named:
        return Path(named)
    in_memory = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM
    return MEMORY if in_memory else None


def _remove_what_killed_runs_left(parent: Path) -> None:
    """Remove the directories whose owner is gone: its lock went with it. Nobody else empties a memory."""
    for owner in parent.glob(f"{PREFIX}*/{OWNER}"):
        with contextlib.suppress(OSError), owner.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(owner.parent, ignore_errors=True)
