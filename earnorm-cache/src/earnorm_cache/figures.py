"""The figures of the second level."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class SharedFigures:
    """The figures of the second level since the App started.

    Attributes:
        hits: Records that Redis had.
        joined: Records that another task or process was loading, and that were waited for.
        loads: Records that were loaded from the database with a lease.
        refused: Loaded records that Redis did not take, because they were written meanwhile.
        failures: Commands that Redis did not answer.
    """

    hits: int = 0
    joined: int = 0
    loads: int = 0
    refused: int = 0
    failures: int = 0
