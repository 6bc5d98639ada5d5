"""The limits of a recompute, and the time between two looks for what is owed."""

from __future__ import annotations

from typing import Final

from earnorm.exceptions import ConfigurationError

LIMIT: Final = 1_000
"""The number of records up to which a recompute is part of the transaction, by default."""
BATCH: Final = 10_000
"""The highest such number: so many records are in memory, and written with one command, at a time."""
INTERVAL: Final = 30.0
"""The seconds between two looks for what is owed, by default."""


def check_limit(limit: object) -> None:
    """Refuse a limit that is no number of records.

    Raises:
        ConfigurationError: It is none.
    """
    if limit is not None and (type(limit) is not int or not 0 <= limit <= BATCH):
        raise ConfigurationError(
            f"recompute_limit is the number of records up to which a recompute is part of the "
            f"transaction, from 0 to {BATCH:,}; None means any number"
        )
