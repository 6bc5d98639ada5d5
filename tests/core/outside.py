"""Three features of the core, written once more as anybody's plugins: one import, no name of the core beside it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from earnorm.plugin import (
    API,
    CHANGES,
    MISSING,
    RETURNED,
    Attribute,
    Declaration,
    DocumentBatch,
    ModelView,
    Operation,
    Options,
    Reading,
    Returned,
    Stage,
    Step,
    Update,
    ValueBatch,
    Way,
    current_env,
    domain,
    exceptions,
    fields,
    hookimpl,
    models,
)


class Timestamps:
    """Sets the fields with ``auto_now`` and ``auto_now_add``."""

    api = API
    name = "timestamps"

    @hookimpl
    def register_steps(self, model: ModelView) -> Iterable[Step]:
        """Models with such fields only."""
        options = ("auto_now", "auto_now_add")
        found = [f for f in model.fields.values() if any(getattr(f, o, False) for o in options)]
        if not found:
            return ()
        on_writes = [field for field in found if getattr(field, "auto_now", False)]
        return [
            Step(Stage.STAMP, "timestamps", functools.partial(stamp, found), on="create"),
            Step(
                Stage.STAMP, "timestamps", functools.partial(stamp, on_writes), CHANGES, on="write"
            ),
        ]


def stamp(found: Iterable[Any], batch: DocumentBatch) -> None:
    """Fill the time in where none was given."""
    for field in found:
        batch.fill(field.name, field.at(batch.now))


class Revisions:
    """Refuses lost updates of models with ``_counted = True``."""

    api = API
    name = "revisions"

    @staticmethod
    @hookimpl
    def model_attributes() -> Iterable[Attribute]:
        """The attribute, which gives a model the field of the count."""
        return [Attribute("_counted", bool, False, add_count)]

    @hookimpl
    def register_reading(self, model: ModelView) -> Reading | None:
        """The count is always fetched."""
        return Reading(needs=frozenset({"_count"})) if model.attribute("_counted") else None

    @hookimpl
    def register_steps(self, model: ModelView) -> Iterable[Step]:
        """Models with the attribute only."""
        if not model.attribute("_counted"):
            return ()
        of_records = Way.SAVE | Way.WRITE | Way.EACH | Way.BULK | Way.UNLINK
        return [
            Step(Stage.PLAN, "count", expect, of_records),
            Step(Stage.GUARD, "count", count, CHANGES, on="write"),
            Step(Stage.CONFIRM, "count", confirm, CHANGES, on="write"),
        ]


def add_count(declaration: Declaration) -> None:
    """Give the model the field."""
    declaration.add_field("_count", fields.Int(default=0, readonly=True, copy=False))


def expect(batch: ValueBatch) -> None:
    """Demand that a record still has the count that was read."""
    for row in batch.rows:
        known = row.read("_count")
        if known is not MISSING:
            row.expect("_count", known)


def count(batch: DocumentBatch) -> None:
    """Count the write."""
    batch.increase("_count")


def confirm(batch: DocumentBatch) -> None:
    """Refuse where fewer records were written than demanded."""
    expected = sum("_count" in row.update.expect for row in batch.rows if row.update)
    if batch.result < expected:
        raise exceptions.ConcurrencyError(f"{batch.model.name}: somebody else wrote it first")


class Sequences:
    """Numbers new records, where a Sequence field has no value."""

    api = API
    name = "sequences"

    @hookimpl
    def register_models(self) -> Iterable[type[models.BaseModel]]:
        """The counters."""
        return [Counter]

    @hookimpl
    def register_steps(self, model: ModelView) -> Iterable[Step]:
        """Models with such fields only."""
        found = [f for f in model.fields.values() if isinstance(f, fields.Sequence)]
        return [Step(Stage.STAMP, "sequences", Numbering(found), on="create")] if found else ()


class Counter(models.BaseModel):
    """The last number of each sequence."""

    _name = "outside.counter"

    _id: fields.Field[Any, Any] = fields.String(required=True)
    value = fields.Int(required=True, default=0)


class Numbering:
    """Gives numbers to the fields of one model."""

    def __init__(self, found: Iterable[fields.Sequence]) -> None:
        self._fields = found

    async def __call__(self, batch: DocumentBatch) -> None:
        """Number the rows."""
        for field in self._fields:
            rows = [row for row in batch.rows if not row.has(field.name)]
            last = await take(field.counter(batch.model.name, batch.now), len(rows))
            for number, row in enumerate(rows, last - len(rows) + 1):
                row.put(field.name, field.text(number, batch.now))


async def take(counter: str, number: int) -> int:
    """Count so far on a sequence; the last number."""
    env = current_env().replace(system=True, reason="count on a sequence", transaction=None)
    returned = Returned(frozenset({"value"}))
    model, which = env.app.model("outside.counter"), domain.condition("_id", "=", counter)
    update = Update({"$inc": {"value": number}})
    write = Operation("write", model, env, which, update, Options(many=False))
    await env.app.execute(write.with_note(RETURNED, returned))
    document: Mapping[str, Any] | None = returned.document
    if document is None:
        document = {"_id": counter, "value": number}
        await env.app.execute(Operation("create", model, env, values=[dict(document)]))
    return int(document["value"])
