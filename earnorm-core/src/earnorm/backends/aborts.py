"""The abort of a driver's transaction, with the answer that the drivers keep to themselves.

They ignore every error of an abort, as MongoDB's specification asks
(https://github.com/mongodb/specifications/blob/master/source/transactions/transactions.md), because
the server ends the transaction by itself in the end. Until then, for a minute, it holds what the
transaction has written: no other program can write those records. So whoever aborts has to know.
"""

from __future__ import annotations

import inspect
from typing import Any, Final

from pymongo.errors import PyMongoError

from earnorm.backends.conversions import settled

_SEND: Final = "_finish_transaction_with_retry"
"""The method in which both drivers' sessions send the end of a transaction, and that raises what
``abort_transaction()`` ignores. They have no public way to learn it."""

_NOT_OPEN: Final = frozenset({225, 251, 256})
"""The server's codes for a transaction that is not open: a later one has begun in its session, it
knows of none (it has aborted that by itself, or never began it), it was committed."""


def is_open_after(error: BaseException) -> bool:
    """Return whether the server may hold a transaction open whose end failed with this error."""
    return getattr(error, "code", None) not in _NOT_OPEN


async def abort(native: Any) -> bool:
    """Abort the transaction of a driver's session.

    Returns:
        True if the server holds it no longer; False if it may.
    """
    session = getattr(native, "delegate", native)  # Motor's is a wrapper of PyMongo's
    send = getattr(session, _SEND, None)
    if send is None:
        await settled(native.abort_transaction())
        return False
    errors: list[PyMongoError] = []
    setattr(session, _SEND, _noting(send, errors))
    try:
        await settled(native.abort_transaction())
    finally:
        delattr(session, _SEND)
    return not any(map(is_open_after, errors))


def _noting(send: Any, errors: list[PyMongoError]) -> Any:
    """Wrap a function of either kind so that its errors are noted, and raised as they are."""
    if inspect.iscoroutinefunction(send):

        async def send_awaited(command: str) -> Any:
            try:
                return await send(command)
            except PyMongoError as error:
                errors.append(error)
                raise

        return send_awaited

    def send_called(command: str) -> Any:
        try:
            return send(command)
        except PyMongoError as error:
            errors.append(error)
            raise

    return send_called
