"""Optimistic locking: a model with ``_versioned = True`` refuses a lost update.

The record's ``revision`` is part of the condition of its write. If the revision has changed in the
meantime, nothing matches, and the write raises ``ConcurrencyError`` (``NotFound`` if the record was
deleted). A record's deletion has the same condition.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from earnorm.exceptions import NotFound
from earnorm.features.revisions.declaring import REVISION
from earnorm.fields.base import MISSING
from earnorm.kernel.document_steps import DocumentBatch
from earnorm.kernel.hookspecs import API, hookimpl
from earnorm.kernel.operations import PerRecord, Update
from earnorm.kernel.serving.reading import Reading
from earnorm.kernel.steps import CHANGES, Stage, Step, Way
from earnorm.kernel.value_steps import ValueBatch
from earnorm.model.writing.sending import lost_update

if TYPE_CHECKING:
    from earnorm.kernel.app import App
    from earnorm.kernel.views import ModelView


class RevisionsPlugin:
    """Increments the revision in every write of a versioned model, and checks it in each save."""

    api = API
    name = "revisions"

    @staticmethod
    @hookimpl
    def needed_by(model: ModelView) -> str | None:
        """Return ``_versioned`` if the model is versioned."""
        return "_versioned" if model.attribute("_versioned") else None

    @hookimpl
    def register_reading(self, app: App, model: ModelView) -> Reading | None:
        """Return the revision as a field to always fetch, so that every record can be saved."""
        return Reading(needs=frozenset({REVISION})) if model.attribute("_versioned") else None

    @hookimpl
    def register_steps(self, app: App, model: ModelView) -> Iterable[Step]:
        """Return the steps, for versioned models only: the others pay nothing for them."""
        if model.attribute("_versioned"):
            # Writes of derived values do not count as changes of the record, because they overwrite
            # no user's update.
            return [
                Step(Stage.PLAN, "revisions", _expect, _OF_RECORDS, in_parts=True),
                Step(Stage.GUARD, "revisions", _increment, CHANGES, on="write", in_parts=True),
                Step(Stage.CONFIRM, "revisions", _check, CHANGES, on="write"),
            ]
        return ()


_OF_RECORDS = Way.SAVE | Way.WRITE | Way.EACH | Way.BULK | Way.UNLINK
"""The ways that write or delete records whose values have been read."""


def _expect(batch: ValueBatch) -> None:
    for row in batch.rows:
        revision = row.read(REVISION)
        if revision is not MISSING:  # a ghost has no values that could be outdated
            # None means a document that is older than the versioning: it has no revision.
            row.expect(REVISION, revision)


def _increment(batch: DocumentBatch) -> None:
    batch.increase(REVISION)


async def _check(batch: DocumentBatch) -> None:
    matched: int = batch.result
    values = batch.op.values
    expected = 0
    for update in values.values() if isinstance(values, PerRecord) else (values,):
        if isinstance(update, Update) and REVISION in update.expect:
            expected += 1
    if matched >= expected:
        return
    error = await lost_update(batch.op, matched, expected, origin="revisions")
    if error is not None:
        raise error
    lost = expected - matched
    raise NotFound(f"{batch.model.name}: {lost} of {expected} records to write do not exist")
