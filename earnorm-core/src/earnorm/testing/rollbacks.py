"""A block whose work on the database is rolled back at its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from earnorm.exceptions import TransactionError
from earnorm.kernel.environment import current_env
from earnorm.kernel.transactions.blocks import Transaction, transaction


class _RollBack(Exception):
    """Ends the transaction of a block that succeeded."""


@asynccontextmanager
async def rolled_back() -> AsyncIterator[Transaction]:
    """Run the block in a transaction of the current App that is rolled back at its end.

    Afterwards the database and the records in memory are as before. The transaction never commits:
    ``after_commit`` callbacks and ``op.after_durable`` calls are not made, ``after_rollback``
    callbacks are made at the end. An error of the server inside the block, for example a duplicate
    key, ends the transaction, and later operations of the block fail. So does a block of
    ``transaction()`` inside it that fails: alone, it would have taken back what is still there.

    Raises:
        NotSupported: The backend has no transactions.
        TransactionError: A transaction is running, which would be rolled back as a whole.
    """
    if current_env().transaction is not None:
        raise TransactionError("rolled_back(): a transaction is running; MongoDB has no savepoints")
    try:
        async with transaction() as running:
            running.ends_with_blocks = True
            yield running
            raise _RollBack
    except _RollBack:
        pass
