"""Sessions and transactions as blocks, and their options in a driver's form."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, cast

from pymongo import ReadPreference
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from earnorm.backends.base import Session
from earnorm.backends.conversions import milliseconds, settled
from earnorm.backends.errors import Translating
from earnorm.backends.in_sessions import DriverSession
from earnorm.backends.left_reads import Leftovers
from earnorm.backends.plain_operations import PlainOperations
from earnorm.backends.transacting import DriverTransaction
from earnorm.concerns import Concerns
from earnorm.exceptions import ConfigurationError, nearest


@asynccontextmanager
async def open_session(
    client: Any,
    options: Mapping[str, Any],
    translating: Translating,
    leftovers: Leftovers,
    operations: PlainOperations,
) -> AsyncGenerator[Session]:
    """Open a session of ``client`` without a transaction; it ends with the block."""
    with translating:
        native = await settled(client.start_session(**options))
    session = DriverSession(client, native, leftovers, operations)
    try:
        yield session
    finally:
        with translating:
            await session.end()


@asynccontextmanager
async def open_transaction(
    client: Any,
    options: Mapping[str, Any],
    translating: Translating,
    leftovers: Leftovers,
    operations: PlainOperations,
    session: DriverSession | None = None,
    commit_until: float | None = None,
) -> AsyncGenerator[Session]:
    """Open a session with a transaction: the end of the block commits it, an exception aborts it.

    Args:
        client: The driver's client.
        options: The result of ``transaction_options``.
        translating: Translates the driver's exceptions; the caller's own pass unchanged.
        leftovers: Takes the tasks that watch what did not end in time.
        operations: The operations outside of transactions, which leave a connection to this one.
        session: The session to use, instead of a new one.
        commit_until: The time to give up on a commit of unknown outcome (default:
            ``COMMIT_SECONDS`` after its beginning).
    """
    with translating:
        owns = session is None
        if session is None:
            native = await settled(client.start_session())
            session = DriverSession(client, native, leftovers, operations)
        session.refuse()
        running = DriverTransaction(session, owns=owns)
        await settled(session.native.start_transaction(**options))
        operations.opened()
        try:
            try:
                yield running
                running.refuse_commit()
            except BaseException:
                await running.roll_back()
                raise
            await running.commit(commit_until)
        finally:
            operations.ended()


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
