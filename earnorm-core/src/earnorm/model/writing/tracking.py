"""Finds the Env of records, and lets a running transaction remember them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from earnorm.exceptions import TransactionError
from earnorm.kernel.environment import Env, current_env, find_env
from earnorm.kernel.pauses import parts, pause
from earnorm.model.reading.fetch import other_app

if TYPE_CHECKING:
    from earnorm.model.base import BaseModel
    from earnorm.model.reading.fetch import Fetch


_IN_DOUBT: Final = {
    False: "it was read in a transaction that was rolled back; 'await record.refresh()'",
    True: "the outcome of its transaction is unknown; look whether its id exists, with 'await "
    "record.refresh()',",
}


async def pks_of(records: Sequence[BaseModel]) -> list[Any]:
    """Return the stored ids of records, each once; None for those that are not stored."""
    found: dict[Any, None] = {}
    for part in parts(records):
        for record in part:
            found[record.pk] = None
        if part is not records:
            await pause()
    return list(found)


def env_of(records: Sequence[BaseModel], *, stale: bool = False) -> Env:
    """Return the current Env, and refuse records of another App.

    Args:
        records: The records to write, or to read again.
        stale: Accept records that were read in a transaction that was rolled back.

    Raises:
        ConfigurationError: Another App is current.
        TransactionError: A record is stale.
    """
    env = current_env()
    seen: Fetch | None = None
    for record in records:
        fetch: Fetch | None = getattr(record, "_fetch", None)
        if fetch is not seen and fetch is not None:
            seen = fetch
            if fetch.app is not env.app:
                raise other_app(fetch.app, env.app)
            if fetch.seen_in is not None and fetch.is_stale and not stale:
                raise TransactionError(
                    f"{record!r} is stale: {_IN_DOUBT[fetch.seen_in.unknown]} before it is written"
                )
    return env


async def touch(env: Env, records: Sequence[BaseModel]) -> None:
    """Make a running transaction remember the records as they are."""
    if env.transaction is not None:
        for part in parts(records):
            for record in part:
                env.transaction.touch(record)
            if part is not records:
                await pause()


def touch_older(records: Sequence[BaseModel]) -> None:
    """Make a running transaction remember the records that are older than it."""
    env = find_env()
    if env is not None and env.transaction is not None:
        outcome = env.transaction.outcome
        for record in records:
            fetch: Fetch | None = getattr(record, "_fetch", None)
            if fetch is None or fetch.seen_in is not outcome:
                env.transaction.touch(record)
