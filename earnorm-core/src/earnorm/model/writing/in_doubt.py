"""New records whose save was interrupted or failed, so that it is open whether they are stored.

The save of a record may fail after the database has taken its document: a layer, a step or a hook
of a plugin raises, or the task is cancelled. Such a record keeps its id. Its next save makes no second document: the database refuses the id where
the first save has arrived, and then the record is known to be stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from earnorm.exceptions import (
    BatchRefused,
    DuplicateKey,
    OperationTimeout,
    ServerUnavailable,
    TransactionOutcomeUnknown,
)
from earnorm.kernel.transactions.outcome import Outcome
from earnorm.model.identity import find_id
from earnorm.model.reading.fetch import Fetch
from earnorm.model.slots import set_fetch

if TYPE_CHECKING:
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.environment import Env
    from earnorm.kernel.serving.sending import Arrival

_INTERRUPTING: Final = (
    asyncio.CancelledError,
    OperationTimeout,
    ServerUnavailable,
    TransactionOutcomeUnknown,
)

_IN_DOUBT: Final[WeakSet[Any]] = WeakSet()


def note_interrupted(
    env: Env, records: Sequence[Any], error: BaseException, arrival: Arrival
) -> None:
    """Note new records of which an error of their save leaves open whether they are stored.

    Args:
        env: The Env of the save.
        records: The records of the create, in the order of its documents.
        error: The error.
        arrival: Tells whether the documents have arrived.
    """
    if arrival.may_be_stored or (env.transaction is None and isinstance(error, _INTERRUPTING)):
        _IN_DOUBT.update(records)
    elif isinstance(error, BatchRefused) and env.transaction is None:
        written = range(len(records)) if error.written is None else error.written
        _IN_DOUBT.update(records[position] for position in written)


def refuse_stored(bound: BoundModel, records: Iterable[Any], error: DuplicateKey) -> None:
    """Raise a better error where the database has a record from an earlier save.

    Afterwards the record is stored and stale: a refresh reads what the database has.

    Args:
        bound: Its model.
        records: The records that were to be stored; only of a single one is it known.
        error: The error of the database.

    Raises:
        DuplicateKey: The record is stored.
    """
    record, *others = records
    if others or error.fields != ("_id",) or record not in _IN_DOUBT:
        return
    _IN_DOUBT.discard(record)
    stale = Fetch(bound.app)
    stale.seen_in = Outcome()
    stale.seen_in.unknown = True
    record.__dict__["_id"] = find_id(record)
    set_fetch(record, stale)
    message = (
        "an earlier save() of this record was interrupted or has failed, and has stored it; 'await "
        "record.refresh()' reads what the database has"
    )
    raise DuplicateKey(error.subject, error.fields, message).coded("stored_before") from error
