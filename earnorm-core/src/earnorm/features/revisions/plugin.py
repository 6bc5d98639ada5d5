"""Optimistic locking: a model with ``_versioned = True`` refuses a lost update.

The record's ``revision`` is part of the condition of its own write; where it has changed in the
meantime nothing matches, and the write raises ``ConcurrencyError`` (``NotFound`` where the record was
deleted). A record's deletion has the same condition; see ``writing.unlink``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import ConcurrencyError, NotFound
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.layers import Layer, Middleware
from earnorm.kernel.operations import PLAIN, Call, Operation, PerRecord, Update

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.operations import OperationName
    from earnorm.model.base import BaseModel

REVISION = "_revision"


class RevisionsPlugin:
    """Counts every write of a versioned model, and checks the count where a record is saved."""

    api = API
    name = "revisions"

    @hookimpl
    def wrap_operation(
        self, app: App, model: type[BaseModel], operation: OperationName
    ) -> Iterable[tuple[int, Middleware]]:
        """Versioned models only: every other one keeps its way."""
        if model._versioned and operation == "write":
            # Innermost but for a cache: what an outer layer adds to the write counts as well.
            return [(Layer.CACHE - 100, _count_write)]
        return ()


def _counted(update: Update) -> Update:
    return update.merged("$inc", {REVISION: 1})


async def _count_write(op: Operation, call_next: Call) -> Any:
    if op.options.recompute:  # no change of the record in its own right: nobody's update is lost
        return await call_next(op)
    matched = await call_next(op.map_updates(_counted))
    values = op.values
    expected = 0
    if isinstance(values, PerRecord):
        expected = sum(REVISION in update.expect for update in values.values())
    elif isinstance(values, Update):
        expected = int(REVISION in values.expect)
    if matched < expected:
        lost = expected - matched
        # Whose revision differs still exists; what doesn't exist was deleted.
        changed: int = await op.app.execute(
            Operation("count", op.model, op.env, op.domain, options=PLAIN)
        )
        changed -= matched
        if changed > 0:
            raise ConcurrencyError(
                f"{op.model._name}: {lost} of {expected} records were changed or deleted since they "
                f"were read; refresh() them and try again"
            )
        raise NotFound(f"{op.model._name}: {lost} of {expected} records to write do not exist")
    return matched
