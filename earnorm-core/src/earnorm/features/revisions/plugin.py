"""Optimistic locking: a model with ``_versioned = True`` refuses a lost update.

The record's ``revision`` is part of the condition of its own write; where it has changed in the
meantime nothing matches, and the write raises ``ConcurrencyError`` (``NotFound`` where the record was
deleted). A record's deletion has the same condition.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from earnorm.exceptions import ConcurrencyError, NotFound
from earnorm.features.revisions.declaring import REVISION
from earnorm.fields.base import MISSING
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.reading import Reading
from earnorm.kernel.steps import CHANGES, DocumentBatch, Stage, Step, ValueBatch, Way

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.views import ModelView


class RevisionsPlugin:
    """Counts every write of a versioned model, and checks the count where a record is saved."""

    api = API
    name = "revisions"

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Versioned models."""
        return "_versioned" if model.attribute("_versioned") else None

    @hookimpl
    def register_reading(self, app: App, model: ModelView) -> Reading | None:
        """Versioned models only: the count is always fetched, so that every record can be saved."""
        return Reading(needs=frozenset({REVISION})) if model.attribute("_versioned") else None

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        """Versioned models only: every other one keeps its way."""
        if model.attribute("_versioned"):
            # Values that are kept in step are no change of the record in its own right: nobody's
            # update is lost.
            return [
                Step(Stage.PLAN, "revisions", _expect, _OF_RECORDS),
                Step(Stage.GUARD, "revisions", _count, CHANGES, on="write"),
                Step(Stage.CONFIRM, "revisions", _check, CHANGES, on="write"),
            ]
        return ()


_OF_RECORDS = Way.SAVE | Way.WRITE | Way.EACH | Way.BULK | Way.UNLINK
"""The ways on which records are known, with what was read of them."""


def _expect(batch: ValueBatch) -> None:
    for row in batch.rows:
        revision = row.read(REVISION)
        if revision is not MISSING:  # of a ghost nothing was read that could be outdated
            # None stands for a document from before the model was versioned: it has no revision.
            row.expect(REVISION, revision)


def _count(batch: DocumentBatch) -> None:
    batch.increase(REVISION)


async def _check(batch: DocumentBatch) -> None:
    op, matched = batch.operation, batch.result
    expected = sum(REVISION in row.update.expect for row in batch.rows if row.update)
    if matched >= expected:
        return
    lost = expected - matched
    # Whose revision differs still exists; what doesn't exist was deleted.
    changed: int = await op.app.execute(op.child("count", op.model, op.domain, origin="revisions"))
    if changed > matched:
        raise ConcurrencyError(
            f"{batch.model.name}: {lost} of {expected} records were changed or deleted since they "
            f"were read; refresh() them and try again"
        )
    raise NotFound(f"{batch.model.name}: {lost} of {expected} records to write do not exist")
