"""Transactions over a driver's sessions: options, the block, and a commit whose outcome is not known at once."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, cast

from pymongo import ReadPreference
from pymongo.errors import PyMongoError, WriteConcernError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from earnorm.backends.base import (
    Session,
)
from earnorm.backends.conversions import milliseconds, settled
from earnorm.backends.errors import (
    MAX_TIME_EXPIRED,
    TRANSIENT,
    UNKNOWN_COMMIT,
    Translating,
    said,
)
from earnorm.exceptions import (
    ConfigurationError,
    TransactionError,
    nearest,
)

COMMIT_SECONDS: Final = 120.0
"""How long a commit of unknown outcome is tried again; the figure of MongoDB's convenient transactions API:
https://github.com/mongodb/specifications/blob/master/source/transactions-convenient-api/transactions-convenient-api.md"""


@asynccontextmanager
async def open_transaction(
    client: Any, options: Mapping[str, Any], translating: Translating
) -> AsyncGenerator[Session]:
    """A session of ``client`` with a transaction: committed at the end of the block, aborted on an exception.

    Args:
        client: The driver's client.
        options: What ``transaction_options`` gave.
        translating: How the driver's exceptions leave the block; the caller's own pass.
    """
    with translating:
        session = await settled(client.start_session())
        try:
            await settled(session.start_transaction(**options))
            try:
                yield session
            except BaseException:
                if session.in_transaction:
                    await session.abort_transaction()
                raise
            if session.in_transaction:
                await commit(session)
        finally:
            await session.end_session()


async def commit(session: Any) -> None:
    """Commit, and try again while the outcome is unknown; the driver asks for a majority from the second time on.

    Raises:
        TransactionError: It was not committed, or after ``COMMIT_SECONDS`` nobody can tell.
    """
    deadline = time.monotonic() + COMMIT_SECONDS
    while True:
        try:
            await session.commit_transaction()
        except PyMongoError as error:
            unknown = error.has_error_label(UNKNOWN_COMMIT)
            expired = getattr(error, "code", None) == MAX_TIME_EXPIRED
            if unknown and not expired and time.monotonic() < deadline:
                continue
            # A write concern fails after the primary has committed.
            unsure = unknown or isinstance(error, WriteConcernError)
            outcome = "its outcome is unknown" if unsure else "nothing was written"
            raise TransactionError(
                f"the transaction could not be committed, {outcome}: {said(error)}",
                transient=error.has_error_label(TRANSIENT),
            ) from error
        return


def _write_concern(value: Any) -> WriteConcern:
    if isinstance(value, WriteConcern):
        return value
    if isinstance(value, Mapping):
        return WriteConcern(**cast("Mapping[str, Any]", value))
    return WriteConcern(value)


_READ_PREFERENCES: Final = {
    "primary": ReadPreference.PRIMARY,
    "primaryPreferred": ReadPreference.PRIMARY_PREFERRED,
    "secondary": ReadPreference.SECONDARY,
    "secondaryPreferred": ReadPreference.SECONDARY_PREFERRED,
    "nearest": ReadPreference.NEAREST,
}

_TRANSACTION_OPTIONS: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = {
    "read_concern": (
        "read_concern",
        lambda value: value if isinstance(value, ReadConcern) else ReadConcern(value),
    ),
    "write_concern": ("write_concern", _write_concern),
    "read_preference": (
        "read_preference",
        lambda value: _READ_PREFERENCES[value] if isinstance(value, str) else value,
    ),
    "max_commit_time": ("max_commit_time_ms", milliseconds),
}


def transaction_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values as a driver wants them.

    Args:
        options: ``read_concern`` (a level), ``write_concern`` (a number, ``"majority"``, or a mapping with
            ``w``, ``wtimeout``, ``j``), ``read_preference`` (a mode such as ``"primary"``) and
            ``max_commit_time`` (seconds). The driver's own objects are taken as they are.

    Raises:
        ConfigurationError: An unknown option, or a value that the driver refuses.
    """
    native: dict[str, Any] = {}
    for key, value in options.items():
        if key not in _TRANSACTION_OPTIONS:
            hint = nearest(key, _TRANSACTION_OPTIONS)
            raise ConfigurationError(f"transaction: unknown option {key!r}{hint}")
        if value is None:
            continue
        name, convert = _TRANSACTION_OPTIONS[key]
        try:
            native[name] = convert(value)
        except (PyMongoError, TypeError, ValueError, KeyError) as error:
            raise ConfigurationError(f"transaction: {key}={value!r} is not valid") from error
    return native
