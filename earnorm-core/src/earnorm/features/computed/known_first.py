"""Computes fields of the written records before a write, because a step must know their new values.

The records are read, the change is applied to them in memory, and the computed values become a part
of the write, on the condition that the values that they were computed from are still the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

from earnorm.domain import Condition, Domain
from earnorm.domain.long_lists import chunks
from earnorm.features.computed.applied import applied
from earnorm.features.computed.new_values import computed_of_documents
from earnorm.kernel.operations import Options, PerRecord, Update
from earnorm.kernel.pauses import parts, pause
from earnorm.kernel.steps import KnownFirst

if TYPE_CHECKING:
    from earnorm.features.computed.dependencies import Graph, Plan, Trigger
    from earnorm.kernel.binding import BoundModel
    from earnorm.kernel.document_steps import DocumentBatch, DocumentRow

_ORIGIN: Final = "computed"
_REASON: Final = "compute: the records of a write, whose new values must be known first"


async def compute_first(
    batch: DocumentBatch,
    bound: BoundModel,
    graph: Graph,
    triggers: Collection[Trigger],
    known: KnownFirst,
) -> None:
    """Compute the asked fields of the records that a write changes, and put them into the write.

    Args:
        batch: The write.
        bound: The model of the records.
        graph: The computed fields of the App.
        triggers: The triggers of the write.
        known: The fields that must be known; those that could not be computed are noted in it.
    """
    model = bound.model._name
    names = _own_fields(graph, model, triggers)
    if known.names.isdisjoint(names):
        return
    plan = graph.plan(model, names)
    inputs = _inputs(bound, plan)
    documents = await _documents(batch, bound, plan, inputs)
    known.note_read(
        {d["_id"]: d if inputs is None else {k: d.get(k) for k in inputs} for d in documents}
    )
    op = batch.op
    rows: list[DocumentRow] = []
    if isinstance(op.values, PerRecord):
        by_pk = {row.pk: row for row in batch.rows}
        documents = [document for document in documents if document["_id"] in by_pk]
        rows = [by_pk[document["_id"]] for document in documents]
        batch.narrow(Condition("_id", "in", [document["_id"] for document in documents]))
    elif len(documents) == 1:
        rows = [batch.rows[0]]
        batch.narrow(Condition("_id", "=", documents[0]["_id"]))
    elif documents:
        rows = list(batch.split([document["_id"] for document in documents]))
    else:
        batch.narrow(Domain.FALSE)  # a record that begins to match now has not been computed
        return
    new: list[dict[str, Any]] = []
    sure: list[tuple[DocumentRow, Mapping[str, Any]]] = []
    pairs = [*zip(rows, documents, strict=True)]
    has_collation = batch.model.has_collation
    for part in parts(pairs):
        for row, document in part:
            assert row.update is not None
            after = applied(document, row.update, has_collation=has_collation)
            if after is None:
                known.unknown = known.names & names
            else:
                new.append(after)
                sure.append((row, document))
        if part is not pairs:
            await pause()
    fields = bound.schema.fields
    values = await computed_of_documents(bound, plan, new, op.env)
    for (row, before), computed in zip(sure, values, strict=True):
        row.merge("$set", {fields[name].db_name: value for name, value in computed.items()})
        row.expect(_expected(before, row.update, inputs, plan, bound))


def _own_fields(graph: Graph, model: str, triggers: Collection[Trigger]) -> frozenset[str]:
    """Return the fields of the written records themselves that are computed again."""
    waiting = [t.field for t in triggers if not t.steps and t.model == model]
    names = set(waiting)
    while waiting:
        for trigger in graph.written.get((model, waiting.pop()), ()):
            if not trigger.steps and trigger.model == model and trigger.field not in names:
                names.add(trigger.field)
                waiting.append(trigger.field)
    return frozenset(names)


def _inputs(bound: BoundModel, plan: Plan) -> frozenset[str] | None:
    """Return the stored keys that the fields are computed from; None if that is any."""
    if plan.reads is None:
        return None
    fields = bound.schema.fields
    names = (plan.reads | plan.tree.keys()) - set(plan.names)
    return frozenset(fields[n].db_name for n in names if n in fields and fields[n].stored)


async def _documents(
    batch: DocumentBatch, bound: BoundModel, plan: Plan, inputs: frozenset[str] | None
) -> list[dict[str, Any]]:
    op = batch.operation
    renamed = bound.schema.renamed
    fields = None
    if inputs is not None:
        keys = inputs | op.written
        fields = frozenset({"_id", *(renamed.get(key, key) for key in keys)} | set(plan.names))
    options = Options(fields=fields, limit=0 if op.options.many else 1, timeout=op.options.timeout)
    env = op.env.as_system(_REASON)
    domains = [op.domain]
    if isinstance(op.values, PerRecord):
        domains = [op.domain & Condition("_id", "in", c) for c in chunks(list(op.values))]
    documents: list[dict[str, Any]] = []
    for domain in domains:
        search = op.child("search", op.model, domain, options=options, origin=_ORIGIN, env=env)
        documents += await op.app.execute(search)
    return documents


def _expected(
    document: Mapping[str, Any],
    update: Update | None,
    inputs: frozenset[str] | None,
    plan: Plan,
    bound: BoundModel,
) -> dict[str, Any]:
    """Return the values that the record must still have, by stored key."""
    assert update is not None
    own = {bound.schema.fields[name].db_name for name in plan.names}
    replaced = update.operators.get("$set", {}).keys()
    keys = document.keys() - own if inputs is None else inputs
    return {key: document.get(key) for key in keys - replaced if key != "_id"}
