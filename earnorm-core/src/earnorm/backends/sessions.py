"""Transactions over a driver's sessions: options, the block, and a commit of unknown outcome."""

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
from earnorm.concerns import Concerns
from earnorm.exceptions import (
    ConfigurationError,
    TransactionError,
    nearest,
)

COMMIT_SECONDS: Final = 120.0
"""The time for which a commit of unknown outcome is retried, as in MongoDB's convenient
transactions API:
https://github.com/mongodb/specifications/blob/master/source/transactions-convenient-api/transactions-convenient-api.md"""


@asynccontextmanager
async def open_session(
    client: Any, options: Mapping[str, Any], translating: Translating
) -> AsyncGenerator[Session]:
    """Open a session of ``client`` without a transaction; it ends with the block."""
    with translating:
        native = await settled(client.start_session(**options))
    try:
        yield native
    finally:
        with translating:
            await native.end_session()


@asynccontextmanager
async def open_transaction(
    client: Any,
    options: Mapping[str, Any],
    translating: Translating,
    session: Any = None,
    commit_until: float | None = None,
) -> AsyncGenerator[Session]:
    """Open a session with a transaction: the end of the block commits it, an exception aborts it.

    Args:
        client: The driver's client.
        options: The result of ``transaction_options``.
        translating: Translates the driver's exceptions; the caller's own pass unchanged.
        session: The driver's session to use, instead of a new one.
        commit_until: The time to give up on a commit of unknown outcome (default:
            ``COMMIT_SECONDS`` after its beginning).
    """
    with translating:
        owned = session is None
        if owned:
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
                await commit(session, commit_until)
        finally:
            if owned:
                await session.end_session()


async def commit(session: Any, until: float | None = None) -> None:
    """Commit, and retry while the outcome is unknown; the driver then asks for a majority.

    Raises:
        TransactionError: It was not committed, or the outcome is still unknown after the limit.
    """
    deadline = time.monotonic() + COMMIT_SECONDS if until is None else until
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
    "commit_until": ("commit_until", float),
}


def native_concerns(concerns: Concerns) -> dict[str, Any]:
    """Convert concerns to the arguments of a driver's ``with_options``, leaving out None."""
    native: dict[str, Any] = {}
    if concerns.read_concern is not None:
        native["read_concern"] = ReadConcern(concerns.read_concern)
    if concerns.write_concern is not None:
        native["write_concern"] = _write_concern(dict(concerns.write_concern))
    if concerns.read_preference is not None:
        native["read_preference"] = _READ_PREFERENCES[concerns.read_preference]
    return native


def transaction_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert plain values to the driver's options of a transaction.

    Args:
        options: ``read_concern`` (a level), ``write_concern`` (a number, ``"majority"``, or a
            mapping with ``w``, ``wtimeout``, ``j``), ``read_preference`` (a mode such as
            ``"primary"``) and ``max_commit_time`` (seconds). The driver's own objects are passed
            on.

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
