"""Optimistic locking: a model with ``_versioned = True`` refuses a lost update.

The record's ``revision`` is part of the condition of its own write; where it has changed in the
meantime nothing matches, and the write raises ``ConcurrencyError``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from earnorm.exceptions import ConcurrencyError
from earnorm.hookspecs import API, hookimpl
from earnorm.operations import Call, Layer, Middleware, Operation, PerRecord, Update

if TYPE_CHECKING:
    from earnorm.app import App
    from earnorm.models import BaseModel
    from earnorm.operations import OperationName

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
    matched = await call_next(op.map_updates(_counted))
    values = op.values
    expected = 0
    if isinstance(values, PerRecord):
        expected = sum(REVISION in update.expect for update in values.values())
    elif isinstance(values, Update):
        expected = int(REVISION in values.expect)
    if matched < expected:
        raise ConcurrencyError(
            f"{op.model._name}: {expected - matched} of {expected} records were changed or deleted "
            f"since they were read; refresh() them and try again"
        )
    return matched
