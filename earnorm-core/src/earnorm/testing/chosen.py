"""The database that a run of tests chose, for the parts of the kit that see no setting of pytest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_memory: list[str] = []


@contextmanager
def chosen_memory(said: str) -> Iterator[None]:
    """Note inside the block that the run is to do without a server.

    Args:
        said: The option or setting that says so, for messages; empty if none does.
    """
    _memory.append(said)
    try:
        yield
    finally:
        _memory.pop()


def memory_chosen() -> str:
    """Return the option or setting that chose the database in memory; empty if none did."""
    return _memory[-1] if _memory else ""
